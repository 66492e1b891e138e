/* What products are made of on levels without AMX: words of 32 bits, a float each or, on the
 * avx512_bf16 level with ctx->compute == CVX_BF16, a pair of bf16 numbers, whose two products one
 * instruction adds. Part of a level file; see vec.h. */
#if defined(__AVX512BF16__)
#include "kernels/cpu/bf16.inc.h"
#endif

/* Whether operands are pairs. */
INLINE bool in_pairs(const cvx_ctx *ctx)
{
#if defined(__AVX512BF16__) && !defined(__AMX_BF16__)
    return ctx->compute == CVX_BF16;
#else
    (void)ctx;
    return false;
#endif
}

/* Words of k values. */
INLINE int64_t words_of(int64_t k, bool pairs)
{
    return pairs ? (k + 1) / 2 : k;
}

/* c + the word at p · the words b */
INLINE vf word_fma(const float *p, vf b, vf c, bool pairs)
{
#if defined(__AVX512BF16__)
    if (pairs) {
        int32_t word;
        memcpy(&word, p, sizeof word);
        return (vf)_mm512_dpbf16_ps((__m512)c, (__m512bh)_mm512_set1_epi32(word), (__m512bh)b);
    }
#endif
    (void)pairs;
    return vfma(vset1(*p), b, c);
}

/* n floats as words: copied, or rounded to pairs, with zeros up to a whole vector of them. */
INLINE void to_words(float *dst, const float *src, int64_t n, bool pairs)
{
#if defined(__AVX512BF16__)
    for (int64_t i = 0; pairs && i < n; i += 32) {
        split32((char *)(dst + i / 2), 64, 1, _mm512_maskz_loadu_ps(first(n - i), src + i),
                _mm512_maskz_loadu_ps(first(n - i - 16), src + i + 16));
    }
#endif
    if (!pairs) {
        memcpy(dst, src, (size_t)n * sizeof *src);
    }
}

/* Two rows of NR floats as a row of pairs. */
INLINE void pair_rows(float *dst, const float *even, const float *odd)
{
#if defined(__AVX512BF16__)
    split_pair((char *)dst, 1, _mm512_loadu_ps(even), _mm512_loadu_ps(odd));
    split_pair((char *)(dst + VW), 1, _mm512_loadu_ps(even + VW), _mm512_loadu_ps(odd + VW));
#else
    (void)dst, (void)even, (void)odd;
#endif
}
