#!/usr/bin/env bash
# Small jobs while everything dies at random (chaos.py).
set -euo pipefail
. "$(dirname "$0")/lib.sh"
needs "the service" cvx-coordinator cvx-rank
part chaos
finish
