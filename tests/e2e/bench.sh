#!/usr/bin/env bash
# cvx bench: the waterfall has every op of the run in its order, and all of its time.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

look() { python3 - "$tmp/$1.json" <<'P'
import json, sys
d = json.load(open(sys.argv[1]))
rows, ops = d["waterfall"], d["ops"]
per = {}
for r in rows:
    c = per.setdefault(r["op"], [0, 0.0])
    c[0] += r["times"]
    c[1] += r["flops"]
assert {o: c[0] for o, c in per.items()} == {o: v["calls"] for o, v in ops.items()}, (per, ops)
assert all(abs(c[1] - ops[o]["flops"]) <= 1e-4 * ops[o]["flops"] for o, c in per.items()), (per, ops)
assert [r["group"] for r in rows] == sorted(r["group"] for r in rows)
assert [r["at"] for r in rows] == sorted(r["at"] for r in rows)
assert all(r["between"] > -1e-6 for r in rows)
used = sum(r["seconds"] + r["between"] for r in rows)
assert used <= d["seconds_max"] + 1e-6 * (2 * len(rows) + 1), (used, d["seconds_max"])
print("blocks", max(r["times"] for r in rows if r["op"] == "linear" or r["op"] == "conv3d") > 1)
P
}
for what in dit vae; do
    expect "bench $what" "$cvx" bench "$what" --model tests/data/variants/tiny-5b --height 64 --width 96 --num-frames 9 \
        --runs 1 --backend cpu --json
    cp "$tmp/log" "$tmp/$what.json"
    equal "$what: every op is in the waterfall, repeats are found" "blocks True" "$(look "$what" 2>&1 | tail -n 1)"
done
expect "bench dit as text" "$cvx" bench dit --model tests/data/variants/tiny-5b --height 64 --width 96 --num-frames 9 --runs 1 \
    --backend cpu
equal "the text has a bar for every row" "$(grep -c '^ *[0-9.]* *[0-9]*x ' "$tmp/log")" "$(grep -c '|.*#.*|$' "$tmp/log")"
equal "a block that repeats is a group" True "$([ "$(grep -c ' |[a-z_]* .*#.*|$' "$tmp/log")" -gt 5 ] && echo True)"
finish
