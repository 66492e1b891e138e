/* Maps of tensors for bulk copies (CUtensorMap), which the driver makes. */
#ifndef CVX_KERNELS_CUDA_MAPS_H
#define CVX_KERNELS_CUDA_MAPS_H

#include "kernels/cuda/cuda.h"

#ifdef __cplusplus
extern "C" {
#endif

struct CUtensorMap_st;

/* *map <- a tensor of four dims, the first contiguous, of bf16 (bytes = 2) or of bytes (1); strides of the other three in
 * elements, multiples of 16 bytes. Boxes: `columns` of the first dim, 64 or 128 bytes, turned in shared memory as rows
 * of that width; `rows` of the second. CVX_EUNSUPPORTED if the driver is too old, CVX_EINTERNAL if it refuses. */
cvx_status cvx_cuda_map(struct CUtensorMap_st *map, const void *data, int bytes,
                        const int64_t dim[4], const int64_t stride[3], int columns,
                        int rows) CVX_CHECK;

#ifdef __cplusplus
}
#endif
#endif
