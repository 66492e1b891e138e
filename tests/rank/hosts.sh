#!/usr/bin/env bash
# Ranks on two "hosts" of two ranks each: network and UTS namespaces with a bridge between them, so that Open MPI must
# go through TCP. The bytes stay those of one rank, the mesh keeps what talks most inside a host, and --stats shows
# where the time goes when the link is slow. Needs root; says SKIP where namespaces are not allowed.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

id=c$$
up() {
    ip netns add "${id}s" && ip -n "${id}s" link add br0 type bridge && ip -n "${id}s" link set br0 up || return 1
    for i in 1 2; do
        ip netns add "$id$i" && ip -n "$id$i" link set lo up &&
            ip link add "e$i" netns "$id$i" type veth peer name "p$i" netns "${id}s" &&
            ip -n "${id}s" link set "p$i" master br0 up &&
            ip -n "$id$i" addr add "10.77.0.$i/24" dev "e$i" && ip -n "$id$i" link set "e$i" up || return 1
    done
}
down() {
    for n in "${id}1" "${id}2" "${id}s"; do
        ip netns pids "$n" 2>/dev/null | xargs -r kill 2>/dev/null || true
        ip netns del "$n" 2>/dev/null || true
    done
    rm -rf "$tmp"
}
trap down EXIT
if ! command -v ip >/dev/null || ! up >"$tmp/log" 2>&1 || ! unshare --uts true 2>/dev/null; then
    echo "SKIP  hosts: no network namespaces here ($(tail -n 1 "$tmp/log" 2>/dev/null))"
    exit 0
fi

# how mpirun starts its daemon on the other host, in place of ssh: HOST COMMAND
cat >"$tmp/rsh" <<E2
#!/bin/sh
host=\$1
shift
exec ip netns exec "$id\${host##*.}" unshare --uts sh -c "hostname host\${host##*.}; \$*"
E2
chmod +x "$tmp/rsh"
printf '10.77.0.1 slots=2\n10.77.0.2 slots=2\n' >"$tmp/hosts"

# across ARGS...: cvx-rank on 2 x 2 ranks.
across() {
    # shellcheck disable=SC2016 # expanded inside
    OMP_NUM_THREADS=1 timeout 300 ip netns exec "${id}1" unshare --uts sh -c 'hostname host1; exec "$@"' sh \
        mpirun -n 4 --hostfile "$tmp/hosts" --mca plm rsh --mca plm_rsh_agent "$tmp/rsh" --mca ras ^slurm \
        --mca btl self,vader,tcp --mca btl_tcp_if_include 10.77.0.0/24 --mca oob_tcp_if_include 10.77.0.0/24 \
        "$rank" "$@" </dev/null
}

args=(--model models/shapes --prompt "$prompt" --num-inference-steps 3 --manifest none --threads 1)
"$cvx" generate "${args[@]}" --quiet --output "$tmp/one.safetensors"
across "${args[@]}" --output "$tmp/many.safetensors" >"$tmp/out" 2>&1 || tail -n 5 "$tmp/out"
expect "2 hosts x 2 ranks: one rank's bytes" cmp "$tmp/one.safetensors" "$tmp/many.safetensors"
expect "the branches of guidance lie on different hosts, the sequence inside one" \
    grep -q 'as cfg 2 x ulysses 2' "$tmp/out"
rm "$tmp/many.safetensors"
across "${args[@]}" --ulysses-degree 4 --output "$tmp/many.safetensors" >"$tmp/out" 2>&1 || tail -n 5 "$tmp/out"
expect "ulysses over both hosts: one rank's bytes" cmp "$tmp/one.safetensors" "$tmp/many.safetensors"

# without MPI, two hosts; at the end of this a host's network goes amid the work, with which its own rank ends too
# tcp HOST RANK ARGS...
tcp() {
    local host=$1 r=$2
    shift 2
    # shellcheck disable=SC2016 # expanded inside
    RANK=$r WORLD_SIZE=2 MASTER_ADDR=10.77.0.1 MASTER_PORT=29511 CVX_LAUNCH=tcp OMP_NUM_THREADS=1 timeout 150 \
        ip netns exec "$id$host" unshare --uts sh -c 'hostname "host$0"; exec "$@"' "$host" "$rank" --quiet "$@"
}
tcp 1 0 "${args[@]}" --output "$tmp/tcp.safetensors" >"$tmp/out" 2>&1 &
pid=$!
expect "over TCP, 2 hosts" tcp 2 1 "${args[@]}" --output "$tmp/tcp.safetensors"
wait $pid || wrong "over TCP, rank 0: $(cat "$tmp/out")"
expect "over TCP, 2 hosts: one rank's bytes" cmp "$tmp/one.safetensors" "$tmp/tcp.safetensors"

# 1 Gbit/s both ways: the same bytes, and the slow exchange is the one that crosses
for i in 1 2; do
    ip netns exec "$id$i" tc qdisc add dev "e$i" root tbf rate 1gbit burst 128kb latency 50ms
done
across "${args[@]}" --enable-cfg-parallel --json --stats --output "$tmp/slow.safetensors" >"$tmp/out" 2>"$tmp/err" ||
    tail -n 5 "$tmp/err"
expect "1 Gbit/s: one rank's bytes" cmp "$tmp/one.safetensors" "$tmp/slow.safetensors"
expect "--stats gives every exchange its bytes and seconds" python3 - "$tmp/out" <<'P'
import json, sys
with open(sys.argv[1]) as f:
    events = [json.loads(line) for line in f if line.startswith("{")]
stats = next(e for e in events if e["event"] == "stats")
for between in ("ulysses", "branches"):
    rows = [r for r in stats["exchanges"] if r["communicator"] == between]
    assert rows and all(all(b > 0 for b in r["bytes_by_rank"]) and r["seconds"] > 0 for r in rows), rows
P

# last, since the link needs a while to come back
codes=''
cut=("${args[@]}" --num-inference-steps 500 --checkpoint-dir "$tmp/cp" --output "$tmp/cut.safetensors")
tcp 1 0 "${cut[@]}" >"$tmp/out" 2>&1 &
pid=$!
tcp 2 1 "${cut[@]}" >"$tmp/out1" 2>&1 &
second=$!
until [ -n "$(find "$tmp/cp" -name '*.cvxckpt' 2>/dev/null)" ] || ! kill -0 $pid 2>/dev/null; do sleep 0.1; done
ip -n "${id}s" link set p2 down
begin=$(date +%s)
for p in $pid $second; do
    code=0
    wait "$p" || code=$?
    codes+="$code "
done
equal "a host that is cut off: exit codes" "7 7 " "$codes"
expect "a host that is cut off: noticed within a minute" test $(($(date +%s) - begin)) -lt 60
expect "a host that is cut off: is told" grep -q "rank 1 is gone" "$tmp/out"
finish
