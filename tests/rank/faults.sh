#!/usr/bin/env bash
# Ranks that die or hang: the supervisor starts them again from the last checkpoint, and the bytes are those of an
# undisturbed run. CVX_FAULT (base/fault.h) says what goes wrong where.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
dir=$tmp/checkpoints
args=(--model models/shapes --prompt "$prompt" --num-inference-steps 6 --threads 1 --quiet --manifest none
    --output "$tmp/many.safetensors" --checkpoint-dir "$dir" --checkpoint-every 2)
"$cvx" generate "${args[@]}" --output "$tmp/one.safetensors"
before=$(ls /dev/shm)

# left: processes of ours that outlive their supervisor, shared memory, temporaries
left() {
    pgrep -f -- "$tmp/many.safetensors" || true
    local f
    for f in $(comm -13 <(echo "$before") <(ls /dev/shm)); do
        # those in use, or gone in a moment, are others'
        grep -qs "/$f" /proc/[0-9]*/maps || { sleep 2 && [ -e "/dev/shm/$f" ] &&
            ! grep -qs "/$f" /proc/[0-9]*/maps && echo "$f"; } || true
    done
    find "$tmp" -name '*.part-*'
    ls "$dir"
}

says() {
    if grep -qE -- "$2" "$tmp/log"; then ok "$1"; else
        wrong "$1: no '$2' in: $(grep supervisor "$tmp/log" | tail -n 3)"
    fi
}

# supervised NAME FAULT RANKS SAYS FLAGS...: the video is made, with this in the messages.
supervised() {
    local name=$1 fault=$2 n=$3 text=$4
    shift 4
    rm -rf "$dir" "$tmp/many.safetensors"
    expect "$name" env CVX_FAULT="$fault" OMP_NUM_THREADS=1 timeout 200 "$rank" --supervise "$n" "$@" "${args[@]}"
    says "$name: is told" "$text"
    if cmp -s "$tmp/one.safetensors" "$tmp/many.safetensors"; then ok "$name: same bytes"; else
        wrong "$name: other bytes"
    fi
    equal "$name: nothing is left" "" "$(left)"
}

died="ended with code 137: start 2 of"
supervised "killed in step 4" kill:1:step:4 3 "going on after step 2 of 6"
supervised "killed in a collective" kill:2:collective:70 3 "$died"
supervised "killed in the decoder" kill:0:frames:1 2 "going on after step 6 of 6"
supervised "killed in the write of a checkpoint" kill:0:checkpoint:2 2 "going on after step 2 of 6"
supervised "stopped in step 3" stop:1:step:3 3 "rank 1 .* gave no sign of life for 2 s: start 2 of" --hang-timeout 2
supervised "waiting for ever in step 2" hang:0:step:2 2 "no rank made progress for 2 s: start 2 of" --hang-timeout 2
if [ "$full" = 1 ]; then
    for i in 1 2 3 4 5 6; do
        supervised "killed in step $i" "kill:$((RANDOM % 4)):step:$i" 4 "$died"
    done
    for i in 1 10 25 40 55 70; do
        supervised "killed in collective $i" "kill:$((RANDOM % 4)):collective:$i" 4 "$died"
    done
    supervised "killed before the decoder" kill:3:decode:1 4 "$died"
    supervised "killed in the first checkpoint" kill:0:checkpoint:1 3 "$died"
    supervised "killed in the last checkpoint" kill:0:checkpoint:3 3 "going on after step 4 of 6"
    supervised "killed with every frame made" kill:0:deliver:1 3 "going on after step 6 of 6"
    supervised "killed in the encoder" kill:1:encode:1 3 "$died"
    supervised "stopped in a collective" stop:0:collective:50 3 "gave no sign of life" --hang-timeout 2
    # amid collectives a rank can tell the others nothing: it ends them
    code=0
    CVX_FAULT=nomem:1:block:3 mpi 3 "$rank" "${args[@]}" >"$tmp/log" 2>&1 || code=$?
    equal "no memory in a block, no supervisor" 5 "$code"
    says "is told by the rank that had none" "cvx-rank 1: .*memory"
    supervised "stopped in the decoder" stop:0:frames:1 3 "gave no sign of life" --hang-timeout 2
fi

# several videos in two groups: those that are complete stay, the others go on; what a killed write left goes
several=("${args[@]/none/$tmp/unused}" --num-videos-per-prompt 4 --output "$tmp/v.safetensors")
"$cvx" generate "${several[@]}" --output "$tmp/w.safetensors"
touch "$tmp/v-3.safetensors.part-99"
expect "several videos" env CVX_FAULT=kill:3:step:9 timeout 200 "$rank" --supervise 4 "${several[@]}" \
    --data-parallel-degree 2
says "several videos: one goes on" "going on after step 2 of 6 from .*v-3.safetensors-"
for k in 0 1 2 3; do
    expect "several videos: bytes of $k" cmp "$tmp/w-$k.safetensors" "$tmp/v-$k.safetensors"
done
equal "several videos: nothing is left" "" "$(left)"

# A launcher that dies leaves its ranks behind: they go too. It kills the real one when the first checkpoint is there.
cat >"$tmp/launcher" <<'END'
#!/usr/bin/env bash
[ -e "$FLAG" ] && exec mpirun "$@"
touch "$FLAG"
mpirun "$@" &
until [ -n "$(find "$DIR" -name '*.cvxckpt' 2>/dev/null)" ]; do sleep 0.01; done
kill -9 $! $$
END
chmod +x "$tmp/launcher"
export FLAG=$tmp/flag DIR=$dir
supervised "a dead launcher" stop:1:step:5 2 "ended with code 137: start 2 of" --launcher "$tmp/launcher"

# a bounded number of starts, with fewer ranks after two ends in a row: each start dies, since the launcher says so
printf '#!/usr/bin/env bash\nexport CVX_FAULT=kill:0:step:1\nexec mpirun "$@"\n' >"$tmp/launcher"
rm -rf "$dir"
code=0
timeout 200 "$rank" --supervise 4 --max-restarts 2 --min-ranks 1 --launcher "$tmp/launcher" "${args[@]}" >"$tmp/log" 2>&1 ||
    code=$?
equal "given up" 7 "$code"
says "after so many starts" "given up after 2 restarts"
says "same number of ranks first" "start 2 of at most 3, 4 ranks"
says "then half" "start 3 of at most 3, 2 ranks"

# what another start would not mend is not tried again
code=0
"$rank" --supervise 2 "${args[@]}" --num-frames 10 >"$tmp/log" 2>&1 || code=$?
equal "a bad flag" 2 "$code"
equal "is no reason to start again" 0 "$(grep -c 'start 2' "$tmp/log" || true)"

# a signal to the supervisor reaches the ranks, their exit code its caller
rm -rf "$dir"
"$rank" --supervise 2 "${args[@]}" --num-inference-steps 400 >"$tmp/log" 2>&1 &
pid=$!
for _ in $(seq 500); do
    [ -z "$(find "$dir" -name '*.cvxckpt' 2>/dev/null)" ] || break
    sleep 0.02
done
kill -TERM $pid
code=0
wait $pid || code=$?
equal "SIGTERM to the supervisor" 75 "$code"
says "the ranks stopped after a step" "stopped by a signal after step"
equal "with checkpoints" 2 "$(find "$dir" -name '*.cvxckpt' | wc -l)"
rm -rf "$dir"
mkdir "$dir"
equal "nothing else is left" "" "$(left)"
finish
