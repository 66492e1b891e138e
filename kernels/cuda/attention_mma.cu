/* The kernels of attention_mma.cuh, built and launched. */
#include "kernels/cuda/attention.h"
#include "kernels/cuda/attention_mma.cuh"

template <typename T, int D>
static __global__ void __launch_bounds__(flash_tile<D>::threads, 2) flash_mma(cvx_flash a)
{
    extern __shared__ __align__(128) char room[];
    flash_block<T, D>(a, room);
}

template <typename T, int D> static cvx_status launch(cvx_cuda *s, const cvx_flash *a)
{
    const int rows = flash_tile<D>::rows, room = flash_tile<D>::shared;
    dim3 grid((unsigned)((a->sq + rows - 1) / rows), (unsigned)(a->b * a->h));

    CVX_RETURN_IF(
        cvx_cuda_status((int)cudaFuncSetAttribute(
                            flash_mma<T, D>, cudaFuncAttributeMaxDynamicSharedMemorySize, room),
                        "shared memory of attention"));
    flash_mma<T, D><<<grid, flash_tile<D>::threads, (size_t)room, s->stream>>>(*a);
    return cvx_cuda_launched(s, "attention");
}

extern "C" cvx_status cvx_cuda_attention_mma(cvx_cuda *s, const cvx_flash *a)
{
    return a->d <= 64 ? launch<bf16, 64>(s, a) : launch<bf16, 128>(s, a);
}
