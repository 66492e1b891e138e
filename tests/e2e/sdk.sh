#!/usr/bin/env bash
# OpenAI's own Python SDK against the service (sdk.py), in a virtual environment of the build folder.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
needs "the SDK" cvx-coordinator
needs_python "the SDK"
part sdk
finish
