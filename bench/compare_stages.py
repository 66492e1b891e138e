"""Runs cvx's stages and their peers in turns and compares medians; bench/compare-stages prepares and calls it."""
import argparse
import os
import statistics
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
CASES = (("esrgan", "realesr-animevideov3", "ncnn", 0.8), ("rife", "rife-v3.9", "torch", 0.8))


def run(command, threads):
    """Median seconds a frame of one process."""
    env = dict(os.environ, OMP_NUM_THREADS=str(threads), OMP_WAIT_POLICY="passive")
    done = subprocess.run(command, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"compare-stages: exit {done.returncode} of {' '.join(command)}\n{done.stderr[-2000:]}")
    return statistics.median(float(line) for line in done.stdout.split())


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--python", required=True)
    p.add_argument("--bench", required=True)
    p.add_argument("--threads", type=int, default=os.cpu_count())
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--frames", type=int, default=3)
    p.add_argument("--width", type=int, default=720)
    p.add_argument("--height", type=int, default=480)
    a = p.parse_args()
    size = [str(v) for v in (a.width, a.height, a.frames, a.threads)]
    missed = 0
    for what, model, peer, bound in CASES:
        args = [what, f"{ROOT}/models/{model}", *size]
        ours, theirs = [], []
        for i in range(a.rounds):  # alternating: both sides see the same machine, whatever else it does
            ours.append(run([a.bench, *args], a.threads))
            theirs.append(run([a.python, f"{HERE}/peer_stages.py", *args], a.threads))
            print(f"  {what}: round {i + 1} of {a.rounds}: {ours[-1]:.3f} s, {peer} {theirs[-1]:.3f} s", file=sys.stderr,
                  flush=True)
        share = statistics.median(o / t for o, t in zip(ours, theirs))
        missed += share > bound
        print(f"{model} {a.width}x{a.height}, {a.threads} threads: {statistics.median(ours):.3f} s a frame, "
              f"{peer} {statistics.median(theirs):.3f} s: {share:.2f} of it (asked for: at most {bound})")
    return 1 if missed else 0


sys.exit(main())
