#!/usr/bin/env bash
# What errors.sh leaves out of bad input: the documented exit code of every kind of mistake, requests that lack
# something, damage to each component's weights, replays, and a disk that is really full. Every refusal is one line
# that begins "cvx: " and leaves no file.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

tiny=tests/data/variants/tiny-2b
mkdir "$tmp/out"

# refuse EXIT PATTERN NAME ARGS...: `cvx generate ARGS` must end so; PATTERN is an extended regular expression.
refuse() {
    local want=$1 pattern=$2 name=$3 rc=0 left
    shift 3
    timeout 60 "$cvx" generate --quiet "$@" >"$tmp/stdout" 2>"$tmp/stderr" || rc=$?
    grep -v '^cvx: note: ' "$tmp/stderr" >"$tmp/line" || true
    left=$(find "$tmp/out" -type f -printf '%P ')
    find "$tmp/out" -mindepth 1 -delete
    if [ "$rc" -ne "$want" ]; then
        wrong "$name: exit $rc, $want is documented: $(head -c 300 "$tmp/line")"
    elif [ "$(wc -l <"$tmp/line")" -ne 1 ] || ! grep -q '^cvx: ' "$tmp/line"; then
        wrong "$name: not one line: $(head -c 600 "$tmp/line")"
    elif ! grep -Eq -- "$pattern" "$tmp/line"; then
        wrong "$name: the cause ($pattern) is not named: $(cat "$tmp/line")"
    elif [ -s "$tmp/stdout" ] || [ -n "$left" ]; then
        wrong "$name: printed to stdout, or left behind: $left"
    else
        ok "$name"
    fi
}

# same NAME A B: two files hold the same bytes.
same() {
    if cmp -s "$2" "$3"; then ok "$1 is as it was"; else wrong "$1 was changed"; fi
}

small=(--height 64 --width 96 --num-frames 5 --num-inference-steps 1)
# job ARGS...: a complete small request; later flags go before earlier ones.
job=(--model "$tiny" --prompt "a red circle" --output "$tmp/out/o.mp4" "${small[@]}")

# --- arguments: exit 2 ---
refuse 2 'num_frames 48: .* 45 and 49' "48 frames" "${job[@]}" --num-frames 48
refuse 2 'num_frames 2: .* 1 and 5' "2 frames" "${job[@]}" --num-frames 2
refuse 2 'height 100: .* 96 and 112' "height 100" "${job[@]}" --height 100
refuse 2 'width 721: .* 720 and 736' "width 721" "${job[@]}" --width 721
refuse 2 'width 17000: .*16384' "width 17000" "${job[@]}" --width 17000
refuse 2 'guidance-scale 0\.5: .*from 1 to 20' "guidance 0.5" "${job[@]}" --guidance-scale 0.5
refuse 2 'guidance-scale 21: .*from 1 to 20' "guidance 21" "${job[@]}" --guidance-scale 21
refuse 2 'guidance-scale inf' "guidance inf" "${job[@]}" --guidance-scale inf
refuse 2 'num-inference-steps 0' "0 steps" "${job[@]}" --num-inference-steps 0
refuse 2 '61.*60 and 62' "61 steps" "${job[@]}" --num-inference-steps 61
refuse 2 '1001.*1000' "1001 steps" "${job[@]}" --num-inference-steps 1001
refuse 2 'num-inference-steps 5\.5: .*whole number' "5.5 steps" "${job[@]}" --num-inference-steps 5.5
refuse 2 'seed 1x: .*whole number' "seed 1x" "${job[@]}" --seed 1x
refuse 2 'num-frame: did you mean --num-frames' "unknown flag" "${job[@]}" --num-frame 5
refuse 2 'guidance_scal: did you mean --guidance-scale' "unknown flag with underscores" "${job[@]}" --guidance_scal 5
for pair in frames:num-frames steps:num-inference-steps output_path:output model-path:model guidance:guidance-scale cfg_parallel:enable-cfg-parallel; do
    refuse 2 "unknown option --${pair%:*}: did you mean --${pair#*:}\\?" "another program's name, ${pair%:*}" "${job[@]}" "--${pair%:*}" 5
done
refuse 2 'unknown option --zzzzzzzzzzzz' "a flag like no other" "${job[@]}" --zzzzzzzzzzzz 5
refuse 2 'unknown option -q' "one dash" "${job[@]}" -q
refuse 2 '--prompt needs a value' "missing value" --model "$tiny" --output "$tmp/out/o.mp4" --prompt
refuse 2 'quiet .*true or false' "a flag with a value" "${job[@]}" --quiet=maybe
refuse 2 'prompt: byte 2 .*UTF-8' "prompt that is not UTF-8" "${job[@]}" --prompt $'a \xff'
refuse 2 '--model is needed' "no --model" --prompt x --output "$tmp/out/o.mp4"
refuse 2 '--prompt is needed' "no --prompt" --model "$tiny" --output "$tmp/out/o.mp4"
refuse 2 '--output is needed' "no --output" --model "$tiny" --prompt x
refuse 2 '--model is needed' "empty --model" --model= --prompt x --output "$tmp/out/o.mp4"
refuse 2 'ddim\|dpm' "unknown scheduler" "${job[@]}" --scheduler pndm
refuse 2 'image-to-video checkpoint: --image' "I2V without an image" "${job[@]}" --model tests/data/variants/tiny-5b-i2v
refuse 2 'text-to-video checkpoint' "an image for T2V" "${job[@]}" --image tests/data/variants/tiny-5b-i2v/input.png
refuse 2 'cannot be given together' "video and latents" "${job[@]}" --video a --latents b
refuse 2 'tile.*nearest' "tiles that do not align, the nearest named" "${job[@]}" --model tests/data/variants/tiny-5b \
    --enable-tiling --tile-sample-min-height 50 --tile-sample-min-width 90
refuse 2 'first-block-cache 1.5: must be from 0 to 1' "a cache for any change" "${job[@]}" --first-block-cache 1.5
refuse 2 'first-block-cache is for videos that the model sees whole, not in the 3 windows' "a cache and windows" "${job[@]}" \
    --num-frames 17 --window-frames 9 --first-block-cache 0.1
refuse 2 'out/o\.xyz' "unknown extension" "${job[@]}" --output "$tmp/out/o.xyz"

# --- what the system refuses: exit 3 ---
mkdir "$tmp/no-index"
refuse 3 'no-index: no model_index.json' "a folder that is no checkpoint" "${job[@]}" --model "$tmp/no-index"
refuse 3 'absent: no such checkpoint' "no such checkpoint" "${job[@]}" --model "$tmp/absent"
refuse 3 'absent is not a folder' "output in no folder" "${job[@]}" --output "$tmp/absent/o.mp4"
refuse 3 'model_index.json is not a folder' "output below a file" "${job[@]}" --output "$tiny/model_index.json/o.mp4"
refuse 3 'absent is not a folder' "manifest in no folder" "${job[@]}" --manifest "$tmp/absent/m.json"
refuse 3 'absent is not a folder' "latents saved in no folder" "${job[@]}" --save-latents "$tmp/absent/l.safetensors"
refuse 3 'nowhere\.png' "no such image" "${job[@]}" --model tests/data/variants/tiny-5b-i2v --image nowhere.png
refuse 3 'nowhere\.safetensors' "no such LoRA" "${job[@]}" --lora nowhere.safetensors:0.5
refuse 3 'nowhere\.json' "no such manifest" --replay nowhere.json

# --- places that are found bad before the work, not after it ---
long=$(printf 'x%.0s' $(seq 246))
refuse 3 'File name too long' "a name that is too long with its temporary's ending" "${job[@]}" --output "$tmp/out/$long.mp4"
mkdir "$tmp/out/o.mp4.json"
refuse 3 'o\.mp4\.json: it is a folder' "a folder in the manifest's place" "${job[@]}"
mkfifo "$tmp/pipe.mp4"
refuse 3 'pipe\.mp4: it is no regular file' "a pipe" "${job[@]}" --output "$tmp/pipe.mp4"
refuse 3 '/dev/null: it is no regular file' "a device as manifest" "${job[@]}" --manifest /dev/null
refuse 2 "output '-': the name of a file" "a dash" "${job[@]}" --output -
refuse 2 '--output and --save-latents are the same file' "latents in the video's place" "${job[@]}" \
    --save-latents "$tmp/out/../out/o.mp4"
refuse 2 '--output and --manifest are the same file' "a manifest in the video's place" "${job[@]}" \
    --manifest "$tmp/out/o.mp4"
refuse 2 '--manifest and --save-latents are the same file' "latents in the manifest's place" "${job[@]}" \
    --save-latents "$tmp/out/o.mp4.json"
refuse 2 '--output and --save-latents are the same file' "the same, of the second video" "${job[@]}" \
    --num-videos-per-prompt 2 --save-latents "$tmp/out/o.mp4"
cp tests/data/media/deep.mp4 "$tmp/clip.mp4"
refuse 2 '--output and --video are the same file' "a video that would replace its source" "${job[@]}" \
    --video "$tmp/clip.mp4" --num-frames 1 --output "$tmp/clip.mp4"
same clip "$tmp/clip.mp4" tests/data/media/deep.mp4
refuse 2 'seed 18446744073709551616: must be from -9223372036854775808 to 9223372036854775807' "a seed of 65 bits" \
    "${job[@]}" --seed 18446744073709551616
refuse 2 'offload disk: must be one of none.model.sequential' "a choice that is none" "${job[@]}" --offload disk

# --- bad bytes: exit 4 ---
# copy NAME: a fresh copy of the tiny checkpoint in $copy.
copy() {
    copy="$tmp/model"
    rm -rf "$copy"
    cp -rL "$tiny" "$copy"
    chmod -R u+w "$copy"
}
for part in transformer vae text_encoder; do
    copy
    file=$(find "$copy/$part" -name '*.safetensors')
    truncate -s -1 "$file"
    refuse 4 "$part/.*model\.safetensors: " "$part: a byte short" "${job[@]}" --model "$copy"
    truncate -s 7 "$file"
    refuse 4 "$part/.*model\.safetensors: 7 bytes" "$part: 7 bytes" "${job[@]}" --model "$copy"
    rm "$file"
    refuse 3 "$part: no \.safetensors" "$part: no weights" "${job[@]}" --model "$copy"
    copy
    : >"$copy/$part/config.json"
    refuse 4 "$part/config\.json: not JSON" "$part: empty config" "${job[@]}" --model "$copy"
    rm "$copy/$part/config.json"
    refuse 3 "$part/config\.json: No such file" "$part: no config" "${job[@]}" --model "$copy"
done
# shape PART KEY OLD NEW TENSOR: a config that asks for other shapes than the file has.
shape() {
    copy
    sed -i "s/\"$2\": $3/\"$2\": $4/" "$copy/$1/config.json"
    cmp -s "$copy/$1/config.json" "$tiny/$1/config.json" && wrong "$1: $2 is not $3 any more"
    refuse 4 "$5" "$1: $2 $4 does not fit the weights" "${job[@]}" --model "$copy"
}
shape transformer num_attention_heads "[0-9]*" 5 'tensor .* is needed'
shape transformer num_layers "[0-9]*" 9 'no tensor transformer_blocks\.'
shape text_encoder d_ff "[0-9]*" 50 'tensor .* is needed'
shape vae layers_per_block "[0-9]*" 5 'no tensor (en|de)coder\.'
copy
echo '{"<new>": 900}' >"$copy/tokenizer/added_tokens.json"
refuse 4 'tokenizer: 901 ids, more than the text encoder.s vocab_size of 900' "a tokenizer with more ids than the text encoder" \
    "${job[@]}" --model "$copy"
copy
sed -i 's/"CogVideoXDDIMScheduler"/"EulerDiscreteScheduler"/' "$copy/scheduler/scheduler_config.json"
refuse 6 'scheduler_config\.json.*EulerDiscreteScheduler' "unknown scheduler class" "${job[@]}" --model "$copy"
refuse 4 'model_index\.json' "an image that is none" "${job[@]}" --model tests/data/variants/tiny-5b-i2v \
    --image "$tiny/model_index.json"
refuse 4 'red-circle-right\.safetensors: no tensor latents' "a latents file without them" "${job[@]}" \
    --latents tests/data/shapes-goldens/red-circle-right.safetensors
refuse 4 'golden\.safetensors: key ' "a LoRA that is none" "${job[@]}" --lora "$tiny/golden.safetensors"
refuse 4 'pytorch_lora_weights\.safetensors.*layer' "a LoRA of another model" "${job[@]}" --model models/shapes \
    --lora tests/data/extra/lora/pytorch_lora_weights.safetensors

# --- the other commands write what their names say, and never over what they read ---
cp tests/data/media/deep.mp4 "$tmp/clip.mp4"
cp tests/data/media/kind-turn6.jpg "$tmp/clip.png"
cp "$tmp/clip.mp4" "$tmp/copy.mp4"
fails "sheet: not a PNG" 2 "must end with \\.png" "$cvx" sheet "$tmp/clip.mp4" "$tmp/sheet.jpg"
fails "sheet: a clip in its own place" 2 "input and the output are the same" "$cvx" sheet "$tmp/clip.mp4" "$tmp/clip.mp4"
fails "sheet: a picture's own place" 2 'input and the output are the same' "$cvx" sheet "$tmp/clip.png" "$tmp/clip.png"
fails "gif: not a GIF" 2 'must end with \.gif' "$cvx" gif "$tmp/clip.mp4" "$tmp/other.mp4"
echo '{"x": ["a"], "bars": [1]}' >"$tmp/figures.json"
fails "chart: not a PNG" 2 'must end with \.png' "$cvx" chart "$tmp/figures.json" "$tmp/figures.json"
clip=(--prompt x --clip-model models/shapes-clip --quiet)
fails "score: a plot in no folder" 3 'absent/p\.png' "$cvx" score "$tmp/clip.mp4" "${clip[@]}" --plot "$tmp/absent/p.png"
fails "score: one file for two pictures" 2 'plot and --sheet are the same' "$cvx" score "$tmp/clip.mp4" "${clip[@]}" \
    --plot "$tmp/p.png" --sheet "$tmp/p.png"
same clip "$tmp/clip.mp4" "$tmp/copy.mp4"
same "the chart's figures" "$tmp/figures.json" <(echo '{"x": ["a"], "bars": [1]}')
fails "a command that is none" 2 "did you mean generate?" "$cvx" genrate
equal "cvx help COMMAND" "$("$cvx" sheet --help)" "$("$cvx" help sheet)"
if [ -x "$(dirname "$cvx")/cvx-coordinator" ]; then
    equal "cvx serve --help" "usage: cvx serve [options]" "$("$cvx" serve --help | head -n 1)"
else
    echo "SKIP  cvx serve --help: this build has no coordinator"
fi

# --- a batch: two lines of one output ---
printf '{"prompt": "a", "output": "%s"}\n{"prompt": "b"}\n{"prompt": "c"}\n' "$tmp/own.safetensors" >"$tmp/jobs"
rc=0
"$cvx" generate --quiet "${job[@]}" --batch "$tmp/jobs" --output "$tmp/both.safetensors" 2>"$tmp/line" >"$tmp/log" || rc=$?
equal "two lines of one output" "2 jobs:3: output both.safetensors: line 2 writes it" \
    "$rc $(grep -v '^cvx: ' "$tmp/line" | sed "s#$tmp/##g")"
expect "the output of the first of them" test -s "$tmp/both.safetensors"

# --- the standard descriptors: closed ones are no one's file, and what cannot be printed is no success ---
expect "the video of open descriptors" "$cvx" generate --quiet "${job[@]}" --output "$tmp/open.mp4"
"$cvx" generate "${job[@]}" --json --output "$tmp/closed.mp4" <&- >&- 2>&- || wrong "closed descriptors: exit $?"
same "the video, with all three closed," "$tmp/closed.mp4" "$tmp/open.mp4"
"$cvx" generate "${job[@]}" --json --output "$tmp/closed.mp4" >&- 2>"$tmp/log" || wrong "closed stdout: exit $?"
same "the video, with stdout closed," "$tmp/closed.mp4" "$tmp/open.mp4"
rc=0
"$cvx" inspect "$tiny" --json >/dev/full 2>"$tmp/line" || rc=$?
equal "a full disk behind stdout" "3 cvx: cannot write to standard output: No space left on device" "$rc $(cat "$tmp/line")"

# --- replay ---
expect "a run to replay" "$cvx" generate --quiet "${job[@]}" --output "$tmp/run.safetensors"
refuse 4 'run\.safetensors: tensor latents is \[1, 2, .*\[1, 3, .* is needed' "latents of another shape" "${job[@]}" \
    --latents "$tmp/run.safetensors" --num-frames 9
manifest="$tmp/run.safetensors.json"
replay=(--replay "$tmp/m.json" --output "$tmp/out/o.safetensors")
head -c 100 "$manifest" >"$tmp/m.json"
refuse 4 'm\.json: not JSON' "replay: cut short" "${replay[@]}"
echo '{"request": {}}' >"$tmp/m.json"
refuse 4 'm\.json: not a cvx manifest' "replay: no manifest" "${replay[@]}"
sed 's/"num-frames": 5/"num-frames": 6/' "$manifest" >"$tmp/m.json"
refuse 2 'num_frames 6' "replay: a bad value" "${replay[@]}"
sed 's/"num-frames": 5/"num-frames": "many"/' "$manifest" >"$tmp/m.json"
refuse 4 'm\.json: --num-frames many' "replay: a value of another type" "${replay[@]}"
sed 's/"num-frames": 5/"num-fraims": 5/' "$manifest" >"$tmp/m.json"
refuse 4 'm\.json: .*num-fraims.*num-frames' "replay: an unknown key" "${replay[@]}"
sed 's/"num-frames": 5/"lora": [5]/' "$manifest" >"$tmp/m.json"
refuse 4 'm\.json: "lora" must be a string' "replay: a LoRA that is a number" "${replay[@]}"
sed 's/"sha256": {/"sums": {/' "$manifest" >"$tmp/m.json"
refuse 4 'm\.json: no "sha256"' "replay: without hashes" "${replay[@]}"
copy
cp "$manifest" "$tmp/m.json"
file=$(find "$copy/vae" -name '*.safetensors')
truncate -s -1 "$file"
printf '\1' >>"$file"
refuse 4 'm\.json: vae is not the file' "replay: another byte in the VAE" "${replay[@]}" --model "$copy"
rm -rf "$copy"
sed "s#\"model\": \"/[^\"]*\"#\"model\": \"$copy\"#" "$manifest" >"$tmp/m.json"
refuse 3 'no such checkpoint' "replay: the checkpoint is gone" "${replay[@]}"

# --- what does not fit: exit 5; what this machine cannot: exit 6 ---
refuse 5 'need [0-9.]+ GiB and .* available: the nearest that fits is --num-frames ' "a job that does not fit" \
    "${job[@]}" --height 8192 --width 8192 --num-frames 801
lacks=
for isa in amx:amx_bf16 avx512_bf16:avx512_bf16 avx512:avx512f avx2:avx2; do
    grep -qw "${isa#*:}" /proc/cpuinfo || lacks=${isa%:*}
done
if [ -n "$lacks" ]; then
    refuse 6 "$lacks" "--isa that this machine lacks" "${job[@]}" --isa "$lacks"
else
    echo "SKIP  --isa that this machine lacks: it has them all"
fi

# --- a disk that is full ---
# Root mounts one of 64 KiB; others have only the limit on a file's size that errors.sh uses.
mkdir "$tmp/full"
if [ "$(id -u)" -eq 0 ] && mount -t tmpfs -o size=64k tmpfs "$tmp/full" 2>/dev/null; then
    trap 'umount "$tmp/full"; rm -rf "$tmp"' EXIT
    head -c 60000 /dev/zero >"$tmp/full/filler" 2>/dev/null || true
    for target in o.safetensors o.mp4 o.gif frames/; do
        refuse 3 'No space left' "full disk: $target" "${job[@]}" --output "$tmp/full/$target"
        equal "full disk: $target leaves nothing" "filler" "$(ls -A "$tmp/full")"
    done
else
    echo "SKIP  a disk that is full: mounting a tmpfs is not allowed here"
fi
if [ "$(id -u)" -eq 0 ]; then
    echo "SKIP  a folder without permission: root may write anywhere"
else
    mkdir -m 555 "$tmp/sealed"
    refuse 3 'no permission' "a folder without permission" "${job[@]}" --output "$tmp/sealed/o.mp4"
fi

# --- the answers that are no refusals ---
refused_help=$("$cvx" generate --help | grep -c -- '--num-frames')
equal "--help" 1 "$refused_help"
finish
