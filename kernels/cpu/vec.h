/* Vectors of floats, one width per instruction set level. Included by the level files only, each of
 * which is compiled with its own flags; every function here is static, so that no level can pick up
 * another's code at link time.
 *
 *   VW    floats in a vector          vf, vi   vector of VW floats, of VW int32
 *   MR    rows of the f32 micro-kernel's tile; its columns are NR = 2·VW
 *
 * -ffp-contract=off holds: a·b + c in plain C is two roundings, vfma() is one where the level has
 * FMA (portable has not, and rounds twice). */
#ifndef CVX_KERNELS_CPU_VEC_H
#define CVX_KERNELS_CPU_VEC_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
#include <immintrin.h>
#define VW 16
#define MR 12
#elif defined(__AVX2__)
#include <immintrin.h>
#define VW 8
#define MR 6
#else
#define VW 4
#define MR 6
#endif
#define NR (2 * VW)

typedef float vf __attribute__((vector_size(4 * VW)));
typedef int32_t vi __attribute__((vector_size(4 * VW)));

#define INLINE static inline __attribute__((always_inline, unused))

INLINE vf vload(const float *p)
{
    vf v;
    memcpy(&v, p, sizeof v);
    return v;
}

INLINE void vstore(float *p, vf v)
{
    memcpy(p, &v, sizeof v);
}

/* Lanes 1, 0, 3, 2 ... */
INLINE vf vswap_pairs(vf v)
{
#if VW == 16
    return __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
#elif VW == 8
    return __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6);
#else
    return __builtin_shufflevector(v, v, 1, 0, 3, 2);
#endif
}

INLINE vf vset1(float x)
{
    return x - (vf){0};
}

/* Bitwise choice: mask lanes are all ones or all zeros. */
INLINE vf vselect(vi mask, vf a, vf b)
{
    return (vf)((mask & (vi)a) | (~mask & (vi)b));
}

#if defined(__AVX512F__)
INLINE vf vfma(vf a, vf b, vf c)
{
    return _mm512_fmadd_ps(a, b, c);
}

INLINE vf vmax(vf a, vf b)
{
    return _mm512_max_ps(a, b);
}

INLINE vf vmin(vf a, vf b)
{
    return _mm512_min_ps(a, b);
}

INLINE vf vround(vf a)
{
    return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

/* a·2^n for whole n, with gradual underflow and overflow to infinity */
INLINE vf vscale2(vf a, vf n)
{
    return _mm512_scalef_ps(a, n);
}

INLINE vf vload_n(const float *p, int64_t n)
{
    return _mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p);
}

INLINE void vstore_n(float *p, vf v, int64_t n)
{
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), v);
}
#else
#if defined(__AVX2__)
INLINE vf vfma(vf a, vf b, vf c)
{
    return _mm256_fmadd_ps(a, b, c);
}

INLINE vf vmax(vf a, vf b)
{
    return _mm256_max_ps(a, b);
}

INLINE vf vmin(vf a, vf b)
{
    return _mm256_min_ps(a, b);
}
#else
INLINE vf vfma(vf a, vf b, vf c)
{
    return a * b + c;
}

/* As the x86 instruction: b where either is NaN. */
INLINE vf vmax(vf a, vf b)
{
    return vselect(a > b, a, b);
}

INLINE vf vmin(vf a, vf b)
{
    return vselect(a < b, a, b);
}
#endif

/* To the nearest whole number, |a| < 2^22: adding 1.5·2^23 pushes the fraction out. */
INLINE vf vround(vf a)
{
    const vf magic = vset1(0x1.8p23f);
    return (a + magic) - magic;
}

/* a·2^n for whole n in -150 .. 129, in two steps so that neither factor leaves the exponent's range
 */
INLINE vf vscale2(vf a, vf n)
{
    vi all = __builtin_convertvector(n, vi), half = all >> 1, rest = all - half;
    return a * (vf)((half + 127) << 23) * (vf)((rest + 127) << 23);
}

/* The first n < VW floats, zeros after them. */
INLINE vf vload_n(const float *p, int64_t n)
{
    float t[VW] = {0};
    memcpy(t, p, (size_t)n * sizeof *t);
    return vload(t);
}

INLINE void vstore_n(float *p, vf v, int64_t n)
{
    memcpy(p, &v, (size_t)n * sizeof *p);
}
#endif

/* Lane i becomes lane i + w (modulo VW), for a constant w; and neighbours change places. */
#define TURN4(i, w) (i + w) % VW, (i + 1 + w) % VW, (i + 2 + w) % VW, (i + 3 + w) % VW
#define SWAP4(i) i + 1, i, i + 3, i + 2
#if VW == 16
#define TURN(v, w)                                                                                 \
    __builtin_shufflevector(v, v, TURN4(0, w), TURN4(4, w), TURN4(8, w), TURN4(12, w))
#define SWAP(v) __builtin_shufflevector(v, v, SWAP4(0), SWAP4(4), SWAP4(8), SWAP4(12))
#elif VW == 8
#define TURN(v, w) __builtin_shufflevector(v, v, TURN4(0, w), TURN4(4, w))
#define SWAP(v) __builtin_shufflevector(v, v, SWAP4(0), SWAP4(4))
#else
#define TURN(v, w) __builtin_shufflevector(v, v, TURN4(0, w))
#define SWAP(v) __builtin_shufflevector(v, v, SWAP4(0))
#endif

/* Sum and maximum of the lanes, always in the same tree. */
INLINE float vsum(vf v)
{
#if VW >= 16
    v += TURN(v, 8);
#endif
#if VW >= 8
    v += TURN(v, 4);
#endif
    v += TURN(v, 2);
    v += TURN(v, 1);
    return v[0];
}

INLINE float vmax_of(vf v)
{
#if VW >= 16
    v = vmax(v, TURN(v, 8));
#endif
#if VW >= 8
    v = vmax(v, TURN(v, 4));
#endif
    v = vmax(v, TURN(v, 2));
    v = vmax(v, TURN(v, 1));
    return v[0];
}

/* exp(x), relative error below 1.2e-7 (about one unit in the last place;
 * tests/op/op_elementwise.c): x = n·ln 2 + r, |r| <= ln 2 / 2, exp(r) by a polynomial of degree 6
 * (minimax, 3.3e-9) in Horner form. exp(0) is 1 exactly, exp(-inf) 0; above 88.8 the result is
 * infinity; NaN stays NaN. */
INLINE vf vexp(vf x)
{
    vf z = vmin(vset1(89.0f), vmax(vset1(-104.0f), x)); /* NaN passes: it is the second operand */
    vf n = vround(z * vset1(0x1.715476p0f));
    vf r = vfma(n, vset1(-0x1.62e4p-1f), z); /* n·ln2's upper half is exact */
    r = vfma(n, vset1(-0x1.7f7d1cp-20f), r);
    vf p = vfma(vset1(0x1.6a1a72p-10f), r, vset1(0x1.123fc6p-7f));
    p = vfma(p, r, vset1(0x1.555916p-5f));
    p = vfma(p, r, vset1(0x1.55548ap-3f));
    p = vfma(p, r, vset1(0x1.fffffcp-2f));
    p = vfma(p, r * r, r) + 1.0f;
    return vscale2(p, n);
}

#endif
