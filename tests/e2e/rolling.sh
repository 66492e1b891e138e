#!/usr/bin/env bash
# A cluster whose parts come and go (rolling.py).
set -euo pipefail
. "$(dirname "$0")/lib.sh"
needs "the service" cvx-coordinator cvx-rank
part rolling
finish
