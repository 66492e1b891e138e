#!/usr/bin/env bash
# One video (or a batch) as a Slurm job:
#
#   sbatch --nodes=2 --ntasks=8 slurm/generate.sh --model DIR --prompt TEXT --output out.mp4 [any flags of cvx-rank]
#
# Ranks are the job's tasks, or one a GPU, or one a node. Ninety seconds or more before the time limit the job
# checkpoints, requeues itself and goes on. slurm/lib.sh lists the settings.
#SBATCH --job-name=cvx
#SBATCH --output=cvx-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@90
set -u
from=$(scontrol show job "${SLURM_JOB_ID:-0}" 2>/dev/null | sed -n 's/^ *Command=//p' | head -n 1)
while [ -n "$from" ] && [ ! -f "$from" ]; do case $from in *' '*) from=${from% *} ;; *) from='' ;; esac done
# shellcheck source-path=SCRIPTDIR
. "${CVX_HOME:-$(dirname "${from:-$0}")/..}/slurm/lib.sh" || { echo "cvx: set CVX_HOME to cvx's folder" >&2 && exit 2; }
[ $# -gt 0 ] || die "usage: sbatch slurm/generate.sh --model DIR --prompt TEXT --output FILE [flags of cvx-rank]"
cvx_setup
cvx_run "$@"
