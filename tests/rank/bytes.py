"""Checks a job's counted bytes: bytes.py MODEL EVENTS RANKS cvx-rank's mesh and size flags..."""
import argparse
import json
import sys


def shard(total, size, rank):
    return total * (rank + 1) // size - total * rank // size


def start(total, size, rank):
    return total * rank // size


def signals(model, steps):
    """sqrt(alphas_cumprod) at the steps of a trailing schedule (diffusers' CogVideoXDDIMScheduler)."""
    with open(f"{model}/scheduler/scheduler_config.json") as f:
        c = json.load(f)
    n, product, roots = c["num_train_timesteps"], 1, []
    lo, hi = c["beta_start"] ** 0.5, c["beta_end"] ** 0.5
    for i in range(n):
        product *= 1 - (lo + (hi - lo) * i / (n - 1)) ** 2
        roots.append((product / (c["snr_shift_scale"] + (1 - c["snr_shift_scale"]) * product)) ** 0.5)
    # without signal at the last
    scale = [(r - roots[-1]) * roots[0] / (roots[0] - roots[-1]) for r in roots]
    return [scale[round(n - i * n / steps) - 1] for i in range(steps)]


class Job:
    def __init__(self, model, ranks, args):
        self.dit, self.vae, self.t5 = (json.load(open(f"{model}/{part}/config.json"))
                                       for part in ("transformer", "vae", "text_encoder"))
        self.n, self.cfg = ranks, 2 if args.enable_cfg_parallel else 1
        self.ring, self.ulysses, self.tensor = args.ring_degree, args.ulysses_degree, args.tensor_parallel_degree
        self.groups, self.cache = args.window_parallel_degree, args.first_block_cache
        self.all_frames = (args.num_frames - 1) // 4 + 1  # latent ones
        self.frames = min(self.all_frames, (args.window_frames - 1) // 4 + 1) if args.window_frames else self.all_frames
        stride = max(1, self.frames // 2)
        self.windows = []  # of each step
        for signal in signals(model, args.num_inference_steps):
            lie_on = self.all_frames
            for dilation in (2, 4):
                spread = -(-(self.all_frames - 1) // dilation) + 1
                if signal ** 2 * (1 + dilation ** 4 / 144) < 1 and spread >= self.frames:
                    lie_on = spread
            self.windows.append(1 + -(-(lie_on - self.frames) // stride))
        self.h, self.w = args.height // 8, 96 // 8
        self.heads, self.d = self.dit["num_attention_heads"], self.dit["attention_head_dim"]
        self.text = self.dit["max_text_seq_length"]
        self.video = self.frames * (self.h // 2) * (self.w // 2)
        self.rows = self.text + self.video
        self.sent = {}  # (communicator, kind): bytes by rank

    def add(self, comm, kind, rank, count):
        if count:
            self.sent.setdefault((comm, kind), [0] * self.n)[rank] += count

    def place(self, rank):
        """(window, cfg, ring, ulysses, tensor) of a rank."""
        out = []
        for degree in (self.tensor, self.ulysses, self.ring, self.cfg, self.groups):
            out.insert(0, rank % degree)
            rank //= degree
        return out

    def own_rows(self, ring, ulysses):
        return shard(self.rows, self.ring * self.ulysses, ring * self.ulysses + ulysses)

    def denoise(self, r, gathers):
        g, _, ring, u, t = self.place(r)
        calls = sum(len(range(g, n, self.groups)) for n in self.windows)
        b, passes = 2 // self.cfg, calls * self.dit["num_layers"]
        self.add("window", "broadcast", r, calls * 4 * 2 * self.frames * self.vae["latent_channels"] * self.h * self.w *
                 (self.groups - 1))
        hl, own = shard(self.heads, self.tensor, t), self.own_rows(ring, u)
        place_rows = [sum(self.own_rows(i, k) for k in range(self.ulysses)) for i in range(self.ring)]
        h = shard(hl, self.ulysses, u)
        if gathers:
            self.add("ulysses", "all-gather", r, passes * 4 * b * own * 2 * hl * self.d * (self.ulysses - 1))
        else:
            self.add("ulysses", "all-to-all", r, passes * 4 * b * self.d *
                     (own * 3 * (hl - h) + (place_rows[ring] - own) * h))
        self.add("ring", "send/recv", r, passes * 8 * b * h * self.d *
                 (self.rows - place_rows[(ring + 1) % self.ring]) if self.ring > 1 else 0)
        width = self.heads * self.d
        values = b * own * width
        mine = shard(values, self.tensor, t)
        if self.tensor > 1:
            self.add("tensor", "all-reduce", r, passes * 2 * 4 * (values - mine + mine * (self.tensor - 1)))
            self.add("tensor", "all-gather", r, calls * 4 * width *
                     shard(12 * self.dit["num_layers"], self.tensor, t) * (self.tensor - 1))
            values = self.text * self.t5["d_model"]  # the sharded text encoder, two prompts
            mine = shard(values, self.tensor, t)
            self.add("tensor", "all-reduce", r, 2 * self.t5["num_layers"] * 2 * 4 *
                     (values - mine + mine * (self.tensor - 1)))
        first = start(self.rows, self.ring * self.ulysses, ring * self.ulysses + u)
        video = own - max(0, min(self.text - first, own))
        others = self.cfg * self.ring * self.ulysses - 1
        self.add("branches", "all-gather", r, calls * 4 * b * video * 4 * self.dit["out_channels"] * others)
        if self.cache:  # for hardly any change: every pass runs every block
            self.add("branches", "all-gather", r, (calls - 1) * 8 * b * video * others)

    def conv(self, r, near, t, w, channels):
        self.add("replica", "send/recv", r, near * 4 * t * (w + 2) * channels)

    def norm(self, r, n, t, rows):
        self.add("replica", "all-gather", r, 16 * t * rows * self.vae["norm_num_groups"] * (n - 1))

    def decode_chunk(self, r, n, t):
        near, rows, w = (r > 0) + (r + 1 < n), shard(self.h, n, r), self.w
        channels = list(reversed(self.vae["block_out_channels"]))
        self.conv(r, near, t, w, self.vae["latent_channels"])
        resnets = [(channels[0], channels[0])] * 2

        def run(pairs):
            for cin, cout in pairs:
                for c in (cin, cout):
                    self.norm(r, n, t, rows)
                    self.conv(r, near, t, w, c)

        run(resnets)
        c = channels[0]
        for i, cout in enumerate(channels):
            run([(c, cout)] + [(cout, cout)] * self.vae["layers_per_block"])
            c = cout
            if i + 1 < len(channels):
                self.conv(r, near, t, w, c)
                if 2 ** (i + 1) <= self.vae["temporal_compression_ratio"]:
                    t = 1 if t == 1 else 2 * t - t % 2
                rows, w = 2 * rows, 2 * w
        self.norm(r, n, t, rows)
        self.conv(r, near, t, w, c)
        self.add("replica", "send/recv", r, 4 * t * 3 * rows * w if r > 0 else 0)

    def decode(self, r):
        n = min(self.n, self.h)
        rest = self.all_frames % 2
        for i in range(self.all_frames // 2):
            if r < n:
                self.decode_chunk(r, n, 2 + (rest if i == 0 else 0))


def main():
    p = argparse.ArgumentParser()
    p.add_argument("model")
    p.add_argument("events")
    p.add_argument("ranks", type=int)
    p.add_argument("--enable-cfg-parallel", action="store_true")
    for name in ("ring-degree", "ulysses-degree", "tensor-parallel-degree", "window-parallel-degree"):
        p.add_argument(f"--{name}", type=int, default=1)
    p.add_argument("--num-frames", type=int, default=17)
    p.add_argument("--window-frames", type=int, default=0)
    p.add_argument("--num-inference-steps", type=int, default=2)
    p.add_argument("--height", type=int, default=64)
    p.add_argument("--first-block-cache", type=float, default=0)
    args = p.parse_args()
    with open(args.events) as f:
        stats = next(e for e in map(json.loads, f) if e["event"] == "stats")
    counted = {(x["communicator"], x["kind"]): x["bytes_by_rank"] for x in stats["exchanges"]}
    job = Job(args.model, args.ranks, args)
    for r in range(args.ranks):
        job.denoise(r, ("ulysses", "all-gather") in counted)
        job.decode(r)
    if args.ranks > 1:
        if args.tensor_parallel_degree == 1:
            job.add("replica", "broadcast", 0, 4 * 2 * job.text * job.t5["d_model"] * (args.ranks - 1))
    for key, want in sorted(job.sent.items()):
        assert counted.get(key) == want, f"{key}: formula {want}, counted {counted.get(key)}"
    unknown = [k for k in counted if k not in job.sent and k[1] not in ("agree", "broadcast") and k[0] != "world" and
               not (k[0] == "tensor" and args.tensor_parallel_degree > 1)]
    assert not unknown, f"no formula for {unknown}"


main()
