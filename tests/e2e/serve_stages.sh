#!/usr/bin/env bash
# The stages and options around the key frames by way of `cvx serve` (serve_stages.py). Where the service was not built it says SKIP.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

if [ ! -x "$(dirname "$cvx")/cvx-coordinator" ]; then
    echo "SKIP  the service: this build has no coordinator"
    finish
fi
python3 $here/serve_stages.py "$(realpath "$cvx")" "$tmp" || bad=$((bad + 1))
finish
