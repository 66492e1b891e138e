#!/usr/bin/env bash
# What /openapi.json promises, by schemathesis: no 5xx, no answer that is not in it, nothing accepted that it forbids. Requests
# that it allows may be refused all the same (48 frames): a checkpoint's own rules are in no schema. Longer with CVX_CHECK_FULL=1.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
needs "the OpenAPI document" cvx-coordinator
needs_python "the OpenAPI document"
printf 'me %s waiting=3\n' "$(printf secret | sha256sum | cut -d ' ' -f 1)" >"$tmp/keys"
serve --port 0 --api-keys "$tmp/keys"

schemathesis() { # NAME ARGS...
    local name=$1
    shift
    expect "$name" sh -c "cd '$tmp' && exec '$(dirname "$python")/schemathesis' run '$url/openapi.json' -H 'Authorization: Bearer secret' \
        --exclude-checks positive_data_acceptance --exclude-operation-id jobEvents --seed 1 --continue-on-failure --request-timeout 60 \
        --suppress-health-check all --no-color $*"
    awk '/^=+ (ERRORS|FAILURES)/ { n = 1 } /^=+ (WARNINGS|SUMMARY)/ { n = 0 } n > 0 && n++ < 60' "$tmp/log"
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
