#!/usr/bin/env bash
# Long videos by windows: one object that stays what it is and does not jump where windows meet; prompts that take
# turns; what cannot be is refused in one line.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

make() { # OUTPUT ARGS...
    local out=$1
    shift
    "$cvx" generate --model models/shapes --num-inference-steps 20 --scheduler unipc --window-frames 17 --seed 5 \
        --quiet --manifest none --output "$tmp/$out.safetensors" "$@"
}

# steady NAME FRAMES SEED PROMPT
steady() {
    make "$1" --num-frames "$2" --seed "$3" --prompt "$4"
    expect "$1: the object stays, without a jump" python3 "$here/long.py" steady "$tmp/$1.safetensors" 8 "$(cut -d ' ' -f 3 <<<"$4")"
    cat "$tmp/log"
}

steady still 65 5 "a red square standing still on a black background"
steady right 33 5 "a red square moving right on a black background"
if [ "${CVX_CHECK_FULL:-0}" = 1 ]; then
    steady growing 33 5 "a blue square growing on a white background"
    steady shrinking 33 13 "a yellow circle shrinking on a black background"
    steady down 33 7 "a cyan circle moving down on a black background"
    steady up 65 12 "a orange circle moving up on a gray background"
    steady left 65 11 "a green star moving left on a white background"
    steady shrink 65 14 "a pink square shrinking on a gray background"
fi
# without dilation the ends agree on no places in between
make never --num-frames 65 --seed 13 --window-dilation 1 --prompt "a purple triangle moving right on a black background"
if python3 "$here/long.py" steady "$tmp/never.safetensors" 8 triangle; then
    wrong "the judge sees nothing in windows that are never dilated"
else
    ok "the judge sees the jumps of windows that are never dilated"
fi
# windows that do not overlap begin their motion anew: a jump
make apart --num-frames 41 --window-stride 20 --window-dilation 1 --prompt "a red square moving right on a black background"
if python3 "$here/long.py" steady "$tmp/apart.safetensors" 20; then
    wrong "the judge sees no jump between windows that do not overlap"
else
    ok "the judge sees the jump between windows that do not overlap"
fi
make turns --num-frames 65 --prompt "0: a red square standing still on a black background" \
    --prompt "33: a blue square standing still on a black background"
expect "two prompts take turns" python3 "$here/long.py" turns "$tmp/turns.safetensors" red blue
make short --num-frames 33 --prompt "a red square standing still on a black background"
make other --num-frames 33 --free-noise --prompt "a red square standing still on a black background"
if python3 "$here/tensors.py" equal "$tmp/other.safetensors" "$tmp/short.safetensors" latents; then
    wrong "--free-noise changes nothing"
else
    ok "--free-noise starts from other noise"
fi
# 1.5: windows of latent frames in pairs, the padding frame in the first
"$cvx" generate --model tests/data/variants/tiny-1.5-5b --prompt "a cat" --num-frames 49 --window-frames 17 --height 64 \
    --width 96 --num-inference-steps 2 --quiet --manifest none --output "$tmp/pairs.safetensors"
equal "1.5: frames" "49,3,64,96" "$(python3 "$here/tensors.py" shape "$tmp/pairs.safetensors" frames)"

# one window is no window
"$cvx" generate --model models/shapes --prompt "$prompt" --num-inference-steps 4 --quiet --manifest none \
    --output "$tmp/a.safetensors"
"$cvx" generate --model models/shapes --prompt "$prompt" --num-inference-steps 4 --quiet --manifest none \
    --window-frames 33 --output "$tmp/b.safetensors"
expect "a window longer than the video: the same bits" python3 "$here/tensors.py" equal "$tmp/a.safetensors" \
    "$tmp/b.safetensors"

# of several seeds the best is kept, and its manifest makes it again
best=(--model models/shapes --clip-model models/shapes-clip --prompt "$prompt" --num-inference-steps 4 --seed 20 --quiet)
"$cvx" generate "${best[@]}" --best-of 3 --output "$tmp/best.mp4" 2>"$tmp/log"
expect "--best-of keeps the highest score" python3 - "$tmp/best.mp4.json" <<'P'
import json, sys
with open(sys.argv[1]) as f:
    m = json.load(f)
scores = {c["seed"]: c["score"] for c in m["best_of"]}
mean = sum(m["scores"]["frames"]) / len(m["scores"]["frames"])
print(scores, m["request"]["seed"], mean)
assert sorted(scores) == [20, 21, 22] and len(set(scores.values())) == 3
assert scores[m["request"]["seed"]] == max(scores.values()) and abs(mean - max(scores.values())) < 1e-5
P
"$cvx" generate --replay "$tmp/best.mp4.json" --output "$tmp/again.mp4" --quiet
expect "--best-of: its manifest makes the same bytes" cmp "$tmp/best.mp4" "$tmp/again.mp4"

refuse() { # NAME WORDS ARGS...
    local name=$1 words=$2 code=0
    shift 2
    "$cvx" generate --model models/shapes --output "$tmp/no.mp4" --quiet "$@" 2>"$tmp/log" || code=$?
    equal "$name: exit code" 2 "$code"
    grep -q -- "$words" "$tmp/log" || wrong "$name: no '$words' in: $(cat "$tmp/log")"
    equal "$name: one line" 1 "$(wc -l <"$tmp/log")"
}
refuse "16 frames" "13 and 17" --prompt x --window-frames 16
refuse "a stride of 6" "4 and 8" --prompt x --window-frames 17 --window-stride 6
refuse "a stride that leaves gaps" "gaps" --prompt x --num-frames 65 --window-frames 17 --window-stride 24
refuse "a dilation of 6" "4 and 8" --prompt x --window-frames 17 --window-dilation 6
refuse "a dilation without windows" "needs --window-frames" --prompt x --window-dilation 2
refuse "a timeline without windows" "needs --window-frames" --prompt "0: x" --prompt "9: y"
refuse "a timeline without frames" "first frame" --prompt x --prompt y --window-frames 17
refuse "free noise without windows" "needs --window-frames" --prompt x --free-noise
refuse "best of unscored" "needs --clip-model" --prompt x --best-of 2
finish
