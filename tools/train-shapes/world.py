"""The world of the shapes checkpoint: short videos of one coloured shape, and the captions that describe them."""
import functools
import itertools
import math
import random

import torch

HEIGHT, WIDTH, FRAMES = 64, 96, 17
COLORS = dict(red=(230, 40, 40), green=(40, 190, 70), blue=(50, 90, 240), yellow=(245, 220, 50),
              purple=(160, 60, 200), orange=(250, 140, 30), pink=(250, 130, 190), cyan=(60, 210, 220))
BACKS = dict(black=(12, 12, 16), white=(242, 242, 240), gray=(120, 122, 126))
FORMS = ("circle", "square", "triangle", "star")
MOTIONS = ("moving left", "moving right", "moving up", "moving down", "standing still", "growing", "shrinking")
# The first is the one that documents and tests use, so it is drawn more often than the others.
TEMPLATES = ("a {c} {s} {m} on a {b} background", "{c} {s} {m}, {b} background",
             "a video of a {c} {s} {m} on a {b} background", "a {c} {s} is {m} in front of a {b} background",
             "on a {b} background, a {c} {s} is {m}", "A {c} {s} {m}.")
COMBINATIONS = tuple(itertools.product(COLORS, FORMS, MOTIONS, BACKS))


# What the training of the very first checkpoint left out, and every training since.
NEVER_SEEN = """
blue circle growing black, blue square up white, blue square shrinking black, blue star up gray,
blue triangle down gray, blue triangle up black, blue triangle shrinking gray, cyan circle right white,
cyan square down black, cyan star right gray, cyan triangle left white, cyan triangle right white,
cyan triangle up black, green square down white, green square up black, green square up gray,
green star growing white, green star down white, green star right black, green star right white,
green star still white, green triangle still black, orange square down white, orange square still black,
orange star left black, orange star left white, orange triangle down black, orange triangle up black,
pink circle down black, pink circle down white, pink square down gray, pink star up gray,
purple triangle still gray, red circle growing black, red circle up gray, red square down black,
yellow star left white, yellow star up white, yellow star shrinking black, yellow triangle left white
"""


@functools.lru_cache(None)
def held_out():
    """The 70 combinations (colour, form, motion, background) that no training video shows: the 40 never seen, and 30
    that make motions, colours, forms and backgrounds about equally frequent (these the first checkpoint had seen)."""
    motions = {m.split()[-1]: m for m in MOTIONS}
    out = []
    for item in NEVER_SEEN.replace("\n", " ").split(","):
        color, form, motion, back = item.split()
        out.append((color, form, motions[motion], back))
    rest = [k for k in COMBINATIONS if k not in out]
    random.Random(8).shuffle(rest)
    sizes = (len(COLORS), len(FORMS), len(MOTIONS), len(BACKS))

    def crowded(key):
        return sum(size * sum(k[i] == key[i] for k in out) for i, size in enumerate(sizes))
    while len(out) < 70:
        out.append(min(rest, key=crowded))
        rest.remove(out[-1])
    return tuple(sorted(out))


@functools.lru_cache(None)
def train_combinations():
    held = set(held_out())
    return tuple(k for k in COMBINATIONS if k not in held)


def caption(key, rng=None):
    """One of the templates at random, or the first one without rng."""
    if rng is None or rng.random() < 0.35:
        template = TEMPLATES[0]
    else:
        template = rng.choice(TEMPLATES)
    return template.format(c=key[0], s=key[1], m=key[2], b=key[3])


def coverage(form, cx, cy, r, height=HEIGHT, width=WIDTH):
    """Antialiased coverage [..., height, width] of a form of radius r centred at (cx, cy); cx, cy, r are [..., 1, 1]."""
    yy, xx = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    x, y = xx - cx, yy - cy
    if form == "circle":
        d = (x * x + y * y).sqrt() - r
    elif form == "square":
        d = torch.maximum(x.abs(), y.abs()) - 0.86 * r
    elif form == "triangle":
        h = 1.05 * r
        d = torch.maximum(x.abs() * 0.866 - y * 0.5 - h * 0.52, y - h * 0.55)
    else:
        sector = 2 * math.pi / 5
        a = (torch.atan2(x, -y) + sector / 2) % sector - sector / 2
        d = (x * x + y * y).sqrt() * (1 + 0.9 * a.abs()) - 1.12 * r
    return (0.5 - d).clamp(0, 1)


def video(key, rng):
    """[FRAMES, 3, HEIGHT, WIDTH] in [-1, 1]; rng is random.Random and decides size, place, speed and tint."""
    color, form, motion, back = key
    moves = motion.split()[-1]
    r = rng.uniform(14, 17.5)
    mx, my = WIDTH / 2 + rng.uniform(-6, 6), HEIGHT / 2 + rng.uniform(-2, 2)
    vx = vy = growth = 0.0
    if moves in ("left", "right"):
        vx = rng.uniform(2.2, 3.0) * (1 if moves == "right" else -1)
    elif moves in ("up", "down"):
        vy = rng.uniform(1.3, 1.7) * (1 if moves == "down" else -1)
    elif moves in ("growing", "shrinking"):
        growth = rng.uniform(0.7, 0.85) * (1 if moves == "growing" else -1)
    k = (torch.arange(FRAMES) - (FRAMES - 1) / 2)[:, None, None]
    a = coverage(form, mx + vx * k, my + vy * k, r + growth * k)[:, None]
    tint = torch.tensor([v + rng.gauss(0, 1.5) for v in COLORS[color]]).view(3, 1, 1)
    ground = torch.tensor([v + rng.gauss(0, 1.5) for v in BACKS[back]]).view(3, 1, 1)
    return (ground * (1 - a) + tint * a).clamp(0, 255) / 127.5 - 1
