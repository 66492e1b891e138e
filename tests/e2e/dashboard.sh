#!/usr/bin/env bash
# The dashboard in headless Chromium (dashboard.py). Says SKIP where there is no Chromium. Its pictures lie in
# dashboard/ beside the program.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
needs "the dashboard" cvx-coordinator
if ! command -v chromium >/dev/null && ! command -v chromium-browser >/dev/null && ! command -v google-chrome >/dev/null; then
    echo "SKIP  the dashboard: chromium is not installed"
    finish
fi
part dashboard "$(dirname "$(realpath "$cvx")")/dashboard"
finish
