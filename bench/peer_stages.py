"""The other side of bench/compare-stages: Real-ESRGAN by the ncnn package, RIFE by torch, both on the CPU.

    peer_stages.py esrgan|rife MODEL_DIR WIDTH HEIGHT FRAMES THREADS

One line a frame: seconds, the network open and the picture in memory. Smooth pictures as in bench_stages.c.
"""
import json
import struct
import sys
import tempfile
import time

import numpy as np


def tensors(folder):
    with open(f"{folder}/model.safetensors", "rb") as f:
        (n,) = struct.unpack("<Q", f.read(8))
        header, data = json.loads(f.read(n)), f.read()
    header.pop("__metadata__", None)
    kinds = {"F32": "<f4", "F16": "<f2", "I16": "<i2"}
    out = {k: np.frombuffer(data[slice(*v["data_offsets"])], kinds[v["dtype"]]).astype("f4").reshape(v["shape"])
           for k, v in header.items()}
    for k in [k for k in out if k + "_scale" in out]:  # 16-bit fractions: see tools/convert-weights
        out[k] = out[k] / 32768 * out[k + "_scale"][:, :, None, None]
    return out


def picture(w, h, shift):
    y, x = np.mgrid[:h, :w]
    base = 128 + (x + shift) * 7 % 64 + y * 5 % 48
    return np.stack([base - c * 9 for c in range(3)]).astype("f4") / 255


def timed(frames, work):
    work()
    for _ in range(frames):
        start = time.perf_counter()
        work()
        print(f"{time.perf_counter() - start:.6f}", flush=True)


def ncnn_files(t, folder):
    """SRVGGNetCompact as ncnn describes it."""
    n = (max(int(k.split(".")[1]) for k in t if k.startswith("body.")) // 2) + 1
    lines, data, blobs, now = ["Input in 0 1 x", "Split split 1 2 x x0 x1"], b"", 3, "x0"
    for i in range(n):
        w, b = t[f"body.{2 * i}.weight"], t[f"body.{2 * i}.bias"]
        lines.append(f"Convolution c{i} 1 1 {now} c{i} 0={w.shape[0]} 1=3 4=1 5=1 6={w.size}")
        data += struct.pack("<I", 0) + w.astype("<f4").tobytes() + b.astype("<f4").tobytes()
        now, blobs = f"c{i}", blobs + 1
        if i < n - 1:
            s = t[f"body.{2 * i + 1}.weight"]
            lines.append(f"PReLU p{i} 1 1 {now} p{i} 0={s.size}")
            data += s.astype("<f4").tobytes()
            now, blobs = f"p{i}", blobs + 1
    lines += [f"PixelShuffle s 1 1 {now} s 0=4", "Interp up 1 1 x1 up 0=1 1=4.0 2=4.0", "BinaryOp add 2 1 s up y 0=0"]
    with open(f"{folder}/m.param", "w") as f:
        f.write("7767517\n%d %d\n%s\n" % (len(lines), blobs + 3, "\n".join(lines)))
    with open(f"{folder}/m.bin", "wb") as f:
        f.write(data)


def esrgan(t, w, h, frames, threads):
    import ncnn
    folder = tempfile.TemporaryDirectory()  # ncnn reads from the file as long as the network lives
    ncnn_files(t, folder.name)
    net = ncnn.Net()
    net.opt.num_threads = threads
    net.opt.use_vulkan_compute = False
    net.load_param(f"{folder.name}/m.param")
    net.load_model(f"{folder.name}/m.bin")
    data = np.ascontiguousarray(picture(w, h, 0))  # the Mat only borrows it
    x = ncnn.Mat(data)

    def work():
        e = net.create_extractor()
        e.input("x", x)
        return e.extract("y")

    timed(frames, work)
    folder.cleanup()


def rife(t, w, h, frames, threads):
    import torch
    from torch.nn import functional as F
    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    p = {k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in t.items()}

    def conv(key, x, stride=1):
        x = F.conv2d(x, p[key + ".0.weight"], p[key + ".0.bias"], stride=stride, padding=1)
        return F.prelu(x, p[key + ".1.weight"])

    def resize(x, scale):
        return x if scale == 1 else F.interpolate(x, scale_factor=scale, mode="bilinear", align_corners=False,
                                                  recompute_scale_factor=False)

    def block(i, x, flow, s):
        x = resize(x, 1 / s)
        x = x if flow is None else torch.cat((x, resize(flow, 1 / s) / s), 1)
        x = conv(f"block{i}.conv0.1", conv(f"block{i}.conv0.0", x, 2), 2)
        y = x
        for k in range(8):
            y = conv(f"block{i}.convblock.{k}", y)
        y = F.conv_transpose2d(x + y, p[f"block{i}.lastconv.weight"], p[f"block{i}.lastconv.bias"], 2, 1)
        y = resize(y, 2 * s)
        return y[:, :4] * 2 * s, y[:, 4:]

    ph, pw = (h + 63) // 64 * 64, (w + 63) // 64 * 64
    gy, gx = torch.meshgrid(torch.linspace(-1, 1, ph), torch.linspace(-1, 1, pw), indexing="ij")

    def warp(x, f):
        grid = torch.stack((gx + f[:, 0] * 2 / (pw - 1), gy + f[:, 1] * 2 / (ph - 1)), -1)
        return F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=True)

    a, b = (F.pad(torch.from_numpy(picture(w, h, k))[None], (0, pw - w, 0, ph - h)) for k in (0, 2))
    time_plane = torch.full_like(a[:, :1], 0.5)

    def work():
        flow, mask = block(0, torch.cat((a, b, time_plane), 1), None, 8)
        for i, s in ((1, 4), (2, 2), (3, 1)):
            x = torch.cat((warp(a, flow[:, :2]), warp(b, flow[:, 2:]), time_plane, mask), 1)
            df, dm = block(i, x, flow, s)
            flow, mask = flow + df, mask + dm
        m = torch.sigmoid(mask)
        return (warp(a, flow[:, :2]) * m + warp(b, flow[:, 2:]) * (1 - m))[..., :h, :w].numpy()

    timed(frames, work)


if __name__ == "__main__":
    what, folder, *numbers = sys.argv[1:]
    {"esrgan": esrgan, "rife": rife}[what](tensors(folder), *map(int, numbers))
