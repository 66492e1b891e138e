#!/usr/bin/env bash
# What /openapi.json promises, by schemathesis: no 5xx, no answer that is not in it, nothing accepted that it forbids. Requests
# that it allows may be refused all the same (48 frames): a checkpoint's own rules are in no schema. Longer with CVX_CHECK_FULL=1.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

if [ ! -x "$(dirname "$cvx")/cvx-coordinator" ]; then
    echo "SKIP  the OpenAPI document: this build has no coordinator"
    finish
fi
if ! python=$(scripts/test-venv "$(dirname "$cvx")"); then
    echo "SKIP  the OpenAPI document: no Python environment for schemathesis"
    finish
fi
service=
stop() {
    [ -z "$service" ] || { kill "$service" && wait "$service"; } || true
    rm -rf "$tmp"
}
trap stop EXIT
printf 'me %s waiting=3\n' "$(printf secret | sha256sum | cut -d ' ' -f 1)" >"$tmp/keys"
"$cvx" serve --model models/shapes --data-dir "$tmp/data" --port 0 --api-keys "$tmp/keys" >"$tmp/serve.log" 2>&1 &
service=$!
for _ in $(seq 200); do
    grep -q '^cvx: http' "$tmp/serve.log" && break
    sleep 0.05
done
url=$(sed -n 's/^cvx: \(http[^ ]*\) serves.*/\1/p' "$tmp/serve.log")
for _ in $(seq 200); do
    "$python" -c "import urllib.request; urllib.request.urlopen('$url/readyz')" 2>/dev/null && break
    sleep 0.1
done

schemathesis() { # NAME ARGS...
    local name=$1
    shift
    expect "$name" sh -c "cd '$tmp' && exec '$(dirname "$python")/schemathesis' run '$url/openapi.json' -H 'Authorization: Bearer secret' \
        --exclude-checks positive_data_acceptance --exclude-operation-id jobEvents --seed 1 --continue-on-failure --request-timeout 60 \
        --suppress-health-check all --no-color $*"
    # the tool says how much it did: a run that did nothing proves nothing
    grep -E '^ *[0-9]+ generated' "$tmp/log" || wrong "$name: no test case"
}
bodies="--exclude-operation-id createVideo --exclude-operation-id planVideo --exclude-operation-id remixVideo"
if [ "${CVX_CHECK_FULL:-0}" = 1 ]; then
    schemathesis "every operation" --phases coverage,fuzzing -n 100 --max-time 400
    schemathesis "one after the other" --phases stateful -n 50 --max-time 200
else
    schemathesis "what has no body" --phases coverage,fuzzing -n 5 "$bodies"
    schemathesis "jobs" --phases fuzzing -n 6 --include-operation-id createVideo --include-operation-id planVideo
    schemathesis "one after the other" --phases stateful -n 5 --max-time 10
fi
expect "the service lives" "$python" -c "import urllib.request; urllib.request.urlopen('$url/healthz')"
finish
