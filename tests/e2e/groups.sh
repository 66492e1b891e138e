#!/usr/bin/env bash
# A pool that splits itself (groups.py).
set -euo pipefail
. "$(dirname "$0")/lib.sh"
needs "the service" cvx-coordinator cvx-rank
part groups
finish
