#!/usr/bin/env bash
# Any size runs, not only the checkpoint's own, in the memory that `cvx plan` foretold (within 10 %).
set -euo pipefail
. "$(dirname "$0")/lib.sh"

# sized MODEL HEIGHT WIDTH FRAMES WANTED_FRAMES ARGS...
sized() {
    local model=$1 h=$2 w=$3 n=$4 want=$5 name
    shift 5
    name="$(basename "$model") ${h}x$w, $n frames"
    expect "$name" "$cvx" generate --model "$model" --prompt "$prompt" --height "$h" --width "$w" --num-frames "$n" \
        --num-inference-steps 2 --output "$tmp/x.safetensors" --quiet "$@"
    equal "$name: shape" "$want,3,$h,$w" "$(shape "$tmp/x.safetensors" frames)"
    rm -f "$tmp/x.safetensors"
}
tiny=tests/data/variants

sized models/shapes 48 80 9 9
sized models/shapes 128 192 33 33
# a sanitizer's own memory is in no plan
if ! grep -aq __asan_init "$cvx"; then
    expect "128x192, 33 frames: planned memory is within 10 % of what was used" python3 - "$tmp/x.safetensors.json" <<'PY'
import json, sys
m = json.load(open(sys.argv[1]))
planned, used = m["planned_peak_bytes"], m["peak_bytes"]
print(f"planned {planned / 2**20:.1f} MiB, used {used / 2**20:.1f} MiB")
assert abs(planned - used) <= 0.1 * used
PY
    sed -n '$p' "$tmp/log"
fi
sized models/shapes 64 96 1 1
# an even number of latent frames gives 4L frames, as in diffusers
sized "$tiny/tiny-2b" 48 64 13 16
sized "$tiny/tiny-5b" 80 64 9 9
sized "$tiny/tiny-5b" 64 112 13 16
sized "$tiny/tiny-1.5-5b" 48 80 9 9
sized "$tiny/tiny-1.5-5b-i2v" 64 48 9 9 --image "$tiny/tiny-1.5-5b-i2v/input.png"
finish
