"""Measures what a video of the shapes checkpoint shows: colour, form, motion and background, from its frames alone.

    obey.py prompts [N]               the prompts (the first N), one a line
    obey.py judge PROMPTS FOLDER MIN  FOLDER/0.safetensors, 1.safetensors ... against the prompts' lines; prints a
                                      table and exits 1 if one of the four is right in less than MIN of them

The background is the median of the corners, the shape what differs from it by more than 45 levels, its colour the
median of its more distinct pixels, its motion the slope of its centre and of the root of its area over time; its form
the one whose outline, at the place and size seen, is nearest in every fourth frame together.
"""
import math
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


def objects(frames, h, w):
    """The ground's colour, and for each of frames_of's that shows a shape: (frame, centre x, y, root of the area, colour)."""
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


def outline(form, x, y, r):
    """How much of the pixel (x, y) from its centre a form of radius r covers; as the training videos were drawn
    (tools/train-shapes/world.py)."""
    if form == "circle":
        d = math.hypot(x, y) - r
    elif form == "square":
        d = max(abs(x), abs(y)) - 0.86 * r
    elif form == "triangle":
        d = max(abs(x) * 0.866 - y * 0.5 - 0.546 * r, y - 0.5775 * r)
    else:
        sector = 2 * math.pi / 5
        angle = (math.atan2(x, -y) + sector / 2) % sector - sector / 2
        d = math.hypot(x, y) * (1 + 0.9 * abs(angle)) - 1.12 * r
    return min(max(0.5 - d, 0), 1)


def proportions(form, r=24):
    """Its area by r^2, and how far below its centre the mean of its pixels lies, by r."""
    cover = [(outline(form, x + 0.5, y + 0.5, r), y + 0.5) for y in range(-48, 48) for x in range(-48, 48)]
    area = sum(c for c, _ in cover)
    return area / r ** 2, sum(c * y for c, y in cover) / area / r


FORMS = {form: proportions(form) for form in ("circle", "square", "triangle", "star")}


def form_of(frames, width, ground, colour):
    """The form whose outline differs least from what is covered, the sizes near the seen one tried."""
    way = [c - g for c, g in zip(colour, ground)]
    square = sum(a * a for a in way)
    total = dict.fromkeys(FORMS, 0.0)
    for frame in frames:
        cover = []
        for i, pixel in enumerate(frame):
            c = sum(a * (v - g) for a, v, g in zip(way, pixel, ground)) / square
            cover.append((min(max(c, 0), 1), i % width, i // width))
        area = sum(c for c, _, _ in cover if c > 0.25)
        if area < 60:
            continue
        cx, cy = (sum(p[0] * p[k] for p in cover if p[0] > 0.25) / area for k in (1, 2))
        for form, (per_r2, below) in FORMS.items():
            r = (area / per_r2) ** 0.5
            near = [p for p in cover if max(abs(p[1] - cx), abs(p[2] - cy)) <= 1.6 * r + 2]
            total[form] += min(sum((outline(form, x - cx, y - cy + below * k * r, k * r) - c) ** 2 for c, x, y in near)
                               for k in (0.92, 1, 1.08)) / area
    return min(total, key=total.get) if max(total.values()) > 0 else None


def measure(path):
    """(colour, form, motion, background) as words; None where no shape is seen in at least five frames."""
    frames, height, width = frames_of(path)
    ground, seen = objects(frames, height, width)
    back = nearest(BACKS, ground)
    if len(seen) < 5:
        return None, None, None, back
    vx, vy, growth = (slope([(s[0], s[k]) for s in seen]) for k in (1, 2, 3))
    if abs(vx) > 1.0 and abs(vx) > abs(vy):
        motion = "moving right" if vx > 0 else "moving left"
    elif abs(vy) > 0.6:
        motion = "moving down" if vy > 0 else "moving up"
    elif abs(growth) > 0.5:
        motion = "growing" if growth > 0 else "shrinking"
    else:
        motion = "standing still"
    colour = [statistics.median(s[4][i] for s in seen) for i in range(3)]
    return nearest(COLORS, colour), form_of(frames[::4], width, ground, colour), motion, back


def judge(prompts, folder, least):
    right = dict(colour=0, form=0, motion=0, background=0)
    everything = 0
    for i, prompt in enumerate(prompts):
        words = prompt.split()
        asked = (words[1], words[2], " ".join(words[3:5] if words[3] in ("moving", "standing") else words[3:4]), words[-2])
        seen = measure(f"{folder}/{i}.safetensors")
        hits = [a == b for a, b in zip(asked, seen)]
        for name, hit in zip(right, hits):
            right[name] += hit
        everything += all(hits)
        print(f"{'ok   ' if all(hits) else 'MISS '} {prompt}" +
              ("" if all(hits) else f": seen {', '.join(map(str, seen))}"))
    n = len(prompts)
    print(", ".join(f"{name} {count}/{n}" for name, count in right.items()) + f", all four {everything}/{n}")
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
