/* The kernel of attention_hopper.cuh, built and launched; the maps of its copies. */
#include "kernels/cuda/attention.h"
#include "kernels/cuda/attention_hopper.cuh"

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

typedef CUresult (*encode_map)(CUtensorMap *, CUtensorMapDataType, cuuint32_t, void *,
                               const cuuint64_t *, const cuuint64_t *, const cuuint32_t *,
                               const cuuint32_t *, CUtensorMapInterleave, CUtensorMapSwizzle,
                               CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

/* The driver's function, which is looked for once. */
static cvx_status find_encoder(encode_map *out)
{
    static void *found = nullptr;
    cudaDriverEntryPointQueryResult how;

    if (found == nullptr) {
        CVX_RETURN_IF(
            cvx_cuda_status((int)cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found,
                                                                  12000, cudaEnableDefault, &how),
                            "the driver's maps of tensors"));
        if (how != cudaDriverEntryPointSuccess || found == nullptr) {
            found = nullptr;
            return cvx_fail(CVX_EUNSUPPORTED, "the NVIDIA driver has no cuTensorMapEncodeTiled");
        }
    }
    *out = (encode_map)found;
    return CVX_OK;
}

/* A map of [b, s, h, d] (strides of b, s, h in elements) whose boxes are 64 columns x `rows` rows of one head. */
static cvx_status map_of(tensor_map *m, const void *data, const cvx_flash *a, int64_t s,
                         const int64_t stride[3], int rows)
{
    const cuuint64_t dims[] = {(cuuint64_t)a->d, (cuuint64_t)s, (cuuint64_t)a->h, (cuuint64_t)a->b};
    const int64_t steps[] = {stride[1], stride[2], stride[0]};
    const cuuint32_t box[] = {64, (cuuint32_t)rows, 1, 1}, each[] = {1, 1, 1, 1};
    cuuint64_t bytes[3];
    encode_map encode = nullptr;

    CVX_RETURN_IF(find_encoder(&encode));
    for (int i = 0; i < 3;
         i++) { /* of single items the stride is not used, yet must be a possible one */
        bytes[i] = dims[i + 1] == 1 ? 256 : (cuuint64_t)steps[i] * 2;
    }
    CUresult rc =
        encode(m, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 4, const_cast<void *>(data), dims, bytes, box,
               each, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
               CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    return rc == CUDA_SUCCESS
               ? CVX_OK
               : cvx_fail(CVX_EINTERNAL, "attention: the driver refuses a map of a tensor (%d)",
                          (int)rc);
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
