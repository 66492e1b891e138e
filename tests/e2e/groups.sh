#!/usr/bin/env bash
# A pool that splits itself (groups.py). Where the service was not built it says SKIP.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

if [ ! -x "$(dirname "$cvx")/cvx-coordinator" ] || [ ! -x "$(dirname "$cvx")/cvx-rank" ]; then
    echo "SKIP  the service: this build has no coordinator or no cvx-rank"
    finish
fi
python3 $here/groups.py "$(realpath "$cvx")" "$tmp" || bad=$((bad + 1))
finish
