"""Measures what a video of the shapes checkpoint shows: colour, background and motion, from its frames alone.

    obey.py prompts [N]               the prompts (the first N), one a line
    obey.py judge PROMPTS FOLDER MIN  FOLDER/0.safetensors, 1.safetensors ... against the prompts' lines; prints a
                                      table and exits 1 if colour, background or motion is right in less than MIN
                                      of them

The background is the median of the corners, the shape what differs from it by more than 45 levels, its colour the
median of its more distinct pixels, its motion the slope of its centre and of the root of its area over time.
"""
import statistics
import sys

from tensors import load

COLORS = dict(red=(230, 40, 40), green=(40, 190, 70), blue=(50, 90, 240), yellow=(245, 220, 50),
              purple=(160, 60, 200), orange=(250, 140, 30), pink=(250, 130, 190), cyan=(60, 210, 220))
BACKS = dict(black=(12, 12, 16), white=(242, 242, 240), gray=(120, 122, 126))
# the first four span the motions across and up and down, four colours and all backgrounds
PROMPTS = """
a purple triangle moving left on a black background
a yellow square moving right on a black background
a purple star moving up on a gray background
a yellow square moving down on a gray background
a red triangle standing still on a black background
a cyan square growing on a black background
a pink square shrinking on a white background
a orange circle moving left on a black background
a purple star moving right on a black background
a yellow square moving up on a black background
a green square moving down on a gray background
a cyan circle standing still on a black background
a yellow triangle growing on a black background
a green star shrinking on a black background
a green triangle moving left on a white background
a green triangle moving right on a gray background
a red star moving up on a gray background
a yellow square moving down on a gray background
a cyan star standing still on a gray background
a blue star growing on a black background
a red circle shrinking on a white background
a red triangle moving left on a white background
a green triangle moving right on a gray background
a cyan circle moving up on a gray background
a cyan circle moving down on a black background
a purple circle standing still on a black background
a cyan triangle growing on a white background
a red circle shrinking on a white background
""".strip().splitlines()


def nearest(table, value):
    return min(table, key=lambda name: sum(abs(a - b) for a, b in zip(table[name], value)))


def slope(points):
    """Of the least-squares line through (t, value) pairs."""
    mt = statistics.fmean(t for t, _ in points)
    mv = statistics.fmean(v for _, v in points)
    return sum((t - mt) * (v - mv) for t, v in points) / sum((t - mt) ** 2 for t, _ in points)


def frames_of(path):
    """[[(r, g, b), ...] rows by row] per frame, with height and width."""
    (n, _, h, w), values = load(path)["frames"]
    size = h * w
    out = []
    for t in range(n):
        planes = [values[(3 * t + c) * size:(3 * t + c + 1) * size] for c in range(3)]
        out.append([tuple(round(255 * v) for v in pixel) for pixel in zip(*planes)])
    return out, h, w


def objects(path):
    """The ground's colour, and for each frame that shows a shape: (frame, centre x, y, root of the area, colour)."""
    frames, h, w = frames_of(path)
    corners = [f[y * w + x] for f in frames for y in (*range(4), *range(h - 4, h)) for x in (*range(4), *range(w - 4, w))]
    ground = tuple(statistics.median(p[c] for p in corners) for c in range(3))
    out = []
    for t, frame in enumerate(frames):
        shape = []
        for i, pixel in enumerate(frame):
            distance = max(abs(pixel[c] - ground[c]) for c in range(3))
            if distance > 45:
                shape.append((distance, i))
        if len(shape) < 12:
            continue
        shape.sort()
        distinct = shape[int(0.4 * len(shape)):]
        out.append((t, statistics.fmean(i % w for _, i in shape), statistics.fmean(i // w for _, i in shape),
                    len(shape) ** 0.5, [statistics.median(frame[i][c] for _, i in distinct) for c in range(3)]))
    return ground, out


def measure(path):
    """(colour, motion, background) as words; None where no shape is seen in at least five frames."""
    ground, seen = objects(path)
    back = nearest(BACKS, ground)
    if len(seen) < 5:
        return None, None, back
    vx, vy, growth = (slope([(s[0], s[k]) for s in seen]) for k in (1, 2, 3))
    if abs(vx) > 1.0 and abs(vx) > abs(vy):
        motion = "moving right" if vx > 0 else "moving left"
    elif abs(vy) > 0.6:
        motion = "moving down" if vy > 0 else "moving up"
    elif abs(growth) > 0.5:
        motion = "growing" if growth > 0 else "shrinking"
    else:
        motion = "standing still"
    return nearest(COLORS, [statistics.median(s[4][i] for s in seen) for i in range(3)]), motion, back


def judge(prompts, folder, least):
    right = dict(colour=0, motion=0, background=0)
    everything = 0
    for i, prompt in enumerate(prompts):
        words = prompt.split()
        asked = (words[1], " ".join(words[3:5] if words[3] in ("moving", "standing") else words[3:4]), words[-2])
        seen = measure(f"{folder}/{i}.safetensors")
        hits = [a == b for a, b in zip(asked, seen)]
        for name, hit in zip(right, hits):
            right[name] += hit
        everything += all(hits)
        print(f"{'ok   ' if all(hits) else 'MISS '} {prompt}" +
              ("" if all(hits) else f": seen {', '.join(map(str, seen))}"))
    n = len(prompts)
    print(", ".join(f"{name} {count}/{n}" for name, count in right.items()) + f", all three {everything}/{n}")
    return all(count >= least * n for count in right.values())


def main(argv):
    if argv[0] == "prompts":
        print("\n".join(PROMPTS[:int(argv[1])] if len(argv) > 1 else PROMPTS))
        return 0
    with open(argv[1]) as f:
        prompts = f.read().splitlines()
    return 0 if judge(prompts, argv[2], float(argv[3])) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
