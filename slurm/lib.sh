# shellcheck shell=bash
# Shared by the Slurm scripts: where cvx is, how many ranks and threads an allocation holds, and how a run is started,
# stopped in time and requeued.
#
# Settings (environment, all optional):
#   CVX_HOME      the source tree or an installation; default: the folder above the submitted script
#   CVX_RANK      the program of a rank; default: $CVX_HOME/build/cvx-rank, $CVX_HOME/bin/cvx-rank, or in PATH
#   CVX_MODULES   modules to load first (Lmod), e.g. "openmpi/4.1 cuda/13"
#   CVX_LAUNCHER  srun or mpirun; default: srun where it knows pmix, else mpirun
#   CVX_SCRATCH   where checkpoints lie; a folder that every node sees; default: the folder of submission
#   CVX_IFNAME    network interface for NCCL's and Open MPI's sockets, e.g. ib0

say() { printf '[%s] cvx: %s\n' "$(date +%H:%M:%S)" "$*" >&2; }
die() {
    say "$*"
    exit 2
}

# Slurm copies the script that it runs: where it came from stands in the job's record.
cvx_home() {
    local script
    [ -n "${CVX_HOME:-}" ] && { echo "$CVX_HOME" && return; }
    script=$(scontrol show job "$SLURM_JOB_ID" 2>/dev/null | sed -nE 's/^ +Command=([^ ]+).*/\1/p' | head -n 1)
    [ -n "$script" ] && [ -f "$script" ] || script=$0
    (cd "$(dirname "$script")/.." && pwd)
}

# cvx_program NAME: the path of cvx or cvx-rank.
cvx_program() {
    local home=$1 name=$2 p
    for p in "$home/build/$name" "$home/bin/$name" "$(command -v "$name" 2>/dev/null)"; do
        [ -x "$p" ] && { echo "$p" && return; }
    done
    die "$name is neither in $home/build nor in $home/bin nor in PATH: build it, or set CVX_HOME"
}

# Ranks: the tasks asked for; else one a GPU; else one a node. Threads: the cores of a task.
cvx_shape() {
    local gpus=${SLURM_GPUS_ON_NODE:-0} nodes=${SLURM_JOB_NUM_NODES:-1}
    case $gpus in *[!0-9]*) gpus=0 ;; esac
    ranks=${SLURM_NTASKS:-}
    if [ -z "$ranks" ]; then
        ranks=$((nodes * (gpus > 0 ? gpus : 1)))
    fi
    per_node=$(((ranks + nodes - 1) / nodes))
    threads=${SLURM_CPUS_PER_TASK:-$((${SLURM_CPUS_ON_NODE:-1} / per_node))}
    [ "$threads" -ge 1 ] || threads=1
}

cvx_environment() {
    if [ -n "${CVX_MODULES:-}" ]; then
        # shellcheck disable=SC2086
        module load $CVX_MODULES
    fi
    # ranks that wait give their core away: needed where tasks outnumber cores, harmless elsewhere
    export OMPI_MCA_mpi_yield_when_idle=${OMPI_MCA_mpi_yield_when_idle:-1}
    export OMPI_MCA_rmaps_base_oversubscribe=${OMPI_MCA_rmaps_base_oversubscribe:-1}
    export OMPI_MCA_hwloc_base_binding_policy=${OMPI_MCA_hwloc_base_binding_policy:-none}
    export NCCL_DEBUG=${NCCL_DEBUG:-WARN} NCCL_ASYNC_ERROR_HANDLING=${NCCL_ASYNC_ERROR_HANDLING:-1}
    if [ -n "${CVX_IFNAME:-}" ]; then
        export NCCL_SOCKET_IFNAME=$CVX_IFNAME OMPI_MCA_btl_tcp_if_include=$CVX_IFNAME
    fi
    if [ "$(id -u)" = 0 ]; then # containers and test clusters
        export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
    fi
}

cvx_setup() {
    [ -n "${SLURM_JOB_ID:-}" ] || die "not in a Slurm job: start this script by sbatch"
    home=$(cvx_home)
    rank=${CVX_RANK:-$(cvx_program "$home" cvx-rank)} || exit 2
    cvx_environment
    cvx_shape
    launcher=${CVX_LAUNCHER:-}
    if [ -z "$launcher" ]; then
        if srun --mpi=list 2>&1 | grep -qw pmix; then launcher=srun; else launcher=mpirun; fi
    fi
    case $launcher in
    srun | mpirun) ;;
    *) die "CVX_LAUNCHER=$launcher: must be srun or mpirun" ;;
    esac
}

# cvx_start RANKS ARGS...: one run in the background; its launcher's process in $step.
cvx_start() {
    local n=$1 nodes=${SLURM_JOB_NUM_NODES:-1}
    shift
    if [ "$launcher" = srun ]; then
        srun --mpi=pmix --nodes=$((n < nodes ? n : nodes)) --ntasks="$n" --cpus-per-task="$threads" --overcommit --kill-on-bad-exit=1 "$rank" "$@" &
    else
        mpirun -n "$n" "$rank" "$@" &
    fi
    step=$!
}

# Signals reach the batch script: the step is told, checkpoints and ends.
# called by traps
# shellcheck disable=SC2317
cvx_forward() {
    say "$2"
    signalled=$1
    [ -z "${step:-}" ] || kill -"$1" "$step" 2>/dev/null || true
}

# The exit code of the step, however often a signal interrupts the wait.
cvx_wait() {
    local code=0
    while :; do
        wait "$step" && code=0 || code=$?
        kill -0 "$step" 2>/dev/null || break
    done
    return "$code"
}

# cvx_run ARGS...: a run that is checkpointed and requeued when the time is over, or put back by an administrator.
cvx_run() {
    local code=0 dir mine=0 a
    for a in "$@"; do
        case $a in --checkpoint-dir* | --checkpoint_dir*) mine=1 ;; esac
    done
    signalled=
    trap 'cvx_forward USR1 "the time limit is near: checkpointing"' USR1
    trap 'cvx_forward TERM "told to end: checkpointing"' TERM
    dir=${CVX_SCRATCH:-${SLURM_SUBMIT_DIR:-.}}/cvx-${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+-$SLURM_ARRAY_TASK_ID}.checkpoints
    if [ $mine = 0 ]; then
        set -- "$@" --checkpoint-dir "$dir"
    fi
    say "job $SLURM_JOB_ID${SLURM_RESTART_COUNT:+, start $((SLURM_RESTART_COUNT + 1))}: $ranks ranks x $threads threads on ${SLURM_JOB_NODELIST:-this node} by $launcher"
    cvx_start "$ranks" "$@"
    cvx_wait || code=$?
    if [ "$code" = 0 ]; then
        [ $mine = 1 ] || rm -rf "$dir"
    elif [ "$signalled" = USR1 ] && [ "$code" = 75 ]; then
        say "stopped with a checkpoint: back to the queue"
        scontrol requeue "$SLURM_JOB_ID" || die "the job could not be requeued; submit it once more: it goes on from $dir"
        sleep 60 # the requeue ends this script
    fi
    return "$code"
}
