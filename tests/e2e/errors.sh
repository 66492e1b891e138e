#!/usr/bin/env bash
# Bad input: every case of tests/e2e/errors.py ends in one line that names the cause, a non-zero exit that is no
# crash, and no file left behind.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
exec python3 "$here/errors.py" "$cvx"
