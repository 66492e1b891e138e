#!/usr/bin/env bash
# The layer law: a folder includes only what stands beside its name below; MPI, NCCL and CUDA names stay in
# their places; model code knows no backend. Then the check is turned on made-up offenders, to see it bite.
# usage: layers.sh SOURCE_DIR
set -euo pipefail
root=$(cd "$1" && pwd)

folders="base kernels proto store client media parallel model rankworker coordinator cli"
allowed() {
    case $1 in
    base) echo "base" ;;
    kernels) echo "base kernels" ;;
    proto) echo "base proto" ;;
    store) echo "base proto store" ;;
    client) echo "base client" ;;
    media) echo "base media" ;;
    parallel) echo "base kernels proto media parallel" ;;
    model) echo "base kernels proto media parallel model" ;;
    rankworker) echo "base kernels proto media parallel model store rankworker" ;;
    coordinator) echo "base proto store coordinator" ;;
    cli) echo "base kernels proto media parallel model client cli" ;;
    esac
}

# Files of a folder that hold C.
sources() { find "$1" -type f \( -name '*.[ch]' -o -name '*.cc' -o -name '*.cu' -o -name '*.cuh' -o -name '*.def' \) | sort; }

# Prints one line for each offence in the tree $1.
offences() {
    cd "$1"
    local folder file line target ok
    for folder in $folders; do
        [ -d "$folder" ] || continue
        ok=" $(allowed "$folder") "
        while IFS= read -r file; do
            while IFS=: read -r line target; do
                case $ok in
                *" $target "*) ;;
                *) echo "$file:$line: $folder/ may not include $target/" ;;
                esac
            done < <(grep -nE '^[[:space:]]*#[[:space:]]*include "[a-z0-9_]+/' "$file" |
                sed -E 's/^([0-9]+):.*"([a-z0-9_]+)\/.*/\1:\2/')
            # an include without a folder would get round the rule
            grep -nE '^[[:space:]]*#[[:space:]]*include "[^/"]+"' "$file" |
                sed "s|^\([0-9]*\):.*|$file:\1: includes name the folder (\"base/status.h\")|" || true
            foreign "$file"
        done < <(sources "$folder")
    done
}

# Names of MPI, NCCL and CUDA outside the files that may hold them; in quotes stand launchers' variables.
foreign() {
    case $1 in
    parallel/* | rankworker/main.c) ;;
    *) grep -nE '<mpi\.h>|(^|[^"[:alnum:]_])MPI_[A-Z]|<nccl\.h>|\bnccl[A-Z]' "$1" |
        sed "s|^|$1:|; s|\$|   <- MPI and NCCL belong to parallel/ and rankworker/main.c|" || true ;;
    esac
    case $1 in
    kernels/cuda/* | parallel/*nccl*) ;;
    *) grep -nE '<(cuda|cublas|cudnn)[A-Za-z0-9_]*\.h>|\b(cuda|cublas|cudnn)[A-Z][A-Za-z0-9]*[[:space:]]*\(' "$1" |
        sed "s|^|$1:|; s|\$|   <- CUDA belongs to kernels/cuda/ and parallel's nccl file|" || true ;;
    esac
    case $1 in
    model/*) grep -nE '^[[:space:]]*#[[:space:]]*(if|ifdef|ifndef|elif).*(CUDA|AVX|AMX)' "$1" |
        sed "s|^|$1:|; s|\$|   <- model code knows no backend|" || true ;;
    esac
}

bad=0
found=$(offences "$root")
if [ -n "$found" ]; then
    echo "$found"
    bad=1
fi

# expect FILE LINE: a tree with only this line in this file must be refused
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
expect() {
    rm -rf "$tmp/t"
    mkdir -p "$tmp/t/$(dirname "$1")"
    printf '%s\n' "$2" >"$tmp/t/$1"
    if [ -z "$(offences "$tmp/t")" ]; then
        echo "not noticed: '$2' in $1"
        bad=1
    fi
}
expect base/a.c '#include "kernels/tensor.h"'
expect kernels/a.h '#include "model/weights.h"'
expect kernels/cpu/a.c '# include "parallel/comm.h"'
expect media/a.c '#include "kernels/tensor.h"'
expect parallel/a.c '#include "model/weights.h"'
expect model/dit/a.c '#include "cli/cli.h"'
expect model/dit/b.c '#include "dit.h"'
expect coordinator/a.c '#include "kernels/tensor.h"'
expect coordinator/b.c '#include <mpi.h>'
expect model/a.c 'int r = MPI_Init(0, 0);'
expect cli/a.c 'ncclComm_t comm;'
expect model/b.c '    cudaFree(p);'
expect model/c.c '#ifdef CVX_CUDA'
expect kernels/cpu/b.c '#include <cuda_runtime.h>'
exit $bad
