/* Small things that the kernels share: element types, sums over a warp or a block, launch sizes. */
#ifndef CVX_KERNELS_CUDA_DEVICE_CUH
#define CVX_KERNELS_CUDA_DEVICE_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <stdint.h>

#include "kernels/cuda/cuda.h"

typedef __nv_bfloat16 bf16;
typedef __half f16;

__device__ __forceinline__ float to_float(float v)
{
    return v;
}
__device__ __forceinline__ float to_float(bf16 v)
{
    return __bfloat162float(v);
}
__device__ __forceinline__ float to_float(f16 v)
{
    return __half2float(v);
}

/* Rounds to nearest even, as the host's conversions do. */
template <typename T> __device__ __forceinline__ T from_float(float v);
template <> __device__ __forceinline__ float from_float<float>(float v)
{
    return v;
}
template <> __device__ __forceinline__ bf16 from_float<bf16>(float v)
{
    return __float2bfloat16_rn(v);
}
template <> __device__ __forceinline__ f16 from_float<f16>(float v)
{
    return __float2half_rn(v);
}

/* V elements that are loaded and stored at once; T[V] must be aligned to its size (at most 16 bytes). */
template <typename T, int V> struct __align__(sizeof(T) * V) pack_of {
    T v[V];
};

template <typename T, int V> __device__ __forceinline__ void load(float out[V], const T *p)
{
    pack_of<T, V> u = *reinterpret_cast<const pack_of<T, V> *>(p);
#pragma unroll
    for (int i = 0; i < V; i++) {
        out[i] = to_float(u.v[i]);
    }
}

template <typename T, int V> __device__ __forceinline__ void store(T *p, const float in[V])
{
    pack_of<T, V> u;
#pragma unroll
    for (int i = 0; i < V; i++) {
        u.v[i] = from_float<T>(in[i]);
    }
    *reinterpret_cast<pack_of<T, V> *>(p) = u;
}

/* The sum over L neighbouring lanes, the same on each of them; all of the warp call. */
template <int L> __device__ __forceinline__ float sum_lanes(float v)
{
#pragma unroll
    for (int i = L / 2; i > 0; i /= 2) {
        v += __shfl_xor_sync(0xffffffffu, v, i);
    }
    return v;
}

/* The sum over the N threads (32, or all of a block) that share a row, the same on each of them and in an order that
 * N alone decides. room: N / 32 floats of shared memory, unused for a warp. */
template <int N> __device__ __forceinline__ float sum_over(float v, float *room)
{
    v = sum_lanes<32>(v);
    if (N > 32) {
        __syncthreads(); /* the sum before has been read */
        if (threadIdx.x % 32 == 0) {
            room[threadIdx.x / 32] = v;
        }
        __syncthreads();
        v = 0;
#pragma unroll
        for (int i = 0; i < N / 32; i++) {
            v += room[i];
        }
    }
    return v;
}

/* The activations of op linear. */
__device__ __forceinline__ float activate(int act, float x)
{
    switch (act) {
    case CVX_ACT_GELU_TANH:
        return 0.5f * x * (1 + tanhf(0.79788456080286535588f * (x + 0.044715f * x * x * x)));
    case CVX_ACT_GELU: return 0.5f * x * (1 + erff(x * 0.70710678118654752440f));
    case CVX_ACT_QUICK_GELU: return x / (1 + expf(-1.702f * x));
    case CVX_ACT_SILU: return x / (1 + expf(-x));
    default: return x;
    }
}

#define CVX_THREADS 256

/* Blocks of CVX_THREADS threads for n items. */
static inline unsigned blocks_for(int64_t n)
{
    return (unsigned)((n + CVX_THREADS - 1) / CVX_THREADS);
}

static inline bool aligned_to(const void *p, size_t bytes)
{
    return (uintptr_t)p % bytes == 0;
}

/* Runs the statements with T the type of an activation's dtype. */
#define WITH_ACTIVATION(dtype, T, ...)                                                             \
    if ((dtype) == CVX_BF16) {                                                                     \
        typedef bf16 T;                                                                            \
        __VA_ARGS__;                                                                               \
    } else {                                                                                       \
        typedef float T;                                                                           \
        __VA_ARGS__;                                                                               \
    }

/* The same for weights and products' operands. */
#define WITH_TYPE(dtype, T, ...)                                                                   \
    switch (dtype) {                                                                               \
    case CVX_BF16: {                                                                               \
        typedef bf16 T;                                                                            \
        __VA_ARGS__;                                                                               \
        break;                                                                                     \
    }                                                                                              \
    case CVX_F16: {                                                                                \
        typedef f16 T;                                                                             \
        __VA_ARGS__;                                                                               \
        break;                                                                                     \
    }                                                                                              \
    default: {                                                                                     \
        typedef float T;                                                                           \
        __VA_ARGS__;                                                                               \
        break;                                                                                     \
    }                                                                                              \
    }

#endif
