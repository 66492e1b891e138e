#!/usr/bin/env bash
# The stages and options around the key frames by way of `cvx serve` (serve_stages.py).
set -euo pipefail
. "$(dirname "$0")/lib.sh"
needs "the service" cvx-coordinator
part serve_stages
finish
