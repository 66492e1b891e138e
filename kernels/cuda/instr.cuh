/* Instructions that C++ has no names for, one function each. A kernel that uses no others can be run on the host by a
 * stand-in for this header (tests/device). */
#ifndef CVX_KERNELS_CUDA_INSTR_CUH
#define CVX_KERNELS_CUDA_INSTR_CUH

#include "kernels/cuda/device.cuh"

typedef uint32_t shared_at; /* an address in shared memory */

static __device__ __forceinline__ shared_at shared_address(const void *p)
{
    return (shared_at)__cvta_generic_to_shared(p);
}

/* 2^x; an error of two units in the last place; 0 for -infinity. */
static __device__ __forceinline__ float exp2_fast(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* Two values rounded to T, the first in the lower half. */
template <typename T> static __device__ __forceinline__ uint32_t pack_two(float low, float high);
template <> __device__ __forceinline__ uint32_t pack_two<bf16>(float low, float high)
{
    uint32_t r;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
    return r;
}
template <> __device__ __forceinline__ uint32_t pack_two<f16>(float low, float high)
{
    uint32_t r;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
    return r;
}

/* 16 bytes of global to shared memory on their way, zeros beyond `bytes`. */
static __device__ __forceinline__ void copy_async(shared_at to, const void *from, int bytes)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes)
                 : "memory");
}

/* What this thread has sent on its way since the last commit is one group. */
static __device__ __forceinline__ void copy_commit()
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

/* All but the N youngest groups of this thread have come. */
template <int N> static __device__ __forceinline__ void copy_wait()
{
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

/* Four matrices of 8 x 8 16-bit values; lane i names row i % 8 of matrix i / 8 and gets of each matrix the values
 * 2 (i % 4) and 2 (i % 4) + 1 of row i / 4; turned: of its transpose. */
static __device__ __forceinline__ void load_matrices(uint32_t r[4], shared_at row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(row)
                 : "memory");
}
static __device__ __forceinline__ void load_matrices_turned(uint32_t r[4], shared_at row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(row)
                 : "memory");
}

/* d [16, 8] += a [16, 16] · b [16, 8], each a fragment of the warp (PTX ISA, mma.m16n8k16). */
template <typename T>
static __device__ __forceinline__ void multiply(float d[4], const uint32_t a[4], uint32_t b0,
                                                uint32_t b1);
template <>
__device__ __forceinline__ void multiply<bf16>(float d[4], const uint32_t a[4], uint32_t b0,
                                               uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, "
                 "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
template <>
__device__ __forceinline__ void multiply<f16>(float d[4], const uint32_t a[4], uint32_t b0,
                                              uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, "
                 "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

#endif
