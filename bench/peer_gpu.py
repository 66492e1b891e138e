#!/usr/bin/env python3
"""diffusers on this GPU, random weights at CogVideoX-5b's geometry, bf16: one transformer step with guidance (49 frames,
480x720), as it is and with torch.compile, and the VAE's decode. One JSON line each as soon as it is known; tools/gpu-check
puts them beside cvx's. --tiny: a small model on the CPU, to see that the script works."""
import argparse
import json
import time

import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXTransformer3DModel


def timed(fn, runs, device):
    fn()
    times = []
    for _ in range(runs):
        if device == "cuda":
            torch.cuda.synchronize()
        begin = time.perf_counter()
        fn()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    return sorted(times)[len(times) // 2]


def say(what, seconds, device):
    peak = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else 0
    print(json.dumps({"op": what, "seconds": seconds, "peak_gib": peak}), flush=True)


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--tiny", action="store_true")
    p.add_argument("--compile", action="store_true", help="with --tiny, too")
    p.add_argument("--runs", type=int, default=3)
    a = p.parse_args()
    device, dtype = ("cpu", torch.float32) if a.tiny else ("cuda", torch.bfloat16)
    frames, height, width = (2, 8, 12) if a.tiny else (13, 60, 90)
    model = dict(num_attention_heads=2, num_layers=3, text_embed_dim=16) if a.tiny else dict(
        num_attention_heads=48, num_layers=42)
    vae = dict(block_out_channels=(32, 32, 32, 32), layers_per_block=1) if a.tiny else {}
    with torch.device(device), torch.no_grad():
        torch.set_default_dtype(dtype)
        dit = CogVideoXTransformer3DModel(**model, use_rotary_positional_embeddings=True, sample_width=width,
                                          sample_height=height).eval()
        x = torch.randn(2, frames, 16, height, width)
        text = torch.randn(2, 226, dit.config.text_embed_dim)
        tokens = frames * height * width // 4
        rope = (torch.randn(tokens, 64), torch.randn(tokens, 64))
        step = torch.full((2,), 500)
        plain = lambda: dit(x, text, step, image_rotary_emb=rope, return_dict=False)
        say("transformer step", timed(plain, a.runs, device), device)
        if not a.tiny or a.compile:
            for block in dit.transformer_blocks:  # alike: compiled once, where the whole model's graph takes minutes
                block.compile(mode="max-autotune-no-cudagraphs")
            say("transformer step, torch.compile", timed(plain, a.runs, device), device)
        del dit
        decoder = AutoencoderKLCogVideoX(**vae).eval()
        z = torch.randn(1, 16, frames, height, width)
        say("VAE decode", timed(lambda: decoder.decode(z, return_dict=False), 1, device), device)


main()
