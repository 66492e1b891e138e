#!/usr/bin/env bash
# Videos as people have them: what is damaged is refused, rates and shapes of pixels stay, covers are no videos, and nothing is
# left where the work is interrupted.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

# make FILE ARGS...: two seconds of moving frames at 25 a second, as ffmpeg's ARGS say.
make() {
    local file=$1
    shift
    ffmpeg -v error -y -f lavfi -i testsrc2=size=96x64:rate=25:duration=2 "$@" "$tmp/$file"
}
enlarge() { "$cvx" upscale "$1" "$2" --scale 1 --quiet; }
seconds() { ffprobe -v error -show_entries format=duration -of csv=p=0 "$1"; }
# near NAME WANTED GOT BOUND
near() { equal "$1" True "$(python3 -c 'import sys; w, g, b = map(float, sys.argv[1:]); print(abs(w - g) <= b)' "$2" "$3" "$4")"; }

# ---- damage
make whole.mkv -c:v libx264
make whole.ts -c:v libx264 -g 12
make whole.avi -c:v mpeg4
head -c $(($(stat -c %s "$tmp/whole.mkv") * 2 / 3)) "$tmp/whole.mkv" >"$tmp/cut.mkv"
fails "a Matroska file cut short" 4 'cut.mkv is damaged or cut short' enlarge "$tmp/cut.mkv" "$tmp/no.mp4"
python3 - "$tmp" <<'PY'
import sys
for kind in "mkv", "avi":
    data = bytearray(open(f"{sys.argv[1]}/whole.{kind}", "rb").read())
    at = len(data) * 2 // 5
    data[at:at + 400] = bytes(255 - b for b in data[at:at + 400])
    open(f"{sys.argv[1]}/hit.{kind}", "wb").write(data)
PY
for kind in mkv avi; do
    fails "bytes of a frame overwritten, $kind" 4 "hit.$kind is damaged or cut short" enlarge "$tmp/hit.$kind" "$tmp/no.mp4"
done
equal "and nothing is left" "" "$(find "$tmp" -name 'no.mp4*')"
# broadcasts are cut anywhere: what comes before the first whole group of pictures is left out
tail -c +$(($(stat -c %s "$tmp/whole.ts") / 3 / 188 * 188 + 1)) "$tmp/whole.ts" >"$tmp/late.ts"
expect "a transport stream from its middle on" enlarge "$tmp/late.ts" "$tmp/late.mp4"
make once.ts -c:v libx264
tail -c +$(($(stat -c %s "$tmp/once.ts") / 3 / 188 * 188 + 1)) "$tmp/once.ts" >"$tmp/headless.ts"
fails "one without any beginning" 4 'headless.ts.*non-existing PPS' enlarge "$tmp/headless.ts" "$tmp/no.mp4"

# ---- what is no video
ffmpeg -v error -y -i "$tmp/whole.mkv" -frames:v 1 "$tmp/one.png"
ffmpeg -v error -y -f lavfi -i sine=duration=1 -i "$tmp/one.png" -map 0 -map 1 -c:a aac -c:v copy -disposition:v attached_pic "$tmp/song.m4a"
fails "a song with a cover" 4 'song.m4a has no video' enlarge "$tmp/song.m4a" "$tmp/no.mp4"
ffmpeg -v error -y -f lavfi -i testsrc2=size=16x16:rate=25:duration=1 -frames:v 1 -q:v 31 -pix_fmt yuvj420p "$tmp/small.jpg"
cat "$tmp/small.jpg" "$tmp/small.jpg" >"$tmp/two.jpg"
expect "a JPEG with another behind it is a picture" enlarge "$tmp/two.jpg" "$tmp/two/"
equal "its first" "0000.png" "$(ls "$tmp/two")"
mkfifo "$tmp/pipe.mp4"
fails "a pipe" 3 'pipe.mp4.*pipe or a device' enlarge "$tmp/pipe.mp4" "$tmp/no.mp4"
if ffmpeg -v quiet -encoders | grep -q libwebp_anim; then
    make moving.webp -c:v libwebp_anim -frames:v 5
    fails "an animated WebP" 6 'moving.webp.*still' enlarge "$tmp/moving.webp" "$tmp/no.mp4"
fi

# ---- rates: a header's promise is not the mean
pick="select='not(mod(n,7))+lt(n,3)+gt(n,45)'"
make uneven.mkv -vf "$pick" -fps_mode vfr
make uneven.mp4 -vf "$pick" -fps_mode vfr
make bframes.mp4 -c:v libx264 -bf 3
ffmpeg -v error -y -i "$tmp/bframes.mp4" -c copy "$tmp/doubled.avi" # two places in the index for each frame
for file in uneven.mkv uneven.mp4 doubled.avi; do
    expect "$file" "$cvx" interpolate "$tmp/$file" "$tmp/rate.mp4" --quiet
    near "$file: as long as before" 2 "$(seconds "$tmp/rate.mp4")" 0.1
    equal "$file: two frames for each" "$((2 * $(probe "$tmp/$file" nb_read_frames)))" "$(probe "$tmp/rate.mp4" nb_read_frames)"
done
"$cvx" upscale "$tmp/doubled.avi" "$tmp/rate.mp4" --scale 1 --json >"$tmp/events"
equal "an index that names more frames than there are: those that are made are told" 50 \
    "$(python3 -c 'import json, sys; print([e["done"] for e in map(json.loads, sys.stdin) if e["event"] == "stage_end"][-1])' <"$tmp/events")"
make rate.mkv -r 24000/1001
expect "24000/1001 in milliseconds" enlarge "$tmp/rate.mkv" "$tmp/rate.mp4"
equal "stays that" 24000/1001 "$(probe "$tmp/rate.mp4" avg_frame_rate)"

# ---- pixels that are not square
make wide.mp4 -vf setsar=2/1
for kind in mp4 webm; do
    expect "wide pixels, $kind" "$cvx" upscale "$tmp/wide.mp4" "$tmp/shape.$kind" --scale 1 --quiet
    equal "wide pixels, $kind: kept" 2:1 "$(probe "$tmp/shape.$kind" sample_aspect_ratio)"
done
expect "wide pixels, PNG" "$cvx" upscale "$tmp/wide.mp4" "$tmp/shape/" --scale 1 --quiet
equal "wide pixels, PNG: told" 1 "$(grep -c 'its pixels are 2:1' "$tmp/log")"
expect "wide pixels, cvx gif" "$cvx" gif "$tmp/wide.mp4" "$tmp/shape.gif"
equal "wide pixels, cvx gif: made square" 96x32 "$(probe "$tmp/shape.gif" width)x$(probe "$tmp/shape.gif" height)"
make fast.mp4 -r 60
expect "60 frames a second to a GIF, whatever its name's case" "$cvx" gif "$tmp/fast.mp4" "$tmp/FAST.GIF"

# ---- what would come out wrong
make green.mkv -c:v ffv1 -colorspace ycgco -vf format=yuv444p
fails "colours that libswscale takes for others" 6 'green.mkv.*ycgco' enlarge "$tmp/green.mkv" "$tmp/no.mp4"
make rapid.mkv -vf fps=240
fails "eight times 240 frames a second" 2 'the input has 240 .* would have 1920; .* to 1000' \
    "$cvx" interpolate "$tmp/rapid.mkv" "$tmp/no.mp4" --factor 8 --quiet

# ---- interrupted
ffmpeg -v error -y -f lavfi -i testsrc2=size=640x480:rate=25:duration=60 -preset ultrafast "$tmp/long.mp4"
# interrupted SIGNAL COMMAND ARGS...: once its output is begun, a signal ends it with 8 and takes away what it wrote.
interrupted() {
    local signal=$1 command=$2 code
    shift 2
    code=$(python3 - "$signal" "$tmp" "$cvx" "$command" "$@" <<'PY'
import glob, os, signal, subprocess, sys, time
sig, tmp, *command = sys.argv[1:]
for s in signal.SIGINT, signal.SIGHUP:
    signal.signal(s, signal.SIG_DFL)
p = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
while p.poll() is None and not glob.glob(tmp + "/stopped*"):
    time.sleep(0.02)
p.send_signal(getattr(signal, "SIG" + sig))
print(p.wait(60))
PY
    )
    equal "$command, SIG$signal: exit code" 8 "$code"
    equal "$command, SIG$signal: nothing is left" "" "$(find "$tmp" -name 'stopped*')"
}
for signal in TERM INT HUP; do
    interrupted $signal gif "$tmp/long.mp4" "$tmp/stopped.gif"
    interrupted $signal interpolate "$tmp/long.mp4" "$tmp/stopped.mp4"
    interrupted $signal upscale "$tmp/whole.mkv" "$tmp/stopped/"
done
finish
