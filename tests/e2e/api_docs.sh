#!/usr/bin/env bash
# The examples of docs/api.md, one after the other as they stand there, against a service.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

if [ ! -x "$(dirname "$cvx")/cvx-coordinator" ]; then
    echo "SKIP  the API's examples: this build has no coordinator"
    finish
fi
service=
stop() {
    [ -z "$service" ] || { kill "$service" && wait "$service"; } || true
    rm -rf "$tmp"
}
trap stop EXIT
"$cvx" serve --model models/shapes --data-dir "$tmp/data" --port 0 >"$tmp/serve.log" 2>&1 &
service=$!
for _ in $(seq 200); do
    URL=$(sed -n 's/^cvx: \(http[^ ]*\) serves.*/\1/p' "$tmp/serve.log")
    [ -n "$URL" ] && curl -sf -o "$tmp/ready" "$URL/readyz" && break
    sleep 0.1
done

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
