#!/bin/sh
# Runs a test on the stand-in for a GPU, under a bare environment of device settings. A long one only where
# CVX_CHECK_FULL=1 asks for it (77: skipped).
length=$1
shift
if [ "$length" = long ] && [ "${CVX_CHECK_FULL:-0}" != 1 ]; then
    echo "SKIP: takes a minute; CVX_CHECK_FULL=1 runs it"
    exit 77
fi
unset CVX_CUDA_ATTENTION CVX_CUDA_CONV CVX_CUDA_GRAPH
exec "$@"
