"""What a video shows, measured from its pixels alone: colour, form, motion, background; and what CLIP says of it."""
import torch

import world

# For each form: area / r^2, and how far its centroid lies below its centre in units of r; from its own coverage.
_R = 24.0
_SHAPE = {}
for _form in world.FORMS:
    _a = world.coverage(_form, 48.0, 48.0, _R, 96, 96)
    _y = torch.arange(96)[:, None] + 0.5
    _SHAPE[_form] = (_a.sum().item() / _R ** 2, ((_a * _y).sum() / _a.sum()).item() / _R - 48.0 / _R)


def _nearest(table, value):
    return min(table, key=lambda name: sum(abs(a - b) for a, b in zip(table[name], value)))


def _slope(points):
    t, v = torch.tensor(points, dtype=torch.float64).T
    t = t - t.mean()
    return ((t * (v - v.mean())).sum() / (t * t).sum()).item()


def _form_errors(cover):
    """{form: mean squared difference between the coverage [H, W] and the best-fitting one of that form}."""
    h, w = cover.shape
    yy, xx = torch.meshgrid(torch.arange(h) + 0.5, torch.arange(w) + 0.5, indexing="ij")
    area = cover.sum()
    cx, cy = (cover * xx).sum() / area, (cover * yy).sum() / area
    # sizes and places near those that area and centroid give: edges are soft, and a shape may leave the picture
    grid = torch.cartesian_prod(torch.tensor([0.92, 1.0, 1.08]), torch.tensor([-0.7, 0.0, 0.7]),
                                torch.tensor([-0.7, 0.0, 0.7]))[:, :, None, None]
    errors = {}
    for form, (per_r2, below) in _SHAPE.items():
        r = (area / per_r2).sqrt() * grid[:, 0]
        ideal = world.coverage(form, cx + grid[:, 1], cy - below * r + grid[:, 2], r, h, w)
        errors[form] = ((ideal - cover).pow(2).sum((1, 2)).min() / area).item()
    return errors


def measure(frames):
    """(colour, form, motion, background) as words of uint8 frames [F, H, W, 3]; None for what cannot be told.

    The background is the median of the corners, the shape what differs from it by more than 45 levels, its colour the
    median of its more distinct pixels, its motion the slopes of its centre and of the root of its area over time; the
    form is the one whose outline, at the size and place found, lies nearest in all frames together.
    """
    x = frames.float()
    corners = torch.cat([x[:, a, b].reshape(-1, 3) for a in (slice(0, 4), slice(-4, None))
                         for b in (slice(0, 4), slice(-4, None))])
    ground = corners.median(0).values
    back = _nearest(world.BACKS, ground.tolist())
    distance = (x - ground).abs().amax(-1)
    seen = distance > 45
    places, sizes, colours = [], [], []
    for t in range(len(x)):
        y, q = seen[t].nonzero(as_tuple=True)
        if len(y) < 12:
            continue
        places.append((t, q.float().mean().item(), y.float().mean().item()))
        sizes.append((t, len(y) ** 0.5))
        d = distance[t][seen[t]]
        colours.append(x[t][seen[t]][d >= d.quantile(0.4)].median(0).values)
    if len(sizes) < 5:
        return None, None, None, back
    colour = torch.stack(colours).median(0).values
    vx, vy = _slope([(t, a) for t, a, _ in places]), _slope([(t, b) for t, _, b in places])
    growth = _slope(sizes)
    if abs(vx) > 1.0 and abs(vx) > abs(vy):
        motion = "moving right" if vx > 0 else "moving left"
    elif abs(vy) > 0.6:
        motion = "moving down" if vy > 0 else "moving up"
    elif abs(growth) > 0.5:
        motion = "growing" if growth > 0 else "shrinking"
    else:
        motion = "standing still"
    # how far each pixel has gone from the background to the shape's colour
    way = colour - ground
    cover = (((x - ground) @ way) / (way @ way)).clamp(0, 1)
    total = dict.fromkeys(world.FORMS, 0.0)
    for c in cover:
        if c.sum() >= 60:
            for form, error in _form_errors(c).items():
                total[form] += error
    form = min(total, key=total.get) if max(total.values()) > 0 else None
    return _nearest(world.COLORS, colour.tolist()), form, motion, back


class Clip:
    """Which caption of 96 (every colour, form and background, with the right motion) CLIP finds nearest."""

    def __init__(self, folder, device="cpu"):
        from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer
        self.model = CLIPModel.from_pretrained(folder, torch_dtype=torch.float32).to(device).eval()
        self.tokenizer = CLIPTokenizer.from_pretrained(folder)
        self.processor = CLIPImageProcessorPil.from_pretrained(folder)
        self.captions = {}

    @staticmethod
    def _unit(x):
        x = getattr(x, "pooler_output", x)
        return x / x.norm(dim=-1, keepdim=True)

    @torch.no_grad()
    def right(self, frames, key):
        """Bools: in which of the uint8 frames [F, H, W, 3] the right caption has the highest score of all."""
        motion, device = key[2], self.model.device
        keys = [(c, s, b) for c in world.COLORS for s in world.FORMS for b in world.BACKS]
        if motion not in self.captions:
            tokens = self.tokenizer([world.caption((c, s, motion, b)) for c, s, b in keys], padding=True,
                                    return_tensors="pt").to(device)
            self.captions[motion] = self._unit(self.model.get_text_features(**tokens))
        pixels = self.processor(images=list(frames.numpy()), return_tensors="pt").to(device)
        score = self._unit(self.model.get_image_features(**pixels)) @ self.captions[motion].T
        return (score.argmax(1) == keys.index((key[0], key[1], key[3]))).tolist()


def judge(videos, keys, clip=None):
    """{colour, form, motion, background, all, clip: fraction right} over videos [F, H, W, 3], and the list of misses."""
    right = dict(colour=0, form=0, motion=0, background=0, all=0)
    top, frames, misses = 0, 0, []
    for video, key in zip(videos, keys):
        seen = measure(video)
        hits = [a == b for a, b in zip(key, seen)]
        for name, hit in zip(right, hits + [all(hits)]):
            right[name] += hit
        if not all(hits):
            misses.append(f"{world.caption(key)}: seen {', '.join(map(str, seen))}")
        if clip:
            hits = clip.right(video, key)
            top, frames = top + sum(hits), frames + len(hits)
    out = {name: n / len(keys) for name, n in right.items()}
    if clip:
        out["clip"] = top / frames
    return out, misses
