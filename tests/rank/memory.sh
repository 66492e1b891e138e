#!/usr/bin/env bash
# Memory of a rank, by the measuring walk that admits jobs (tests/rank/dit.c and tests/e2e/sizes.sh hold that walk to
# what runs use): the VAE decode's activations shrink as 1/N, weights with the tensor degree.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

tools/sparse-checkpoint 2b "$tmp/2b" --layers 2
job=(--model "$tmp/2b" --prompt x --num-frames 9 --height 240 --width 368 --json)
for n in 1 2 4 8; do
    "$cvx" plan "${job[@]}" --ranks "$n" --ulysses-degree "$n" >"$tmp/$n.json"
done
"$cvx" plan "${job[@]}" --ranks 4 --tensor-parallel-degree 4 >"$tmp/tensor.json"
# The decoder at real width (128, 256, 256, 512), 30 latent rows: at 4 ranks the largest band has 8 of them, and
# borders and the frames on rank 0 come on top; 1.25/N is what the documentation promises.
expect "activations of the decode: at most 1.25/N of one rank's" python3 - "$tmp" <<'P'
import json, sys
step = {}
for n in (1, 2, 4, 8):
    with open(f"{sys.argv[1]}/{n}.json") as f:
        step[n] = json.load(f)["candidates"][0]["step_bytes"]["decode"]
print(step)
for n in (2, 4):
    assert step[n] <= 1.25 / n * step[1], (n, step[n] / step[1])
assert step[8] < step[4]
P
expect "a rank of four tensor ranks plans less than half of the memory" python3 - "$tmp" <<'P'
import json, sys
size = {}
for name in ("1", "tensor"):
    with open(f"{sys.argv[1]}/{name}.json") as f:
        size[name] = json.load(f)["candidates"][0]["rank_bytes"]
print(size)
assert size["tensor"] < 0.5 * size["1"]
P
finish
