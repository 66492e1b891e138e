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
from=$(scontrol show job "${SLURM_JOB_ID:-0}" 2>/dev/null | sed -n 's/^ *Command=//p' | head -n 1)
while [ -n "$from" ] && [ ! -f "$from" ]; do case $from in *' '*) from=${from% *} ;; *) from='' ;; esac done
# shellcheck source-path=SCRIPTDIR
. "${CVX_HOME:-$(dirname "${from:-$0}")/..}/slurm/lib.sh" || { echo "cvx: set CVX_HOME to cvx's folder" >&2 && exit 2; }

counts='' videos=2 groups=1 results='' model=''
rest=()
while [ $# -gt 0 ]; do
    case $1 in
    --ranks | --videos | --results | --model | --data-parallel-degree | --data_parallel_degree)
        [ $# -gt 1 ] || die "$1 needs a value"
        set -- "$1=$2" "${@:3}"
        ;;
    esac
    case $1 in
    --ranks=*) counts=${1#*=} ;;
    --videos=*) videos=${1#*=} ;;
    --results=*) results=${1#*=} ;;
    --model=*) model=${1#*=} ;;
    --data[-_]parallel[-_]degree=*) groups=${1#*=} ;;
    *) rest+=("$1") ;;
    esac
    shift
done
if [ -z "$model" ] || [ -z "$results" ]; then die "usage: sbatch slurm/bench.sh --model DIR --results DIR [flags]"; fi
[[ $videos =~ ^[1-9][0-9]*$ && $groups =~ ^[1-9][0-9]*$ ]] || die "--videos $videos, --data-parallel-degree $groups: must be numbers from 1 on"
cvx_setup
if [ -n "${CVX:-}" ]; then program=("$CVX"); else cvx_program cvx; fi
if [ -z "$counts" ]; then
    for ((n = groups; n < ranks; n *= 2)); do counts+="$n "; done
    counts+=$ranks
fi
for n in $counts; do
    [[ $n =~ ^[1-9][0-9]*$ ]] || die "--ranks '$counts': must be numbers from 1 on"
    [ "$n" -le "$ranks" ] || die "--ranks $n: the job has $ranks tasks"
    [ $((n % groups)) = 0 ] || die "--ranks $n: $groups data-parallel groups do not divide it"
done
has_option prompt "${rest[@]}" || rest+=(--prompt "a red circle moving right on a black background")
mkdir -p "$results" || die "$results: cannot be made"
work=$(mktemp -d -p "$results" runs-XXXXXX) # seen by every node, as the results are
trap 'rm -rf "$work"' EXIT
for n in $counts; do
    say "$n ranks: 1 video to warm up, $videos timed"
    mkdir -p "$work/$n"
    cvx_start "$n" --model "$model" "${rest[@]}" --data-parallel-degree "$groups" \
        --num-videos-per-prompt $(((videos + 1) * groups)) --output "$work/$n/video.mp4" --json --stats >"$work/$n/events.jsonl"
    cvx_wait || die "$n ranks: the run failed (exit $?)"
done
"${program[@]}" plan --model "$model" "${rest[@]}" --json >"$work/plan.json" || die "cvx plan failed"
# shellcheck disable=SC2086
python3 "$home/slurm/throughput.py" "$work" $counts >"$results/table.md.part" || die "the figures could not be made"
mv "$work/results.json" "$results/results.json"
mv "$results/table.md.part" "$results/table.md"
"${program[@]}" chart "$work/chart.json" "$results/plot.png" || die "the plot could not be drawn"
cat "$results/table.md"
say "results: $results/table.md, results.json, plot.png"
