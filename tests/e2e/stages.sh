#!/usr/bin/env bash
# Interpolation and enlargement as their users run them: frame counts, rates and sizes, kinds of input that are not
# plain, what is refused and how, alone and within cvx generate.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

# clip NAME ARGS...: five moving frames of 96x64 at 8 a second, made by ffmpeg as ARGS say.
clip() {
    local name=$1
    shift
    ffmpeg -v error -y -f lavfi -i testsrc2=size=96x64:rate=8 -frames:v 5 "$@" "$tmp/$name"
}
# what FILE: "WIDTHxHEIGHT FRAMES RATE".
what() { echo "$(probe "$1" width)x$(probe "$1" height) $(probe "$1" nb_read_frames) $(probe "$1" avg_frame_rate)"; }

clip in.mp4 -pix_fmt yuv420p
for factor in 2 4 8; do
    expect "--factor $factor" "$cvx" interpolate "$tmp/in.mp4" "$tmp/f$factor.mp4" --factor $factor --quiet
    equal "--factor $factor: as many frames for each one" "96x64 $((5 * factor)) $((8 * factor))/1" "$(what "$tmp/f$factor.mp4")"
done
expect "the factor is 2 by itself" "$cvx" interpolate "$tmp/in.mp4" "$tmp/plain.mp4" --quiet
expect "and the same bytes" cmp "$tmp/f2.mp4" "$tmp/plain.mp4"
expect "one thread" "$cvx" interpolate "$tmp/in.mp4" "$tmp/one.mp4" --quiet --threads 1
expect "one thread makes the same bytes" cmp "$tmp/f2.mp4" "$tmp/one.mp4"
expect "--fps 30" "$cvx" interpolate "$tmp/in.mp4" "$tmp/r.mp4" --fps 30 --quiet
equal "--fps 30: 5/8 s are 19 frames" "96x64 19 30/1" "$(what "$tmp/r.mp4")"
expect "--fps 5" "$cvx" interpolate "$tmp/in.mp4" "$tmp/r.mp4" --fps 5 --quiet
equal "--fps 5: fewer frames" "96x64 4 5/1" "$(what "$tmp/r.mp4")"

expect "upscale" "$cvx" upscale "$tmp/in.mp4" "$tmp/u4.mp4" --quiet
equal "upscale: four times" "384x256 5 8/1" "$(what "$tmp/u4.mp4")"
expect "--scale 2" "$cvx" upscale "$tmp/in.mp4" "$tmp/u2.mp4" --scale 2 --quiet
equal "--scale 2" "192x128 5 8/1" "$(what "$tmp/u2.mp4")"
expect "--scale 1.5" "$cvx" upscale "$tmp/in.mp4" "$tmp/u1.mp4" --scale 1.5 --quiet
equal "--scale 1.5" "144x96 5 8/1" "$(what "$tmp/u1.mp4")"
expect "in one piece" "$cvx" upscale "$tmp/in.mp4" "$tmp/whole/" --quiet
expect "--tile 32" "$cvx" upscale "$tmp/in.mp4" "$tmp/tiled/" --tile 32 --quiet
for v in whole tiled; do
    ffmpeg -v error -y -i "$tmp/$v/%04d.png" -f rawvideo -pix_fmt rgb24 "$tmp/$v.raw"
done
expect "tiles make the same picture, within one level" python3 -c 'import sys
a, b = (open(f, "rb").read() for f in sys.argv[1:])
far = max(abs(x - y) for x, y in zip(a, b))
sys.exit(not (len(a) == len(b) == 5 * 384 * 256 * 3 and far <= 1))' "$tmp/whole.raw" "$tmp/tiled.raw"
expect "mixed tiles" "$cvx" upscale "$tmp/in.mp4" "$tmp/mixed.mp4" --tile 32 --tile-overlap 8 --quiet
expect "an RRDBNet" "$cvx" upscale "$tmp/in.mp4" "$tmp/rrdb.mp4" --model tests/data/variants/tiny-rrdb --quiet
expect "both at once" "$cvx" interpolate "$tmp/in.mp4" "$tmp/both.gif" --upscale 2 --quiet
equal "both at once, as a GIF" "192x128 10" "$(probe "$tmp/both.gif" width)x$(probe "$tmp/both.gif" height) $(probe "$tmp/both.gif" nb_read_frames)"

# input that is not plain
clip odd.mp4 -vf scale=91:63 -pix_fmt yuv444p
expect "odd sides" "$cvx" interpolate "$tmp/odd.mp4" "$tmp/odd/" --quiet
equal "odd sides stay" "91x63 10" "$(probe "$tmp/odd/0000.png" width)x$(probe "$tmp/odd/0000.png" height) $(find "$tmp/odd" -name '*.png' | wc -l)"
expect "a folder as input" "$cvx" interpolate "$tmp/odd" "$tmp/again.mp4" --quiet
equal "a folder counts as 8 frames a second" "92x64 20 16/1" "$(what "$tmp/again.mp4")"
clip deep.mkv -pix_fmt yuv420p10le -c:v ffv1
expect "10 bits" "$cvx" upscale "$tmp/deep.mkv" "$tmp/deep.mp4" --quiet
equal "10 bits" "384x256 5 8/1" "$(what "$tmp/deep.mp4")"
expect "rotated as telephones do" "$cvx" upscale tests/data/media/turned-90.mp4 "$tmp/turned.mp4" --quiet
size=$(probe tests/data/media/turned-90.mp4 width),$(probe tests/data/media/turned-90.mp4 height)
equal "rotated: upright" "$((4 * ${size#*,}))x$((4 * ${size%,*})) 4" \
    "$(probe "$tmp/turned.mp4" width)x$(probe "$tmp/turned.mp4" height) $(probe "$tmp/turned.mp4" nb_read_frames)"
clip alpha.mkv -vf format=yuva420p -c:v ffv1
expect "alpha" "$cvx" interpolate "$tmp/alpha.mkv" "$tmp/alpha.mp4" --quiet
equal "alpha" "96x64 10 16/1" "$(what "$tmp/alpha.mp4")"
ffmpeg -v error -y -f lavfi -i testsrc2=size=96x64:rate=8 -vf "select='not(mod(n,3))+gt(n,6)'" -fps_mode vfr -frames:v 6 "$tmp/vfr.mkv"
expect "variable rate" "$cvx" interpolate "$tmp/vfr.mkv" "$tmp/vfr.mp4" --quiet
equal "variable rate: told in one line" 1 "$(grep -c 'vfr.mkv: its frames last 0.125 to 0.375 s' "$tmp/log")"
equal "variable rate: every frame counts" 12 "$(probe "$tmp/vfr.mp4" nb_read_frames)"
ffmpeg -v error -y -i "$tmp/in.mp4" -frames:v 1 "$tmp/one.png"
expect "one frame" "$cvx" interpolate "$tmp/one.png" "$tmp/single.mp4" --quiet
equal "one frame" "96x64 2 16/1" "$(what "$tmp/single.mp4")"
ffmpeg -v error -y -f lavfi -i color=red:size=2x2 -frames:v 1 "$tmp/dot.png"
expect "2x2 pixels" "$cvx" upscale "$tmp/dot.png" "$tmp/dot/" --quiet
equal "2x2 pixels" 8x8 "$(probe "$tmp/dot/0000.png" width)x$(probe "$tmp/dot/0000.png" height)"

# refuse EXIT PATTERN NAME COMMAND ARGS...: one line on stderr that names the cause, and no output.
refuse() {
    local want=$1 pattern=$2 name=$3 rc=0
    shift 3
    rm -rf "$tmp/no.mp4"
    timeout 60 "$cvx" "$@" >"$tmp/stdout" 2>"$tmp/stderr" || rc=$?
    if [ "$rc" -eq "$want" ] && [ "$(wc -l <"$tmp/stderr")" -eq 1 ] && grep -Eq -- "$pattern" "$tmp/stderr" &&
        ! ls "$tmp"/no.mp4* >/dev/null 2>&1; then
        ok "refused: $name"
    else
        wrong "refused: $name: exit $rc: $(cat "$tmp/stderr")"
    fi
}
head -c 1000 "$tmp/in.mp4" >"$tmp/cut.mp4"
echo text >"$tmp/text.mp4"
ffmpeg -v error -y -f lavfi -i color=red:size=8192x16 -frames:v 1 "$tmp/wide.png"
ffmpeg -v error -y -f lavfi -i color=red:size=20000x16 -frames:v 1 "$tmp/huge.png"
ffmpeg -v error -y -f lavfi -i sine=duration=1 -c:a flac "$tmp/sound.mka"
: >"$tmp/nothing.mp4"
mkdir "$tmp/empty" "$tmp/model"
refuse 3 'absent.mp4' "no such file" interpolate "$tmp/absent.mp4" "$tmp/no.mp4" --quiet
refuse 4 'cut.mp4' "a file cut short" interpolate "$tmp/cut.mp4" "$tmp/no.mp4" --quiet
refuse 4 '20000x16.*16384' "a picture too wide" interpolate "$tmp/huge.png" "$tmp/no.mp4" --quiet
refuse 4 'no video' "sound alone" upscale "$tmp/sound.mka" "$tmp/no.mp4" --quiet
refuse 4 'nothing.mp4' "an empty file" upscale "$tmp/nothing.mp4" "$tmp/no.mp4" --quiet
refuse 4 'text.mp4' "no video" upscale "$tmp/text.mp4" "$tmp/no.mp4" --quiet
refuse 4 'empty' "an empty folder" upscale "$tmp/empty" "$tmp/no.mp4" --quiet
refuse 2 '32768.*16384' "a result too wide" upscale "$tmp/wide.png" "$tmp/no.mp4" --quiet
refuse 2 'the same' "onto itself" upscale "$tmp/in.mp4" "$tmp/in.mp4" --quiet
refuse 2 'scale 8.*from 1 to 4' "scale 8" upscale "$tmp/in.mp4" "$tmp/no.mp4" --scale 8 --quiet
refuse 2 'factor 3.*2|4|8' "factor 3" interpolate "$tmp/in.mp4" "$tmp/no.mp4" --factor 3 --quiet
refuse 2 '--factor and --fps' "factor and rate" interpolate "$tmp/in.mp4" "$tmp/no.mp4" --factor 2 --fps 9 --quiet
refuse 2 'more than 64' "a thousand frames a second" interpolate "$tmp/in.mp4" "$tmp/no.mp4" --fps 1000 --quiet
refuse 2 '--tile-overlap needs' "overlap without tiles" upscale "$tmp/in.mp4" "$tmp/no.mp4" --tile-overlap 8 --quiet
refuse 2 'tile is 16 pixels or more' "overlap of a whole tile" upscale "$tmp/in.mp4" "$tmp/no.mp4" --tile 32 --tile-overlap 31 --quiet
refuse 3 'config.json' "a folder without a model" upscale "$tmp/in.mp4" "$tmp/no.mp4" --model "$tmp/model" --quiet
refuse 6 'IFNet' "another model" interpolate "$tmp/in.mp4" "$tmp/no.mp4" --model models/realesr-animevideov3 --quiet
refuse 6 'SRVGGNetCompact or RRDBNet' "another model" upscale "$tmp/in.mp4" "$tmp/no.mp4" --model models/rife-v3.9 --quiet
cp models/realesr-animevideov3/config.json "$tmp/model/"
head -c 100000 models/realesr-animevideov3/model.safetensors >"$tmp/model/model.safetensors"
refuse 4 'model.safetensors' "weights cut short" upscale "$tmp/in.mp4" "$tmp/no.mp4" --model "$tmp/model" --quiet
refuse 2 'known|extension|\.mp4' "an unknown kind of output" upscale "$tmp/in.mp4" "$tmp/no.xyz" --quiet

# within cvx generate
expect "generate --interpolate 2 --upscale 4" generate --output "$tmp/g.mp4" --num-inference-steps 1 --interpolate 2 --upscale 4
equal "generate: frames, size, rate" "384x256 34 16/1" "$(what "$tmp/g.mp4")"
expect "its manifest again" "$cvx" generate --replay "$tmp/g.mp4.json" --output "$tmp/g2.mp4" --quiet
expect "the same bytes" cmp "$tmp/g.mp4" "$tmp/g2.mp4"
printf '{"output": "%s/b.mp4", "interpolate": 4}\n' "$tmp" >"$tmp/jobs"
expect "a batch" generate --batch "$tmp/jobs" --num-inference-steps 1
equal "a batch's job" "96x64 68 32/1" "$(what "$tmp/b.mp4")"
refuse 2 'interpolate 3' "generate --interpolate 3" generate --model models/shapes --prompt x --output "$tmp/no.mp4" --interpolate 3
refuse 2 'safetensors' "stages into tensors" generate --model models/shapes --prompt x --output "$tmp/no.safetensors" --upscale 2
refuse 3 'absent' "a model that is not there" generate --model models/shapes --prompt x --output "$tmp/no.mp4" --upscale 2 --upscale-model "$tmp/absent"
finish
