#!/usr/bin/env bash
# What the Slurm scripts read from an allocation, and that they do with a folder of spaces, a submission from elsewhere and
# settings of many kinds. The ranks are a script that tells its arguments.
set -euo pipefail
rank=$1
set -- "$2"
. tests/e2e/lib.sh
. tests/slurm/lab.sh
lab_test 2 4
cat >"$tmp/rank" <<'R'
#!/bin/sh
echo "ran on $(hostname): $* [$OMPI_MCA_mpi_yield_when_idle$CVX_SECRET]"
R
chmod +x "$tmp/rank"
export CVX_RANK=$tmp/rank

# told NAME RANKS THREADS NODES SBATCH-FLAGS...: so many lines, each with the threads, from so many nodes
told() {
    local name=$1 ranks=$2 threads=$3 on=$4 job
    shift 4
    job=$(submit "$@" "$CVX_HOME/slurm/generate.sh" --prompt "two  words")
    done_as "$name" "$job"
    equal "$name: ranks" "$ranks" "$(grep -c "^ran on .*--prompt two  words .*--threads $threads \[1\]$" "$tmp/$job.log")"
    equal "$name: nodes" "$on" "$(sed -n 's/^ran on \([^:]*\):.*/\1/p' "$tmp/$job.log" | sort -u | wc -l)"
}
for launcher in srun mpirun; do
    export CVX_LAUNCHER=$launcher
    told "$launcher, three tasks of two CPUs" 3 2 2 -n 3 -c 2
    told "$launcher, tasks a node" 4 1 2 -N 2 --ntasks-per-node=2
    told "$launcher, GPUs a node" 4 1 2 -N 2 --gpus-per-node=2
    told "$launcher, four GPUs" 4 1 2 -N 2 --gpus=4
    told "$launcher, a GPU a task" 4 1 2 -n 4 --gpus-per-task=1
    told "$launcher, nothing asked" 1 1 1
done
export CVX_LAUNCHER=srun # mpirun's own steps want as many GPUs of each node
told "three GPUs" 3 1 2 -N 2 --gpus=h100:3 --cpus-per-task=1
unset CVX_LAUNCHER
told "a whole node, with its GPUs" 2 2 1 -N 1 --exclusive
told "an environment that is not handed on" 2 1 2 -N 2 -n 2 --export="CVX_RANK=$CVX_RANK,CVX_HOME=$CVX_HOME,PATH=$PATH"

# a copy of the tree in a folder of spaces, submitted from another one; no CVX_HOME
mkdir -p "$tmp/a copy/slurm" "$tmp/a copy/bin" "$tmp/else where"
cp "$CVX_HOME"/slurm/*.sh "$tmp/a copy/slurm"
cp "$tmp/rank" "$tmp/a copy/bin/cvx-rank"
cd "$tmp/else where"
j=$(env -u CVX_HOME -u CVX_RANK -u CVX_SCRATCH sbatch --parsable -n 2 "$tmp/a copy/slurm/generate.sh" --output "an output.mp4")
done_as "a folder of spaces" "$j"
equal "a folder of spaces: its ranks, its log, its checkpoints" 2 \
    "$(grep -c "^ran on .*--output an output.mp4 --checkpoint-dir $PWD/cvx-$j.checkpoints" "cvx-$j.log")"
cp "$CVX_HOME/slurm/generate.sh" mine.sh
j=$(unset CVX_HOME && submit mine.sh --output x.mp4)
until_state "$j" "$over" || true
equal "a copy alone: state" FAILED "$(state "$j")"
if grep -q "set CVX_HOME" "$tmp/$j.log"; then ok "a copy alone: says what it needs"; else wrong "a copy alone: $(cat "$tmp/$j.log")"; fi
j=$(submit mine.sh --output x.mp4)
done_as "a copy alone, with CVX_HOME" "$j"

# an image: a stand-in for apptainer tells what it is asked to run; the module that is loaded puts it into PATH
mkdir -p "$tmp/modules/cvx" "$tmp/apps/0.1/slurm" "$tmp/apps/0.1/build"
printf '#!/bin/sh\necho "apptainer: $*"\n' >"$tmp/apps/0.1/build/apptainer" && chmod +x "$tmp/apps/0.1/build/apptainer"
cp "$CVX_HOME"/slurm/*.sh "$tmp/apps/0.1/slurm"
touch an.sif
if [ -r /usr/share/lmod/lmod/init/bash ]; then
    sed "s|^local base = .*|local base = \"$tmp/apps\"|; /^depends_on/d" "$CVX_HOME/slurm/cvx.lua" >"$tmp/modules/cvx/0.1.lua"
    j=$(unset CVX_RANK CVX_HOME && LMOD_PKG=/usr/share/lmod/lmod MODULEPATH=$tmp/modules CVX_MODULES=cvx CVX_SIF=$PWD/an.sif \
        submit -n 2 --gpus-per-node=2 "$tmp/apps/0.1/slurm/generate.sh" --output x.mp4)
    done_as "an image, a module" "$j"
    equal "an image, a module: what ran" 2 "$(grep -c "^apptainer: exec --nv $PWD/an.sif cvx-rank --output x.mp4" "$tmp/$j.log")"
else
    echo "SKIP  modules: lmod is not installed"
fi
j=$(CVX_MODULES=none submit "$CVX_HOME/slurm/generate.sh" --output x.mp4)
until_state "$j" "$over" || true
equal "a module that is none" FAILED "$(state "$j")"

# an array with spaces in its names; the defaults of its lines
printf '%s\n\n%s\n%s' '{"prompt": "a"}' '{"prompt": "b"}' '{"prompt": "c"}' >"some lines.jsonl"
cat >"$tmp/rank" <<'R'
#!/bin/sh
while [ $# -gt 0 ]; do
    case $1 in --batch) cat "$2" ;; --output=*) echo "output: $1" ;; esac
    shift
done
R
j=$(submit --array=1-2 "$CVX_HOME/slurm/array.sh" --batch "some lines.jsonl" --output "a name.mp4")
for t in 1 2; do done_as "lines of an array, task $t" "${j}_$t"; done
equal "lines of an array: each once" '{"prompt": "a"} {"prompt": "b"} {"prompt": "c"}' \
    "$(cat "$tmp"/*.log | grep '^{"prompt"' | sort | paste -sd ' ')"
equal "lines of an array: the default output" 2 "$(cat "$tmp"/*.log | grep -c '^output: --output=a name.mp4$')"
j=$(CVX_RANK=$tmp/none submit "$CVX_HOME/slurm/generate.sh" --output x.mp4)
until_state "$j" "$over" || true
equal "no such program" FAILED "$(state "$j")"
# arrays: which lines are whose
cd "$tmp"
# dealt NAME ARRAY LINES ARGS...: all tasks of the array are done and print these seeds, task after task
dealt() {
    local name=$1 array=$2 want=$3 job t all=''
    shift 3
    rm -f array-*.log
    job=$(sbatch --parsable --output="$tmp/array-%a.log" --array="$array" "$CVX_HOME/slurm/array.sh" --output '%seed.gif' "$@")
    for t in $(seq 0 9); do
        [ -n "$(state "${job}_$t")" ] || continue
        done_as "$name, task $t" "${job}_$t"
        all+="$(sed -n 's/^{"seed": \([0-9]*\),.*/\1/p' "array-$t.log" | xargs);"
    done
    equal "$name: seeds" "$want" "$all"
}
dealt "an array in steps" 1-8:3 "8 11;9;10;" --seeds 008-011
CVX_SCRATCH=$tmp/new/scratch dealt "a scratch folder that is made" 0-1 "0;1;" --seeds 0-1
# refused NAME ARRAY TEXT ARGS...: every task says so and does nothing
refused() {
    local name=$1 array=$2 text=$3 job t
    shift 3
    job=$(sbatch --parsable --output="$tmp/array-%a.log" --open-mode=truncate --array="$array" "$CVX_HOME/slurm/array.sh" "$@")
    for t in ${array//,/ }; do
        until_state "${job}_$t" "$over" || true
        equal "$name, task $t: state" FAILED "$(state "${job}_$t")"
        if grep -q -- "$text" "array-$t.log"; then ok "$name, task $t: is told"; else wrong "$name, task $t: $(cat "array-$t.log")"; fi
    done
}
refused "an array of a list" 1,3,7 "give a plain range" --seeds 1-5 --output '%seed.gif'
refused "seeds beyond the shell's numbers" 0 "at most 18 digits" --seeds 9223372036854775806-9223372036854775807 --output '%seed.gif'
CVX_SCRATCH=$tmp/rank/scratch refused "a scratch folder that cannot be" 0 "CVX_SCRATCH=.*: cannot be made" --seeds 1-5 --output '%seed.gif'
refused "an option without a value" 0 "--batch needs a value" --batch
cd "$CVX_HOME"
finish
