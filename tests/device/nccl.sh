#!/usr/bin/env bash
# Device memory over ranks, on stand-ins for the device and for NCCL: every collective (tests/rank/comm.c) through NCCL and
# staged, on one device and on several; a rank that dies and one that does not come. usage: nccl.sh path/to/emulated_comm
set -euo pipefail
comm=$1
set -- "$comm"
. tests/e2e/lib.sh
export TMPDIR=$tmp CVX_CUDA_MEMORY=managed OMP_NUM_THREADS=1 CVX_EMULATED_LATE=1
# what libraries keep for the process is no leak of ours
export LSAN_OPTIONS=suppressions=$PWD/tests/lsan.supp:print_suppressions=0
unset CVX_NCCL_TIMEOUT CVX_DEVICE_EXCHANGE

for n in 1 2 3 5; do
    for how in nccl staged; do
        expect "collectives by $how, $n ranks" env CVX_TEST_EXCHANGE=$how timeout 100 scripts/ranks -n "$n" "$comm"
    done
done
expect "collectives by nccl, 3 ranks on 2 devices" env CVX_EMULATED_DEVICES=2 CVX_TEST_EXCHANGE=nccl \
    timeout 100 scripts/ranks -n 3 "$comm"
if command -v mpirun >/dev/null; then
    # an MPI that takes device memory, which here every one does; sent from and received in the operands themselves
    for n in 1 2 3 5; do
        expect "collectives by MPI, $n ranks" env CVX_TEST_EXCHANGE=mpi LSAN_OPTIONS=detect_leaks=0 timeout 100 \
            mpirun --allow-run-as-root --oversubscribe --bind-to none -n "$n" "$comm"
    done
else
    echo "SKIP: no mpirun"
fi
env CVX_TEST_EXCHANGE=mpi LSAN_OPTIONS=detect_leaks=0 timeout 100 scripts/ranks -n 2 "$comm" >"$tmp/log" 2>&1 || true
equal "ranks over TCP are told that it takes none" 2 "$(grep -c '"tcp" does not take device memory' "$tmp/log")"
# shellcheck disable=SC2016 # the rank's own shell expands it
env CVX_TEST_EXCHANGE=nccl LSAN_OPTIONS=detect_leaks=0 timeout 100 scripts/ranks -n 3 \
    sh -c '[ "$LOCAL_RANK" = 2 ] && export CVX_EMULATED_NAME="other GPU"; exec "$0"' "$comm" >"$tmp/log" 2>&1 || true
equal "GPUs of two kinds are refused by name, on every rank" 3 "$(grep -c 'rank 0 has "emulated GPU", rank 2 "other GPU"' "$tmp/log")"
equal "nothing of NCCL's stays" 0 "$(find "$tmp" -maxdepth 1 -name 'cvx-nccl-*' | wc -l)"

# lost NAME SECONDS TEXT VARIABLE...: the others end with exit code 7 in time
lost() {
    local name=$1 seconds=$2 text=$3 begin=$SECONDS
    shift 3
    env CVX_TEST_EXCHANGE=nccl CVX_NCCL_TIMEOUT=2 LSAN_OPTIONS=detect_leaks=0 "$@" timeout 100 scripts/ranks -n 3 "$comm" \
        >"$tmp/log" 2>&1 || true
    if [ $((SECONDS - begin)) -le "$seconds" ] && [ "$(grep -c "$text" "$tmp/log")" = 2 ]; then
        ok "$name"
    else
        wrong "$name, after $((SECONDS - begin)) s: $(tail -n 3 "$tmp/log")"
    fi
}
for how in nccl staged; do
    env CVX_TEST_EXCHANGE=$how CVX_TEST_FAULT=1 LSAN_OPTIONS=detect_leaks=0 timeout 60 scripts/ranks -n 3 "$comm" >"$tmp/log" 2>&1 || true
    equal "a rank whose device fails, by $how" "1 2" \
        "$(grep -c 'rank 1: CUDA: waiting for the device' "$tmp/log") $(grep -c 'rank 1 failed' "$tmp/log")"
done
expect "devices that are busy for longer than a collective may take" env CVX_TEST_EXCHANGE=nccl CVX_NCCL_TIMEOUT=2 CVX_TEST_BUSY=5 \
    timeout 100 scripts/ranks -n 2 "$comm"
env CVX_TEST_EXCHANGE=nccl CVX_NCCL_TIMEOUT=2 CVX_TEST_AWAY=2 LSAN_OPTIONS=detect_leaks=0 timeout 60 scripts/ranks -n 3 "$comm" \
    >"$tmp/log" 2>&1 || true
equal "a rank that was away from a part's collective: every rank is told" "0 3" \
    "$(grep -c 'nothing happened' "$tmp/log") $(grep -cE '^rank [012]: .*(no longer answers|failed)' "$tmp/log")"
lost "a rank that dies" 40 'is gone\|no longer answers\|broken' CVX_TEST_LOST=1
lost "a rank that does not come" 60 'is gone\|no longer answers\|broken' CVX_TEST_LATE=2
finish
