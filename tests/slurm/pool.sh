#!/usr/bin/env bash
# slurm/pool.sh on a cluster of two nodes, with a coordinator and a Redis that wants a password: jobs, the time limit's signal,
# a requeue, ranks that die, scancel. The bytes are those of one process.
set -euo pipefail
rank=$1 bin=$(dirname "$1")
full=${CVX_CHECK_FULL:-0}
set -- "$2"
. tests/e2e/lib.sh
. tests/slurm/lab.sh
if [ ! -x "$bin/cvx-coordinator" ]; then
    echo "SKIP  pools: this build has no coordinator"
    exit 0
fi
lab_test 2 4
steps=60
"$cvx" generate "${model[@]}" --num-inference-steps $steps --output calm.mp4

secret=not-to-be-seen
mkdir redis
redis-server --port 0 --unixsocket "$tmp/redis/socket" --requirepass $secret --appendonly yes --appendfsync always \
    --dir "$tmp/redis" >redis.log 2>&1 &
redis=$!
trap 'kill $redis ${coordinator:-} 2>/dev/null || true; lab_down "$tmp/lab"; wait $redis ${coordinator:-} || true; rm -rf "$tmp"' EXIT
# a port, for the address is to hold the password: one that is free
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
for ((i = 0; i < 100; i++)); do
    [ "$(redis-cli -s redis/socket -a $secret --no-auth-warning config set port "$port" 2>/dev/null)" = OK ] && break
    sleep 0.1
done
: >coordinator.log
(umask 077 && echo "redis://:$secret@127.0.0.1:$port/0" >redis.url)
CVX_REDIS=$(cat redis.url) "$bin/cvx-coordinator" --model "$CVX_HOME/models/shapes" --data-dir "$tmp/data" --port 0 >coordinator.log 2>&1 &
coordinator=$!
for ((i = 0; i < 100; i++)); do
    url=$(sed -n 's/^cvx: \(http[^ ]*\) serves.*/\1/p' coordinator.log)
    [ -z "$url" ] || break
    sleep 0.1
done
equal "a coordinator" http "${url%%:*}"

field() { # ID EXPRESSION: of the video v
    curl -s "$url/v1/videos/$1" | python3 -c "import json, sys; v = json.load(sys.stdin); print($2)"
}
create() { # the id of a new job
    curl -s "$url/v1/videos" -H 'Content-Type: application/json' \
        -d "{\"prompt\": \"$prompt\", \"num_inference_steps\": $steps}" | python3 -c 'import json, sys; print(json.load(sys.stdin)["id"])'
}
# until_video ID EXPRESSION: waits until it is true, at most three minutes
# shellcheck disable=SC2317
until_video() {
    local i
    for ((i = 0; i < 900; i++)); do
        [ "$(field "$1" "$2")" != True ] || return 0
        sleep 0.2
    done
    echo "video $1 is $(field "$1" 'v["status"], v["error"], v["cvx"]["pool"]'), not $2"
    return 1
}
running='v["status"] == "in_progress" and v["cvx"].get("stage") == "denoise" and v["cvx"]["step"] > 5'
video_done() { # NAME ID TRIES
    expect "$1: ends" until_video "$2" 'v["status"] in ("completed", "failed", "cancelled")'
    equal "$1: state, tries" "completed $3" "$(field "$2" 'v["status"], v["cvx"]["attempts"]' | tr -d "(',)")"
    curl -s "$url/v1/videos/$2/content" -o got.mp4
    same "$1" calm.mp4 got.mp4
}
pool() { CVX_REDIS_FILE=$tmp/redis.url submit -N 2 -n 2 "$CVX_HOME/slurm/pool.sh" --model "$CVX_HOME/models/shapes"; }
# disturbed NAME TRIES COMMAND...: a video while the pool $job is disturbed
disturbed() {
    local name=$1 tries=$2 id
    shift 2
    id=$(create)
    expect "$name: runs" until_video "$id" "$running"
    expect "$name" "$@"
    video_done "$name" "$id" "$tries"
}

for launcher in srun mpirun; do
    export CVX_LAUNCHER=$launcher
    job=$(pool)
    id=$(create)
    video_done "$launcher" "$id" 1
    equal "$launcher: the pool's name and ranks" "slurm-$job 2" \
        "$(curl -s "$url/v1/pools" | python3 -c 'import json, sys; p = json.load(sys.stdin)["data"][0]; print(p["id"], p["ranks"])')"
    equal "$launcher: the password is in no process's arguments" "" "$(pgrep -a -f "$secret" | grep -v redis-server || true)"
    equal "$launcher: nor in the job's record" "" "$(scontrol show job "$job" | grep "$secret" || true)"
    if [ $launcher = srun ] || [ "$full" = 1 ]; then
        disturbed "$launcher, the time limit's signal" 2 scancel --batch --signal=USR1 "$job"
        disturbed "$launcher, requeued" 2 scontrol requeue "$job"
        # a rank dies: the job is given to the next pool once its lease has run out
        disturbed "$launcher, a rank is killed" 2 pkill -KILL -o -f "^$rank --pool"
    fi
    id=$(create)
    expect "$launcher, to be cancelled: runs" until_video "$id" "$running"
    scancel "$job"
    until_state "$job" "$over" || true
    equal "$launcher, cancelled: state" CANCELLED "$(state "$job")"
    none_left "$launcher, cancelled" "^$rank --pool"
    expect "$launcher, cancelled: the video waits for another pool" until_video "$id" 'v["status"] == "queued"'
    job=$(pool)
    video_done "$launcher, another pool" "$id" 2
    scancel "$job"
    until_state "$job" "$over" || true
done

# what cannot be
j=$(submit "$CVX_HOME/slurm/pool.sh" --model "$CVX_HOME/models/shapes")
until_state "$j" "$over" || true
equal "no address: state" FAILED "$(state "$j")"
if grep -q "CVX_REDIS_FILE" "$tmp/$j.log"; then ok "no address: says what is missing"; else wrong "no address: $(cat "$tmp/$j.log")"; fi
j=$(submit "$CVX_HOME/slurm/pool.sh" --redis-file "$tmp/redis.url" --model "$tmp/nothing" --no-such-flag)
until_state "$j" "$over" || true
equal "a flag that is none: state" FAILED "$(state "$j")"
cd "$CVX_HOME"
finish
