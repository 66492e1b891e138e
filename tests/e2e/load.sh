#!/usr/bin/env bash
# Many clients and a long history (load.py). Where the service was not built it says SKIP.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

if [ ! -x "$(dirname "$cvx")/cvx-coordinator" ]; then
    echo "SKIP  the service: this build has no coordinator"
    finish
fi
python3 $here/load.py "$(realpath "$cvx")" "$tmp" || bad=$((bad + 1))
finish
