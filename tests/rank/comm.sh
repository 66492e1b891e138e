#!/usr/bin/env bash
# Every collective on 1, 2, 3, 5 and 8 ranks: see comm.c.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

for n in 1 2 3 5 8; do
    if mpi "$n" "$programs/rank_comm" >"$tmp/log" 2>&1; then
        ok "collectives on $n ranks"
    else
        wrong "collectives on $n ranks: $(grep -m 3 rank "$tmp/log" || tail -n 3 "$tmp/log")"
    fi
done
finish
