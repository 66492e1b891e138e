#!/usr/bin/env bash
# The examples of docs/api.md, one after the other as they stand there, against a service.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
needs "the API's examples" cvx-coordinator
serve --port 0
# shellcheck disable=SC2034 # the examples have it
URL=$url

# indented lines that begin with curl or set a variable, with those that go on behind a backslash
docs=$(pwd)/docs/api.md
awk '/^    (curl|[A-Z]+=)/ || more { sub(/^    /, ""); print; more = /\\$/ } ' "$docs" >"$tmp/examples"
wanted=$(grep -c '^    curl' "$docs")
cd "$tmp"
n=0
while IFS= read -r line; do
    example=$line
    while [ "${example: -1}" = '\' ]; do
        IFS= read -r line
        example+=$'\n'$line
    done
    if (set -e -o pipefail; eval "$example") >out 2>log; then
        eval "${example%%curl*}" 2>/dev/null || true # variables stay
        ok "${example%%$'\n'*}"
    else
        wrong "$example: $(cat out log)"
    fi
    [ "${example#curl}" = "$example" ] || n=$((n + 1))
done <examples
equal "examples" "$wanted" "$n"
expect "there are many" [ "$n" -ge 18 ]
expect "what they fetched" sh -c "head -c 12 video.mp4 | grep -q ftyp && head -c 4 thumbnail.png | grep -q PNG && [ \$(wc -c <first-100-bytes) = 100 ]"
expect "the remix" python3 -c "import json; v = json.load(open('remix.json')); assert v['cvx']['seed'] == 5 and v['cvx']['num_inference_steps'] == 4 and v['prompt'] == 'a green circle', v"
finish
