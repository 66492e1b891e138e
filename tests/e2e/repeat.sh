#!/usr/bin/env bash
# The same request makes the same bytes: again, on another number of threads, from a manifest, with flags written
# otherwise. A different seed does not.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

expect "mp4" generate --output "$tmp/a.mp4" --num-inference-steps 3 --seed 5 --threads 2
expect "again" generate --output "$tmp/b.mp4" --num-inference-steps 3 --seed 5 --threads 2
expect "same bytes" cmp "$tmp/a.mp4" "$tmp/b.mp4"
expect "--replay" "$cvx" generate --replay "$tmp/a.mp4.json" --output "$tmp/c.mp4" --quiet
expect "--replay: same bytes" cmp "$tmp/a.mp4" "$tmp/c.mp4"
cp "$tmp/a.mp4" "$tmp/kept.mp4"
rm "$tmp/a.mp4"
expect "--replay to the same place" "$cvx" generate --replay "$tmp/a.mp4.json" --quiet
expect "--replay to the same place: same bytes" cmp "$tmp/kept.mp4" "$tmp/a.mp4"
sed 's/"transformer": "[0-9a-f]\{8\}/"transformer": "00000000/' "$tmp/c.mp4.json" >"$tmp/other.json"
if "$cvx" generate --replay "$tmp/other.json" --output "$tmp/d.mp4" --quiet 2>"$tmp/err"; then
    wrong "--replay with other weights is accepted"
else
    expect "--replay with other weights names the part" grep -q transformer "$tmp/err"
fi

for t in 1 2 3; do
    expect "$t threads" generate --output "$tmp/t$t.safetensors" --num-inference-steps 3 --threads "$t"
done
expect "1 and 2 threads: same bits" cmp "$tmp/t1.safetensors" "$tmp/t2.safetensors"
expect "1 and 3 threads: same bits" cmp "$tmp/t1.safetensors" "$tmp/t3.safetensors"
expect "bf16, 1 thread" generate --output "$tmp/h1.safetensors" --num-inference-steps 2 --threads 1 --dtype bf16
expect "bf16, 2 threads" generate --output "$tmp/h2.safetensors" --num-inference-steps 2 --threads 2 --dtype bf16
expect "bf16: same bits" cmp "$tmp/h1.safetensors" "$tmp/h2.safetensors"

expect "underscores" generate --output "$tmp/u.safetensors" --num_inference_steps=3 --threads 1 --guidance_scale 6
expect "underscores: same bits" cmp "$tmp/t1.safetensors" "$tmp/u.safetensors"
expect "--offload" generate --output "$tmp/o.safetensors" --num-inference-steps 3 --threads 1 --offload
expect "--offload: same bits" cmp "$tmp/t1.safetensors" "$tmp/o.safetensors"
expect "another seed" generate --output "$tmp/s.safetensors" --num-inference-steps 3 --threads 1 --seed 43
differ "another seed: other bits" "$tmp/t1.safetensors" "$tmp/s.safetensors"
finish
