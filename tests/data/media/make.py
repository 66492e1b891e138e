#!/usr/bin/env python3
"""Makes the files of this folder (Pillow and the ffmpeg program are needed): python3 make.py

noise.png and noise-FILTER-WxH.png: Pillow's Image.resize of it. kind-NAME.EXT: one picture in many
encodings, and kind-NAME.want.png what exif_transpose and convert("RGB") make of it in Pillow.
turned-*.mp4: four frames with a display rotation, and the first frame as ffmpeg shows it."""
import os
import subprocess
import zlib
from struct import pack

import numpy as np
from PIL import Image, ImageOps

os.chdir(os.path.dirname(os.path.abspath(__file__)))
rng = np.random.default_rng(7)


def chunk(name, data):
    return pack(">I", len(data)) + name + data + pack(">I", zlib.crc32(name + data))


def png(width, height, depth, colour, rows, interlaced=False, extra=b""):
    """rows: packed bytes of each row (of each pass if interlaced)"""
    head = pack(">IIBBBBB", width, height, depth, colour, 0, 0, int(interlaced))
    body = b"".join(b"\0" + r for r in rows)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + extra + chunk(b"IDAT", zlib.compress(body))
            + chunk(b"IEND", b""))


def resized():
    noise = Image.fromarray(rng.integers(0, 256, (31, 41, 3), dtype=np.uint8))
    noise.save("noise.png")
    for name in "bilinear", "bicubic", "lanczos":
        for size in (64, 48), (13, 9), (41, 12), (20, 31), (35, 10):
            out = noise.resize(size, getattr(Image.Resampling, name.upper()))
            out.save(f"noise-{name}-{size[0]}x{size[1]}.png")


def exif(orientation):
    e = Image.Exif()
    e[0x0112] = orientation
    return e


def kinds():
    w, h = 11, 7
    y, x = np.mgrid[0:h, 0:w]
    rgb = np.stack([x * 23, y * 36, (x + y) * 14], -1).astype(np.uint8)
    alpha = (x * 20).astype(np.uint8)
    im = Image.fromarray(rgb)
    im.save("kind-rgb.png")
    Image.fromarray(np.dstack([rgb, alpha])).save("kind-rgba.png")
    Image.fromarray(np.dstack([rgb[..., 0], alpha]), "LA").save("kind-la.png")
    im.convert("L").save("kind-gray.png")
    im.convert("1").save("kind-bits.png")
    im.quantize(13).save("kind-palette.png", transparency=3)
    im.save("kind-exif.png", exif=exif(6))
    for depth in 2, 4:
        v = (x * y) % (1 << depth)
        per = 8 // depth
        v = np.pad(v, ((0, 0), (0, -w % per))).reshape(h, -1, per)
        b = sum(v[..., i] << (8 - depth * (i + 1)) for i in range(per)).astype(np.uint8)
        open(f"kind-gray{depth}.png", "wb").write(png(w, h, depth, 0, [r.tobytes() for r in b]))
    deep = (rgb.astype(">u2") << 8) + 77
    open("kind-deep.png", "wb").write(png(w, h, 16, 2, [r.astype(">u2").tobytes() for r in deep]))
    rows = []
    for x0, y0, dx, dy in ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4),
                           (1, 0, 2, 2), (0, 1, 1, 2)):
        part = rgb[y0::dy, x0::dx]
        rows += [r.tobytes() for r in part] if part.size else []
    open("kind-interlaced.png", "wb").write(png(w, h, 8, 2, rows, True))
    Image.fromarray(np.kron(rgb, np.ones((8, 8, 1), np.uint8))).save("kind-bmp.bmp")
    big = Image.fromarray(np.kron(rgb, np.ones((8, 8, 1), np.uint8))).resize((48, 32))
    for o in range(1, 9):
        big.save(f"kind-turn{o}.jpg", quality=95, subsampling=0, exif=exif(o))
    big.convert("L").save("kind-gray8.jpg", quality=95)
    big.resize((47, 31)).save("kind-half.jpg", quality=90, subsampling=2)
    big.save("kind-lossless.webp", lossless=True)
    im.save("kind-turned.tiff", compression="tiff_lzw", exif=exif(6))
    Image.open("kind-la.png").save("kind-pale.tiff", compression="tiff_lzw")
    im.save("jpeg-within.tiff", compression="jpeg")
    for name in sorted(os.listdir(".")):
        stem, ext = os.path.splitext(name)
        if stem.startswith("kind-") and not stem.endswith(".want"):
            out = ImageOps.exif_transpose(Image.open(name)).convert("RGB")
            out.save(stem + ".want.png")


def ffmpeg(*args):
    subprocess.run(["ffmpeg", "-v", "error", "-y", *args], check=True)


def videos():
    pattern = ["-f", "lavfi", "-i", "testsrc2=size=64x48:rate=10:duration=0.4"]
    x264 = ["-c:v", "libx264", "-threads", "1", "-bitexact", "-preset", "medium"]
    ffmpeg(*pattern, *x264, "-pix_fmt", "yuv420p", "-crf", "20", "flat.mp4")
    for turn in 90, 180, 270:
        ffmpeg("-i", "flat.mp4", "-c", "copy", "-metadata:s:v", f"rotate={turn}", "-bitexact",
               f"turned-{turn}.mp4")
        ffmpeg("-i", f"turned-{turn}.mp4", "-frames:v", "1", "-pix_fmt", "rgb24", "-bitexact",
               f"turned-{turn}.want.png")
    ffmpeg("-i", "flat.mp4", "-frames:v", "1", "-pix_fmt", "rgb24", "-bitexact", "flat.want.png")
    ffmpeg(*pattern, *x264, "-pix_fmt", "yuv420p10le", "-crf", "20", "deep.mp4")
    ffmpeg("-f", "lavfi", "-i", "sine=duration=0.2", "-c:a", "aac", "-bitexact", "sound.m4a")
    ffmpeg("-f", "lavfi", "-i", "color=c=red@0.5:size=16x16:rate=10:duration=0.2,format=rgba",
           "-c:v", "png", "-bitexact", "alpha.mov")
    os.remove("flat.want.png")


resized()
kinds()
videos()
