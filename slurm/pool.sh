#!/usr/bin/env bash
# A pool of ranks as a Slurm job: it takes jobs from the queue of a coordinator (docs/deployment.md) until it is cancelled:
#
#   export CVX_REDIS=redis://:PASSWORD@HOST:6379/0       # or CVX_REDIS_FILE, a file of yours alone that holds the address
#   sbatch --nodes=2 --ntasks=8 slurm/pool.sh --model DIR [--clip-model DIR] [any flags of cvx-rank]
#
# Two minutes or more before the time limit the pool hands its running job back, with a checkpoint, and requeues itself; so it
# does on scontrol requeue, and on scancel it hands the job back and ends. Ranks that die are started again.
# --redis URL, --redis-file FILE: instead of the variables. slurm/lib.sh lists the other settings.
#SBATCH --job-name=cvx-pool
#SBATCH --output=cvx-pool-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
set -u
from=$(scontrol show job "${SLURM_JOB_ID:-0}" 2>/dev/null | sed -n 's/^ *Command=//p' | head -n 1)
while [ -n "$from" ] && [ ! -f "$from" ]; do case $from in *' '*) from=${from% *} ;; *) from='' ;; esac done
# shellcheck source-path=SCRIPTDIR
. "${CVX_HOME:-$(dirname "${from:-$0}")/..}/slurm/lib.sh" || { echo "cvx: set CVX_HOME to cvx's folder" >&2 && exit 2; }

file=${CVX_REDIS_FILE:-} given=''
rest=()
while [ $# -gt 0 ]; do
    case $1 in
    --redis | --redis-file) [ $# -gt 1 ] || die "$1 needs a value" ;;
    esac
    case $1 in
    --redis) given=$2 && shift 2 ;;
    --redis=*) given=${1#*=} && shift ;;
    --redis-file) file=$2 && shift 2 ;;
    --redis-file=*) file=${1#*=} && shift ;;
    *) rest+=("$1") && shift ;;
    esac
done
cvx_setup
CVX_REDIS=${given:-${CVX_REDIS:-}}
case $given in *@*) say "--redis with a password: scontrol shows it to everybody; CVX_REDIS_FILE keeps it" ;; esac
if [ -z "$CVX_REDIS" ] && [ -n "$file" ]; then
    CVX_REDIS=$(head -n 1 "$file") || die "$file: cannot be read; the address of Redis should stand in it"
    [ -z "$(find "$file" -perm /077)" ] || say "$file: others may read it; chmod 600 $file"
fi
[ -n "$CVX_REDIS" ] || die "where is Redis? set CVX_REDIS or CVX_REDIS_FILE, or give --redis redis://host:port/db"
export CVX_REDIS # ranks read it there: arguments are seen by everybody
has_option pool-name "${rest[@]}" || rest+=(--pool-name "slurm-$SLURM_JOB_ID")

# after_failure CODE: waits longer each time; ends with the code where that would not help.
after_failure() {
    [ $((SECONDS - began)) -lt 300 ] || failures=0
    failures=$((failures + 1))
    # code 3: Redis or a folder is away, which may pass
    if { [ "$1" != 3 ] && cvx_final "$1"; } || [ $failures -gt 12 ]; then
        say "the pool ended with code $1"
        exit "$1"
    fi
    say "the pool ended with code $1: started again"
    sleep $((failures < 6 ? 1 << failures : 60)) &
    step=$!
    cvx_wait
}

failures=0
while :; do
    case $signalled in
    USR1) cvx_requeue "the pool has handed back what it had" ;;
    TERM) exit 143 ;;
    esac
    say "pool, job $SLURM_JOB_ID${SLURM_RESTART_COUNT:+, start $((SLURM_RESTART_COUNT + 1))}: $ranks ranks x $threads threads on ${SLURM_JOB_NODELIST:-this node} by $launcher"
    began=$SECONDS
    cvx_start "$ranks" --pool "${rest[@]}"
    code=0
    cvx_wait || code=$?
    if [ -z "$signalled" ]; then
        [ $code != 0 ] || exit 0 # --max-jobs
        after_failure $code
    fi
done
