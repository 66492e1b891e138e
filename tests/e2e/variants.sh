#!/usr/bin/env bash
# Every kind of checkpoint and every way to start: image, video, LoRA, tiling, given latents. That the values are
# diffusers' is the golden tests' matter; here: the program takes them, and what is given changes the result.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
tiny=tests/data/variants
extra=tests/data/extra

# make OUT MODEL ARGS...: $asked frames give $given.
asked=9 given=9
make() {
    local out=$1 model=$2
    shift 2
    expect "$out: $(basename "$model") $*" "$cvx" generate --model "$model" --prompt "$prompt" --height 64 --width 96 \
        --num-frames "$asked" --num-inference-steps 2 --seed 3 --output "$tmp/$out.safetensors" --quiet "$@"
    equal "$out: shape" "$given,3,64,96" "$(shape "$tmp/$out.safetensors" frames)"
}
same() { expect "$1 and $2: same bits" cmp "$tmp/$1.safetensors" "$tmp/$2.safetensors"; }
other() { differ "$1 and $2: other bits" "$tmp/$1.safetensors" "$tmp/$2.safetensors"; }

for v in tiny-2b tiny-5b tiny-1.5-5b; do
    # 1.5 takes latent frames in pairs when it starts from a video, and two of them make eight frames
    [ "$v" = tiny-1.5-5b ] && asked=5 given=8
    make "$v-v2v" "$tiny/$v" --video "$extra/v2v-input" --strength 0.5
    make "$v-t2v" "$tiny/$v"
    other "$v-t2v" "$v-v2v"
done
asked=9 given=9
for v in tiny-5b-i2v tiny-1.5-5b-i2v; do
    make "$v-a" "$tiny/$v" --image "$tiny/$v/input.png"
    make "$v-b" "$tiny/$v" --image "$extra/v2v-input/0008.png"
    other "$v-a" "$v-b"
done
for s in ddim dpm; do
    make "$s" "$tiny/tiny-5b" --scheduler "$s"
    make "$s-dynamic" "$tiny/tiny-5b" --scheduler "$s" --use-dynamic-cfg
    other "$s" "$s-dynamic"
done
other ddim dpm

lora=$extra/lora/pytorch_lora_weights.safetensors
make lora-1 "$tiny/tiny-5b" --lora "$lora"
make lora-1-said "$tiny/tiny-5b" --lora "$lora:1.0"
make lora-half "$tiny/tiny-5b" --lora "$lora:0.5"
make lora-zero "$tiny/tiny-5b" --lora "$lora:0"
same lora-1 lora-1-said
other lora-1 lora-half
other lora-1 tiny-5b-t2v
same lora-zero tiny-5b-t2v

make tiled "$tiny/tiny-5b" --enable-tiling --tile-sample-min-height 48 --tile-sample-min-width 80
other tiled tiny-5b-t2v
make sliced "$tiny/tiny-5b" --enable-slicing
same sliced tiny-5b-t2v
make unguided "$tiny/tiny-5b" --guidance-scale 1
other unguided tiny-5b-t2v
make negative "$tiny/tiny-5b" --negative-prompt "blurry"
other negative tiny-5b-t2v
make from-latents "$tiny/tiny-5b" --latents "$tmp/negative.safetensors"
other from-latents tiny-5b-t2v

# a video written by cvx itself can be the start of the next
expect "an mp4 to start from" "$cvx" generate --model "$tiny/tiny-2b" --prompt x --height 64 --width 96 --num-frames 9 \
    --num-inference-steps 1 --output "$tmp/in.mp4" --quiet
make from-mp4 "$tiny/tiny-2b" --video "$tmp/in.mp4" --strength 0.5
# a video of 16 frames, which is not 4k + 1: its manifest makes it again
ffmpeg -v error -y -f lavfi -i testsrc2=size=96x64:rate=8 -frames:v 16 -pix_fmt yuv420p "$tmp/v16.mp4"
expect "16 frames of a video" generate --video "$tmp/v16.mp4" --num-inference-steps 2 --output "$tmp/v16.safetensors"
expect "16 frames again" "$cvx" generate --quiet --replay "$tmp/v16.safetensors.json" --output "$tmp/again.safetensors"
expect "16 frames: the same bytes" cmp "$tmp/v16.safetensors" "$tmp/again.safetensors"
finish
