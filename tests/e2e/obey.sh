#!/usr/bin/env bash
# The videos of the shapes checkpoint show the colour, form, motion and background that the prompts ask for, in at least
# 90 % each. Seeds and steps are fixed.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

n=28
# under a sanitizer a few prompts take as long as all of them otherwise
grep -aq __asan_init "$cvx" && n=4
python3 "$here/obey.py" prompts $n >"$tmp/prompts"
i=0
while IFS= read -r line; do
    "$cvx" generate --model models/shapes --prompt "$line" --num-inference-steps 25 --seed $((100 + i)) \
        --output "$tmp/$i.safetensors" --quiet || wrong "no video of '$line'"
    i=$((i + 1))
done <"$tmp/prompts"
equal "$n videos" "$n" "$i"
python3 "$here/obey.py" judge "$tmp/prompts" "$tmp" 0.9 || wrong "less than 90 % of the prompts are obeyed"

# a judge that lets everything pass would be worth nothing: against each other's prompts the videos must fail
{ tail -n +2 "$tmp/prompts"; head -n 1 "$tmp/prompts"; } >"$tmp/shifted"
if python3 "$here/obey.py" judge "$tmp/shifted" "$tmp" 0.9 >/dev/null; then
    wrong "the judge accepts the videos of other prompts"
else
    ok "the judge refuses the videos of other prompts"
fi
finish
