#!/usr/bin/env bash
# --batch: a file of jobs, spread over data-parallel groups; a bad line fails alone, a rerun does what is left.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

says() {
    if grep -qE -- "$2" "$tmp/log"; then ok "$1"; else
        wrong "$1: no '$2' in: $(cat "$tmp/log")"
    fi
}

# code NAME WANTED COMMAND...
code() {
    local name=$1 want=$2 got=0
    shift 2
    "$@" >"$tmp/log" 2>&1 || got=$?
    equal "$name" "$want" "$got"
}

jobs=$tmp/jobs.jsonl
cat >"$jobs" <<END
{"prompt": "a red circle", "output": "$tmp/a.safetensors", "seed": 1}
{"prompt": "a blue square", "output": "$tmp/b.safetensors", "num_inference_steps": 3, "scheduler": "dpm"}

{"prompt": "a green star", "output": "$tmp/c.safetensors", "num-frames": 10}
not JSON
{"prompt": "x", "output": "$tmp/no/such/folder/x.gif"}
{"prompt": "a red circle", "output": "$tmp/d.safetensors", "wings": 2}
{"prompt": "a small circle", "output": "$tmp/e.safetensors", "model": "tests/data/variants/tiny-5b", "height": 64, "width": 96, "num_frames": 9, "dtype": "bf16"}
END
base=(--model models/shapes --num-inference-steps 2 --threads 1)
batch=("${base[@]}" --batch "$jobs")
one() { "$cvx" generate "${base[@]}" --quiet --manifest none "$@"; }
one --prompt "a red circle" --seed 1 --output "$tmp/want-a.safetensors"
one --prompt "a blue square" --num-inference-steps 3 --scheduler dpm --output "$tmp/want-b.safetensors"
one --prompt "a small circle" --model tests/data/variants/tiny-5b --height 64 --width 96 --num-frames 9 \
    --dtype bf16 --output "$tmp/want-e.safetensors"

# made NAME: the good jobs' files are those of single runs, the bad jobs left nothing
made() {
    local f
    for f in a b e; do
        if cmp -s "$tmp/want-$f.safetensors" "$tmp/$f.safetensors"; then ok "$1: $f"; else
            wrong "$1: $f has other bytes than a run of its own"
        fi
    done
    equal "$1: nothing of the bad jobs" "" "$(find "$tmp" -name '[cdx].*')"
    says "$1: frames" "jobs.jsonl:4: num_frames 10: must be 4k \+ 1"
    says "$1: no JSON" "jobs.jsonl:5: not JSON"
    says "$1: folder" "jobs.jsonl:6: cannot write $tmp/no/such"
    says "$1: unknown key" "jobs.jsonl:7: unknown option --wings"
    says "$1: count" "4 of 7 jobs failed"
    equal "$1: each told once" "4" "$(grep -c '^[^ ]*jobs.jsonl:[0-9]*:' "$tmp/log")"
}

code "one rank" 4 "$cvx" generate "${batch[@]}"
made "one rank"
code "again" 4 "$cvx" generate "${batch[@]}"
equal "again: three are left as they are" "3" "$(grep -c 'done before' "$tmp/log")"
made "again"
rm "$tmp/b.safetensors"
sed -i 's/"seed": 1/"seed": 2/' "$jobs"
code "a job changed, a file gone" 4 "$cvx" generate "${batch[@]}"
equal "only one is left as it is" "1" "$(grep -c 'done before' "$tmp/log")"
expect "the file is back" cmp "$tmp/want-b.safetensors" "$tmp/b.safetensors"
differ "the other seed's bytes" "$tmp/want-a.safetensors" "$tmp/a.safetensors"
sed -i 's/"seed": 2/"seed": 1/' "$jobs"

rm -f "$tmp"/[abe].*
code "two groups of two" 4 mpi 4 "$rank" "${batch[@]}" --data-parallel-degree 2
made "two groups of two"
code "three groups" 4 mpi 3 "$rank" "${batch[@]}" --data-parallel-degree 3
equal "three groups: left as they are" "3" "$(grep -c 'done before' "$tmp/log")"

sed -i -n '1,2p' "$jobs"
code "no bad line" 0 mpi 2 "$rank" "${batch[@]}"
rm -f "$tmp"/[abe].*
code "a signal" 75 env CVX_FAULT=term:0:step:3 "$cvx" generate "${batch[@]}" --checkpoint-dir "$tmp/ck"
code "goes on" 0 "$cvx" generate "${batch[@]}" --checkpoint-dir "$tmp/ck"
says "leaves the first" "a.safetensors: done before"
says "takes up the second" "going on after step 1 of 3"
expect "same bytes" cmp "$tmp/want-b.safetensors" "$tmp/b.safetensors"

# the mesh is one for all jobs: those without guidance, or without windows, leave a part of it without work
for f in want many; do
    cat >"$tmp/$f.jsonl" <<END
{"prompt": "a red circle", "output": "$tmp/$f-f.safetensors", "guidance_scale": 1}
{"prompt": "a red circle", "output": "$tmp/$f-g.safetensors", "height": 32, "width": 48}
{"prompt": "a red circle", "output": "$tmp/$f-h.safetensors", "num_frames": 33, "window_frames": 17}
{"prompt": "a red circle", "output": "$tmp/$f-i.safetensors", "num_frames": 33, "window_frames": 17, "guidance_scale": 1}
{"prompt": "a red circle", "output": "$tmp/$f-j.safetensors", "num_frames": 48}
END
done
code "unlike jobs: one rank" 2 "$cvx" generate "${base[@]}" --batch "$tmp/want.jsonl"
for mesh in "" --enable-cfg-parallel "--window-parallel-degree 4" "--enable-cfg-parallel --window-parallel-degree 2"; do
    rm -f "$tmp"/many-*
    # word splitting: the mesh's flags
    # shellcheck disable=SC2086
    code "unlike jobs, $mesh" 2 mpi 4 "$rank" "${base[@]}" --batch "$tmp/many.jsonl" $mesh
    equal "unlike jobs, $mesh: told once" 1 "$(grep -c '1 of 5 jobs failed' "$tmp/log")"
    for f in f g h i; do
        expect "unlike jobs, $mesh: $f" cmp "$tmp/want-$f.safetensors" "$tmp/many-$f.safetensors"
    done
done

# no default model, and an image-to-video checkpoint: the mesh is chosen for the first job that can be made
image=tests/data/media/kind-rgb.png
cat >"$tmp/models.jsonl" <<END
{"prompt": "x", "output": "$tmp/k.safetensors", "model": "models/shapes", "num_frames": 48}
{"prompt": "x", "output": "$tmp/l.safetensors", "model": "tests/data/variants/tiny-5b-i2v", "image": "$image", "num_inference_steps": 2}
{"prompt": "a red circle", "output": "$tmp/a.safetensors", "model": "models/shapes", "seed": 1, "num_inference_steps": 2}
END
rm -f "$tmp"/a.*
"$cvx" generate --model tests/data/variants/tiny-5b-i2v --image "$image" --prompt x --num-inference-steps 2 --threads 1 \
    --quiet --manifest none --output "$tmp/want-l.safetensors"
code "models in the lines" 2 mpi 3 "$rank" --batch "$tmp/models.jsonl" --threads 1
for f in l a; do
    expect "models in the lines: $f" cmp "$tmp/want-$f.safetensors" "$tmp/$f.safetensors"
done
echo '{"prompt": "x", "output": "x.gif"}' >"$tmp/none.jsonl"
code "no model at all" 2 mpi 2 "$rank" --batch "$tmp/none.jsonl"
says "no model at all: why" "none.jsonl:1: --model is needed"
code "no --model" 2 mpi 2 "$rank" --prompt x --output "$tmp/x.gif"
says "no --model: why" "^cvx-rank 0: --model is needed"
finish
