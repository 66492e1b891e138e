#!/usr/bin/env bash
# Interpolation and enlargement on several ranks: the bytes of one. More ranks than frames, units without frames, failures.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

ffmpeg -v error -y -f lavfi -i testsrc2=size=64x48:rate=8 -frames:v 5 -pix_fmt yuv420p "$tmp/in.mp4"
one() { "$cvx" "$@" --quiet --isa portable --threads 1; }
many() {
    local n=$1
    shift
    mpi "$n" "$rank" "$@" --quiet --isa portable --threads 1
}

one interpolate "$tmp/in.mp4" "$tmp/a.mp4" --factor 2 --upscale 2
one interpolate "$tmp/in.mp4" "$tmp/c.mp4" --fps 5
for n in 2 3 8; do
    expect "both stages on $n ranks" many "$n" interpolate "$tmp/in.mp4" "$tmp/b.mp4" --factor 2 --upscale 2
    expect "$n ranks: one rank's bytes" cmp "$tmp/a.mp4" "$tmp/b.mp4"
    [ "$full" -eq 1 ] || [ "$n" -lt 3 ] || break
done
expect "fewer frames than before on 3 ranks" many 3 interpolate "$tmp/in.mp4" "$tmp/d.mp4" --fps 5
expect "3 ranks: one rank's bytes" cmp "$tmp/c.mp4" "$tmp/d.mp4"

# generate: key frames of one rank dealt to all
small=(--model models/shapes --prompt "$prompt" --num-inference-steps 1 --manifest none --interpolate 2 --upscale 2)
expect "generate on one rank" one generate "${small[@]}" --output "$tmp/g1.mp4"
expect "generate on 3 ranks" many 3 "${small[@]}" --ulysses-degree 3 --output "$tmp/g3.mp4"
expect "generate: one rank's bytes" cmp "$tmp/g1.mp4" "$tmp/g3.mp4"

# a failure ends all ranks, with one line and the documented code
head -c 1000 "$tmp/in.mp4" >"$tmp/cut.mp4"
rc=0
many 3 upscale "$tmp/cut.mp4" "$tmp/no.mp4" >"$tmp/log" 2>&1 || rc=$?
equal "a bad file on 3 ranks: exit 4" 4 "$rc"
equal "told once" 1 "$(grep -c '^cvx-rank' "$tmp/log")"
finish
