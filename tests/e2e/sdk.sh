#!/usr/bin/env bash
# OpenAI's own Python SDK against the service (sdk.py), in a virtual environment of the build folder.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

if [ ! -x "$(dirname "$cvx")/cvx-coordinator" ]; then
    echo "SKIP  the SDK: this build has no coordinator"
    finish
fi
if ! python=$(scripts/test-venv "$(dirname "$cvx")"); then
    echo "SKIP  the SDK: no Python environment for it"
    finish
fi
"$python" $here/sdk.py "$(realpath "$cvx")" "$tmp" || bad=$((bad + 1))
finish
