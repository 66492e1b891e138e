/* What the attention kernels for tensor cores share: a row lies on four neighbouring lanes, each with two columns of every
 * eight (the fragments of multiply()). */
#ifndef CVX_KERNELS_CUDA_FLASH_CUH
#define CVX_KERNELS_CUDA_FLASH_CUH

#include "kernels/cuda/flash.h"
#include "kernels/cuda/instr.cuh"

/* The greatest of a row's values. */
static __device__ __forceinline__ float flash_most(float v)
{
    v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, 1));
    return fmaxf(v, __shfl_xor_sync(0xffffffffu, v, 2));
}

/* The row's share of a block of N keys, its scores in s[..][2 half] and s[..][2 half + 1], becomes weights relative to the
 * greatest score so far, times 2^lift; *most and *sum follow. Returns the factor of what was summed before. */
template <int N>
static __device__ __forceinline__ float flash_weigh(float (&s)[N / 8][4], int half, float *most,
                                                    float *sum, float scale2, float lift = 0)
{
    float m = *most, here = 0;

#pragma unroll
    for (int j = 0; j < N / 8; j++) {
        m = fmaxf(m, fmaxf(s[j][2 * half], s[j][2 * half + 1]));
    }
    m = flash_most(m);
    float base = m * scale2, old = exp2_fast(fmaf(*most, scale2, -base));
    base -= lift;
    *most = m;
#pragma unroll
    for (int j = 0; j < N / 8; j++) {
#pragma unroll
        for (int e = 2 * half; e < 2 * half + 2; e++) {
            s[j][e] = exp2_fast(fmaf(s[j][e], scale2, -base));
            here += s[j][e];
        }
    }
    *sum = fmaf(*sum, old, here);
    return old;
}

/* Keys from `left` on (of this block) do not exist. */
template <int N>
static __device__ __forceinline__ void flash_hide(float (&s)[N / 8][4], int64_t left)
{
#pragma unroll
    for (int j = 0; j < N / 8; j++) {
#pragma unroll
        for (int e = 0; e < 4; e++) {
            if (j * 8 + threadIdx.x % 4 * 2 + e % 2 >= left) {
                s[j][e] = -INFINITY;
            }
        }
    }
}

/* Weights of 16 keys as the left operand of a product. */
template <typename T>
static __device__ __forceinline__ void flash_pack(uint32_t a[4], const float low[4],
                                                  const float high[4])
{
    a[0] = pack_two<T>(low[0], low[1]);
    a[1] = pack_two<T>(low[2], low[3]);
    a[2] = pack_two<T>(high[0], high[1]);
    a[3] = pack_two<T>(high[2], high[3]);
}

/* o / sum of a row, and its log-sum-exp; sum: this lane's part. All lanes call; rows from sq on are left out. */
template <typename T, int D>
static __device__ __forceinline__ void flash_store(const cvx_flash &a, const float (&acc)[D / 8][4],
                                                   int half, float most, float sum, int64_t batch,
                                                   int64_t head, int64_t row)
{
    int lane = threadIdx.x % 4;

    sum += __shfl_xor_sync(0xffffffffu, sum, 1);
    sum += __shfl_xor_sync(0xffffffffu, sum, 2);
    if (row < a.sq) {
        T *o = (T *)a.o + batch * a.os[0] + row * a.os[1] + head * a.os[2];
        float over = 1 / sum;
#pragma unroll
        for (int j = 0; j < D / 8; j++) {
            if (j * 8 < a.d) { /* d is a multiple of 8 */
                *(uint32_t *)(o + j * 8 + lane * 2) =
                    pack_two<T>(acc[j][2 * half] * over, acc[j][2 * half + 1] * over);
            }
        }
        if (a.lse != nullptr && lane == 0) {
            a.lse[batch * a.ls[0] + head * a.ls[1] + row] = fmaf(most, a.scale, logf(sum));
        }
    }
}

#endif
