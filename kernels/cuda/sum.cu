/* Sums over ranks in the order of the ranks, for all-reduces that give every mesh the bits it had before. */
#include "kernels/cuda/device.cuh"

static __global__ void __launch_bounds__(CVX_THREADS)
    sum_parts(float *out, const float *parts, int64_t n, int ranks)
{
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) {
        float v = parts[i];
        for (int r = 1; r < ranks; r++) {
            v = __fadd_rn(v, parts[r * n + i]);
        }
        out[i] = v;
    }
}

extern "C" cvx_status cvx_cuda_sum_ranks(struct CUstream_st *stream, float *out, const float *parts,
                                         int64_t n, int ranks)
{
    if (n > 0) {
        sum_parts<<<blocks_for(n), CVX_THREADS, 0, stream>>>(out, parts, n, ranks);
    }
    return cvx_cuda_status((int)cudaGetLastError(), "sum over ranks");
}
