#!/usr/bin/env bash
# The promise: the same bytes of frames and latents on any number of ranks, over every factorisation of
# data x cfg x ulysses, for each variant, in f32 and bf16, whatever the number of threads.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

# begin NAME ARGS...: one rank's file is the reference of the comparisons that follow.
begin() {
    name=$1
    shift
    args=(--manifest none "$@" --prompt "$prompt" --quiet)
    case " $* " in *" --num-inference-steps "*) ;; *) args+=(--num-inference-steps 3) ;; esac
    "$cvx" generate "${args[@]}" --threads 2 --output "$tmp/one.safetensors"
}

# same RANKS MESH...: the flags of MESH on so many ranks.
same() {
    local n=$1
    shift
    mpi "$n" "$rank" "${args[@]}" --threads 1 "$@" --output "$tmp/many.safetensors" >"$tmp/log" 2>&1 || true
    if cmp -s "$tmp/one.safetensors" "$tmp/many.safetensors"; then
        ok "$name: $n ranks $*"
    else
        wrong "$name: $n ranks $*: other bytes ($(tail -n 1 "$tmp/log"))"
    fi
    rm -f "$tmp/many.safetensors"
}

begin "shapes f32" --model models/shapes
for n in 1 2 3 5 8; do
    same "$n"
done
same 4 --enable-cfg-parallel
same 6 --enable-cfg-parallel --ulysses-degree 3
same 3 --window-parallel-degree 3 # of one window
# bands of unequal height, pictures too large for the convolutions' rings to hold a chunk
begin "shapes, large" --model models/shapes --height 256 --width 384 --num-frames 9
same 5
# dilated, and in the last step not
begin "shapes, windows" --model models/shapes --num-frames 33 --window-frames 17 --free-noise --num-inference-steps 12
same 3
same 4 --enable-cfg-parallel --window-parallel-degree 2
same 5 --window-parallel-degree 5
begin "shapes, beyond the size it was trained for" --model models/shapes --height 128 --width 192 --num-frames 33
same 8
ffmpeg -v error -y -f lavfi -i testsrc2=size=96x64:rate=8 -frames:v 11 -pix_fmt yuv420p "$tmp/clip.mp4"
begin "shapes, a clip extended" --model models/shapes --extend "$tmp/clip.mp4" --num-frames 33 --window-frames 17
same 3
same 4 --enable-cfg-parallel --window-parallel-degree 2
begin "shapes, first-block cache" --model models/shapes --first-block-cache 0.2 --num-inference-steps 12 --manifest "$tmp/cache.json"
expect "some steps are reused" grep -q '"reused_steps": [1-9]' "$tmp/cache.json"
args+=(--manifest none)
same 2
same 5
same 3 --window-parallel-degree 3
same 6 --enable-cfg-parallel
begin "shapes bf16" --model models/shapes --dtype bf16
same 3
same 4 --enable-cfg-parallel
for v in 2b 5b 1.5-5b; do
    begin "$v" --model "tests/data/variants/tiny-$v" --height 64 --width 96 --num-frames 9
    same 4
    [ "$full" = 0 ] || for n in 2 3 5 8; do
        same "$n"
        [ $((n % 2)) = 1 ] || same "$n" --enable-cfg-parallel
    done
done
for v in 5b-i2v 1.5-5b-i2v; do
    begin "$v" --model "tests/data/variants/tiny-$v" --image tests/data/media/kind-rgb.png --num-frames 9
    same 3
    [ "$full" = 0 ] || for n in 2 4 5 8; do
        same "$n"
    done
done

# a manifest is made again on any number of ranks, unless its own mesh ordered sums
args=(--model models/shapes --prompt "$prompt" --num-inference-steps 3 --quiet)
"$cvx" generate "${args[@]}" --window-frames 9 --threads 2 --output "$tmp/one.mp4"
expect "a replay on 3 ranks" mpi 3 "$rank" --replay "$tmp/one.mp4.json" --output "$tmp/again.mp4" --quiet
expect "a replay on 3 ranks: same bytes" cmp "$tmp/one.mp4" "$tmp/again.mp4"
expect "a ring" mpi 2 "$rank" "${args[@]}" --ring-degree 2 --threads 1 --output "$tmp/ring.mp4"
expect "its replay" mpi 4 "$rank" --replay "$tmp/ring.mp4.json" --output "$tmp/again.mp4" --quiet
expect "its replay: same bytes" cmp "$tmp/ring.mp4" "$tmp/again.mp4"
code=0
"$cvx" generate --replay "$tmp/ring.mp4.json" --output "$tmp/again.mp4" --quiet 2>"$tmp/why" || code=$?
equal "its replay on one rank is refused" 2 "$code"
expect "and says why" grep -q "made on a mesh of ring 2, which orders sums" "$tmp/why"
finish
