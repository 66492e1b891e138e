#!/usr/bin/env bash
# The bytes of a video do not depend on what lay in the heap before: a fresh process, one whose memory is filled with
# garbage, and one that has made other videos write the same files. In f32 avx512_bf16 is avx512; in bf16 it is not.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

one=(--model models/shapes --prompt "$prompt" --num-inference-steps 2 --quiet --manifest none)
for kind in mp4 webm gif safetensors; do
    for fill in 0 85 170; do
        MALLOC_PERTURB_=$fill "$cvx" generate "${one[@]}" --output "$tmp/$fill.$kind"
    done
    expect "$kind: memory full of 0x55" cmp "$tmp/0.$kind" "$tmp/85.$kind"
    expect "$kind: memory full of 0xaa" cmp "$tmp/0.$kind" "$tmp/170.$kind"
done
for fill in 0 85; do
    MALLOC_PERTURB_=$fill "$cvx" generate "${one[@]}" --interpolate 2 --upscale 2 --output "$tmp/stages-$fill.mp4"
done
expect "interpolated and enlarged" cmp "$tmp/stages-0.mp4" "$tmp/stages-85.mp4"

if grep -qw avx512_bf16 /proc/cpuinfo; then
    for isa in avx512 avx512_bf16; do
        "$cvx" generate "${one[@]}" --isa "$isa" --output "$tmp/$isa.safetensors"
        "$cvx" generate "${one[@]}" --isa "$isa" --dtype bf16 --output "$tmp/$isa-bf16.safetensors"
    done
    expect "f32 of both levels of AVX-512" cmp "$tmp/avx512.safetensors" "$tmp/avx512_bf16.safetensors"
    differ "bf16 of both levels" "$tmp/avx512-bf16.safetensors" "$tmp/avx512_bf16-bf16.safetensors"
else
    echo "SKIP  both levels of AVX-512: this machine lacks avx512_bf16"
fi

# the program starts itself again to set how its threads wait: under its own name
env -u OMP_WAIT_POLICY -u GOMP_SPINCOUNT CVX_FAULT=hang:0:step:1 "$cvx" generate --model models/shapes --prompt x --quiet --manifest none \
    --output "$tmp/named.mp4" &
pid=$!
until tr '\0' '\n' <"/proc/$pid/environ" | grep -q ^GOMP_SPINCOUNT= || ! kill -0 $pid; do sleep 0.05; done
equal "the process's name" "$(basename "$cvx")" "$(cat /proc/$pid/comm)"
kill -9 $pid && wait $pid 2>/dev/null || true

for k in 0 1 2 3 4; do
    # of the same model, of other sizes, with another dtype: what stays open and what is opened anew
    more=('' ', "height": 128' ', "dtype": "bf16"' '' ', "num-inference-steps": 3')
    printf '{"prompt": "%s", "output": "%s/job-%d.mp4"%s}\n' "$prompt" "$tmp" "$k" "${more[$k]}"
done >"$tmp/jobs.jsonl"
"$cvx" generate --model models/shapes --num-inference-steps 2 --quiet --manifest none --batch "$tmp/jobs.jsonl"
for k in 0 3; do
    expect "job $k of a batch" cmp "$tmp/0.mp4" "$tmp/job-$k.mp4"
done
finish
