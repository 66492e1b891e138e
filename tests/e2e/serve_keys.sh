#!/usr/bin/env bash
# A service of several users (serve_keys.py).
set -euo pipefail
. "$(dirname "$0")/lib.sh"
needs "the service" cvx-coordinator
part serve_keys
finish
