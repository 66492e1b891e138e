#!/usr/bin/env bash
# `cvx serve` as its clients see it (serve.py).
set -euo pipefail
. "$(dirname "$0")/lib.sh"
needs "the service" cvx-coordinator
part serve
finish
