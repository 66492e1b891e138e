#!/usr/bin/env bash
# tools/gpu-check's own logic, with a stand-in for nvidia-smi and programs that pass, fail, skip, print figures or hang: the
# table, the counts, the JSON with every figure, also of a run that is cut off.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

mkdir -p "$tmp/bin" "$tmp/build/tests" "$tmp/build/bench"
cat >"$tmp/bin/nvidia-smi" <<'SH'
#!/bin/sh
case "$*" in
-L) echo "GPU 0: NVIDIA H200 (UUID: GPU-1)" ;;
*gpu=compute_cap*) echo 9.0 ;;
*clocks.sm*) echo "1980, 3201, 650.1, 55" ;;
*) echo "NVIDIA H200, GPU-1, 580.1, 9.0, 143771, 1980, 3201, 700.00" ;;
esac
SH
program() {
    printf '#!/bin/sh\n%s\n' "$2" >"$tmp/build/$1"
    chmod +x "$tmp/build/$1"
}
for t in op_cuda op_flash op_cudnn op_norm op_elementwise op_linear op_attention op_conv op_image dit_golden t5_golden vae_golden nccl; do
    program "tests/test_$t" 'echo fine'
done
program tests/test_op_norm 'echo "error of 3"; exit 1'
program tests/test_op_conv 'echo "SKIP cuda: no CUDA device: no NVIDIA driver"'
program bench/bench_gpu 'echo "{\"op\": \"linear\", \"shape\": \"s\", \"ms\": 1, \"tflops\": 600, \"gb_per_s\": 9}"'
# latents of 0 and 1; of 0.1 and 1 in bf16, which is 23.01 dB beside them; others in a graph
python3 - "$tmp" <<'PY'
import json, struct, sys
for name, low in (("f32", 0.0), ("bf16", 0.1), ("graph", 0.5)):
    head = json.dumps({"latents": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    open(f"{sys.argv[1]}/{name}.latents", "wb").write(struct.pack("<Q", len(head)) + head + struct.pack("<2f", low, 1.0))
PY
program cvx 'case "$CVX_CUDA_GRAPH $*" in 1*) l=graph ;; *bf16*) l=bf16 ;; *) l=f32 ;; esac
case "$*" in
bench\ dit*) echo "{\"bench\": \"dit\", \"seconds_median\": 1.1, \"seconds_min\": 1, \"seconds_max\": 2, \"gflops\": 6e5, \"device_peak_bytes\": 1e10, \"ops\": {}}" ;;
esac
while [ $# -gt 0 ]; do [ "$1" = --save-latents ] && cp '"$tmp"'/$l.latents "$2"; shift; done; :'
chmod +x "$tmp/bin/nvidia-smi"

# gpu_check ARGS...: its output in $tmp/out, its code in $code
gpu_check() {
    code=0
    PATH=$tmp/bin:$PATH timeout 100 tools/gpu-check --build "$tmp/build" --layers 1 --python false --out "$tmp/g.json" "$@" >"$tmp/out" 2>&1 || code=$?
}
field() { python3 -c 'import json, sys; print(eval("d" + sys.argv[2], {"d": json.load(open(sys.argv[1]))}))' "$tmp/g.json" "$1"; }

gpu_check
equal "a failure is the exit code" 1 "$code"
equal "one failed, one left the GPU out, one is too far away, one has other latents" \
    "failed: op test op_norm op test op_conv shapes, bf16: latents at least 30 dB beside f32 shapes, graph: the latents of f32" \
    "failed:$(awk '/failed +[0-9]+ s$/ { sub(/ +failed.*/, ""); printf " %s", $0 }' "$tmp/out")"
equal "the last line counts" "$(field '["passed"]') passed, 4 failed, $(field '["not_run"]') not run" \
    "$(grep -E '^[0-9]+ passed, ' "$tmp/out")"
equal "the device" "GPU-1 580.1" "$(field '["devices"][0]["uuid"]') $(field '["devices"][0]["driver"]')"
equal "a figure" 600 "$(field '["bench"]["bf16"]["rows"][0]["tflops"]')"
equal "latents in bf16 beside f32" 23.01 "$(field '["bench"]["latents"]["rows"][0]["psnr_db"]')"
expect "and told" grep -q 'latents: bf16 beside f32: 23.0 dB' "$tmp/out"
equal "what is wanted" "1.2222 False" "$(field '["wanted"][0]["ratio"]') $(field '["wanted"][0]["holds"]')"
expect "and told" grep -q 'DOES NOT HOLD: a step of 5b in fp8 with sage' "$tmp/out"
equal "finished" True "$(field '["finished"]')"

cp "$tmp/bf16.latents" "$tmp/numbers"
{ head -c -4 "$tmp/numbers" && printf '\0\0\300\177'; } >"$tmp/bf16.latents" # the last is NaN
gpu_check
expect "latents that are no numbers are no good ones" grep -q 'latents that are no numbers' "$tmp/out"
mv "$tmp/numbers" "$tmp/bf16.latents"
expect "its share of the peak" grep -q '60.7 % of peak' "$tmp/out"

program tests/test_t5_golden 'sleep 60'
gpu_check --seconds 12
equal "a hang ends in time" 1 "$code"
expect "what did not fit is told" grep -q 'not run' "$tmp/out"

# cut off: what was known stays
rm "$tmp/g.json"
PATH=$tmp/bin:$PATH tools/gpu-check --build "$tmp/build" --layers 1 --python false --out "$tmp/g.json" >"$tmp/out" 2>&1 &
pid=$!
for _ in $(seq 200); do
    grep -q 'golden dit' "$tmp/out" && break
    sleep 0.1
done
kill -KILL $pid
wait $pid 2>/dev/null || true
equal "a run that was killed leaves its figures" "600 False" "$(field '["bench"]["bf16"]["rows"][0]["tflops"]') $(field '["finished"]')"

# a pack: its programs run with its libraries, placeholders among them, and compute what the build's do
build=$(dirname "$cvx")
if [ "${CVX_CHECK_FULL:-0}" = 1 ] && [ -x "$build/bench/bench_gpu" ]; then
    tools/gpu-check --pack "$build" "$tmp/pack.tar.xz"
    tar -C "$tmp" -xf "$tmp/pack.tar.xz"
    job=(--model models/shapes --prompt "a red circle" --num-inference-steps 2 --quiet --manifest none --backend cpu)
    "$cvx" generate "${job[@]}" --output "$tmp/a.safetensors"
    LD_LIBRARY_PATH=$tmp/p/lib "$tmp/p/cvx" generate "${job[@]}" --output "$tmp/b.safetensors"
    expect "a packed program makes the same frames" cmp "$tmp/a.safetensors" "$tmp/b.safetensors"
    LD_LIBRARY_PATH=$tmp/p/lib "$tmp/p/cvx" generate "${job[@]}" --output "$tmp/b.mp4" 2>"$tmp/err" || true
    expect "what is not in the pack says so" grep -q 'is not in this pack' "$tmp/err"
    # on another machine: the sources elsewhere, without what the build made of them
    mkdir "$tmp/tree"
    git ls-files -z | xargs -0 cp -P --parents -t "$tmp/tree"
    PATH=$tmp/bin:$PATH "$tmp/tree/tools/gpu-check" --packed "$tmp/pack.tar.xz" --python python3 --seconds 1 >"$tmp/out" 2>&1 || true
    expect "a packed run that has no time" grep -q '^0 passed, 0 failed' "$tmp/out"
    expect "golden tests elsewhere" sh -c 'cd "$1/tree" && LD_LIBRARY_PATH=$1/p/lib "$1/p/tests/test_dit_golden"' - "$tmp"
    expect "a pack and the sources are less than 64 MiB" test \
        $(($(stat -c %s "$tmp/pack.tar.xz") + $(git ls-files -z | xargs -0 stat -c %s | awk '{ s += $1 } END { print s }'))) -lt $((64 << 20))
fi
fails "without a GPU" 2 "no NVIDIA GPU here" env PATH=/usr/bin:/bin tools/gpu-check --out "$tmp/x.json"
finish
