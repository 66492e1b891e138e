"""Training state on disk: small, written whole or not at all, and enough to go on as if nothing had happened.

Every random draw of a step comes from generators seeded by (stage, step), so no generator state is kept.
"""
import json
import math
import os
import random
import signal
import time

import torch

SEED = 20


def write_whole(path, write):
    """write(temporary path), then rename: a reader sees the old file or the new one, never a part."""
    temporary = f"{path}.partial"
    write(temporary)
    with open(temporary, "rb") as f:
        os.fsync(f.fileno())
    os.replace(temporary, path)


def write_json(path, value):
    def write(p):
        with open(p, "w") as f:
            json.dump(value, f, indent=1)
            f.write("\n")
    write_whole(path, write)


def log(folder, **values):
    """One line of JSON in FOLDER/log.jsonl, and the same for the eye."""
    line = dict(time=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **values)
    with open(os.path.join(folder, "log.jsonl"), "a") as f:
        f.write(json.dumps(line) + "\n")
    print(" ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in line.items()), flush=True)


def generators(stage, step):
    """(random.Random, torch.Generator) of this step."""
    number = (SEED * 1000 + stage) * 10_000_000 + step
    return random.Random(number), torch.Generator().manual_seed(number)


def rate(step, total, peak, warmup=200, hold=0.6):
    """Learning rate: linear warm-up, constant, then a cosine down to a hundredth of the peak."""
    if step < warmup:
        return peak * (step + 1) / warmup
    start = hold * total
    if step < start:
        return peak
    return peak * max(0.01, 0.5 + 0.5 * math.cos(math.pi * min(1, (step - start) / (total - start))))


def orthogonal(g):
    """The nearest (roughly) orthogonal matrix to [.., a, b]: five Newton-Schulz steps with Muon's coefficients (Keller
    Jordan, "Muon: an optimizer for hidden layers in neural networks", 2024)."""
    x = g.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        a = x @ x.mT
        x = 3.4445 * x + (-4.775 * a + 2.0315 * (a @ a)) @ x
    return x.mT if tall else x


class Optimizer:
    """Muon for matrices and kernels, Adam for the rest (vectors, and what `plain` names), at one learning rate: Muon's
    updates are scaled to the root mean square that Adam's typically have (0.2 of the rate)."""

    def __init__(self, parameters, plain, decay, betas):
        ids = {id(p) for p in plain}
        self.muon = [p for p in parameters if p.ndim > 1 and id(p) not in ids]
        ids = {id(p) for p in self.muon}
        self.adam = torch.optim.AdamW([p for p in parameters if id(p) not in ids], lr=1e-3, betas=betas,
                                      weight_decay=0.0)
        self.momentum = [torch.zeros_like(p) for p in self.muon]
        self.decay = decay

    @torch.no_grad()
    def step(self, lr):
        for group in self.adam.param_groups:
            group["lr"] = lr
        self.adam.step()
        shapes = {}
        for p, m in zip(self.muon, self.momentum):
            m.lerp_(p.grad, 0.05)
            shapes.setdefault((len(p), p[0].numel()), []).append((p, p.grad.lerp(m, 0.95).flatten(1)))
        for (a, b), group in shapes.items():
            update = orthogonal(torch.stack([u for _, u in group])).float()
            for (p, _), u in zip(group, update):
                p.mul_(1 - lr * self.decay).sub_(u.view_as(p), alpha=lr * 0.2 * max(a, b) ** 0.5)


class Stopped(Exception):
    """Asked to end; the checkpoint is written."""


_asked = []


def stop_on_signals():
    """TERM and INT end the training after the step under way, with a checkpoint."""
    for s in (signal.SIGTERM, signal.SIGINT):
        signal.signal(s, lambda number, _frame: _asked.append(number))


class Trainer:
    """The optimizer, an exponential moving average of the weights, and their checkpoint in one file."""

    def __init__(self, path, parameters, plain, decay, betas, ema):
        self.path = path
        self.parameters = [p for p in parameters if p.requires_grad]
        self.optimizer = Optimizer(self.parameters, plain, decay, betas)
        self.average = [p.detach().clone() for p in self.parameters]
        self.ema = ema
        self.step = self.taken = 0
        self.saved = time.monotonic()

    def update(self, loss, lr):
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        if torch.isfinite(norm):
            self.optimizer.step(lr)
        for p in self.parameters:
            p.grad = None
        self.step += 1
        keep = min(self.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], 1 - keep)

    def rest(self, seconds, limit):
        """Between steps: writes the checkpoint when it is SECONDS old; raises Stopped if asked to end, or after LIMIT
        steps of this process (None: no limit)."""
        self.taken += 1
        ends = _asked or (limit is not None and self.taken >= limit)
        if ends or time.monotonic() - self.saved > seconds:
            self.save()
        if ends:
            raise Stopped(f"{self.path}: step {self.step} is saved")

    def averaged(self):
        """A context in which the model has the averaged weights."""
        return _Swapped(self.parameters, self.average)

    def save(self):
        adam = [self.optimizer.adam.state[p] for p in self.optimizer.adam.param_groups[0]["params"]]
        value = dict(step=self.step, weights=[p.detach().cpu() for p in self.parameters],
                     average=[a.cpu() for a in self.average],
                     # sixteen bits are plenty for moments, and halve the file
                     momentum=[m.bfloat16().cpu() for m in self.optimizer.momentum],
                     first=[m["exp_avg"].bfloat16().cpu() for m in adam],
                     second=[m["exp_avg_sq"].bfloat16().cpu() for m in adam])
        write_whole(self.path, lambda p: torch.save(value, p))
        self.saved = time.monotonic()

    def load(self):
        """Whether there was a checkpoint to go on from."""
        if not os.path.exists(self.path):
            return False
        value = torch.load(self.path, map_location="cpu", weights_only=True)
        adam = self.optimizer.adam
        with torch.no_grad():
            for p, a, w, v in zip(self.parameters, self.average, value["weights"], value["average"]):
                p.copy_(w)
                a.copy_(v)
            for m, v in zip(self.optimizer.momentum, value["momentum"]):
                m.copy_(v)
        self.step = value["step"]
        for p, first, second in zip(adam.param_groups[0]["params"], value["first"], value["second"]):
            adam.state[p] = dict(step=torch.tensor(float(self.step)), exp_avg=first.float().to(p.device),
                                 exp_avg_sq=second.float().to(p.device))
        return True


class _Swapped:
    def __init__(self, parameters, average):
        self.parameters, self.average = parameters, average

    def _swap(self):
        with torch.no_grad():
            for p, a in zip(self.parameters, self.average):
                held = p.detach().clone()
                p.copy_(a)
                a.copy_(held)

    def __enter__(self):
        self._swap()

    def __exit__(self, *_):
        self._swap()
