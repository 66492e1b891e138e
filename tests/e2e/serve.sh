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
# a pool that fails at once is started again at growing intervals
printf '#!/bin/sh\nexit 3\n' >"$tmp/redis/mpirun"
chmod +x "$tmp/redis/mpirun"
code=0
PATH=$tmp/redis /usr/bin/timeout 5 "$(realpath "$cvx")" serve --model models/shapes --port 0 --ranks 2 \
    --data-dir "$tmp/data" >"$tmp/failing" 2>&1 || code=$?
equal "a failing pool: started again after 1, 2 and 4 s" "1 2 4 " \
    "$(sed -n 's/.*has ended (exit 3): started again in \([0-9]*\) s.*/\1/p' "$tmp/failing" | tr '\n' ' ')"
part serve
finish
