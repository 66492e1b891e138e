#!/usr/bin/env bash
# tools/train-shapes from end to end on a few videos: it trains, ends when asked to, goes on where it was, and what it
# installs is a checkpoint that cvx runs, with goldens that cvx agrees with. Needs torch and diffusers (in the
# python3 that CVX_TRAIN_PYTHON or the path names); says SKIP where they are missing.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

python=${CVX_TRAIN_PYTHON:-python3}
train=tools/train-shapes/train
expect "the manual needs no torch" python3 "$train" --help
if ! "$python" -c 'import diffusers, sentencepiece, torch, transformers' >/dev/null 2>&1; then
    echo "SKIP  training: no torch, diffusers, transformers or sentencepiece in $python"
    finish
fi
run() { env PYTHONDONTWRITEBYTECODE=1 "$python" "$train" "$@" --threads 1 --device cpu; }

# last STAGE: step of its last line in the log
last() { sed -n "s/.*\"stage\": \"$1\", \"step\": \([0-9]*\).*/\1/p" "$tmp/state/log.jsonl" | tail -n 1; }

expect "one step, then a stop" run --state "$tmp/state" --tiny --stop-after 1
equal "stopped after one step" 1 "$(last vae)"
[ -s "$tmp/state/vae.pt" ] || wrong "no checkpoint was written"
[ ! -e "$tmp/state/vae" ] || wrong "an unfinished VAE is given as finished"
expect "the same command goes on" run --state "$tmp/state"
equal "VAE trained to its end" 2 "$(last vae)"
equal "transformer trained to its end" 2 "$(last transformer)"
equal "decoder trained to its end" 1 "$(last decoder)"
equal "no step was done twice" 1 "$(grep -c '"stage": "vae", "step": 1,' "$tmp/state/log.jsonl")"
[ -s "$tmp/state/sheet.png" ] || wrong "no sheet of frames"

cp -r models/shapes "$tmp/model"
mkdir "$tmp/goldens"
cp tests/data/shapes-goldens/clip*.safetensors "$tmp/goldens"
expect "install" run install --state "$tmp/state" --model "$tmp/model" --goldens "$tmp/goldens" --prompts 1 \
    --inference-steps 1
differ "the weights are new" models/shapes/vae/diffusion_pytorch_model.safetensors \
    "$tmp/model/vae/diffusion_pytorch_model.safetensors"
equal "same files as models/shapes" "$(cd models/shapes && find . -type f | sort)" "$(cd "$tmp/model" && find . -type f | sort)"
if [ "$(du -sb "$tmp/model" | cut -f1)" -gt 20000000 ]; then
    wrong "the checkpoint is larger than 20 MB"
fi
for f in "$tmp/goldens"/*; do
    cmp -s "$f" "tests/data/shapes-goldens/$(basename "$f")" && wrong "$(basename "$f") was not made anew"
done
equal "a golden for each that tests read" "$(ls tests/data/shapes-goldens)" "$(ls "$tmp/goldens")"
expect "cvx runs it" "$cvx" generate --model "$tmp/model" --prompt "a yellow star moving up on a gray background" \
    --negative-prompt "" --num-inference-steps 10 --guidance-scale 1 --seed 3 --output "$tmp/star.safetensors" --quiet
expect "as the golden has it" python3 "$here/tensors.py" frames "$tmp/star.safetensors" \
    "$tmp/goldens/yellow-star-up.safetensors"
finish
