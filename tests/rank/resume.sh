#!/usr/bin/env bash
# Denoising checkpoints: a run that was stopped goes on at any number of ranks and gives the bytes of an undisturbed
# one; what is of another job is refused, what is damaged passed over, what cannot be written told.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
dir=$tmp/checkpoints

# stopped NAME EXIT COMMAND...: ends with this code; its messages stay in $tmp/log.
stopped() {
    local name=$1 want=$2 code=0
    shift 2
    "$@" >"$tmp/log" 2>&1 || code=$?
    equal "$name" "$want" "$code"
}

says() {
    if grep -qE -- "$2" "$tmp/log"; then ok "$1"; else
        wrong "$1: no '$2' in: $(tail -n 3 "$tmp/log")"
    fi
}

# begin NAME ARGS...: the bytes of an undisturbed run on one rank.
begin() {
    name=$1
    shift
    args=("$@" --prompt "$prompt" --manifest none --quiet)
    "$cvx" generate "${args[@]}" --threads 2 --output "$tmp/one.safetensors"
    args+=(--threads 1 --checkpoint-dir "$dir" --checkpoint-every 2 --output "$tmp/many.safetensors")
    rm -rf "$dir"
}

# stop_at STEP SIGNAL RANK RANKS: the signal comes to one rank in this step, the run ends after it.
stop_at() {
    stopped "$name: SIG$2 to rank $3 of $4 in step $1" 75 \
        env CVX_FAULT="${2,,}:$3:step:$1" OMP_NUM_THREADS=1 timeout 300 mpirun -n "$4" "$rank" "${args[@]}"
    says "$name: and says from where to go on" "after step $1 of "
}

# goes_on STEP RANKS MESH...
goes_on() {
    local step=$1 n=$2
    shift 2
    expect "$name: $n ranks $* go on" mpi "$n" "$rank" "${args[@]}" "$@"
    says "$name: they say so" "going on after step $step of "
    if cmp -s "$tmp/one.safetensors" "$tmp/many.safetensors"; then ok "$name: same bytes"; else
        wrong "$name: other bytes after step $step on $n ranks $*"
    fi
    equal "$name: no checkpoint stays" "" "$(ls "$dir")"
    rm -f "$tmp/many.safetensors"
}

tiny=(--height 64 --width 96 --num-frames 9)
begin "ddim f32" --model models/shapes --num-inference-steps 5
stop_at 3 TERM 1 3
equal "two kept" "2" "$(find "$dir" -type f | wc -l)"
goes_on 3 2
begin "dpm bf16" --model tests/data/variants/tiny-5b "${tiny[@]}" --scheduler dpm --dtype bf16 --num-inference-steps 4
stop_at 1 USR1 0 1
goes_on 1 3
begin "unipc" --model tests/data/variants/tiny-5b "${tiny[@]}" --scheduler unipc --num-inference-steps 6
stop_at 3 TERM 1 2
goes_on 3 3
begin "image" --model tests/data/variants/tiny-1.5-5b-i2v --num-frames 9 --num-inference-steps 4 \
    --image tests/data/media/kind-rgb.png --scheduler dpm
stop_at 3 TERM 1 2
goes_on 3 1
begin "video" --model tests/data/variants/tiny-2b "${tiny[@]}" --video tests/data/extra/v2v-input \
    --num-inference-steps 5 --scheduler dpm
stop_at 2 TERM 0 2
goes_on 2 4 --enable-cfg-parallel
for s in ddim unipc; do # step 10 takes from the cache what an earlier one left
    begin "first-block cache, $s" --model models/shapes --num-inference-steps 12 --first-block-cache 0.2 --scheduler $s
    stop_at 10 TERM 0 2
    goes_on 10 3
done
if [ "$full" = 1 ]; then
    for v in 2b 5b 1.5-5b; do
        for s in ddim dpm dpmsolver++ unipc; do
            for t in f32 bf16; do
                begin "$v $s $t" --model "tests/data/variants/tiny-$v" "${tiny[@]}" --num-inference-steps 5 \
                    --scheduler $s --dtype $t
                stop_at 4 TERM 0 2
                goes_on 4 3
            done
        done
    done
fi

# one rank is enough for the rest, and cvx generate is the same code
begin "one" --model models/shapes --num-inference-steps 5
# they are called through others, with and without arguments
# shellcheck disable=SC2317,SC2119,SC2120
one() { "$cvx" generate "${args[@]}" "$@"; }
# shellcheck disable=SC2317,SC2119
halt() { CVX_FAULT="term:0:step:${1:?}" one; }
stopped "stop in step 4" 75 halt 4
refused() {
    local why=$1
    shift
    stopped "refused: $why" 2 one "$@"
    says "it names what differs" "is of another job: $why"
}
kept=("${args[@]}")
args=("${args[@]/#$prompt/other}")
refused 'prompt is "a red circle.*there, "other" here'
args=("${kept[@]}")
refused 'num-inference-steps is 5 there, 6 here' --num-inference-steps 6
refused 'seed is 42 there, 7 here' --seed 7
refused 'first-block-cache is none there, 0.1 here' --first-block-cache 0.1
refused 'dtype is "f32" there, "bf16" here' --dtype bf16
refused 'guidance-scale is 6.0 there, 2.0 here' --guidance-scale 2
refused 'sha256 of transformer' --model tests/data/variants/tiny-2b "${tiny[@]}" --num-frames 17
equal "a refusal keeps the checkpoints" "2" "$(find "$dir" -type f | wc -l)"

# one byte of the newest is changed
printf '\377' | dd of="$(find "$dir" -name '*step-000004*')" bs=1 seek=4000 conv=notrunc 2>"$tmp/dd"
expect "the newest is damaged" one
says "it is passed over" "checksum.*going back to the checkpoint before"
says "and the one before used" "going on after step 2 of 5"
expect "same bytes" cmp "$tmp/one.safetensors" "$tmp/many.safetensors"

# both are damaged: the run begins anew, and what it saves on its way is not taken for older than these
stopped "stop in step 5" 75 halt 5
for f in "$dir"/*; do truncate -s 1000 "$f"; done
stopped "stop in step 3, both damaged" 75 halt 3
equal "what is kept" "step-000002 step-000003" "$(find "$dir" -type f | grep -o 'step-[0-9]*' | sort | xargs)"
expect "goes on after both were damaged" one
says "from what was saved since" "going on after step 3 of 5"
expect "same bytes" cmp "$tmp/one.safetensors" "$tmp/many.safetensors"

# what only concerns the frames does not refuse: tiles of the decoder, fps, threads
stopped "stop in step 5" 75 halt 5
expect "tiles of the decoder may differ" one --enable-tiling --tile-sample-min-height 48 --tile-sample-min-width 80
says "they go on" "going on after step 5 of 5"

# no room for a checkpoint: the limit of a file's size stands for a full disk too
# shellcheck disable=SC2016
stopped "no room for checkpoints" 0 bash -c 'ulimit -f 20; shift; exec "$@"' - - "$cvx" generate "${args[@]}" \
    --output "$tmp/small"
says "is told" "no checkpoint after step 2: cannot write .*; going on without"
equal "nothing half-written stays" "" "$(ls "$dir")"
if mkdir "$tmp/full" && mount -t tmpfs -o size=16k tmpfs "$tmp/full" 2>"$tmp/mount"; then
    expect "a full disk" one --checkpoint-dir "$tmp/full"
    says "is told" "No space left on device; going on without"
    expect "same bytes" cmp "$tmp/one.safetensors" "$tmp/many.safetensors"
    umount "$tmp/full"
fi

# a decoder without memory is tried again in tiles, from the last latents
# shellcheck disable=SC2317
again() { CVX_FAULT=nomem:1:decode:1 mpi 2 "$rank" "${args[@]}"; }
expect "no memory to decode" again
says "is told" "decoding once more from the last latents, in tiles"
"$cvx" generate "${args[@]}" --checkpoint-dir "$tmp/other" --enable-tiling --tile-sample-min-height 48 \
    --tile-sample-min-width 80 --output "$tmp/one.safetensors"
expect "the bytes are those of the tiled job" cmp "$tmp/one.safetensors" "$tmp/many.safetensors"

# a signal among the stages after the frames: nothing is denoised again
many=$tmp/many.mp4
args=(--model models/shapes --prompt "$prompt" --num-inference-steps 4 --interpolate 2 --manifest none --quiet --threads 1
    --checkpoint-dir "$dir" --checkpoint-every 2 --output "$many")
rm -rf "$dir"
"$cvx" generate "${args[@]}" --checkpoint-dir "$tmp/undisturbed" --output "$tmp/one.mp4"
# shellcheck disable=SC2317
amid() { CVX_FAULT=term:0:stage:3 mpi 2 "$rank" "${args[@]}"; }
stopped "stop amid interpolation" 75 amid
says "says what to do" "stopped by a signal: the same command does what is left"
equal "and leaves no video" "" "$(find "$tmp" -maxdepth 1 -name 'many.mp4*')"
expect "goes on" mpi 2 "$rank" "${args[@]}"
says "from the last step" "going on after step 4 of 4"
expect "same bytes" cmp "$tmp/one.mp4" "$many"

# without a folder the signal only ends the run
stopped "no --checkpoint-dir, stages" 8 env CVX_FAULT=term:0:stage:2 "$cvx" generate --model models/shapes --prompt x --quiet \
    --num-inference-steps 1 --interpolate 2 --output "$tmp/never.gif"
stopped "no --checkpoint-dir" 8 env CVX_FAULT=term:0:step:2 "$cvx" generate --model models/shapes --prompt x --quiet \
    --num-inference-steps 4 --output "$tmp/never.gif"
says "says where it ended" "stopped by a signal after step 2 of 4"
equal "and leaves nothing" "" "$(find "$tmp" -name 'never*')"
finish
