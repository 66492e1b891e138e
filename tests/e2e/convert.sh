#!/usr/bin/env bash
# tools/convert-weights on files of every kind that it knows, and on those that it must refuse; what it makes runs.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

if python3 "$here/convert.py" "$tmp" >"$tmp/cases"; then
    cat "$tmp/cases"
else
    cat "$tmp/cases"
    wrong "a case of convert.py"
fi
ffmpeg -v error -y -f lavfi -i testsrc2=size=32x32:rate=8 -frames:v 2 "$tmp/in.mp4"
expect "a converted .pth runs" "$cvx" upscale "$tmp/in.mp4" "$tmp/a.mp4" --model "$tmp/a" --quiet
expect "as the shipped model does" "$cvx" upscale "$tmp/in.mp4" "$tmp/b.mp4" --quiet
expect "with its bytes" cmp "$tmp/a.mp4" "$tmp/b.mp4"
expect "a converted RIFE runs" "$cvx" interpolate "$tmp/in.mp4" "$tmp/c.mp4" --model "$tmp/f" --quiet
finish
