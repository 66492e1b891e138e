#!/usr/bin/env bash
# `cvx serve` as its clients see it (serve.py). Where the service was not built it says SKIP.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

if [ ! -x "$(dirname "$cvx")/cvx-coordinator" ]; then
    echo "SKIP  the service: this build has no coordinator"
    finish
fi
python3 $here/serve.py "$(realpath "$cvx")" "$tmp" || bad=$((bad + 1))
finish
