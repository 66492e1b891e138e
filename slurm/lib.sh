# shellcheck shell=bash
# Shared by the Slurm scripts: where cvx is, how many ranks and threads an allocation holds, and how a run is started,
# stopped in time and requeued.
#
# Settings (environment, all optional):
#   CVX_HOME      the source tree or an installation; default: the folder above the submitted script
#   CVX_RANK      the program of a rank; default: $CVX_HOME/build/cvx-rank, $CVX_HOME/bin/cvx-rank, or in PATH
#   CVX_SIF       an Apptainer image (slurm/cvx.def) whose programs are run instead
#   CVX_MODULES   modules to load first (Lmod), e.g. "openmpi/4.1 cuda/13"
#   CVX_LAUNCHER  srun or mpirun; default: srun where it knows pmix, else mpirun
#   CVX_SCRATCH   where checkpoints lie; a folder that every node sees; default: the folder of submission
#   CVX_IFNAME    network interface for NCCL's and Open MPI's sockets, e.g. ib0

say() { printf '[%s] cvx: %s\n' "$(date +%H:%M:%S)" "$*" >&2; }
die() {
    say "$*"
    exit 2
}

# cvx_program NAME: the words that run cvx or cvx-rank, in the array $program.
cvx_program() {
    local name=$1 p
    if [ -n "${CVX_SIF:-}" ]; then
        [ -r "$CVX_SIF" ] || die "CVX_SIF=$CVX_SIF: no such file"
        command -v apptainer >/dev/null || die "apptainer is not in PATH: load its module (CVX_MODULES)"
        program=(apptainer exec)
        [ -z "${SLURM_GPUS_ON_NODE:-}" ] || program+=(--nv)
        program+=("$CVX_SIF" "$name")
        return
    fi
    for p in "$home/build/$name" "$home/bin/$name" "$(command -v "$name" 2>/dev/null)"; do
        [ -x "$p" ] && program=("$p") && return
    done
    die "$name is neither in $home/build nor in $home/bin nor in PATH: build it, or set CVX_HOME"
}

# Threads of a core that Slurm counts as CPUs of their own: cvx wants one a core.
cvx_cpus_per_core() {
    scontrol show node "${SLURMD_NODENAME:-none}" 2>/dev/null | tr ' ' '\n' | awk -F= '
        { v[$1] = $2 }
        END { t = v["ThreadsPerCore"] + 0
              print (t > 1 && v["CPUTot"] == v["Sockets"] * v["CoresPerSocket"] * t) ? t : 1 }'
}

# Ranks: the tasks asked for; else one a GPU; else one a node. CPUs of a task, and threads: its cores.
cvx_shape() {
    local all=${SLURM_GPUS:-} here=${SLURM_GPUS_ON_NODE:-}
    all=${all##*:} here=${here##*:} # of "h100:8" the number
    nodes=${SLURM_JOB_NUM_NODES:-1}
    ranks=${SLURM_NTASKS:-}
    if [ -z "$ranks" ] && [[ $all =~ ^[1-9][0-9]*$ ]]; then
        ranks=$all
    elif [ -z "$ranks" ] && [[ $here =~ ^[1-9][0-9]*$ ]]; then
        ranks=$((nodes * here))
    fi
    ranks=${ranks:-$nodes}
    per_node=$(((ranks + nodes - 1) / nodes))
    cpus=${SLURM_CPUS_PER_TASK:-$((${SLURM_CPUS_ON_NODE:-1} / per_node))}
    [ "$cpus" -ge 1 ] || cpus=1
    threads=$((cpus / $(cvx_cpus_per_core)))
    [ "$threads" -ge 1 ] || threads=1
}

cvx_modules() {
    local init
    [ -n "${CVX_MODULES:-}" ] || return 0
    set +u # not every site's functions can do without unset variables
    if ! type module >/dev/null 2>&1; then # a batch script is no login shell
        for init in "${LMOD_PKG:+$LMOD_PKG/init/bash}" "${MODULESHOME:+$MODULESHOME/init/bash}" /etc/profile.d/lmod.sh \
            /etc/profile.d/z00_lmod.sh /etc/profile.d/modules.sh; do
            # shellcheck disable=SC1090
            [ -r "$init" ] && . "$init" && break
        done
        type module >/dev/null 2>&1 || die "CVX_MODULES=$CVX_MODULES: there is no module command on this node"
    fi
    # shellcheck disable=SC2086
    module load $CVX_MODULES || die "CVX_MODULES: module load $CVX_MODULES failed"
    set -u
}

cvx_environment() {
    cvx_modules
    # ranks that wait give their core away: needed where tasks outnumber cores, harmless elsewhere
    export OMPI_MCA_mpi_yield_when_idle=${OMPI_MCA_mpi_yield_when_idle:-1}
    export OMPI_MCA_rmaps_base_oversubscribe=${OMPI_MCA_rmaps_base_oversubscribe:-1}
    export OMPI_MCA_hwloc_base_binding_policy=${OMPI_MCA_hwloc_base_binding_policy:-none}
    # mpirun told to end gives its ranks so many seconds for their checkpoint
    export OMPI_MCA_odls_base_sigkill_timeout=${OMPI_MCA_odls_base_sigkill_timeout:-15}
    export NCCL_DEBUG=${NCCL_DEBUG:-WARN}
    export SLURM_EXPORT_ENV=ALL # sbatch --export=... speaks of the script; its steps need what the script sets
    if [ -n "${CVX_IFNAME:-}" ]; then
        export NCCL_SOCKET_IFNAME=$CVX_IFNAME OMPI_MCA_btl_tcp_if_include=$CVX_IFNAME
    fi
    if [ "$(id -u)" = 0 ]; then # containers and test clusters
        export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
    fi
}

# Signals reach the batch script: the step is told by SIGUSR1, checkpoints and ends. (mpirun would end its ranks on a SIGTERM.)
# called by traps
# shellcheck disable=SC2317
cvx_forward() {
    say "$2"
    [ "$signalled" = TERM ] || signalled=$1
    [ -z "$step" ] || kill -USR1 "$step" 2>/dev/null || true
}

cvx_setup() {
    [ -n "${SLURM_JOB_ID:-}" ] || die "not in a Slurm job: start this script by sbatch"
    signalled='' step=''
    trap 'cvx_forward USR1 "the time limit is near: checkpointing"' USR1
    trap 'cvx_forward TERM "told to end: checkpointing"' TERM
    cvx_environment
    home=${CVX_HOME:-$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)}
    if [ -n "${CVX_RANK:-}" ]; then
        command -v "$CVX_RANK" >/dev/null || die "CVX_RANK=$CVX_RANK: no such program"
        rank=("$CVX_RANK")
    else
        cvx_program cvx-rank
        rank=("${program[@]}")
    fi
    cvx_shape
    scratch=${CVX_SCRATCH:-${SLURM_SUBMIT_DIR:-$PWD}}
    launcher=${CVX_LAUNCHER:-}
    if [ -z "$launcher" ]; then
        if srun --mpi=list 2>&1 | grep -qw pmix; then launcher=srun; else launcher=mpirun; fi
    fi
    case $launcher in
    srun | mpirun) ;;
    *) die "CVX_LAUNCHER=$launcher: must be srun or mpirun" ;;
    esac
    command -v "$launcher" >/dev/null || die "$launcher is not in PATH: load its module (CVX_MODULES)"
}

# has_option NAME ARGS...: whether --NAME is among them, in either spelling.
has_option() {
    local name=$1 a
    shift
    for a in "$@"; do
        a=${a%%=*}
        [ "${a//_/-}" = "--$name" ] && return 0
    done
    return 1
}

# cvx_start RANKS ARGS...: one run in the background; its launcher's process in $step. Fewer ranks than tasks fill as few nodes
# as can hold them.
cvx_start() {
    local n=$1 on=$nodes
    shift
    [ "$n" = "$ranks" ] || on=$(((n + per_node - 1) / per_node))
    has_option threads "$@" || set -- "$@" --threads "$threads"
    if [ "$launcher" = srun ]; then
        # --ntasks-per-node of the job would forbid smaller steps
        env -u SLURM_NTASKS_PER_NODE srun --mpi=pmix --nodes="$on" --ntasks="$n" --cpus-per-task="$cpus" --overcommit \
            --kill-on-bad-exit=1 "${rank[@]}" "$@" &
    else
        # mpirun's own steps, one task a node, would ask for all GPUs of the job
        local gpus=()
        [ -z "${SLURM_GPUS:-}" ] || gpus=(--mca plm_slurm_args "--gpus-per-node=${SLURM_GPUS_ON_NODE:-0}")
        env -u SLURM_GPUS -u SLURM_GPUS_PER_NODE -u SLURM_GPUS_PER_TASK \
            mpirun "${gpus[@]}" -n "$n" ${CVX_REDIS:+-x CVX_REDIS} "${rank[@]}" "$@" &
    fi
    step=$!
    [ -z "$signalled" ] || kill -USR1 "$step" 2>/dev/null || true # it came while nothing ran yet
}

# The exit code of the step, however often a signal interrupts the wait.
cvx_wait() {
    local code=0 again=0
    while :; do
        wait "$step" && code=0 || code=$?
        kill -0 "$step" 2>/dev/null || break
    done
    # the last wait may have ended by a signal too: then the step's own code is still to be had
    wait "$step" 2>/dev/null && again=0 || again=$?
    [ "$again" = 127 ] || code=$again
    step=''
    return "$code"
}

# Codes after which the same command would end alike.
cvx_final() {
    case $1 in 2 | 3 | 4 | 5 | 6 | 8 | 70) return 0 ;; *) return 1 ;; esac
}

# Puts this job back into the queue; it is over with that.
cvx_requeue() {
    # of an array one task alone: the array's number may be the task's own too
    local job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
    say "$1: back to the queue"
    scontrol requeue "${job:-$SLURM_JOB_ID}" || die "the job could not be requeued; submit it once more: it goes on where it was"
    sleep 60 # the requeue ends this script
    exit 1
}

# cvx_run ARGS...: a run that is checkpointed and requeued when the time is over, or put back by an administrator.
cvx_run() {
    local code=0 dir mine=0
    dir=$scratch/cvx-${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+-$SLURM_ARRAY_TASK_ID}.checkpoints
    if has_option checkpoint-dir "$@"; then
        mine=1
    else
        set -- "$@" --checkpoint-dir "$dir"
    fi
    say "job $SLURM_JOB_ID${SLURM_RESTART_COUNT:+, start $((SLURM_RESTART_COUNT + 1))}: $ranks ranks x $threads threads on ${SLURM_JOB_NODELIST:-this node} by $launcher"
    cvx_start "$ranks" "$@"
    cvx_wait || code=$?
    if [ "$code" = 0 ]; then
        [ $mine = 1 ] || rm -rf "$dir"
    elif [ "$signalled" = USR1 ] && ! cvx_final "$code"; then
        cvx_requeue "stopped (exit $code) before the time limit"
    fi
    return "$code"
}
