#!/usr/bin/env bash
# The bytes that --stats counts in whole jobs are those of the formulas in docs/parallelism.md and model/vae/vae.h,
# computed here from the checkpoint's configs alone.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

# counts NAME RANKS ARGS...
counts() {
    local name=$1 n=$2
    shift 2
    case " $* " in *" --num-inference-steps "*) ;; *) set -- "$@" --num-inference-steps 2 ;; esac
    mpi "$n" "$rank" --model models/shapes --prompt "$prompt" --isa portable --threads 1 --manifest none \
        --output "$tmp/o.safetensors" --json --stats "$@" >"$tmp/events" 2>"$tmp/err" ||
        tail -n 3 "$tmp/err"
    expect "$name" python3 tests/rank/bytes.py models/shapes "$tmp/events" "$n" "$@"
}

counts "ulysses on 2 ranks" 2 --ulysses-degree 2
counts "ulysses on 3 ranks, uneven" 3 --ulysses-degree 3
counts "cfg and ulysses" 4 --enable-cfg-parallel --ulysses-degree 2
counts "ring" 3 --ring-degree 3
counts "tensor" 2 --tensor-parallel-degree 2
counts "more ranks than latent rows" 5 --ulysses-degree 5 --height 32
counts "a cache" 6 --enable-cfg-parallel --ulysses-degree 3 --first-block-cache 1e-6 --num-inference-steps 4
counts "windows in groups" 4 --num-frames 33 --window-frames 17 --window-parallel-degree 2 --ulysses-degree 2
counts "windows, guidance apart" 6 --num-frames 41 --window-frames 17 --window-parallel-degree 3 --enable-cfg-parallel
counts "groups without a window" 3 --window-parallel-degree 3
counts "windows on every fourth, second and each frame" 3 --num-frames 65 --window-frames 17 --window-parallel-degree 3 \
    --num-inference-steps 12
finish
