# shellcheck shell=bash
# A Slurm cluster of several "nodes" on this host for the tests: munged, slurmctld and one slurmd a node, all with
# files, keys and ports of their own under a folder that goes away with them. Nodes differ in their UTS namespace, so that
# they have names of their own and Open MPI takes them for different hosts. Needs root.

# lab_missing: why there can be no cluster here; nothing if there can.
lab_missing() {
    local p
    [ "$(id -u)" = 0 ] || { echo "needs root" && return; }
    for p in slurmctld slurmd sbatch srun munged munge; do
        command -v "$p" >/dev/null || { echo "$p is not installed" && return; }
    done
    unshare --uts true 2>/dev/null || echo "UTS namespaces are not allowed"
}

# alive PIDFILE: a process that is no zombie (in a container nobody may reap it).
alive() { grep -qs "^State:[[:space:]]*[^ZX[:space:]]" "/proc/$(cat "$1" 2>/dev/null || echo none)/status"; }

# lab_conf FOLDER NODES CPUS PORT
lab_conf() {
    local dir=$1 nodes=$2 cpus=$3 port=$4 i
    cat <<C
ClusterName=test
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmctldPort=$port
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
# credentials die soon, else a requeued job waits two minutes for the old one's
AuthInfo=socket=$dir/munge.sock,cred_expire=10
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool/%n
TmpFS=$dir/tmp/%n
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.%n.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/none
MpiDefault=none
SwitchType=switch/none
GresTypes=gpu
MailProg=/bin/true
ReturnToService=2
KillWait=5
JobRequeue=1
PropagateResourceLimits=NONE
C
    for ((i = 1; i <= nodes; i++)); do
        echo "NodeName=node$i NodeAddr=127.0.0.1 Port=$((port + i)) CPUs=$cpus RealMemory=1024 Gres=gpu:h100:2"
    done
    echo "PartitionName=test Nodes=node[1-$nodes] Default=YES MaxTime=INFINITE State=UP"
}

# lab_up FOLDER NODES CPUS: 0 when every node is idle; the folder's logs tell why not.
lab_up() {
    local dir=$1 nodes=$2 cpus=$3 i port=$((20000 + $$ % 20000))
    mkdir -p "$dir"/{state,spool,tmp} && chmod 755 "$dir"
    export SLURM_CONF=$dir/slurm.conf
    (umask 077 && head -c 1024 /dev/urandom >"$dir/munge.key")
    munged --force --key-file="$dir/munge.key" --socket="$dir/munge.sock" --pid-file="$dir/munged.pid" \
        --log-file="$dir/munged.log" --seed-file="$dir/munge.seed" --num-threads=2 || return 1
    lab_conf "$dir" "$nodes" "$cpus" "$port" >"$SLURM_CONF"
    echo "NodeName=node[1-$nodes] Name=gpu Type=h100 File=$dir/gpu[0-1]" >"$dir/gres.conf"
    touch "$dir"/gpu{0,1} # counted, not used
    slurmctld -i || return 1
    for ((i = 1; i <= nodes; i++)); do
        mkdir -p "$dir/spool/node$i" "$dir/tmp/node$i"
        # shellcheck disable=SC2016
        unshare --uts sh -c 'hostname "$1" && exec slurmd -N "$1"' sh "node$i" || return 1
    done
    for ((i = 0; i < 150; i++)); do
        [ "$(sinfo -h -N -o %t 2>/dev/null | grep -cx idle)" = "$nodes" ] && return 0
        sleep 0.2
    done
    tail -n 5 "$dir"/*.log
    return 1
}

lab_down() {
    local dir=$1 f i
    scancel --user=root 2>/dev/null || true
    for ((i = 0; i < 100; i++)); do # what runs ends while its daemons are there to see to it
        [ -n "$(squeue -h 2>/dev/null)" ] || break
        sleep 0.1
    done
    for f in "$dir"/slurmd.*.pid "$dir/slurmctld.pid" "$dir/munged.pid"; do
        [ -s "$f" ] || continue
        kill "$(cat "$f")" 2>/dev/null || true
        for ((i = 0; i < 50; i++)); do
            alive "$f" || break
            sleep 0.1
        done
        ! alive "$f" || kill -9 "$(cat "$f")" 2>/dev/null || true
    done
}

# --- jobs; $tmp is the test's folder ---

# shellcheck disable=SC2154
submit() { # SBATCH-FLAGS... SCRIPT ARGS...: the job's number
    sbatch --parsable --output="$tmp/%j.log" "$@"
}
state() { scontrol show job "$1" 2>/dev/null | sed -nE 's/^ +JobState=([A-Z_]+).*/\1/p' | head -n 1; }
# until_state JOB STATES: waits; a job that hangs ends after five minutes
until_state() {
    local i
    for ((i = 0; i < 1500; i++)); do
        [[ $(state "$1") =~ ^($2)$ ]] && return 0
        sleep 0.2
    done
    echo "job $1 is $(state "$1"), not $2"
    return 1
}
over="COMPLETED|FAILED|CANCELLED|TIMEOUT|NODE_FAIL"
done_as() { # NAME JOB: completed
    until_state "$2" "$over" || true
    equal "$1: state" COMPLETED "$(state "$2")"
    [ "$(state "$2")" = COMPLETED ] || tail -n 5 "$tmp/$2.log"
}
same() { # NAME A B
    if cmp -s "$2" "$3"; then ok "$1: same bytes"; else wrong "$1: other bytes"; fi
}
# none_left NAME PATTERN: no process whose arguments hold it
none_left() {
    local i
    for ((i = 0; i < 100; i++)); do
        pgrep -f "$2" >/dev/null || break
        sleep 0.1
    done
    equal "$1: no process is left" "" "$(pgrep -a -f "$2" || true)"
}
# lab_test NODES CPUS: a cluster for the test that sources this, in $tmp, its settings exported; SKIP where there can be none.
# shellcheck disable=SC2154,SC2164
lab_test() {
    local missing
    missing=$(lab_missing)
    if [ -n "$missing" ]; then
        echo "SKIP  slurm: $missing"
        exit 0
    fi
    trap 'lab_down "$tmp/lab"; rm -rf "$tmp"' EXIT
    expect "a cluster of $1 nodes" lab_up "$tmp/lab" "$1" "$2"
    export CVX_RANK=$rank CVX_HOME=$PWD CVX_SCRATCH=$tmp
    unset OMP_NUM_THREADS
    cd "$tmp"
    # for the tests
    # shellcheck disable=SC2034
    model=(--model "$CVX_HOME/models/shapes" --prompt "$prompt" --quiet --manifest none)
}
