/* What the kernels of attention that multiply with tensor cores take, and how their tiles lie in shared memory. Plain C,
 * without anything of CUDA's, so that a test can look at it on the host. */
#ifndef CVX_KERNELS_CUDA_FLASH_H
#define CVX_KERNELS_CUDA_FLASH_H

#include <stdint.h>

#ifdef __CUDACC__
#define CVX_HOST_DEVICE __host__ __device__
#else
#define CVX_HOST_DEVICE
#endif

/* q, o [b, sq, h, d], k, v [b, sk, h, d]: strides of b, s, h in elements; lse [b, h, sq] or NULL: strides of b, h. */
typedef struct cvx_flash {
    const void *q, *k, *v;
    void *o;
    float *lse;
    int64_t b, sq, sk, h, qs[3], ks[3], vs[3], os[3], ls[2];
    int d;
    float scale;  /* of scores, above 0 */
    float scale2; /* scale / ln 2: weights are powers of two */
} cvx_flash;

/* Byte of 16-byte piece `piece` of row `row` in a tile whose rows have `pieces` (8 or 16) of them. The lowest three bits
 * of the piece are turned with the row, so that eight rows' pieces of one number, and eight pieces of one row, fall
 * into different banks. */
CVX_HOST_DEVICE
static inline uint32_t cvx_flash_place(int row, int piece, int pieces)
{
    return (uint32_t)((row * pieces + (piece ^ (row & 7))) * 16);
}

#endif
