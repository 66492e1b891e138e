#!/usr/bin/env bash
# Every output format holds what was asked for: exact frame count and rate, size, codec, layout.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

expect "mp4 is made" generate --output "$tmp/a.mp4" --num-inference-steps 2
equal "mp4: codec, size, pixels" "h264 96 64 yuv420p" \
    "$(probe "$tmp/a.mp4" codec_name) $(probe "$tmp/a.mp4" width) $(probe "$tmp/a.mp4" height) $(probe "$tmp/a.mp4" pix_fmt)"
equal "mp4: 17 frames" 17 "$(probe "$tmp/a.mp4" nb_read_frames)"
equal "mp4: 8 fps, mean" 8/1 "$(probe "$tmp/a.mp4" avg_frame_rate)"
equal "mp4: 17/8 s long" 2.125000 "$(probe "$tmp/a.mp4" duration)"
# faststart: the index stands before the pictures
equal "mp4: index first" moov "$(grep -aoE 'moov|mdat' "$tmp/a.mp4" | head -n 1)"
expect "a manifest stands beside it" python3 -c 'import json, sys; json.load(open(sys.argv[1]))["request"]' "$tmp/a.mp4.json"
equal "nothing half-written stays" "a.mp4 a.mp4.json" "$(cd "$tmp" && echo a.*)"

expect "mp4 at 12.5 fps" generate --output "$tmp/b.mp4" --num-inference-steps 1 --fps 12.5
equal "12.5 fps is 25/2" 25/2 "$(probe "$tmp/b.mp4" avg_frame_rate)"
expect "mp4 at 23.976 fps" generate --output "$tmp/c.mp4" --num-inference-steps 1 --fps 23.976
equal "23.976 fps is 24000/1001, 17 frames" "24000/1001 17" \
    "$(probe "$tmp/c.mp4" avg_frame_rate) $(probe "$tmp/c.mp4" nb_read_frames)"

expect "gif is made" generate --output "$tmp/a.gif" --num-inference-steps 1
equal "gif: 17 frames of 96x64" "gif 17 96 64" \
    "$(probe "$tmp/a.gif" codec_name) $(probe "$tmp/a.gif" nb_read_frames) $(probe "$tmp/a.gif" width) $(probe "$tmp/a.gif" height)"

expect "cvx gif converts" "$cvx" gif "$tmp/a.mp4" "$tmp/small.gif" --fps 4 --width 48
equal "converted: 48x32" "48 32" "$(probe "$tmp/small.gif" width) $(probe "$tmp/small.gif" height)"
equal "converted: 4 fps" 4/1 "$(probe "$tmp/small.gif" avg_frame_rate)"

if ffmpeg -v quiet -encoders | grep -q libvpx-vp9; then
    expect "webm is made" generate --output "$tmp/a.webm" --num-inference-steps 1
    equal "webm: frames" 17 "$(probe "$tmp/a.webm" nb_read_frames)"
else
    ok "webm: libav has no encoder here"
fi

expect "a folder is made" generate --output "$tmp/frames/" --num-inference-steps 1
equal "folder: 17 PNG files" 17 "$(find "$tmp/frames" -name '*.png' | wc -l)"
first=$(find "$tmp/frames" -name '*.png' | sort | head -n 1)
equal "folder: 96x64" "png 96 64" "$(probe "$first" codec_name) $(probe "$first" width) $(probe "$first" height)"

expect "safetensors is made" generate --output "$tmp/a.safetensors" --num-inference-steps 2 \
    --save-latents "$tmp/latents.safetensors"
equal "safetensors: frames" 17,3,64,96 "$(shape "$tmp/a.safetensors" frames)"
equal "safetensors: latents" 1,5,16,8,12 "$(shape "$tmp/a.safetensors" latents)"
expect "--save-latents holds the same latents" python3 "$here/tensors.py" equal "$tmp/a.safetensors" \
    "$tmp/latents.safetensors" latents
read -r low high < <(python3 "$here/tensors.py" range "$tmp/a.safetensors" frames)
expect "frames lie within 0..1" python3 -c 'import sys; sys.exit(not 0 <= float(sys.argv[1]) < float(sys.argv[2]) <= 1)' "$low" "$high"

expect "several videos" generate --output "$tmp/many.safetensors" --num-inference-steps 1 --seed 7 --num-videos-per-prompt 2
expect "the one with the next seed alone" generate --output "$tmp/one.safetensors" --num-inference-steps 1 --seed 8
second=$(find "$tmp" -name 'many*.safetensors' | sort | tail -n 1)
expect "video k has seed + k" cmp "$second" "$tmp/one.safetensors"
finish
