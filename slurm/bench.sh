#!/usr/bin/env bash
# Throughput of an allocation at 1, 2, 4, 8 ... ranks, up to the job's tasks:
#
#   sbatch --nodes=2 --ntasks=16 slurm/bench.sh --model DIR --results DIR [--ranks "1 2 4"] [--videos N] [flags]
#
# At each number of ranks one video warms up and N more (default 2) are timed, in each data group if
# --data-parallel-degree is given. Results: table.md,
# results.json, plot.png in the --results folder. What else is given goes to every run (size, steps, mesh flags).
#SBATCH --job-name=cvx-bench
#SBATCH --output=cvx-bench-%j.log
#SBATCH --no-requeue
set -u
root=$(scontrol show job "${SLURM_JOB_ID:-0}" 2>/dev/null | sed -nE 's/^ +Command=([^ ]+).*/\1/p' | head -n 1)
# shellcheck source-path=SCRIPTDIR
. "${CVX_HOME:-$(dirname "${root:-$0}")/..}/slurm/lib.sh"

counts= videos=2 groups=1 results= model=
rest=()
while [ $# -gt 0 ]; do
    case $1 in
    --ranks) counts=${2:?--ranks needs a list} && shift 2 ;;
    --videos) videos=${2:?--videos needs a number} && shift 2 ;;
    --results) results=${2:?--results needs a folder} && shift 2 ;;
    --data-parallel-degree) groups=${2:?} && shift 2 ;;
    --model) model=${2:?--model needs a folder} && shift 2 ;;
    *) rest+=("$1") && shift ;;
    esac
done
[ -n "$model" ] && [ -n "$results" ] || die "usage: sbatch slurm/bench.sh --model DIR --results DIR [flags]"
cvx_setup
cvx=${CVX:-$(cvx_program "$home" cvx)} || exit 2
if [ -z "$counts" ]; then
    for ((n = 1; n <= ranks; n *= 2)); do counts+="$n "; done
fi
mkdir -p "$results" || die "$results: cannot be made"
work=$(mktemp -d -p "$results" runs-XXXXXX) # seen by every node, as the results are
trap 'rm -rf "$work"' EXIT
total=$ranks
for n in $counts; do
    [ "$n" -le "$total" ] || die "--ranks $n: the job has $total tasks"
    say "$n ranks: 1 video to warm up, $videos timed"
    mkdir -p "$work/$n"
    cvx_start "$n" --model "$model" --prompt "a red circle moving right on a black background" "${rest[@]}" \
        --data-parallel-degree "$groups" --num-videos-per-prompt $(((videos + 1) * groups)) --output "$work/$n/video.mp4" --json --stats >"$work/$n/events.jsonl"
    cvx_wait || die "$n ranks: the run failed (exit $?)"
done
"$cvx" plan --model "$model" "${rest[@]}" --json >"$work/plan.json" || die "cvx plan failed"
# shellcheck disable=SC2086
python3 "$home/slurm/throughput.py" "$work" $counts >"$results/table.md.part" || die "the figures could not be made"
mv "$work/results.json" "$results/results.json"
mv "$results/table.md.part" "$results/table.md"
"$cvx" chart "$work/chart.json" "$results/plot.png" || die "the plot could not be drawn"
cat "$results/table.md"
say "results: $results/table.md, results.json, plot.png"
