/* What SageAttention's kernels pass on. Plain C, as flash.h. */
#ifndef CVX_KERNELS_CUDA_SAGE_H
#define CVX_KERNELS_CUDA_SAGE_H

#include "kernels/cuda/flash.h"

#define CVX_SAGE_HEAD 64    /* the one head size */
#define CVX_SAGE_KEYS 128   /* keys of a block; sk is filled up to a multiple of it */
#define CVX_SAGE_SHARE 1024 /* keys and values that one block adds up */

/* Operands in 8 bits, heads n = b · h one after the other:
 *   q [n, sq, 64] integers, times qs [n, sq]
 *   k [n, skp, 64] integers less the mean of all keys, times ks [n, skp / 128, 4]: key j of a block has the
 *     scale (j % 8) / 2, so that a thread of the product needs one of them
 *   v [n, 64, skp] e4m3, times vs [n, 64]; keys of 32 in the order of cvx_sage_key(); zeros beyond sk
 *   mean [n, 64] of the keys; shift [n, sq]: a query times it
 *   part [n, cvx_sage_shares(sk), 2, 64]: sums of keys, greatest values */
typedef struct cvx_sage {
    int8_t *q, *k;
    uint8_t *v;
    float *qs, *ks, *vs, *mean, *shift, *part;
    int64_t skp;
} cvx_sage;

CVX_HOST_DEVICE
static inline int64_t cvx_sage_shares(int64_t sk)
{
    return (sk + CVX_SAGE_SHARE - 1) / CVX_SAGE_SHARE;
}

/* Which key of 32 is stored at place `at` of a row of values. A thread that has columns 2 c and 2 c + 1 of each of four
 * tiles of eight scores has them then as the four neighbours that the left operand of the next product wants of it. */
CVX_HOST_DEVICE
static inline int cvx_sage_key(int at)
{
    return at / 16 * 16 + at % 4 / 2 * 8 + at % 16 / 4 * 2 + at % 2;
}

#endif
