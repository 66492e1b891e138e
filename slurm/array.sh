#!/usr/bin/env bash
# Many videos as a Slurm array; each task makes its share of them, its weights loaded once:
#
#   sbatch --array=0-3 --ntasks=4 slurm/array.sh --batch prompts.jsonl --model DIR [flags]
#   sbatch --array=0-7 slurm/array.sh --seeds 0-99 --model DIR --prompt TEXT --output 'out/video-%seed.mp4' [flags]
#
# A line of the batch is a job (docs/checkpoints.md). Task i of n takes lines i, i + n, i + 2n ... (or seeds). What a
# requeued or repeated task finds done it leaves.
#SBATCH --job-name=cvx-array
#SBATCH --output=cvx-%A-%a.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@90
set -u
from=$(scontrol show job "${SLURM_JOB_ID:-0}" 2>/dev/null | sed -n 's/^ *Command=//p' | head -n 1)
while [ -n "$from" ] && [ ! -f "$from" ]; do case $from in *' '*) from=${from% *} ;; *) from='' ;; esac done
# shellcheck source-path=SCRIPTDIR
. "${CVX_HOME:-$(dirname "${from:-$0}")/..}/slurm/lib.sh" || { echo "cvx: set CVX_HOME to cvx's folder" >&2 && exit 2; }

batch='' seeds='' output=''
rest=()
while [ $# -gt 0 ]; do
    case $1 in
    --batch | --seeds | --output) [ $# -gt 1 ] || die "$1 needs a value" ;;
    esac
    case $1 in
    --batch) batch=$2 && shift 2 ;;
    --batch=*) batch=${1#*=} && shift ;;
    --seeds) seeds=$2 && shift 2 ;;
    --seeds=*) seeds=${1#*=} && shift ;;
    --output) output=$2 && shift 2 ;;
    --output=*) output=${1#*=} && shift ;;
    *) rest+=("$1") && shift ;;
    esac
done
cvx_setup
least=${SLURM_ARRAY_TASK_MIN:-0} stride=${SLURM_ARRAY_TASK_STEP:-1}
task=$(((${SLURM_ARRAY_TASK_ID:-0} - least) / stride))
tasks=${SLURM_ARRAY_TASK_COUNT:-1}
if [ $((task * stride + least)) != "${SLURM_ARRAY_TASK_ID:-0}" ] || [ "$task" -ge "$tasks" ] ||
    [ $(((tasks - 1) * stride + least)) != "${SLURM_ARRAY_TASK_MAX:-0}" ]; then
    die "--array: give a plain range, as in 0-7: a list leaves it open which share is whose"
fi
mkdir -p "$scratch" || die "CVX_SCRATCH=$scratch: cannot be made"
part=$scratch/cvx-$SLURM_JOB_ID.jsonl # one name, so that a start after a kill leaves none behind
trap 'rm -f "$part"' EXIT

if [ -n "$batch" ] && [ -z "$seeds" ]; then
    [ -r "$batch" ] || die "$batch: cannot be read"
    awk -v i="$task" -v n="$tasks" 'NF > 0 { if (k++ % n == i) print }' "$batch" >"$part" || die "$part: cannot be written"
elif [ -n "$seeds" ] && [ -z "$batch" ]; then
    [[ $seeds =~ ^([0-9]{1,18})-([0-9]{1,18})$ ]] || die "--seeds $seeds: must be FIRST-LAST, as in 0-99, of at most 18 digits"
    first=$((10#${BASH_REMATCH[1]})) last=$((10#${BASH_REMATCH[2]})) # 010 is ten
    [ "$first" -le "$last" ] || die "--seeds $seeds: the first is above the last"
    [[ $output == *%seed* ]] || die "--output $output: must hold %seed, the place of the seed in the name"
    [[ $output != *[\"\\[:cntrl:]]* ]] || die "--output $output: without quotes, backslashes and control characters, please"
    for ((s = first + task; s <= last; s += tasks)); do
        printf '{"seed": %d, "output": "%s"}\n' "$s" "${output//%seed/$s}"
    done >"$part" || die "$part: cannot be written"
else
    die "give either --batch FILE or --seeds FIRST-LAST"
fi
if [ ! -s "$part" ]; then
    say "nothing for task ${SLURM_ARRAY_TASK_ID:-0} of $tasks"
    exit 0
fi
say "$(wc -l <"$part") videos for task ${SLURM_ARRAY_TASK_ID:-0} of $tasks"
[ -n "$seeds" ] || [ -z "$output" ] || rest+=("--output=$output")
cvx_run --batch "$part" "${rest[@]}"
