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

# a rank that computes for longer than a machine's silence is borne, while others send it more than the sockets hold; it takes
# its time beside the other tests
CVX_TEST_SLOW=1 ranks 2 "$programs/rank_comm" >"$tmp/slow.log" 2>&1 &
slow=$!

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

# a Slurm step's variables, as srun --mpi=none gives them; three tasks, two of them here
step() {
    SLURM_JOB_ID=$1 SLURM_STEP_ID=$2 SLURM_PROCID=$3 SLURM_LOCALID=$3 SLURM_STEP_NUM_TASKS=3 \
        SLURM_NODEID=$(($3 / 2)) SLURM_STEP_TASKS_PER_NODE="2,1" \
        SLURM_STEP_NODELIST="127.0.0.1,other[1-3]" CVX_MASTER_PORT=$port OMP_NUM_THREADS=1 timeout 100 "$programs/rank_comm"
}
# steps NAME JOB STEP
steps() {
    local pid second
    port=$(free_port)
    step "$2" "$3" 1 >"$tmp/log" 2>&1 &
    pid=$!
    step "$2" "$3" 2 >"$tmp/log" 2>&1 &
    second=$!
    if step "$2" "$3" 0 >>"$tmp/log" 2>&1 && wait $pid && wait $second; then
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
fails "a timeout that is none" 2 "CVX_TCP_TIMEOUT is 'soon'" env CVX_TCP_TIMEOUT=soon RANK=0 WORLD_SIZE=2 \
    MASTER_ADDR=127.0.0.1 MASTER_PORT="$port" "$rank" "${job[@]}" --output "$tmp/x.mp4"
fails "a launcher that is none" 2 "CVX_LAUNCH is 'pmix'" env CVX_LAUNCH=pmix "$rank" "${job[@]}" --output "$tmp/x.mp4"
fails "a rank beyond the others" 2 "RANK is '5'" env RANK=5 WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT="$port" \
    "$rank" "${job[@]}" --output "$tmp/x.mp4"

# one PORT RANK SIZE ARGS...: a rank of its own
one() {
    local at=$1 r=$2 n=$3
    shift 3
    RANK=$r WORLD_SIZE=$n LOCAL_WORLD_SIZE=$n MASTER_ADDR=127.0.0.1 MASTER_PORT=$at OMP_NUM_THREADS=1 timeout 100 "$rank" "$@"
}
# pair NAME EXIT TEXT ARGS-OF-RANK-1...: a pair of ranks whose second one has other arguments; both end soon, as this one says
pair() {
    local name=$1 want=$2 text=$3 code=0 other=0 pid
    shift 3
    port=$(free_port)
    CVX_LAUNCH=tcp CVX_TCP_TIMEOUT=20 one "$port" 0 2 "${first[@]}" >"$tmp/log0" 2>&1 &
    pid=$!
    CVX_LAUNCH=tcp CVX_TCP_TIMEOUT=20 one "$port" 1 2 "$@" >"$tmp/log" 2>&1 || other=$?
    wait $pid || code=$?
    equal "$name: exit codes" "$want" "$code $other"
    if [ -z "$text" ] || grep -q -- "$text" "$tmp/log"; then ok "$name: is told"; else wrong "$name: $(cat "$tmp/log" "$tmp/log0")"; fi
}
first=("${job[@]}" --output "$tmp/pair.mp4")
pair "another seed" "2 2" "seed is 7 on rank 1 and 42 on rank 0" "${first[@]}" --seed 7
pair "other steps" "2 2" "num-inference-steps is 3 on rank 1 and 2 on rank 0" "${first[@]}" --num-inference-steps 3
pair "a stage more" "2 2" "interpolate is 2 on rank 1 and not given on rank 0" "${first[@]}" --interpolate 2
pair "another command" "2 2" 'command is "dit" on rank 1 and "generate" on rank 0' bench dit --model models/shapes
pair "another model" "2 2" "SHA-256 of transformer/config.json is" "${first[@]}" --model tests/data/variants/tiny-2b
cp -r models/shapes "$tmp/copy"
pair "the same model elsewhere" "0 0" "" "${first[@]}" --model "$tmp/copy" --threads 1
"$cvx" generate "${first[@]}" --manifest "$tmp/pair.json"
first=(--replay "$tmp/pair.json" --quiet)
pair "a manifest that one rank lacks" "3 3" "$tmp/none.json" --replay "$tmp/none.json" --quiet
sed 's/"seed": 42/"seed": 43/' "$tmp/pair.json" >"$tmp/other.json"
pair "another manifest" "2 2" "seed is 43 on rank 1 and 42 on rank 0" --replay "$tmp/other.json" --quiet
printf '{"prompt": "a red circle", "output": "%s"}\n' "$tmp/b0.mp4" >"$tmp/a.jsonl"
printf '\n' | cat "$tmp/a.jsonl" - "$tmp/a.jsonl" >"$tmp/b.jsonl"
first=(--model models/shapes --num-inference-steps 1 --quiet --batch "$tmp/a.jsonl")
pair "another batch" "2 2" "SHA-256 of the batch is" "${first[@]}" --batch "$tmp/b.jsonl"

# strangers at rank 0's port: many that say nothing, one that talks about something else
port=$(free_port)
python3 - "$port" <<'P' &
import socket, sys, time
until, held = time.time() + 20, []
while time.time() < until and len(held) < 100:
    try:
        held.append(socket.create_connection(("127.0.0.1", int(sys.argv[1])), 1))
        if len(held) == 40:
            held[-1].sendall(b"GET / HTTP/1.1\r\nHost: cvx\r\n\r\n")
    except OSError:
        time.sleep(0.01)
time.sleep(max(0, until - time.time()))
P
strangers=$!
first=("${job[@]}" --output "$tmp/strangers.mp4")
CVX_LAUNCH=tcp CVX_TCP_TIMEOUT=20 one "$port" 0 2 "${first[@]}" >"$tmp/log0" 2>&1 &
pid=$!
sleep 1
expect "strangers at the port" env CVX_LAUNCH=tcp CVX_TCP_TIMEOUT=20 RANK=1 WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT="$port" \
    timeout 100 "$rank" "${first[@]}"
wait $pid || wrong "strangers at the port: $(cat "$tmp/log0")"
kill $strangers && wait $strangers 2>/dev/null || true
expect "strangers at the port: the bytes of one" cmp "$tmp/1.mp4" "$tmp/strangers.mp4"

# another program in rank 0's place, and a rank of another job
python3 - "$tmp/port" <<'P' &
import os, socket, sys
s = socket.socket()
s.bind(("127.0.0.1", 0))
s.listen()
with open(sys.argv[1] + ".part", "w") as f:
    f.write(str(s.getsockname()[1]))
os.rename(sys.argv[1] + ".part", sys.argv[1])
held = []
while True:
    held.append(s.accept()[0])
    held[-1].sendall(b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3\r\n" * 4)
P
other=$!
until [ -s "$tmp/port" ]; do sleep 0.05; done
fails "another program at the port" 7 "is no rank 0" env CVX_LAUNCH=tcp CVX_TCP_TIMEOUT=20 RANK=1 WORLD_SIZE=2 \
    MASTER_ADDR=127.0.0.1 MASTER_PORT="$(cat "$tmp/port")" timeout 100 "$rank" "${first[@]}"
kill $other && wait $other 2>/dev/null || true
port=$(free_port)
CVX_LAUNCH=tcp CVX_TCP_TIMEOUT=3 one "$port" 0 2 "${first[@]}" >"$tmp/log0" 2>&1 &
pid=$!
fails "a rank of another job" 7 "is of a job of 2 ranks, this rank of one of 3" env CVX_LAUNCH=tcp CVX_TCP_TIMEOUT=3 RANK=1 WORLD_SIZE=3 \
    MASTER_ADDR=127.0.0.1 MASTER_PORT="$port" timeout 100 "$rank" "${first[@]}"
wait $pid || true
expect "a rank of another job: rank 0 tells" grep -q "did not come to .* in time; a rank 1 of 3 came and was sent away" "$tmp/log0"

wait $slow || wrong "a rank that comes late: $(cat "$tmp/slow.log")"
ok "a rank that comes late"
finish
