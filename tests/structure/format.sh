#!/usr/bin/env bash
# The layout is clang-format's (.clang-format); scripts/format mends it. usage: format.sh SOURCE_DIR
set -euo pipefail
cd "$1"
scripts/format --check
