#!/usr/bin/env bash
# `cvx serve` as its clients see it (serve.py).
set -euo pipefail
. "$(dirname "$0")/lib.sh"
needs "the service" cvx-coordinator
mkdir "$tmp/none" "$tmp/redis"
ln -s "$(command -v redis-server)" "$tmp/redis/redis-server"
fails "no redis-server" 3 "cannot start redis-server: .*package redis-server" \
    env PATH="$tmp/none" "$(realpath "$cvx")" serve --model models/shapes --port 0 --data-dir "$tmp/data"
fails "no mpirun" 3 "cannot start mpirun: .*openmpi-bin" \
    env PATH="$tmp/redis" "$(realpath "$cvx")" serve --model models/shapes --port 0 --ranks 2 --data-dir "$tmp/data"
part serve
finish
