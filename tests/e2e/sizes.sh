#!/usr/bin/env bash
# Any size runs, not only the checkpoint's own, in the memory that `cvx plan` foretold (within 10 %).
set -euo pipefail
. "$(dirname "$0")/lib.sh"

# sized MODEL HEIGHT WIDTH FRAMES WANTED_FRAMES ARGS...
sized() {
    local model=$1 h=$2 w=$3 n=$4 want=$5 name
    shift 5
    name="$(basename "$model") ${h}x$w, $n frames"
    expect "$name" "$cvx" generate --model "$model" --prompt "$prompt" --height "$h" --width "$w" --num-frames "$n" \
        --num-inference-steps 2 --output "$tmp/x.safetensors" --quiet "$@"
    equal "$name: shape" "$want,3,$h,$w" "$(shape "$tmp/x.safetensors" frames)"
    rm -f "$tmp/x.safetensors"
}
tiny=tests/data/variants

sized models/shapes 48 80 9 9
sized models/shapes 128 192 33 33
# a sanitizer's own memory is in no plan
if ! grep -aq __asan_init "$cvx"; then
    expect "128x192, 33 frames: planned memory is within 10 % of what was used" python3 - "$tmp/x.safetensors.json" <<'PY'
import json, sys
m = json.load(open(sys.argv[1]))
planned, used = m["planned_peak_bytes"], m["peak_bytes"]
print(f"planned {planned / 2**20:.1f} MiB, used {used / 2**20:.1f} MiB")
assert abs(planned - used) <= 0.1 * used
PY
    sed -n '$p' "$tmp/log"
fi
sized models/shapes 64 96 1 1
# an even number of latent frames gives 4L frames, as in diffusers
sized "$tiny/tiny-2b" 48 64 13 16
sized "$tiny/tiny-5b" 80 64 9 9
sized "$tiny/tiny-5b" 64 112 13 16
sized "$tiny/tiny-1.5-5b" 48 80 9 9
sized "$tiny/tiny-1.5-5b-i2v" 64 48 9 9 --image "$tiny/tiny-1.5-5b-i2v/input.png"

# the plan of a manifest is that of the job that made it; that of a batch has each job, the greatest memory and the time of all
"$cvx" generate --model models/shapes --prompt "$prompt" --num-frames 33 --num-inference-steps 1 --quiet --threads 1 \
    --output "$tmp/made.mp4"
"$cvx" plan --replay "$tmp/made.mp4.json" --json >"$tmp/replay.json"
"$cvx" plan --model models/shapes --num-frames 33 --num-inference-steps 1 --output "$tmp/x.mp4" --json >"$tmp/one.json"
cat >"$tmp/jobs.jsonl" <<E
{"prompt": "a red star", "output": "$tmp/a.mp4", "num_frames": 33, "num_inference_steps": 1}

{"prompt": "a red star", "output": "$tmp/b.mp4", "num-videos-per-prompt": 3}
{"prompt": "a red star", "output": "$tmp/a.mp4"}
{"prompt": "a red star", "output": "$tmp/c.mp4", "num_frames": 48}
{"prompt": "a red star", "output": "$tmp/d.mp4", "num_frames": 4001, "height": 16384, "width": 16384}
E
head -n 3 "$tmp/jobs.jsonl" >"$tmp/good.jsonl"
expect "the plan of a good batch" "$cvx" plan --batch "$tmp/good.jsonl" --model models/shapes --num-inference-steps 3
code=0
"$cvx" plan --batch "$tmp/jobs.jsonl" --model models/shapes --num-inference-steps 3 --json >"$tmp/batch.json" 2>"$tmp/err" || code=$?
equal "the plan of a batch that would fail in part: exit code" 5 "$code"
equal "the plan of a batch that would fail in part: lines" "4 5 6" \
    "$(sed -n "s|^$tmp/jobs.jsonl:\([0-9]*\): .*|\1|p" "$tmp/err" | xargs)"
equal "the plan of a batch that would fail in part: at the end" "cvx: $tmp/jobs.jsonl: 3 of 5 jobs would fail" "$(tail -n 1 "$tmp/err")"
expect "the plans' figures" python3 - "$tmp" <<'PY'
import json, sys
def load(name):
    with open(f"{sys.argv[1]}/{name}.json") as f:
        return json.load(f)
replay, one, batch = load("replay"), load("one"), load("batch")
def near(a, b):
    assert abs(a - b) <= 0.05 * b, (a, b)  # the program itself, which is part of it, differs from start to start
for key in ("num_frames", "height", "width", "fps"):
    assert replay[key] == one[key], key
near(replay["peak_bytes"], one["peak_bytes"])
jobs = batch["jobs"]
assert [j["line"] for j in jobs] == [1, 3, 6] and [j["videos"] for j in jobs] == [1, 3, 1]
assert [j["fits"] for j in jobs] == [True, True, False] and not batch["fits"]
near(jobs[0]["peak_bytes"], one["peak_bytes"])
assert jobs[1]["num_frames"] == 17 and jobs[1]["peak_bytes"] < jobs[2]["peak_bytes"]
for key in ("peak_bytes", "needed_bytes"):
    assert batch[key] == max(j[key] for j in jobs), key
assert abs(batch["seconds"] - sum(j["seconds"] for j in jobs)) <= 1e-4 * batch["seconds"]
PY
fails "a batch on ranks" 2 "without --replay, --ranks and --cluster" "$cvx" plan --batch "$tmp/good.jsonl" --ranks 2
finish
