/* Matrix product on AMX tiles, bf16 operands and f32 sums: the other implementation of what
 * gemm.inc.h offers. Part of the amx level; see vec.h.
 *
 * f32 quality from bf16 tiles: a float is the exact sum of three bf16 numbers, h + m + l, each
 * eight bits of the significand, so that |m| <= 2^-8·|h| and |l| <= 2^-16·|h|. Products of two such
 * sums are added up to the order of 2^-16; what is left out (m·l and smaller) is below 2^-24 of the
 * product, as much as one rounding in f32. A weight stored in bf16 is one part, in f16 two: three,
 * five or six tile products instead of six for f32 weights. With ctx->compute == CVX_BF16 every
 * operand is its h alone. Values above 3.38e38 round to an infinite h and make the result NaN;
 * below 2^-126 they count as zero.
 *
 * Order of a sum: k in blocks of KC; within a block in steps of 32, small parts before great ones,
 * as the instruction adds them; block sums are added in ascending order. It does not depend on
 * rows, columns or threads. Tile registers: 0-3 sums (2 x 2), 4-5 rows of a, 6-7 columns of b. */

#define KC 256
#define GEMM_ROWS 32
#define GEMM_MC 256
#define GEMM_NC 1024

/* Tiles of all eight registers: 16 rows of 64 bytes. */
INLINE void gemm_begin(void)
{
    struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } __attribute__((packed, aligned(64))) cfg = {.palette = 1};

    for (int i = 0; i < 8; i++) {
        cfg.row_bytes[i] = 64;
        cfg.rows[i] = 16;
    }
    _tile_loadconfig(&cfg);
}

INLINE void gemm_end(void)
{
    _tile_release();
}

/* Parts of the activations, and of a weight of that dtype. */
INLINE int parts_of(const cvx_ctx *ctx, cvx_dtype dtype)
{
    if (ctx->compute == CVX_BF16 || dtype == CVX_BF16) {
        return 1;
    }
    return dtype == CVX_F16 ? 2 : 3;
}

INLINE int row_parts(const cvx_ctx *ctx)
{
    return ctx->compute == CVX_BF16 ? 1 : 3;
}

/* Rows of floats as the left operand: [panel of 32 rows][step of 32 columns][part][2 tiles].
 * `steps` steps are written, columns past k are zeros; so are rows past `rows`. */
INLINE void split_rows(char *dst, const float *x, int64_t ld, int64_t rows, int64_t k,
                       int64_t steps, int parts, float scale)
{
    __m512 f = _mm512_set1_ps(scale);

    for (int64_t i = 0; i < cvx_round_up(rows, 32); i++) {
        char *to = dst + i / 32 * steps * parts * 2 * TILE + i % 32 * 64;
        const float *p = x + i * ld;
        const float *ahead =
            x + cvx_min_i64(i + 4, rows - 1) * ld; /* rows are short: fetched by hand */
        for (int64_t s = 0; s < steps; s++, to += parts * 2 * TILE) {
            int64_t left = i < rows ? k - 32 * s : 0;
            _mm_prefetch(ahead + 32 * s, _MM_HINT_T0);
            _mm_prefetch(ahead + 32 * s + 16, _MM_HINT_T0);
            __m512 lo = _mm512_maskz_loadu_ps(first(left), p + 32 * s);
            __m512 hi = _mm512_maskz_loadu_ps(first(left - 16), p + 32 * s + 16);
            split32(to, 2 * TILE, parts, _mm512_mul_ps(lo, f), _mm512_mul_ps(hi, f));
        }
    }
}

/* Transposes 16 x 16 words of 32 bits in place. */
INLINE void transpose16(__m512i r[16])
{
    __m512i t[16];

#pragma GCC unroll 16
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < 16; i += 4) {
        r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < 4; i++) {
        t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
        t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
    }
#pragma GCC unroll 16
    for (int i = 0; i < 4; i++) {
        r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
        r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
        r[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
        r[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd);
    }
}

INLINE int64_t steps_of(int64_t k)
{
    return (k + 31) / 32;
}

/* A panel of a weight: [step of 32 k][part][2 tiles of 16 columns][16 pairs of k][16 columns][2].
 */
static size_t gemm_panel_bytes(const cvx_ctx *ctx, cvx_dtype dtype, int64_t k)
{
    return (size_t)(steps_of(k) * parts_of(ctx, dtype) * 2 * TILE);
}

/* 32 values of a weight's row from p, `left` of them there, as rows of parts: out[part·16·step]. */
INLINE void split_weight(char *dst, int64_t step, int parts, const char *p, cvx_dtype dtype,
                         int64_t left)
{
    __m512 lo, hi;

    if (dtype == CVX_F32) {
        lo = _mm512_maskz_loadu_ps(first(left), p);
        hi = _mm512_maskz_loadu_ps(first(left - 16), p + 64);
    } else {
        __m256i a = _mm256_maskz_loadu_epi16(first(left), p);
        __m256i b = _mm256_maskz_loadu_epi16(first(left - 16), p + 32);
        if (dtype == CVX_BF16) {
            _mm512_store_si512(dst, _mm512_inserti64x4(_mm512_castsi256_si512(a), b, 1));
            return;
        }
        lo = _mm512_cvtph_ps(a);
        hi = _mm512_cvtph_ps(b);
    }
    split32(dst, step, parts, lo, hi);
}

static void gemm_pack_panel(const cvx_ctx *ctx, void *dst, const cvx_tensor *w, int64_t j0)
{
    int64_t k = w->dim[1], size = (int64_t)cvx_dtype_size(w->dtype);
    int parts = parts_of(ctx, w->dtype);
    const char *src = w->data;
    char *out = dst;

    for (int64_t s = 0; s < steps_of(k); s++) {
        for (int half = 0; half < 2; half++) {
            char rows[3][16][64] __attribute__((aligned(64)));
            for (int j = 0; j < 16; j++) {
                int64_t at = j0 + half * 16 + j;
                split_weight(rows[0][j], TILE, parts,
                             src + ((at < w->dim[0] ? at : 0) * w->stride[0] + 32 * s) * size,
                             w->dtype, at < w->dim[0] ? k - 32 * s : 0);
            }
            for (int i = 0; i < parts; i++) {
                __m512i r[16];
                for (int j = 0; j < 16; j++) {
                    r[j] = _mm512_load_si512(rows[i][j]);
                }
                transpose16(r);
                char *to = out + ((s * parts + i) * 2 + half) * TILE;
                for (int j = 0; j < 16; j++) {
                    _mm512_storeu_si512(to + j * 64, r[j]);
                }
            }
        }
    }
}

static size_t gemm_scratch_bytes(const cvx_ctx *ctx, int64_t rows)
{
    return (size_t)(cvx_round_up(rows, 32) * KC * 2 * row_parts(ctx));
}

/* The sums in registers 0-3 += one step of 32 k of a panel of 32 (or, `half`, 16) rows, all of
 * whose `pa` parts i with i + j <= 2 meet part j of b; part 0 is the greatest. */
INLINE void amx_part(const char *a, const char *b, int pa, int j, bool half)
{
    _tile_loadd(6, b + j * 2 * TILE, 64);
    _tile_loadd(7, b + j * 2 * TILE + TILE, 64);
    for (int i = pa - 1 < 2 - j ? pa - 1 : 2 - j; i >= 0; i--) {
        _tile_loadd(4, a + i * 2 * TILE, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        if (!half) {
            _tile_loadd(5, a + i * 2 * TILE + TILE, 64);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
    }
}

INLINE void amx_kernel(const char *a, const char *b, int64_t steps, int pa, int pb, bool half)
{
    for (int64_t s = 0; s < steps; s++, a += pa * 2 * TILE, b += pb * 2 * TILE) {
        for (int j = pb - 1; j >= 0; j--) {
            amx_part(a, b, pa, j, half);
        }
    }
}

INLINE void amx_zero(void)
{
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
}

INLINE void amx_load(const float *c, int64_t ldc, bool half)
{
    _tile_loadd(0, c, ldc * 4);
    _tile_loadd(1, c + 16, ldc * 4);
    if (!half) {
        _tile_loadd(2, c + 16 * ldc, ldc * 4);
        _tile_loadd(3, c + 16 * ldc + 16, ldc * 4);
    }
}

/* Registers 0-3 to a tile of 32 (16) x 32 floats. */
INLINE void amx_store(float *c, int64_t ldc, bool half)
{
    _tile_stored(0, c, ldc * 4);
    _tile_stored(1, c + 16, ldc * 4);
    if (!half) {
        _tile_stored(2, c + 16 * ldc, ldc * 4);
        _tile_stored(3, c + 16 * ldc + 16, ldc * 4);
    }
}

INLINE void amx_tile(float *c, int64_t ldc, const char *a, const char *b, int64_t steps, int pa,
                     int pb, bool half, bool add)
{
    float t[32 * 32] __attribute__((aligned(64)));

    if (add && pa == 1) { /* bf16: its sums need no blocks */
        amx_load(c, ldc, half);
    } else {
        amx_zero();
    }
    amx_kernel(a, b, steps, pa, pb, half);
    if (!add || pa == 1) {
        amx_store(c, ldc, half);
        return;
    }
    amx_store(t, 32, half);
    for (int i = 0; i < (half ? 16 : 32); i++) {
        vstore(c + i * ldc, vload(c + i * ldc) + vload(t + i * 32));
        vstore(c + i * ldc + 16, vload(c + i * ldc + 16) + vload(t + i * 32 + 16));
    }
}

/* All tiles of one block of k. */
INLINE void amx_tiles(float *c, int64_t ldc, const char *a, int64_t rows, const char *panels,
                      int64_t panel_bytes, int64_t n_panels, int64_t steps, int pa, int pb,
                      bool add)
{
    int64_t share = cvx_round_up(steps * pb * 2 * TILE / ((rows + 31) / 32), 64);

    for (int64_t j = 0; j < n_panels; j++) {
        const char *b = panels + j * panel_bytes, *ahead = b + (j + 1 < n_panels ? panel_bytes : 0);
        for (int64_t i = 0; i < rows; i += 32) {
            for (int64_t z = 0; z < share;
                 z += 64) { /* each tile fetches its share of the next panel */
                _mm_prefetch(ahead + i / 32 * share + z, _MM_HINT_T1);
            }
            const char *p = a + i / 32 * steps * pa * 2 * TILE;
            float *to = c + i * ldc + j * 32;
            if (rows - i > 16) {
                amx_tile(to, ldc, p, b, steps, pa, pb, false, add);
            } else {
                amx_tile(to, ldc, p, b, steps, pa, pb, true, add);
            }
        }
    }
}

static void gemm_block(const cvx_ctx *ctx, float *c, int64_t ldc, const float *x, int64_t ldx,
                       int64_t rows, int64_t k, const char *panels, int64_t n_panels,
                       cvx_dtype dtype, void *scratch)
{
    int pa = row_parts(ctx), pb = parts_of(ctx, dtype);
    int64_t bytes = (int64_t)gemm_panel_bytes(ctx, dtype, k);

    for (int64_t k0 = 0; k0 < k; k0 += KC) {
        int64_t kc = cvx_min_i64(KC, k - k0), steps = steps_of(kc);
        const char *b = panels + k0 / 32 * pb * 2 * TILE;
        split_rows(scratch, x + k0, ldx, rows, kc, steps, pa, 1.0f);
        switch (pa == 1 ? 0 : pb) { /* one loop per count of parts */
        case 0: amx_tiles(c, ldc, scratch, rows, b, bytes, n_panels, steps, 1, 1, k0 > 0); break;
        case 1: amx_tiles(c, ldc, scratch, rows, b, bytes, n_panels, steps, 3, 1, k0 > 0); break;
        case 2: amx_tiles(c, ldc, scratch, rows, b, bytes, n_panels, steps, 3, 2, k0 > 0); break;
        default: amx_tiles(c, ldc, scratch, rows, b, bytes, n_panels, steps, 3, 3, k0 > 0); break;
        }
    }
}
