"""Reads safetensors with Python's own library, so that the tests do not trust cvx's reader.

    tensors.py shape FILE NAME       dims of an f32 tensor; exit 1 if a value is not finite
    tensors.py range FILE NAME       lowest and highest value
    tensors.py equal A B [NAME]      exit 1 unless the tensors hold the same bits
    tensors.py frames A GOLDEN       exit 1 unless A's frames, in 8 bits, are within one level of the golden's
"""
import array
import json
import math
import struct
import sys


def load(path, dtype="F32", code="f"):
    """{name: (dims, values)} of the file's tensors of one dtype."""
    with open(path, "rb") as f:
        data = f.read()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8:8 + size])
    out = {}
    for name, entry in header.items():
        if name != "__metadata__" and entry["dtype"] == dtype:
            a, b = entry["data_offsets"]
            values = array.array(code)
            values.frombytes(data[8 + size + a:8 + size + b])
            out[name] = (entry["shape"], values)
    return out


def main(argv):
    if argv[0] == "equal":
        a, b = load(argv[1]), load(argv[2])
        names = argv[3:] or sorted(a)
        same = bool(names) and all(a[n][0] == b[n][0] and a[n][1].tobytes() == b[n][1].tobytes() for n in names)
        return 0 if same else 1
    if argv[0] == "frames":
        (dims, values), (wanted_dims, wanted) = load(argv[1])["frames"], load(argv[2], "U8", "B")["frames"]
        far = max(abs(round(255 * v) - w) for v, w in zip(values, wanted))
        print(f"{dims} against {wanted_dims}, at most {far} levels apart")
        return 0 if dims[-4:] == wanted_dims[-4:] and len(values) == len(wanted) and far <= 1 else 1
    dims, values = load(argv[1])[argv[2]]
    if argv[0] == "range":
        print(min(values), max(values))
        return 0
    print(",".join(map(str, dims)))
    return 0 if all(map(math.isfinite, values)) and len(values) == math.prod(dims) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
