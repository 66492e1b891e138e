#!/usr/bin/env bash
# cvx submit, status, watch, cancel, list and get against a service, also one that goes away meanwhile.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
needs "the client" cvx-coordinator
if ! "$cvx" --help | grep -q submit; then
    echo "SKIP  the client: this build has no libcurl"
    finish
fi
cvx=$(realpath "$cvx")
printf secret >"$tmp/key"
printf 'me %s\n' "$(sha256sum <"$tmp/key" | cut -d ' ' -f 1)" >"$tmp/keys"
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
export CVX_SERVER=http://127.0.0.1:$port
with=(--clip-model models/shapes-clip --port "$port" --api-keys "$tmp/keys")

refuse() { # CODE WORDS NAME ARGS...
    local want=$1 words=$2 name=$3 code=0
    shift 3
    timeout 100 "$cvx" "$@" >"$tmp/out" 2>"$tmp/log" || code=$?
    equal "$name: exit code" "$want" "$code"
    grep -q -- "$words" "$tmp/log" || wrong "$name: no '$words' in: $(cat "$tmp/log")"
    equal "$name: one line" 1 "$(wc -l <"$tmp/log")"
}
refuse 3 "no coordinator answers at $CVX_SERVER" "nobody there" list
refuse 2 "http://HOST:PORT" "no address" list --server ftp://x
serve "${with[@]}"
refuse 2 "key" "no key" list
export CVX_API_KEY=wrong
refuse 2 "key" "a wrong key" list
unset CVX_API_KEY
me=(--api-key-file "$tmp/key")

"$cvx" submit "${me[@]}" --prompt "$prompt" --num-inference-steps 6 --seed 3 --output "$tmp/a.mp4" >"$tmp/out" 2>"$tmp/bars"
"$cvx" generate --model models/shapes --prompt "$prompt" --num-inference-steps 6 --seed 3 --output "$tmp/b.mp4" --quiet
expect "submit --output: the bytes of cvx generate" cmp "$tmp/a.mp4" "$tmp/b.mp4"
expect "with its stages" grep -q "^denoise  6/6 in" "$tmp/bars"
"$cvx" sheet "$tmp/b.mp4" "$tmp/picture.png"
picture=$tmp/picture.png
refuse 2 "image" "a picture for a text-to-video model" submit "${me[@]}" --prompt x --image "$picture"
more=(--use-dynamic-cfg --scheduler unipc --num-frames 33 --window-frames 17 --free-noise --interpolate 2 --fps 12
    --negative-prompt "a blue circle" --guidance-scale 4.5 --num-inference-steps 2)
"$cvx" submit "${me[@]}" --prompt "$prompt" "${more[@]}" --output "$tmp/c.mp4" --quiet 2>"$tmp/log"
"$cvx" generate --model models/shapes --prompt "$prompt" "${more[@]}" --output "$tmp/d.mp4" --quiet
expect "all kinds of options" cmp "$tmp/c.mp4" "$tmp/d.mp4"

id=$("$cvx" submit "${me[@]}" --prompt "a long one" --num-inference-steps 900 --priority high)
for _ in $(seq 100); do
    "$cvx" status "${me[@]}" "$id" >"$tmp/out"
    grep -q "in_progress, .* denoise" "$tmp/out" && break
    sleep 0.1
done
expect "status of a running job" grep -q "^status   in_progress, .*denoise .* of 900 on" "$tmp/out"
next=$("$cvx" submit "${me[@]}" --prompt "the next one" --num-inference-steps 1)
sleep 1.2 # what is said of its wait may be a second old
"$cvx" status "${me[@]}" "$next" >"$tmp/out"
expect "status of one that waits" grep -q "^status   queued, begins in about [1-9][0-9]* s$" "$tmp/out"
"$cvx" cancel "${me[@]}" "$next" >"$tmp/out"
"$cvx" status "${me[@]}" "$id" --json >"$tmp/out"
expect "status --json" python3 -c "import json; v = json.load(open('$tmp/out')); assert v['id'] == '$id' and v['cvx']['priority'] == 'high'"
code=0
"$cvx" watch "${me[@]}" "$id" >"$tmp/watch.out" 2>"$tmp/watch.log" &
watcher=$!
sleep 1
expect "cancel" "$cvx" cancel "${me[@]}" "$id"
wait $watcher || code=$?
equal "watching a job that is cancelled: exit code" 8 $code
expect "which it says" grep -q "$id: cancelled" "$tmp/watch.log"
"$cvx" list "${me[@]}" --limit 2 >"$tmp/out"
expect "list" grep -q "^$id *cancelled" "$tmp/out"
expect "list: more pages" grep -q "^more: cvx list --after video_" "$tmp/out"
equal "list --status" 2 "$("$cvx" list "${me[@]}" --status cancelled | grep -c ^video_)"
refuse 2 "no video" "an id of nobody" status "${me[@]}" video_00000000000000000000000000000000
refuse 2 "a video's id is meant" "no id" get "${me[@]}" ../../etc/passwd
refuse 2 "is cancelled and has no video" "a video that is not" get "${me[@]}" "$id" --output "$tmp/none.mp4"
[ ! -e "$tmp/none.mp4" ] || wrong "a file without a video"
equal "no temporary is left" "" "$(find "$tmp" -name 'none*')"
refuse 2 "49" "48 frames" submit "${me[@]}" --prompt x --num-frames 48
refuse 2 "give either" "no prompt" submit "${me[@]}"

printf '{"prompt": "one", "num_inference_steps": 1}\n\n{"prompt": "two", "seed": 9}\n' >"$tmp/jobs.jsonl"
"$cvx" submit "${me[@]}" --batch "$tmp/jobs.jsonl" --num-inference-steps 2 >"$tmp/ids"
equal "a batch: ids" 2 "$(grep -c ^video_ "$tmp/ids")"
mapfile -t ids <"$tmp/ids"
expect "watch several" "$cvx" watch "${me[@]}" --quiet "${ids[@]}"
"$cvx" status "${me[@]}" "${ids[1]}" >"$tmp/out"
expect "its own seed and the batch's steps" grep -q "seed 9, 2 steps" "$tmp/out"
"$cvx" get "${me[@]}" "${ids[0]}" --output "$tmp/one.mp4" >"$tmp/out"
"$cvx" get "${me[@]}" "${ids[0]}" --variant thumbnail --output "$tmp/one.png" >"$tmp/out"
expect "get" sh -c "head -c 12 '$tmp/one.mp4' | grep -q ftyp && head -c 4 '$tmp/one.png' | grep -q PNG"
printf '{"prompt": "one"}\nno json\n' >"$tmp/bad.jsonl"
refuse 4 "bad.jsonl:2" "a batch with a bad line" submit "${me[@]}" --batch "$tmp/bad.jsonl" --num-inference-steps 1

# the service goes away and comes back while a job is watched
id=$("$cvx" submit "${me[@]}" --prompt "$prompt" --num-inference-steps 120)
"$cvx" watch "${me[@]}" --json "$id" >"$tmp/events" 2>"$tmp/watch.log" &
watcher=$!
sleep 1.5
unserve
sleep 1
serve "${with[@]}"
code=0
wait $watcher || code=$?
equal "watch outlives the service: exit code" 0 $code
expect "and saw each event once" python3 - "$tmp/events" <<'P'
import json, sys
with open(sys.argv[1]) as f:
    events = [json.loads(line) for line in f]
states = [e["status"] for e in events if e["event"] == "state"]
print(states)
assert states[0] == "queued" and states[-1] == "completed" and states.count("completed") == 1
steps = [(e["stage"], e["step"]) for e in events if e["event"] == "progress" and e["stage"] == "denoise"]
assert len(steps) > 10
P

# nobody listens between the requests of one command, and the video is refused at first
python3 "$here/fickle.py" >"$tmp/fickle" &
fickle=$!
for _ in $(seq 100); do
    [ -s "$tmp/fickle" ] && break
    sleep 0.1
done
expect "submit outlives a service that comes and goes" timeout 60 "$cvx" submit --server "http://127.0.0.1:$(head -n 1 "$tmp/fickle")" \
    --prompt x --seed 7 --free-noise --image "$picture" --lora a.safetensors --lora b.safetensors:0.5 --output "$tmp/fickle.mp4" --quiet
equal "and has the video" "the video" "$(cat "$tmp/fickle.mp4" 2>/dev/null)"
equal "beside a picture all fields are sent, lists too" "$(stat -c %s "$picture")" "$(tail -n 1 "$tmp/fickle" | python3 -c '
import json, sys
v = json.load(sys.stdin)
assert v["prompt"] == ["x"] and v["seed"] == ["7"] and v["free_noise"] == ["true"], v
assert v["lora"] == ["a.safetensors", "b.safetensors:0.5"], v
print(*v["input_reference"])' 2>&1)"
kill $fickle
finish
