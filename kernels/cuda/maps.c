#include "kernels/cuda/maps.h"

#include <cuda.h>
#include <cuda_runtime_api.h>
#include <string.h>

typedef CUresult (*encoder)(CUtensorMap *, CUtensorMapDataType, cuuint32_t, void *,
                            const cuuint64_t *, const cuuint64_t *, const cuuint32_t *,
                            const cuuint32_t *, CUtensorMapInterleave, CUtensorMapSwizzle,
                            CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

/* The driver's function, which is looked for once. */
static cvx_status find_encoder(encoder *out)
{
    static void *found;
    enum cudaDriverEntryPointQueryResult how;

    if (found == NULL) {
        void *p = NULL;
        CVX_RETURN_IF(
            cvx_cuda_status((int)cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &p,
                                                                  12000, cudaEnableDefault, &how),
                            "the driver's maps of tensors"));
        if (how != cudaDriverEntryPointSuccess || p == NULL) {
            return cvx_fail(CVX_EUNSUPPORTED, "the NVIDIA driver has no cuTensorMapEncodeTiled");
        }
        found = p;
    }
    memcpy(out, &found, sizeof found);
    return CVX_OK;
}

cvx_status cvx_cuda_map(struct CUtensorMap_st *map, const void *data, int bytes,
                        const int64_t dim[4], const int64_t stride[3], int columns, int rows)
{
    const cuuint32_t box[] = {(cuuint32_t)columns, (cuuint32_t)rows, 1, 1}, each[] = {1, 1, 1, 1};
    cuuint64_t dims[4], steps[3];
    encoder encode = NULL;

    CVX_RETURN_IF(find_encoder(&encode));
    for (int i = 0; i < 4; i++) {
        dims[i] = (cuuint64_t)dim[i];
    }
    for (int i = 0; i < 3; i++) { /* of single items none is used, yet it must be a possible one */
        steps[i] = dim[i + 1] == 1 ? 256 : (cuuint64_t)(stride[i] * bytes);
    }
    CUresult rc =
        encode(map, bytes == 1 ? CU_TENSOR_MAP_DATA_TYPE_UINT8 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
               4, (void *)data, dims, steps, box, each, CU_TENSOR_MAP_INTERLEAVE_NONE,
               columns * bytes == 64 ? CU_TENSOR_MAP_SWIZZLE_64B : CU_TENSOR_MAP_SWIZZLE_128B,
               CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    return rc == CUDA_SUCCESS
               ? CVX_OK
               : cvx_fail(CVX_EINTERNAL, "attention: the driver refuses a map of a tensor (%d)",
                          (int)rc);
}
