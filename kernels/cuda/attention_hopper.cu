/* The kernel of attention_hopper.cuh, built and launched; the maps of its copies. */
#include "kernels/cuda/attention.h"
#include "kernels/cuda/attention_hopper.cuh"
#include "kernels/cuda/maps.h"

/* The maps are parameters: no memory of theirs has to live as long as the launch, or as a graph of it. Without code where
 * the instructions are missing: cvx_cuda_attention() does not launch it there. */
template <int D>
static __global__ void __launch_bounds__(hopper_tile<D>::threads, 1)
    flash_hopper(cvx_flash a, const __grid_constant__ hopper_maps m)
{
#ifdef CVX_HOPPER
    extern __shared__ __align__(1024) char room[];
    hopper_block<D>(a, m, room);
#endif
}

/* A map of [b, s, h, d] (strides of b, s, h) whose boxes are 64 columns x `rows` rows of one head. */
static cvx_status map_of(tensor_map *m, const void *data, const cvx_flash *a, int64_t s,
                         const int64_t stride[3], int rows)
{
    const int64_t dims[] = {a->d, s, a->h, a->b}, steps[] = {stride[1], stride[2], stride[0]};

    return cvx_cuda_map(m, data, 2, dims, steps, 64, rows);
}

template <int D> static cvx_status launch(cvx_cuda *s, const cvx_flash *a)
{
    typedef hopper_tile<D> tile;
    const int room = tile::shared;
    dim3 grid((unsigned)((a->sq + tile::rows - 1) / tile::rows), (unsigned)(a->b * a->h));
    hopper_maps m;

    CVX_RETURN_IF(map_of(&m.q, a->q, a, a->sq, a->qs, tile::rows));
    CVX_RETURN_IF(map_of(&m.k, a->k, a, a->sk, a->ks, tile::keys));
    CVX_RETURN_IF(map_of(&m.v, a->v, a, a->sk, a->vs, tile::keys));
    CVX_RETURN_IF(
        cvx_cuda_status((int)cudaFuncSetAttribute(
                            flash_hopper<D>, cudaFuncAttributeMaxDynamicSharedMemorySize, room),
                        "shared memory of attention"));
    flash_hopper<D><<<grid, tile::threads, (size_t)room, s->stream>>>(*a, m);
    return cvx_cuda_launched(s, "attention");
}

extern "C" cvx_status cvx_cuda_attention_hopper(cvx_cuda *s, const cvx_flash *a)
{
    return a->d <= 64 ? launch<64>(s, a) : launch<128>(s, a);
}
