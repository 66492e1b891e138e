"""Splits a float16 checkpoint file into bfloat16 shards, as diffusers' save_pretrained does: the tests' sharded
checkpoint differs from tiny-2b in nothing else, so that it need not be kept.

    shards.py FILE.safetensors INDEX_FOLDER OUT

INDEX_FOLDER holds config.json and the .index.json that says which shard has which tensor.
"""
import json
import os
import shutil
import struct
import sys


def bfloat16(half):
    """Bytes of float16 values, rounded to nearest even; finite values only."""
    values = struct.unpack(f"<{len(half) // 2}e", half)
    bits = struct.unpack(f"<{len(values)}I", struct.pack(f"<{len(values)}f", *values))
    return struct.pack(f"<{len(bits)}H", *((b + 0x7fff + (b >> 16 & 1)) >> 16 for b in bits))


def main(source, index_folder, out):
    index = "diffusion_pytorch_model.safetensors.index.json"
    os.makedirs(out, exist_ok=True)
    with open(source, "rb") as f:
        (n,) = struct.unpack("<Q", f.read(8))
        header, data = json.loads(f.read(n)), f.read()
    with open(f"{index_folder}/{index}") as f:
        where = json.load(f)["weight_map"]
    for shard in sorted(set(where.values())):
        entries, parts, at = {}, [], 0
        for name in (k for k in header if where.get(k) == shard):
            begin, end = header[name]["data_offsets"]
            entries[name] = {"dtype": "BF16", "shape": header[name]["shape"], "data_offsets": [at, at + end - begin]}
            parts.append(bfloat16(data[begin:end]))
            at += end - begin
        text = json.dumps(entries).encode()
        with open(f"{out}/{shard}", "wb") as f:
            f.write(struct.pack("<Q", len(text)) + text + b"".join(parts))
    for name in (index, "config.json"):
        shutil.copyfile(f"{index_folder}/{name}", f"{out}/{name}")


main(*sys.argv[1:])
