#!/usr/bin/env bash
# The dashboard in headless Chromium (dashboard.py). Says SKIP where the service was not built or there is no Chromium. Its
# pictures lie in dashboard/ beside the program.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

if [ ! -x "$(dirname "$cvx")/cvx-coordinator" ]; then
    echo "SKIP  the dashboard: this build has no coordinator"
    finish
fi
if ! command -v chromium >/dev/null && ! command -v chromium-browser >/dev/null && ! command -v google-chrome >/dev/null; then
    echo "SKIP  the dashboard: chromium is not installed"
    finish
fi
python3 $here/dashboard.py "$(realpath "$cvx")" "$tmp" "$(dirname "$(realpath "$cvx")")/dashboard" || bad=$((bad + 1))
finish
