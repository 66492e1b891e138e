"""nearer.py FRAME EARLY LATE: exit 0 if the picture LATE is nearer to FRAME than EARLY is (8-bit RGB PNGs of one size)."""
import struct
import sys
import zlib


def read(path):
    with open(path, "rb") as f:
        data = f.read()
    at, idat, w, h = 8, b"", 0, 0
    while at < len(data):
        n, kind = struct.unpack(">I4s", data[at : at + 8])
        body = data[at + 8 : at + 8 + n]
        if kind == b"IHDR":
            w, h, depth, colour = struct.unpack(">IIBB", body[:10])
            assert (depth, colour) == (8, 2), (path, depth, colour)
        elif kind == b"IDAT":
            idat += body
        at += 12 + n
    raw, stride, rows = zlib.decompress(idat), 3 * w, [bytearray(3 * w)]
    for y in range(h):
        kind, row = raw[y * (stride + 1)], bytearray(raw[y * (stride + 1) + 1 : (y + 1) * (stride + 1)])
        up = rows[-1]
        for x in range(stride):
            left, above, corner = (row[x - 3] if x > 2 else 0), up[x], (up[x - 3] if x > 2 else 0)
            p = left + above - corner
            a, b, c = abs(p - left), abs(p - above), abs(p - corner)
            paeth = left if a <= b and a <= c else above if b <= c else corner
            row[x] = row[x] + (0, left, above, (left + above) // 2, paeth)[kind] & 255
        rows.append(row)
    return (w, h), b"".join(rows[1:])


def main():
    (size, frame), *others = [read(p) for p in sys.argv[1:]]
    off = []
    for shape, pixels in others:
        assert shape == size, (shape, size)
        off.append(sum((a - b) ** 2 for a, b in zip(frame, pixels)) / len(frame))
    print("mean squared difference: early %.1f, late %.1f" % tuple(off))
    return off[1] >= off[0]


sys.exit(main())
