"""Runs cvx and diffusers in turns and compares medians; bench/compare-diffusers prepares and calls it."""
import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
PROMPT = "a red circle moving right on a black background"

# what cvx promises, as shares of diffusers' figure, in f32
BOUNDS = {"dit time": 0.85, "vae time": 0.7, "vae peak memory": 0.6, "shapes, start to MP4": 0.3,
          "shapes against denoise and decode alone": 0.6}


def run(command, args):
    """(wall seconds, last line of stdout) of one process."""
    env = dict(os.environ, OMP_NUM_THREADS=str(args.threads), CVX_BENCH_DTYPE=args.dtype)
    start = time.perf_counter()
    done = subprocess.run(command, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    wall = time.perf_counter() - start
    if done.returncode != 0:
        sys.exit(f"compare-diffusers: exit {done.returncode} of {' '.join(command)}\n{done.stderr[-2000:]}")
    lines = done.stdout.strip().splitlines()
    return wall, lines[-1] if lines else ""


class Comparison:
    def __init__(self, args):
        self.args = args
        self.rows = []  # (what, cvx, diffusers, unit, bound or None)
        self.notes = []

    def cvx(self, *command):
        return run([self.args.cvx, *command, "--threads", str(self.args.threads), "--dtype", self.args.dtype], self.args)

    def peer(self, *command):
        return run([self.args.python, f"{HERE}/peer_diffusers.py", *map(str, command)], self.args)

    def pairs(self, cvx, peer):
        """Alternating runs: both sides see the same machine, whatever else it does."""
        ours, theirs = [], []
        for i in range(self.args.rounds):
            ours.append(cvx())
            theirs.append(peer())
            print(f"  round {i + 1} of {self.args.rounds} done", file=sys.stderr, flush=True)
        return ours, theirs

    def row(self, what, ours, theirs, unit):
        self.rows.append((what, statistics.median(ours), statistics.median(theirs), unit,
                          BOUNDS.get(what) if self.args.dtype == "f32" else None))

    def model(self, what, height, width, frames, runs):
        a = self.args
        size = ["--height", str(height), "--width", str(width), "--num-frames", str(frames)]

        def cvx():
            return json.loads(self.cvx("bench", what, "--model", a.model, *size, "--runs", str(runs),
                                       "--json")[1])

        def peer():
            return json.loads(self.peer(what, a.model, height, width, frames, runs)[1])

        ours, theirs = self.pairs(cvx, peer)
        self.row(f"{what} time", [o["seconds_median"] for o in ours], [t["seconds_median"] for t in theirs], "s")
        self.row(f"{what} peak memory", [o["peak_bytes"] / 2**20 for o in ours],
                 [t["peak_bytes"] / 2**20 for t in theirs], "MiB")
        median = statistics.median(o["gflops"] for o in ours)
        gflop = ours[0]["gflop"]
        self.notes.append(f"{what}: {frames} frames {height}x{width}, {gflop:.0f} GFLOP, cvx {median:.0f} GFLOP/s on "
                          f"{ours[0]['backend']}" + (f", {100 * median / a.peak:.0f} % of the measured peak of "
                                                     f"{a.peak:.0f} GFLOP/s" if a.peak else ""))

    def shapes(self):
        a = self.args
        out = f"{a.work}/shapes"
        folder = f"{ROOT}/models/shapes"

        def cvx():
            return self.cvx("generate", "--model", folder, "--prompt", PROMPT, "--output", f"{out}-cvx.mp4",
                            "--num-inference-steps", str(a.steps), "--quiet")[0]

        def peer():
            wall, line = self.peer("shapes", folder, f"{out}-diffusers.mp4", a.steps)
            return wall, json.loads(line)["seconds_median"]

        ours, theirs = self.pairs(cvx, peer)
        self.row("shapes, start to MP4", ours, [t[0] for t in theirs], "s")
        self.row("shapes against denoise and decode alone", ours, [t[1] for t in theirs], "s")
        self.notes.append(f"shapes: 17 frames 64x96, {a.steps} steps")

    def finish(self):
        """Prints the table in the form bench/LOG.md keeps; True if every bound holds."""
        a = self.args
        commit = subprocess.run(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
        cpu = platform.machine()
        with open("/proc/cpuinfo") as f:
            for line in f:
                if line.startswith("model name"):
                    cpu = line.split(":", 1)[1].strip()
                    break
        held = True
        print(f"\n### {datetime.date.today()}, {commit.stdout.strip() or 'no commit'}: against diffusers\n")
        print(f"`bench/compare-diffusers --threads {a.threads} --rounds {a.rounds} --runs {a.runs} --steps {a.steps}"
              f"{'' if a.dtype == 'f32' else ' --dtype ' + a.dtype}` on {cpu}, {a.threads} threads, {a.dtype}; medians of {a.rounds} alternating rounds\n")
        print("| what | cvx | diffusers | ratio | at most |\n|---|---|---|---|---|")
        for what, ours, theirs, unit, bound in self.rows:
            ratio = ours / theirs
            verdict = ""
            if bound is not None:
                verdict = f"{bound} {'holds' if ratio <= bound else 'MISSED'}"
                held = held and ratio <= bound
            print(f"| {what} | {ours:.2f} {unit} | {theirs:.2f} {unit} | {ratio:.2f} | {verdict} |")
        print()
        for note in self.notes:
            print(f"- {note}")
        return held


def main():
    p = argparse.ArgumentParser(prog="compare-diffusers", description=__doc__)
    p.add_argument("--python", required=True)
    p.add_argument("--cvx", required=True)
    p.add_argument("--work", required=True)
    p.add_argument("--model", required=True)
    p.add_argument("--peak", type=float, default=0, help="measured peak, GFLOP/s")
    p.add_argument("--threads", type=int, default=os.cpu_count())
    p.add_argument("--rounds", type=int, default=3, help="alternating rounds (default 3)")
    p.add_argument("--runs", type=int, default=3, help="timed transformer calls in each process (default 3)")
    p.add_argument("--steps", type=int, default=50, help="steps of the shapes run (default 50)")
    p.add_argument("--dtype", choices=("f32", "bf16"), default="f32", help="of both sides (default f32)")
    p.add_argument("--only", choices=("dit", "vae", "shapes"), action="append")
    args = p.parse_args()
    comparison = Comparison(args)
    for what in args.only or ("dit", "vae", "shapes"):
        print(f"{what}:", file=sys.stderr, flush=True)
        if what == "dit":
            comparison.model("dit", 480, 720, 9, args.runs)
        elif what == "vae":
            comparison.model("vae", 240, 368, 9, 1)  # a minute each
        else:
            comparison.shapes()
    sys.exit(0 if comparison.finish() else 1)


main()
