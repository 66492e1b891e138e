#!/usr/bin/env bash
# Whole jobs on the stand-ins for a GPU and for NCCL: a small model on one rank and on several, which must make the same latents and
# frames to the bit, with weights where each form of --offload leaves them. Device memory is the device's own here, not what the
# host sees, too. Minutes, since every thread of every kernel is a fiber. usage: pipeline.sh path/to/emulated_rank
set -euo pipefail
program=$1
set -- "$program"
. tests/e2e/lib.sh
export OMP_NUM_THREADS=1
unset CVX_CUDA_MEMORY CVX_NCCL_TIMEOUT CVX_DEVICE_EXCHANGE
export CVX_NCCL_TIMEOUT=3000

# make NAME RANKS ARGS...
make() {
    local name=$1 n=$2
    shift 2
    expect "$name: $n ranks $*" timeout -s KILL 1500 scripts/ranks -n "$n" "$program" --backend cuda \
        --model "$model" --prompt "a cat" --guidance-scale 1 --height 32 --width 32 --num-frames 1 \
        --num-inference-steps "$steps" --seed 3 --manifest "$tmp/$name.json" --quiet --output "$tmp/$name.safetensors" \
        --save-latents "$tmp/$name.latents" "$@"
}
same() {
    expect "$1: the latents of one rank" cmp "$tmp/one.latents" "$tmp/$1.latents"
    expect "$1: the frames of one rank" cmp "$tmp/one.safetensors" "$tmp/$1.safetensors"
}

model=tests/data/variants/tiny-5b
steps=1
make one 1
CVX_DEVICE_EXCHANGE=nccl make two 2 --ulysses-degree 2
same two
CVX_DEVICE_EXCHANGE=staged make three 3
same three
for how in model sequential; do
    make "$how" 1 --offload "$how"
    same "$how"
done
# the second step takes from the cache what the first left
model=models/shapes
steps=2
make one 1 --first-block-cache 1
expect "a step is reused" grep -q '"reused_steps": 1' "$tmp/one.json"
CVX_DEVICE_EXCHANGE=nccl make two 2 --first-block-cache 1 --ulysses-degree 2
same two
finish
