/* Hopper's instructions: bulk copies of tiles that tell a barrier when they have come, products of a group of four warps
 * that run beside them, registers handed from one group to others. For sm_90a alone: what calls these stands between
 * #ifdef CVX_HOPPER. Like instr.cuh, tests have a stand-in. */
#ifndef CVX_KERNELS_CUDA_HOPPER_CUH
#define CVX_KERNELS_CUDA_HOPPER_CUH

#include <cuda.h>

#include "kernels/cuda/instr.cuh"

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#define CVX_HOPPER 1
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ == 900 && !defined(CVX_NO_HOPPER)
#error "code for 90 beside that for 90a: Hopper might load it, and it lacks these kernels; name 90a alone"
#endif

typedef CUtensorMap tensor_map;

/* The same on all lanes, which the compiler then knows. */
static __device__ __forceinline__ int uniform(int v)
{
    return __shfl_sync(0xffffffffu, v, 0);
}

/* --- barriers in shared memory: 8 bytes each; a phase ends when `count` threads have arrived and the bytes that were
 * announced have come --- */

static __device__ __forceinline__ void barrier_init(shared_at b, int count)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(b), "r"(count) : "memory");
}
/* After the inits, before the __syncthreads that shows them to the other threads and to the copies. */
static __device__ __forceinline__ void barrier_inits_done()
{
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
static __device__ __forceinline__ void barrier_arrive(shared_at b)
{
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(b) : "memory");
}
static __device__ __forceinline__ void barrier_arrive_expecting(shared_at b, int bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(b), "r"(bytes)
                 : "memory");
}
/* Until the phase of this parity has ended; of a new barrier, parity 1 has. */
static __device__ __forceinline__ void barrier_wait(shared_at b, int parity)
{
    asm volatile("{\n"
                 ".reg .pred done;\n"
                 "again:\n"
                 "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
                 "@!done bra again;\n"
                 "}" ::"r"(b),
                 "r"(parity)
                 : "memory");
}

/* Of `threads` threads (whole warps) some wait (sync), the others go on (arrive). Barrier 0 is __syncthreads'. */
static __device__ __forceinline__ void named_sync(int id, int threads)
{
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
static __device__ __forceinline__ void named_arrive(int id, int threads)
{
    asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

/* A group of four warps gives registers back, or gets some: N of each thread from now on. */
template <int N> static __device__ __forceinline__ void registers_give()
{
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
}
template <int N> static __device__ __forceinline__ void registers_take()
{
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
}

/* The map's box from (e, row, head, item) on comes to `to`; its bytes (zeros outside of the tensor included) count for b. */
static __device__ __forceinline__ void tile_async(shared_at to, const tensor_map *map, shared_at b,
                                                  int e, int row, int head, int item)
{
    asm volatile(
        "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], "
        "[%1, {%3, %4, %5, %6}], [%2];" ::"r"(to),
        "l"(map), "r"(b), "r"(e), "r"(row), "r"(head), "r"(item)
        : "memory");
}

/* --- products of a group of four warps --- */

/* An operand in shared memory, rows of 64 bytes turned as bulk copies of that width do, 8 of them 512 bytes apart. */
static __device__ __forceinline__ uint64_t narrow_operand_at(shared_at p)
{
    return (uint64_t)2 << 62 | (uint64_t)(512 >> 4) << 32 | (uint64_t)((p & 0x3ffff) >> 4);
}

/* An operand in shared memory, rows of 128 bytes turned as bulk copies do (cvx_flash_place with 8 pieces), 8 of them
 * 1024 bytes apart; where the contraction runs along rows and there are more than 64 columns, the next 64 lie `next`
 * bytes on (PTX ISA, matrix descriptors, 128-byte swizzle). */
static __device__ __forceinline__ uint64_t operand_at(shared_at p, int next)
{
    return (uint64_t)1 << 62 | (uint64_t)(1024 >> 4) << 32 | (uint64_t)(next >> 4) << 16 |
           (uint64_t)((p & 0x3ffff) >> 4);
}
/* The operand `bytes` further on. */
static __device__ __forceinline__ uint64_t operand_next(uint64_t o, int bytes)
{
    return o + (uint64_t)(bytes >> 4);
}

/* Before the first product, and after registers that take part were written. */
static __device__ __forceinline__ void products_begin()
{
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
/* What was begun since the last commit is one set. */
static __device__ __forceinline__ void products_commit()
{
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
/* All but the N youngest sets are done. */
template <int N> static __device__ __forceinline__ void products_wait()
{
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}
/* Registers of products in flight: nothing that uses them moves over this. */
template <int N> static __device__ __forceinline__ void hold(float (&d)[N][4])
{
#pragma unroll
    for (int i = 0; i < 4 * N; i++) {
        asm volatile("" : "+f"(d[i / 4][i % 4])::"memory");
    }
}
template <int N> static __device__ __forceinline__ void hold(int (&d)[N][4])
{
#pragma unroll
    for (int i = 0; i < 4 * N; i++) {
        asm volatile("" : "+r"(d[i / 4][i % 4])::"memory");
    }
}
template <int N> static __device__ __forceinline__ void hold(uint32_t (&a)[N][4])
{
#pragma unroll
    for (int i = 0; i < 4 * N; i++) {
        asm volatile("" : "+r"(a[i / 4][i % 4])::"memory");
    }
}

#define CVX_TILE(d, i) "+f"(d[i][0]), "+f"(d[i][1]), "+f"(d[i][2]), "+f"(d[i][3])
#define CVX_TILES_4(d, i) CVX_TILE(d, i), CVX_TILE(d, i + 1), CVX_TILE(d, i + 2), CVX_TILE(d, i + 3)
#define CVX_TILES_8(d) CVX_TILES_4(d, 0), CVX_TILES_4(d, 4)
#define CVX_TILES_16(d) CVX_TILES_8(d), CVX_TILES_4(d, 8), CVX_TILES_4(d, 12)

/* d [64, 128] = a [64, 16] · b [128, 16]ᵀ, plus d if ADD. A warp has 16 rows, as fragments of 8 columns (multiply()). */
template <bool ADD>
static __device__ __forceinline__ void products_of_rows(float (&d)[16][4], uint64_t a, uint64_t b)
{
    asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, %66, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
                 "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, "
                 "%12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, "
                 "%24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, "
                 "%36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
                 "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, "
                 "%60, %61, %62, %63}, "
                 "%64, %65, add, 1, 1, 0, 0;\n}"
                 : CVX_TILES_16(d)
                 : "l"(a), "l"(b), "n"((int)ADD));
}

/* d [64, 64 or 128] += a [64, 16] · b [16, 64 or 128], a in registers: a fragment of 16 rows a warp. */
static __device__ __forceinline__ void products_of_columns(float (&d)[8][4], const uint32_t a[4],
                                                           uint64_t b)
{
    asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
                 "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, "
                 "%12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, "
                 "%24, %25, %26, %27, %28, %29, %30, %31}, "
                 "{%32, %33, %34, %35}, %36, 1, 1, 1, 1;"
                 : CVX_TILES_8(d)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
static __device__ __forceinline__ void products_of_columns(float (&d)[16][4], const uint32_t a[4],
                                                           uint64_t b)
{
    asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
                 "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, "
                 "%12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, "
                 "%24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, "
                 "%36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
                 "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, "
                 "%60, %61, %62, %63}, "
                 "{%64, %65, %66, %67}, %68, 1, 1, 1, 1;"
                 : CVX_TILES_16(d)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

#define CVX_TILE_INT(d, i) "+r"(d[i][0]), "+r"(d[i][1]), "+r"(d[i][2]), "+r"(d[i][3])
#define CVX_TILES_INT_4(d, i)                                                                      \
    CVX_TILE_INT(d, i), CVX_TILE_INT(d, i + 1), CVX_TILE_INT(d, i + 2), CVX_TILE_INT(d, i + 3)

/* d [64, 128] = a [64, 32] · b [128, 32]ᵀ of 8-bit integers, plus d if ADD. */
template <bool ADD>
static __device__ __forceinline__ void products_of_integers(int (&d)[16][4], uint64_t a, uint64_t b)
{
    asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, %66, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k32.s32.s8.s8 "
                 "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, "
                 "%12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, "
                 "%24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, "
                 "%36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
                 "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, "
                 "%60, %61, %62, %63}, "
                 "%64, %65, add;\n}"
                 : CVX_TILES_INT_4(d, 0), CVX_TILES_INT_4(d, 4), CVX_TILES_INT_4(d, 8),
                   CVX_TILES_INT_4(d, 12)
                 : "l"(a), "l"(b), "n"((int)ADD));
}

/* d [64, 64] = a [64, 32] · b [64, 32]ᵀ of e4m3, plus d if ADD; a in registers: lane i of a warp has of rows i / 4 and
 * i / 4 + 8 the columns 4 (i % 4) .. + 4 (a[0], a[1]) and 16 more (a[2], a[3]). */
template <bool ADD>
static __device__ __forceinline__ void products_of_e4m3(float (&d)[8][4], const uint32_t a[4],
                                                        uint64_t b)
{
    asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, %37, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n64k32.f32.e4m3.e4m3 "
                 "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, "
                 "%12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, "
                 "%24, %25, %26, %27, %28, %29, %30, %31}, "
                 "{%32, %33, %34, %35}, %36, add, 1, 1;\n}"
                 : CVX_TILES_8(d)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"((int)ADD));
}

/* Four values rounded to e4m3, the first in the lowest byte; above 448 is 448. */
static __device__ __forceinline__ uint32_t pack_e4m3(float a, float b, float c, float d)
{
    uint32_t r;
    asm("{\n.reg .b16 low, high;\n"
        "cvt.rn.satfinite.e4m3x2.f32 low, %2, %1;\n"
        "cvt.rn.satfinite.e4m3x2.f32 high, %4, %3;\n"
        "mov.b32 %0, {low, high};\n}"
        : "=r"(r)
        : "f"(a), "f"(b), "f"(c), "f"(d));
    return r;
}

#endif
