#!/usr/bin/env bash
# --extend: a clip goes on where it ends. Its frames stay as they are, the model's first latents are theirs whatever the
# seed and the solver, nothing jumps where it goes on; checkpoints, replays, batches and several kinds of checkpoint.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

still="a red square standing still on a black background"
fine=(--model models/shapes --num-inference-steps 20 --scheduler unipc --quiet)
coarse=("${fine[@]}" --num-inference-steps 8)
make() { "$cvx" generate "${fine[@]}" --prompt "$still" --output "$tmp/$1" "${@:2}"; }
rough() { "$cvx" generate "${coarse[@]}" --prompt "$still" --output "$tmp/$1" "${@:2}"; }
frames() { find "$tmp/$1" -name '*.png' | wc -l; }

make clip/ --seed 3
make clip.safetensors --seed 3
make alone.safetensors --seed 4
rough all/ --seed 4 --extend "$tmp/clip"
equal "17 frames and 8 new ones" 25 "$(frames all)"
for i in 0000 0016; do
    expect "frame $i of the clip is in the output" cmp "$tmp/clip/$i.png" "$tmp/all/$i.png"
done
rough only/ --seed 4 --extend "$tmp/clip" --extend-only
equal "--extend-only: the new ones" 8 "$(frames only)"
expect "the same new ones" cmp "$tmp/only/0007.png" "$tmp/all/0024.png"

# longer than a window, from a short overlap and from the whole clip
make long.safetensors --seed 4 --extend "$tmp/clip" --num-frames 41 --window-frames 17
equal "windows: 17 frames and 32 new ones" "49,3,64,96" "$(shape "$tmp/long.safetensors" frames)"
expect "the object stays, without a jump" python3 "$here/long.py" extended "$tmp/long.safetensors" "$tmp/clip.safetensors" "$tmp/alone.safetensors"
make one.safetensors --seed 4 --extend "$tmp/clip" --extend-overlap 1
equal "from one frame: 17 and 16 new ones" "33,3,64,96" "$(shape "$tmp/one.safetensors" frames)"
expect "from one frame: the object stays" python3 "$here/long.py" extended "$tmp/one.safetensors" "$tmp/clip.safetensors" "$tmp/alone.safetensors"
"$cvx" generate "${fine[@]}" --seed 4 --extend "$tmp/clip" --num-frames 41 --window-frames 17 \
    --prompt "0: $still" --prompt "30: a blue square standing still on a black background" --output "$tmp/turns.safetensors"
expect "a timeline counts the frames of the output" python3 "$here/long.py" turns "$tmp/turns.safetensors" red blue

# the known latents are the clip's, whatever seed and solver: 9 frames are 3 latents
rough a.safetensors --seed 1 --extend "$tmp/clip" --extend-only
for other in "--seed 2" "--scheduler ddim" "--scheduler dpm" "--scheduler dpmsolver++"; do
    # shellcheck disable=SC2086
    rough b.safetensors --seed 1 --extend "$tmp/clip" --extend-only $other
    expect "$other: the same known latents" python3 - "$tmp/a.safetensors" "$tmp/b.safetensors" <<'P'
import sys
sys.path.insert(0, "tests/e2e")
from tensors import load
a, b = (load(f)["latents"][1] for f in sys.argv[1:])
n = len(a) * 3 // 5
known = max(abs(x - y) for x, y in zip(a[:n], b[:n]))
new = max(abs(x - y) for x, y in zip(a[n:], b[n:]))
print(f"known differ by {known}, new by {new}")
sys.exit(not (known < 2e-3 and new > 0.01))
P
done

# a replay, a batch, a run that is stopped
rough want.safetensors --seed 4 --extend "$tmp/clip" --num-frames 41 --window-frames 17
expect "its manifest again" "$cvx" generate --replay "$tmp/want.safetensors.json" --output "$tmp/again.safetensors" --quiet
expect "the same bytes" cmp "$tmp/want.safetensors" "$tmp/again.safetensors"
job=(--extend "$tmp/clip" --seed 4 --num-frames 41 --window-frames 17)
rc=0
CVX_FAULT=term:0:step:6 rough resumed.safetensors "${job[@]}" --checkpoint-dir "$tmp/state" 2>/dev/null || rc=$?
equal "stopped by a signal" 75 "$rc"
expect "goes on" rough resumed.safetensors "${job[@]}" --checkpoint-dir "$tmp/state"
expect "the same bytes" cmp "$tmp/want.safetensors" "$tmp/resumed.safetensors"
printf '{"output": "%s", "extend": "%s", "seed": 4, "num_frames": 41, "window_frames": 17}\n' "$tmp/b.safetensors" "$tmp/clip" >"$tmp/jobs"
expect "a batch" "$cvx" generate "${coarse[@]}" --prompt "$still" --batch "$tmp/jobs"
expect "the same bytes" cmp "$tmp/want.safetensors" "$tmp/b.safetensors"
expect "best of two, stopped early" rough best.safetensors --extend "$tmp/clip" --clip-model models/shapes-clip --best-of 2 \
    --early-stop 50
expect "with the stages" rough stages.mp4 --extend "$tmp/clip" --num-inference-steps 1 --interpolate 2 --upscale 2
equal "25 frames twice" "192 50" "$(probe "$tmp/stages.mp4" width) $(probe "$tmp/stages.mp4" nb_read_frames)"

# a video file: its rate holds; another size: its frames are resized
ffmpeg -v error -y -framerate 5 -i "$tmp/clip/%04d.png" -vf scale=120:80 -pix_fmt yuv420p "$tmp/other.mp4"
"$cvx" generate "${coarse[@]}" --prompt "$still" --extend "$tmp/other.mp4" --output "$tmp/rate.mp4" 2>"$tmp/log"
equal "the clip's rate, the model's size" "5/1 96 64 25" \
    "$(probe "$tmp/rate.mp4" avg_frame_rate) $(probe "$tmp/rate.mp4" width) $(probe "$tmp/rate.mp4" height) $(probe "$tmp/rate.mp4" nb_read_frames)"
# input that is not plain: each has nine frames and gives eight new ones
source=(-f lavfi -i testsrc2=size=96x64:rate=8 -frames:v 9)
ffmpeg -v error -y "${source[@]}" -vf scale=91:63 -pix_fmt yuv444p "$tmp/odd.mp4"
ffmpeg -v error -y "${source[@]}" -pix_fmt yuv420p10le -c:v ffv1 "$tmp/deep.mkv"
ffmpeg -v error -y "${source[@]}" -vf format=yuva420p -c:v ffv1 "$tmp/alpha.mkv"
ffmpeg -v error -y "${source[@]}" -vf "setpts='if(lt(N,4),N,N*3)/8/TB'" -fps_mode vfr "$tmp/uneven.mkv"
for v in odd.mp4 deep.mkv alpha.mkv uneven.mkv; do
    expect "extends $v" rough plain.mp4 --extend "$tmp/$v" --num-inference-steps 1
    equal "$v: frames" "96 64 17" "$(probe "$tmp/plain.mp4" width) $(probe "$tmp/plain.mp4" height) $(probe "$tmp/plain.mp4" nb_read_frames)"
done
equal "an uneven rate is told" 1 "$(grep -c 'uneven.mkv: its frames last 0.125 to' "$tmp/log")"
mkdir "$tmp/single"
cp "$tmp/clip/0016.png" "$tmp/single/"
rough from-one/ --seed 4 --extend "$tmp/single"
equal "a clip of one frame: 16 new ones" 17 "$(frames from-one)"

# image-to-video: the last frame is the image
for v in 5b-i2v 1.5-5b-i2v; do
    i2v=(--model "tests/data/variants/tiny-$v" --prompt x --num-inference-steps 2 --num-frames 9 --quiet)
    "$cvx" generate "${i2v[@]}" --image "$tmp/clip/0016.png" --output "$tmp/image/"
    "$cvx" generate "${i2v[@]}" --extend "$tmp/clip" --extend-only --output "$tmp/i2v/"
    last=$(find "$tmp/image" -name '*.png' | sort | tail -n 1)
    equal "$v: what comes after the image" 8 "$(frames i2v)"
    expect "$v: the frames that the image makes" cmp "$last" "$tmp/i2v/0007.png"
    rm -r "$tmp/image" "$tmp/i2v"
done
# 1.5: the padding frame stands before the known ones
"$cvx" generate --model tests/data/variants/tiny-1.5-5b --prompt x --extend "$tmp/clip" --num-frames 17 --height 64 --width 96 \
    --num-inference-steps 2 --quiet --output "$tmp/pairs.safetensors"
equal "1.5: frames" "25,3,64,96" "$(shape "$tmp/pairs.safetensors" frames)"

refuse() { # EXIT PATTERN NAME ARGS...
    local want=$1 pattern=$2 name=$3 rc=0
    shift 3
    rm -rf "$tmp/no.mp4"
    "$cvx" generate --model models/shapes --prompt x --quiet --output "$tmp/no.mp4" "$@" >"$tmp/log" 2>&1 || rc=$?
    if [ "$rc" -eq "$want" ] && [ "$(wc -l <"$tmp/log")" -eq 1 ] && grep -Eq -- "$pattern" "$tmp/log" && [ ! -e "$tmp/no.mp4" ]; then
        ok "refused: $name"
    else
        wrong "refused: $name: exit $rc: $(cat "$tmp/log")"
    fi
}
echo text >"$tmp/text.mp4"
refuse 2 'overlap 8.*5 and 9' "an overlap of 8" --extend "$tmp/clip" --extend-overlap 8
refuse 2 'overlap 17.*at most 13' "an overlap of all" --extend "$tmp/clip" --extend-overlap 17
refuse 2 'only 1 frames' "more than there is" --extend "$tmp/single" --extend-overlap 5
refuse 2 'at least 5' "one frame to be made" --extend "$tmp/clip" --num-frames 1
refuse 2 'extend and --video' "with --video" --extend "$tmp/clip" --video "$tmp/clip"
refuse 2 'extend and --image' "with --image" --extend "$tmp/clip" --image "$tmp/clip/0000.png"
refuse 2 'needs --extend' "--extend-only alone" --extend-only
refuse 2 'last frame alone' "image-to-video with more" --model tests/data/variants/tiny-5b-i2v --extend "$tmp/clip" --extend-overlap 5
refuse 3 'absent' "a clip that is not there" --extend "$tmp/absent.mp4"
refuse 4 'text.mp4' "a clip that is none" --extend "$tmp/text.mp4"
finish
