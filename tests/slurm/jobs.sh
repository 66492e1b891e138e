#!/usr/bin/env bash
# The Slurm scripts on a cluster of two nodes: videos by srun and mpirun, arrays, requeues in the middle of denoising and
# at the time limit, cancelled jobs. The bytes are those of one process. Says SKIP where there can be no such cluster.
set -euo pipefail
rank=$1 cvx=$2
full=${CVX_CHECK_FULL:-0}
set -- "$cvx"
. tests/e2e/lib.sh
. tests/slurm/lab.sh
lab_test 2 4

"$cvx" generate "${model[@]}" --num-inference-steps 4 --output one.safetensors
j=$(submit -N 2 -n 4 "$CVX_HOME/slurm/generate.sh" "${model[@]}" --num-inference-steps 4 --output "$tmp/srun.safetensors")
done_as "srun on two nodes" "$j"
same "srun on two nodes" one.safetensors srun.safetensors
j=$(CVX_LAUNCHER=mpirun submit -N 2 -n 4 "$CVX_HOME/slurm/generate.sh" "${model[@]}" --num-inference-steps 4 \
    --output "$tmp/mpirun.safetensors")
done_as "mpirun on two nodes" "$j"
same "mpirun on two nodes" one.safetensors mpirun.safetensors

# an array: five seeds on two tasks
j=$(submit --array=0-1 "$CVX_HOME/slurm/array.sh" --seeds 40-44 --model "$CVX_HOME/models/shapes" --prompt "$prompt" \
    --num-inference-steps 4 --quiet --output "$tmp/seed-%seed.safetensors")
for t in 0 1; do done_as "array, task $t" "${j}_$t"; done
equal "array: all seeds" 5 "$(find . -name 'seed-4[0-4].safetensors' | wc -l)"
same "array: seed 42 is the one of a single run" one.safetensors seed-42.safetensors
printf '%s\n' '{"prompt": "a blue square", "output": "l0.safetensors"}' \
    '{"prompt": "a green star", "output": "l1.safetensors"}' '{"prompt": "a red star", "output": "l2.safetensors"}' >lines.jsonl
j=$(CVX_LAUNCHER=mpirun submit --array=3-5:2 -N 2 -n 2 "$CVX_HOME/slurm/array.sh" --batch lines.jsonl --model "$CVX_HOME/models/shapes" \
    --num-inference-steps 2 --quiet)
for t in 3 5; do done_as "array of lines, task $t" "${j}_$t"; done
equal "array of lines: all made" 3 "$(find . -name 'l[012].safetensors' | wc -l)"

# stopped in the middle: as many steps as last some seconds on any machine
long=(--num-inference-steps 150 --checkpoint-every 10)
"$cvx" generate "${model[@]}" --num-inference-steps 150 --output undisturbed.safetensors
# shellcheck disable=SC2317
started() { # JOB: its denoising has begun
    local i
    for ((i = 0; i < 300; i++)); do
        compgen -G "$tmp/cvx-$1.checkpoints/*.cvxckpt" >/dev/null && return 0
        sleep 0.1
    done
    return 1
}
disturbed() { # NAME COMMAND...: the job's number is put in place of JOB
    local name=$1 job
    shift
    job=$(submit -N 2 -n 2 "$CVX_HOME/slurm/generate.sh" "${model[@]}" "${long[@]}" --output "$tmp/disturbed.safetensors")
    expect "$name: runs" started "$job"
    expect "$name" "${@//JOB/$job}"
    done_as "$name" "$job"
    if grep -q "going on after step" "$tmp/$job.log"; then ok "$name: went on from a checkpoint"; else
        wrong "$name: $(tail -n 3 "$tmp/$job.log")"
    fi
    same "$name" undisturbed.safetensors disturbed.safetensors
    equal "$name: checkpoints are gone" "" "$(compgen -G "$tmp/cvx-$job.checkpoints" || true)"
    rm -f disturbed.safetensors
}
disturbed "requeued" scontrol requeue JOB
disturbed "the time limit's signal" scancel --batch --signal=USR1 JOB

# of an array only the task that the signal was for: the array's number is one task's own, too
j=$(submit --array=0-1 "$CVX_HOME/slurm/array.sh" --seeds 42-43 "${model[@]}" "${long[@]}" --output "$tmp/array-%seed.safetensors")
for t in 0 1; do expect "array, task $t: runs" started "$j-$t"; done
t=0
[[ $(scontrol show job "${j}_1") != "JobId=$j "* ]] || t=1
expect "array, task $t: the time limit's signal" scancel --batch --signal=USR1 "${j}_$t"
for i in 0 1; do
    done_as "array, task $i, task $t signalled" "${j}_$i"
    equal "array, task $i: restarts" "$((i == t))" "$(scontrol show job "${j}_$i" | sed -n 's/.*Restarts=\([0-9]*\).*/\1/p')"
done
same "array after a signal" undisturbed.safetensors array-42.safetensors

if [ "$full" = 1 ]; then
    CVX_LAUNCHER=mpirun disturbed "requeued, mpirun" scontrol requeue JOB
    CVX_LAUNCHER=mpirun disturbed "the time limit's signal, mpirun" scancel --batch --signal=USR1 JOB
    # the limit itself: Slurm may send the signal up to a minute early
    j=$(submit --time=2 --signal=B:USR1@60 -n 1 "$CVX_HOME/slurm/generate.sh" "${model[@]}" --num-inference-steps 400 \
        --height 128 --width 192 --num-frames 33 --output "$tmp/limit.safetensors")
    "$cvx" generate "${model[@]}" --num-inference-steps 400 --height 128 --width 192 --num-frames 33 \
        --output calm.safetensors
    done_as "over the time limit" "$j"
    same "over the time limit" calm.safetensors limit.safetensors
fi

j=$(submit -N 2 -n 2 "$CVX_HOME/slurm/generate.sh" "${model[@]}" "${long[@]}" --output "$tmp/cancelled.safetensors")
expect "to be cancelled: runs" started "$j"
scancel "$j"
until_state "$j" "$over" || true
equal "cancelled: state" CANCELLED "$(state "$j")"
none_left cancelled "$tmp/cancelled.safetensors"
equal "cancelled: no file" "" "$(compgen -G "$tmp/cancelled*" || true)"

j=$(submit "$CVX_HOME/slurm/generate.sh" "${model[@]}" --num-frames 48 --output "$tmp/no.mp4")
until_state "$j" "$over" || true
equal "48 frames: state" FAILED "$(state "$j")"
if grep -q "45 and 49" "$tmp/$j.log"; then ok "48 frames: says what would be right"; else wrong "48 frames: $(cat "$tmp/$j.log")"; fi
export CVX=$cvx
bench() { # LAUNCHER RESULTS
    j=$(CVX_LAUNCHER=$1 submit -N 2 -n 2 "$CVX_HOME/slurm/bench.sh" --model "$CVX_HOME/models/shapes" --results "$2" --videos 1 \
        --num-inference-steps 3)
    done_as "bench.sh by $1" "$j"
}
bench mpirun "$tmp/results by mpirun"
equal "bench.sh by mpirun: a table of two runs" 2 "$(grep -c '^| [12] |' "results by mpirun/table.md")"
bench srun "$tmp/results"
expect "bench.sh: its figures" python3 - "$tmp/results" <<'P'
import json, sys
with open(f"{sys.argv[1]}/results.json") as f:
    runs = json.load(f)["runs"]
print(runs)
assert [r["ranks"] for r in runs] == [1, 2] and runs[0]["efficiency"] == 1
for r in runs:
    # a rate times its time gives the work back: 17 frames, one video
    assert abs(r["frames_per_second"] * r["seconds_per_video"] - 17) < 1e-6
    assert abs(r["videos_per_hour"] * r["seconds_per_video"] - 3600) < 1e-6
assert not runs[0]["megabytes_per_video"].get("all-to-all") and sum(runs[1]["megabytes_per_video"].values()) > 0
assert open(f"{sys.argv[1]}/plot.png", "rb").read(8) == b"\x89PNG\r\n\x1a\n"
with open(f"{sys.argv[1]}/table.md") as f:
    assert sum(line.startswith(("| 1 |", "| 2 |")) for line in f) == 2
P
equal "bench.sh: nothing else is left" "plot.png results.json table.md" "$(cd results && echo *)"
cd "$CVX_HOME"
finish
