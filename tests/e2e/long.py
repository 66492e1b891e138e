"""Judges long videos from their frames alone.

    long.py steady FILE STRIDE [FORM]
                        the object has one colour, and its centre does not jump where the set of windows changes; its outline is
                        nearest to FORM's in each fifth of the video, and in no frame it covers less than three quarters of what
                        it does, in the median, in the eight frames before or the eight after: it is not torn
    long.py extended FILE CLIP ALONE
                        CLIP went on as FILE: one colour, and from the clip's end on no step is longer than half of the one from
                        CLIP's last frame to the first of ALONE, which is one window's video of FILE's prompt and seed without CLIP
    long.py turns FILE A B
                        first third in colour A, last third in colour B

A window has 17 frames, five latent ones, of which the first is one frame and each other four. The set of windows changes before a
latent frame with which a window begins, and behind one with which it ends: there are the seams.

The centre is the mean place of all pixels, weighted by how far they are from the ground's colour towards the object's.

What a jump is: a step of the centre from one frame to the next of more than twice the median step, and of half a pixel at least:
the centre of a shape that stands still moves by what its edge flickers, a tenth of a pixel, and thrice as much is no jump.
"""
import statistics
import sys
from math import dist

from obey import COLORS, form_of, frames_of, nearest, objects

LENGTH = 5


def centres(path):
    """{frame: (x, y)} where a shape is seen, no speck, and the share of frames with the most frequent colour."""
    frames, h, w = frames_of(path)
    ground, seen = objects(frames, h, w)
    colours = [nearest(COLORS, s[4]) for s in seen]
    axis = [statistics.median(s[4][c] for s in seen) - ground[c] for c in range(3)]
    square = sum(a * a for a in axis)
    at, mass = {}, {}
    for t in (s[0] for s in seen):
        towards = [sum(a * (v - g) for a, v, g in zip(axis, pixel, ground)) / square for pixel in frames[t]]
        weights = [min(d, 1) if d > 0.25 else 0 for d in towards]  # below it is what the decoder leaves in the ground
        mass[t] = sum(weights)
        if mass[t] > 0:
            at[t] = [sum(k * v for k, v in zip(weights, place)) / mass[t] for place in
                     ([i % w for i in range(h * w)], [i // w for i in range(h * w)])]
    least = statistics.median(mass.values()) / 4
    return {t: xy for t, xy in at.items() if mass[t] >= least}, colours.count(statistics.mode(colours)) / len(colours)


def steps_of(path):
    """{frame: how far the centre goes from it to the next}"""
    at, share = centres(path)
    return {t: dist(at[t], at[t + 1]) for t in at if t + 1 in at}, share


def seams_of(frames, stride):
    """The frames behind which the set of windows changes."""
    latent, seams, start = (frames - 1) // 4 + 1, set(), 0
    while start + LENGTH < latent:
        seams.add(4 * (start + LENGTH - 1))
        start = min(start + stride // 4, latent - LENGTH)
        seams.add(4 * (start - 1))
    return seams


def outlines(path):
    """The form in each fifth of the video, from every third frame, None where it is too small to be told; and how little it
    covers of what it does around a frame, in the worst one."""
    frames, h, w = frames_of(path)
    ground, seen = objects(frames, h, w)
    colour = [statistics.median(s[4][c] for s in seen) for c in range(3)]
    n, area = len(frames), {s[0]: s[3] ** 2 for s in seen}
    area = [area.get(t, 0) for t in range(n)]
    forms = [form_of(frames[k * n // 5:(k + 1) * n // 5:3], w, ground, colour) for k in range(5)]
    around = {t: min(statistics.median(area[max(t - 8, 0):t]), statistics.median(area[t + 1:t + 9])) for t in range(4, n - 4)}
    return forms, min(area[t] / a if a > 0 else 0 for t, a in around.items())


def steady(path, stride, form=None):
    steps, share = steps_of(path)
    median = statistics.median(steps.values())
    seams = [steps[t] for t in seams_of(len(frames_of(path)[0]), int(stride)) if t in steps]
    print(f"one colour in {share:.0%}, median step {median:.2f}, longest {max(steps.values()):.2f}, at {len(seams)} seams {max(seams):.2f} "
          f"({max(seams) / median:.1f} medians)")
    whole = True
    if form is not None:
        forms, least = outlines(path)
        print(f"{', '.join(map(str, forms))}; covers at least {least:.0%} of what it does around")
        whole = set(forms) <= {form, None} and least >= 0.75
    return share >= 0.9 and max(seams) <= max(2 * median, 0.5) and whole


def extended(path, clip, alone):
    steps, share = steps_of(path)
    before, apart = centres(clip)[0], centres(alone)[0]
    jump = dist(before[max(before)], apart[min(apart)])
    longest = max(step for t, step in steps.items() if t >= len(frames_of(clip)[0]) - 1)
    print(f"one colour in {share:.0%}, longest step from the clip's end on {longest:.2f}; to another video {jump:.2f}")
    return share >= 0.9 and longest <= jump / 2


def turns(path, first, last):
    seen = [nearest(COLORS, s[4]) for s in objects(*frames_of(path))[1]]
    third = len(seen) // 3
    head, tail = seen[:third].count(first) / third, seen[-third:].count(last) / third
    print(f"{first} in {head:.0%} of the first third, {last} in {tail:.0%} of the last")
    return head >= 0.9 and tail >= 0.9


if __name__ == "__main__":
    sys.exit(0 if {"steady": steady, "extended": extended, "turns": turns}[sys.argv[1]](*sys.argv[2:]) else 1)
