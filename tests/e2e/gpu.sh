#!/usr/bin/env bash
# GPUs as a user meets them: without one the same program works on the CPU and says what is missing, each time in one
# line; with one `auto` takes it.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

job=(--model models/shapes --prompt "$prompt" --num-inference-steps 1 --manifest none)
"$cvx" doctor >"$tmp/doctor"
equal "doctor has a line for the backend" 1 "$(grep -c 'CUDA backend' "$tmp/doctor")"
if nvidia-smi -L >/dev/null 2>&1 && grep -q 'ok   CUDA backend' "$tmp/doctor"; then
    expect "auto on a GPU" "$cvx" generate "${job[@]}" --output "$tmp/gpu.mp4"
else
    fails "--backend cuda" 6 'backend "cuda"' "$cvx" generate "${job[@]}" --backend cuda --output "$tmp/a.mp4"
    fails "--quantize fp8" 6 'quantize fp8 needs' "$cvx" generate "${job[@]}" --quantize fp8 --output "$tmp/a.mp4"
    fails "--attention sage" 6 'attention sage needs' "$cvx" generate "${job[@]}" --dtype bf16 --attention sage \
        --output "$tmp/a.mp4"
    equal "nothing was written" "" "$(ls "$tmp" | grep mp4 || true)"
    expect "auto" "$cvx" generate "${job[@]}" --output "$tmp/cpu.mp4"
    if grep -q 'no CUDA device' "$tmp/doctor"; then
        equal "one line about it" 1 "$(grep -c 'computing on the CPU' "$tmp/log")"
    else
        equal "no word about it in a build without CUDA" 0 "$(grep -c 'computing on the CPU' "$tmp/log")"
    fi
    fails "gpu-check" 2 'nothing was checked' tools/gpu-check
fi
fails "sage in f32" 2 'is for --dtype bf16' "$cvx" generate "${job[@]}" --attention sage --output "$tmp/b.mp4"
fails "fp8 and streamed weights" 2 'give one of them' "$cvx" generate "${job[@]}" --quantize fp8 --offload sequential \
    --output "$tmp/b.mp4"
finish
