"""Makes model.safetensors (random weights in the layout of RIFE 4.3 to 4.6) and golden.safetensors: what that network, written
down from its publication (Practical-RIFE 4.6, IFNet_HDv3.py), gives for two frames.
usage: make.py FOLDER; needs torch and safetensors"""
import sys

import torch
from safetensors.torch import save_file
from torch.nn import functional as F

WIDTHS, CONVS, SCALES = (32, 16, 16, 16), 2, (8, 4, 2, 1)
torch.manual_seed(46)
w = {}


def layer(name, *shape, gain=1.0):
    fan = shape[1] * shape[2] * shape[3]
    w[name + ".weight"] = (torch.randn(shape) * gain / fan**0.5).half()
    w[name + ".bias"] = (torch.randn(shape[0]) * 0.1).half()


for i, c in enumerate(WIDTHS):
    b = f"block{i}."
    layer(b + "conv0.0.0", c // 2, 7 if i == 0 else 12, 3, 3)
    layer(b + "conv0.1.0", c, c // 2, 3, 3)
    for k in range(CONVS):
        layer(f"{b}convblock.{k}.conv", c, c, 3, 3)
        w[f"{b}convblock.{k}.beta"] = 0.5 + torch.rand(1, c, 1, 1)
    w[b + "lastconv.0.weight"] = (torch.randn(c, 24, 4, 4) * 0.5 / (4 * c) ** 0.5).half()
    w[b + "lastconv.0.bias"] = (torch.randn(24) * 0.1).half()
p = {k: v.float() for k, v in w.items()}


def resize(x, factor):
    return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)


def block(i, x, flow, scale):
    b = f"block{i}."
    x = resize(x, 1 / scale)
    if flow is not None:
        x = torch.cat((x, resize(flow, 1 / scale) / scale), 1)
    for k in range(2):
        x = F.leaky_relu(F.conv2d(x, p[f"{b}conv0.{k}.0.weight"], p[f"{b}conv0.{k}.0.bias"], 2, 1), 0.2)
    for k in range(CONVS):
        n = f"{b}convblock.{k}."
        x = F.leaky_relu(F.conv2d(x, p[n + "conv.weight"], p[n + "conv.bias"], 1, 1) * p[n + "beta"] + x, 0.2)
    x = F.pixel_shuffle(F.conv_transpose2d(x, p[b + "lastconv.0.weight"], p[b + "lastconv.0.bias"], 2, 1), 2)
    x = resize(x, scale)
    return x[:, :4] * scale, x[:, 4:5]


def warp(x, flow):
    h, width = x.shape[2:]
    gy, gx = torch.meshgrid(torch.linspace(-1, 1, h), torch.linspace(-1, 1, width), indexing="ij")
    grid = torch.stack((gx + flow[:, 0] * 2 / (width - 1), gy + flow[:, 1] * 2 / (h - 1)), -1)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=True)


def frame(a, b, t):
    plane = torch.full_like(a[:, :1], t)
    flow = mask = None
    for i, scale in enumerate(SCALES):
        if flow is None:
            flow, mask = block(i, torch.cat((a, b, plane), 1), None, scale)
        else:
            f, m = block(i, torch.cat((warp(a, flow[:, :2]), warp(b, flow[:, 2:]), plane, mask), 1), flow, scale)
            flow, mask = flow + f, mask + m
    m = torch.sigmoid(mask)
    return warp(a, flow[:, :2]) * m + warp(b, flow[:, 2:]) * (1 - m), flow


y, x = torch.meshgrid(torch.arange(64.0), torch.arange(96.0), indexing="ij")
pictures = [torch.stack([torch.sin((x + 3 * k) / 9 + c) * torch.cos((y - 2 * k) / 7 - c) for c in range(3)])[None] * 0.45 + 0.5
            for k in range(2)]
pictures = [(255 * v).round().to(torch.uint8) for v in pictures]
golden = {"in0": pictures[0], "in1": pictures[1]}
for t in 0.25, 0.5:
    out, flow = frame(*(v.float() / 255 for v in pictures), t)
    golden[f"out_t{t:g}"] = out.half()
    print(f"t {t}: flow up to {flow.abs().max():.1f} pixels")
save_file(w, f"{sys.argv[1]}/model.safetensors")
save_file({k: v.contiguous() for k, v in golden.items()}, f"{sys.argv[1]}/golden.safetensors")
