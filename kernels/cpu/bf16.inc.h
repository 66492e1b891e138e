/* Floats as bf16 numbers, for the levels that multiply those. Part of a level file; see vec.h. */

#define TILE 1024 /* bytes: 16 rows of 64 */

/* The floats of 16 bf16 numbers. */
INLINE __m512 bf16_floats(__m256i v)
{
    return (__m512)_mm512_slli_epi32(_mm512_cvtepu16_epi32(v), 16);
}

/* 32 floats as `parts` vectors of 32 bf16, `step` bytes apart: each takes what those before left of the value. */
INLINE void split32(char *dst, int64_t step, int parts, __m512 lo, __m512 hi)
{
    for (int i = 0;; i++) {
        __m512i v = (__m512i)_mm512_cvtne2ps_pbh(hi, lo);
        _mm512_storeu_si512(dst + i * step, v);
        if (i == parts - 1) {
            return;
        }
        lo = _mm512_sub_ps(lo, bf16_floats(_mm512_castsi512_si256(v)));
        hi = _mm512_sub_ps(hi, bf16_floats(_mm512_extracti64x4_epi64(v, 1)));
    }
}

/* Two rows of 16 floats as pairs of bf16, `parts` vectors 2·TILE bytes apart. */
INLINE void split_pair(char *dst, int parts, __m512 even, __m512 odd)
{
    for (int i = 0; i < parts; i++, dst += 2 * TILE) {
        __m256i e = (__m256i)_mm512_cvtneps_pbh(even), o = (__m256i)_mm512_cvtneps_pbh(odd);
        __m512i v = _mm512_slli_epi32(_mm512_cvtepu16_epi32(o), 16);
        _mm512_storeu_si512(dst, _mm512_or_si512(v, _mm512_cvtepu16_epi32(e)));
        even = _mm512_sub_ps(even, bf16_floats(e));
        odd = _mm512_sub_ps(odd, (__m512)v);
    }
}

/* The lanes of the first n values. */
INLINE __mmask16 first(int64_t n)
{
    return n >= 16 ? 0xffff : n <= 0 ? 0 : (__mmask16)((1u << n) - 1);
}
