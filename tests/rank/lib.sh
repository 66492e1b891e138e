# shellcheck shell=bash
# Shared by the tests on several MPI ranks. Each is run from the source root as
# `tests/rank/NAME.sh path/to/cvx-rank path/to/cvx folder/of/test/programs`; otherwise like tests/e2e.

# used by the scripts that source this file
# shellcheck disable=SC2034
rank=${1:?usage: NAME.sh path/to/cvx-rank path/to/cvx folder/of/test/programs}
cvx=$2
programs=$3
full=${CVX_CHECK_FULL:-0} # 1: every case, not the spanning subset
set -- "$cvx"
. tests/e2e/lib.sh

# More ranks than cores, as root, in a container: all of these Open MPI asks for by name.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_hwloc_base_binding_policy=none OMPI_MCA_mpi_yield_when_idle=1
export OMPI_MCA_btl_vader_single_copy_mechanism=none PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe
export OMP_WAIT_POLICY=passive

# mpi N PROGRAM ARGS...: on N ranks, one thread each unless ARGS say otherwise; a hang ends after five minutes.
mpi() {
    local n=$1
    shift
    OMP_NUM_THREADS=1 timeout 300 mpirun -n "$n" "$@"
}
