"""Judges long videos from their frames alone.

    long.py steady FILE [STRIDE] the object has one colour, and from frame to frame its centre moves at most twice the
                                 median step (and two pixels, what a soft edge makes) anywhere; where a window begins, every
                                 STRIDE frames, at most twice the median step (and a quarter of a pixel)
    long.py turns FILE A B       first third in colour A, last third in colour B
"""
import math
import statistics
import sys

from obey import COLORS, nearest, objects


def steady(path, stride=None):
    _, seen = objects(path)
    seen = [s for s in seen if s[0] >= 5]  # what grows is too small before
    colours = [nearest(COLORS, s[4]) for s in seen]
    share = colours.count(statistics.mode(colours)) / len(colours)
    at = {b[0]: math.dist(a[1:3], b[1:3]) / (b[0] - a[0]) for a, b in zip(seen, seen[1:])}
    median, longest = statistics.median(at.values()), max(at.values())
    # the frame before which a window begins, and the first of its own
    seams = [step for frame, step in at.items() if stride and frame >= stride and frame % stride < 2]
    print(f"{statistics.mode(colours)} in {share:.0%}, median step {median:.2f}, longest {longest:.2f}, at seams "
          f"{max(seams, default=0):.2f}")
    return share >= 0.9 and longest <= 2 * median + 2 and all(s <= 2 * median + 0.25 for s in seams)


def turns(path, first, last):
    seen = [nearest(COLORS, s[4]) for s in objects(path)[1]]
    third = len(seen) // 3
    head, tail = seen[:third].count(first) / third, seen[-third:].count(last) / third
    print(f"{first} in {head:.0%} of the first third, {last} in {tail:.0%} of the last")
    return head >= 0.9 and tail >= 0.9


if __name__ == "__main__":
    ok = steady(sys.argv[2], *map(int, sys.argv[3:])) if sys.argv[1] == "steady" else turns(*sys.argv[2:5])
    sys.exit(0 if ok else 1)
