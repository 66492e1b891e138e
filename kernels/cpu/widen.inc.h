/* Weights to f32, n of them. Part of a level file; see vec.h. */
#if defined(__AVX512F__)
INLINE void widen16(float *dst, const void *src, cvx_dtype t)
{
    if (t == CVX_F32) {
        _mm512_storeu_ps(dst, _mm512_loadu_ps(src));
    } else if (t == CVX_F16) {
        _mm512_storeu_ps(dst, _mm512_cvtph_ps(_mm256_loadu_si256(src)));
    } else {
        __m512i v = _mm512_cvtepu16_epi32(_mm256_loadu_si256(src));
        _mm512_storeu_si512(dst, _mm512_slli_epi32(v, 16));
    }
}
#elif defined(__AVX2__)
INLINE void widen16(float *dst, const void *src, cvx_dtype t)
{
    if (t == CVX_F32) {
        memcpy(dst, src, 16 * sizeof *dst);
        return;
    }
    for (int i = 0; i < 2; i++) {
        __m128i h = _mm_loadu_si128((const __m128i *)src + i);
        if (t == CVX_F16) {
            _mm256_storeu_ps(dst + 8 * i, _mm256_cvtph_ps(h));
        } else {
            __m256i v = _mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16);
            _mm256_storeu_si256((__m256i *)(void *)(dst + 8 * i), v);
        }
    }
}
#else
INLINE void widen16(float *dst, const void *src, cvx_dtype t)
{
    cvx_to_f32(dst, src, t, 16);
}
#endif

INLINE void widen(float *dst, const void *src, cvx_dtype t, int64_t n)
{
    if (n == 16) {
        widen16(dst, src, t);
    } else {
        cvx_to_f32(dst, src, t, n);
    }
}
