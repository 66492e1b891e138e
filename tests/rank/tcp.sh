#!/usr/bin/env bash
# Ranks without MPI: every collective over TCP (comm.c), a video of several ranks with the bytes of one, ranks that find each
# other as in a Slurm step, and that nobody hangs when a rank dies, never comes, or fails alone.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
unset RANK WORLD_SIZE MASTER_ADDR MASTER_PORT CVX_LAUNCH
ranks() {
    OMP_NUM_THREADS=1 timeout 300 scripts/ranks -n "$@"
}
free_port() {
    python3 -c 'import socket
s = socket.socket()
s.bind(("127.0.0.1", 0))
print(s.getsockname()[1])'
}

for n in 1 2 3 5 8; do
    if ranks "$n" "$programs/rank_comm" >"$tmp/log" 2>&1; then
        ok "collectives on $n ranks"
    else
        wrong "collectives on $n ranks: $(grep -m 3 rank "$tmp/log" || tail -n 3 "$tmp/log")"
    fi
done

job=(--model models/shapes --prompt "a red circle moving right" --num-inference-steps 2 --quiet --manifest none --backend cpu)
expect "one rank" ranks 1 "$rank" "${job[@]}" --output "$tmp/1.mp4"
expect "three ranks" ranks 3 "$rank" "${job[@]}" --output "$tmp/3.mp4"
expect "three ranks: the bytes of one" cmp "$tmp/1.mp4" "$tmp/3.mp4"

# a Slurm step's variables, as srun --mpi=none gives them
step() {
    SLURM_JOB_ID=$1 SLURM_STEP_ID=$2 SLURM_PROCID=$3 SLURM_LOCALID=$3 SLURM_STEP_NUM_TASKS=2 \
        SLURM_STEP_NODELIST="127.0.0.1,other[1-3]" CVX_MASTER_PORT=$port OMP_NUM_THREADS=1 timeout 100 "$programs/rank_comm"
}
# steps NAME JOB STEP
steps() {
    local pid
    port=$(free_port)
    step "$2" "$3" 1 >"$tmp/log" 2>&1 &
    pid=$!
    if step "$2" "$3" 0 >>"$tmp/log" 2>&1 && wait $pid; then
        ok "$1"
    else
        wrong "$1: $(tail -n 1 "$tmp/log")"
    fi
}
steps "a Slurm step" $$ 0
steps "a step of a federation's job, of the highest numbers" 4227858433 4294967290

# a rank that is killed, or fails alone, amid the others' collectives: they end within the stated time, 30 s at most, and no
# file is there
ends() {
    local name=$1 fault=$2 least=$3 code=0 begin took
    begin=$(date +%s)
    CVX_FAULT=$fault ranks 3 "$rank" "${job[@]}" --output "$tmp/dead.mp4" >"$tmp/log" 2>&1 || code=$?
    took=$(($(date +%s) - begin))
    if [ $code -ne 0 ] && [ $code -ne 124 ] && [ $took -le "$least" ] && grep -q "$4" "$tmp/log" && [ ! -e "$tmp/dead.mp4" ]; then
        ok "$name"
    else
        wrong "$name: exit code $code after $took s: $(tail -n 2 "$tmp/log")"
    fi
}
ends "a killed rank" kill:1:collective:20 60 'rank [012] is gone'
ends "a rank that fails alone" nomem:1:block:3 90 'memory'

# a rank that never comes, and what makes no sense
port=$(free_port)
fails "a rank that never comes" 7 "did not come" env CVX_TCP_TIMEOUT=1 RANK=0 WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 \
    MASTER_PORT="$port" "$rank" "${job[@]}" --output "$tmp/x.mp4"
fails "rank 0 never comes" 7 "was not reached" env CVX_TCP_TIMEOUT=1 RANK=1 WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 \
    MASTER_PORT="$port" "$rank" "${job[@]}" --output "$tmp/x.mp4"
fails "a launcher that is none" 2 "CVX_LAUNCH is 'pmix'" env CVX_LAUNCH=pmix "$rank" "${job[@]}" --output "$tmp/x.mp4"
fails "a rank beyond the others" 2 "RANK is '5'" env RANK=5 WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT="$port" \
    "$rank" "${job[@]}" --output "$tmp/x.mp4"
finish
