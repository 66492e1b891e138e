#!/usr/bin/env bash
# Pictures of the denoising while it runs: they come nearer to the video, change none of its bits, and are
# counted in the plan. Candidates that look clearly worse after half of the steps are dropped.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

one=(--model models/shapes --prompt "$prompt" --num-inference-steps 16 --quiet)
for s in ddim dpm unipc; do
    "$cvx" generate "${one[@]}" --scheduler "$s" --manifest none --output "$tmp/$s-plain.safetensors"
    "$cvx" generate "${one[@]}" --scheduler "$s" --manifest none --output "$tmp/$s.safetensors" \
        --preview-dir "$tmp/$s" --previews 5
    expect "$s: the same video with previews" cmp "$tmp/$s-plain.safetensors" "$tmp/$s.safetensors"
    equal "$s: previews" "step-0004.png step-0007.png step-0010.png step-0013.png" "$(cd "$tmp/$s" && echo *)"
    mkdir -p "$tmp/$s-frames"
    "$cvx" generate "${one[@]}" --scheduler "$s" --manifest none --output "$tmp/$s-frames/" 2>/dev/null
    expect "$s: the last preview is nearer to the first frame than the first one is" python3 "$here/nearer.py" \
        "$tmp/$s-frames/0000.png" "$tmp/$s/step-0004.png" "$tmp/$s/step-0013.png"
done

# with an image the first frame is known: the last of the first chunk is shown; 1.5 has a frame of padding
for v in tiny-5b-i2v tiny-1.5-5b-i2v tiny-1.5-5b; do
    image=()
    case $v in *i2v) image=(--image "$tmp/ddim/step-0004.png") ;; esac
    "$cvx" generate --model "tests/data/variants/$v" --prompt x --num-inference-steps 3 --num-frames 17 --height 64 \
        --width 96 "${image[@]}" --quiet --manifest none --preview-dir "$tmp/$v" --output "$tmp/$v.mp4"
    equal "$v: previews of 3 steps" "step-0001.png step-0002.png" "$(cd "$tmp/$v" && echo *)"
done
"$cvx" generate --model tests/data/variants/tiny-2b --prompt x --num-inference-steps 2 --num-frames 9 --height 448 \
    --width 832 --quiet --manifest none --preview-dir "$tmp/large" --output "$tmp/large.mp4"
equal "a large video's preview is small" "272x144" "$(python3 -c '
import struct, sys
print("%dx%d" % struct.unpack(">II", open(sys.argv[1], "rb").read(24)[16:]))' "$tmp/large/step-0001.png")"
expect "events name the file" sh -c "'$cvx' generate --model models/shapes --prompt x --num-inference-steps 2 --json \
    --preview-dir '$tmp/e' --output '$tmp/e.mp4' | grep -q '\"preview\",\"file\":\"$tmp/e/step-0001.png\",\"done\":1'"

best=(--model models/shapes --clip-model models/shapes-clip --prompt "$prompt" --num-inference-steps 8 --seed 20 --quiet)
"$cvx" generate "${best[@]}" --best-of 4 --output "$tmp/all.mp4" 2>"$tmp/log"
"$cvx" generate "${best[@]}" --best-of 4 --early-stop 100 --output "$tmp/wide.mp4" 2>"$tmp/log"
expect "--early-stop 100 drops none and changes nothing" cmp "$tmp/all.mp4" "$tmp/wide.mp4"
"$cvx" generate "${best[@]}" --best-of 4 --early-stop 0.001 --output "$tmp/one.mp4" 2>"$tmp/log"
expect "--early-stop 0.001 goes on with the best preview" python3 - "$tmp/one.mp4.json" <<'P'
import json, sys
with open(sys.argv[1]) as f:
    m = json.load(f)
best = max(m["best_of"], key=lambda c: c["preview_score"])
assert m["request"]["seed"] == best["seed"] and best["score"] is not None, m["best_of"]
assert [c["score"] for c in m["best_of"] if c is not best] == [None] * 3, m["best_of"]
P
"$cvx" generate --replay "$tmp/one.mp4.json" --output "$tmp/again.mp4" --quiet
expect "--early-stop: its manifest makes the same bytes" cmp "$tmp/one.mp4" "$tmp/again.mp4"
"$cvx" generate "${best[@]}" --best-of 4 --early-stop 0.001 --checkpoint-dir "$tmp/ck" --output "$tmp/kept.mp4" 2>"$tmp/log"
expect "the same with checkpoints" cmp "$tmp/one.mp4" "$tmp/kept.mp4"
equal "which are gone at the end" "" "$(ls "$tmp/ck")"

refuse() { # NAME WORDS ARGS...
    local name=$1 words=$2 code=0
    shift 2
    "$cvx" generate --model models/shapes --output "$tmp/no.mp4" --quiet --prompt x "$@" 2>"$tmp/log" || code=$?
    equal "$name: exit code" 2 "$code"
    grep -q -- "$words" "$tmp/log" || wrong "$name: no '$words' in: $(cat "$tmp/log")"
    equal "$name: one line" 1 "$(wc -l <"$tmp/log")"
}
refuse "early stop of one" "needs --best-of" --early-stop 1
refuse "previews to nowhere" "needs --preview-dir" --previews 3
refuse "previews and offloading" "not with --offload" --preview-dir "$tmp/x" --offload model
finish
