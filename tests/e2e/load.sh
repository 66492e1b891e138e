#!/usr/bin/env bash
# Many clients and a long history (load.py).
set -euo pipefail
. "$(dirname "$0")/lib.sh"
needs "the service" cvx-coordinator
part load
finish
