/* The two products of attention on AMX tiles, see gemm_amx.inc.h. Part of the amx level. Keys are packed
 * as panels of a weight [sk, d]; values as panels over the keys: [32 columns of v][step of 32 keys]
 * [part][2 tiles][16 pairs of keys][16 columns][2]. In f32 queries, keys, probabilities and values
 * are three parts each. */

INLINE int64_t key_bytes(const cvx_ctx *ctx, int64_t sk, int64_t d)
{
    return cvx_round_up(sk, 32) / 32 * (int64_t)gemm_panel_bytes(ctx, CVX_F32, d);
}

/* Of one panel of 32 columns of v. */
INLINE int64_t value_bytes(const cvx_ctx *ctx, int64_t sk)
{
    return (int64_t)gemm_panel_bytes(ctx, CVX_F32, sk);
}

static size_t attn_head_bytes(const cvx_ctx *ctx, int64_t sk, int64_t d)
{
    return (size_t)(key_bytes(ctx, sk, d) + steps_of(d) * value_bytes(ctx, sk));
}

/* Query parts, then probability parts. */
static size_t attn_q_bytes(const cvx_ctx *ctx)
{
    return (size_t)BQ * (HD + BK) * 2 * (size_t)row_parts(ctx);
}

/* Two rows of 16 values, one pair after the other, in parts. */
INLINE void split_pairs(char *dst, int parts, __m512 even, __m512 odd)
{
    for (int i = 0; i < parts; i++) {
        __m256i e = (__m256i)_mm512_cvtneps_pbh(even), o = (__m256i)_mm512_cvtneps_pbh(odd);
        __m512i v = _mm512_slli_epi32(_mm512_cvtepu16_epi32(o), 16);
        _mm512_store_si512(dst + i * 2 * TILE, _mm512_or_si512(v, _mm512_cvtepu16_epi32(e)));
        even = _mm512_sub_ps(even, bf16_floats(e));
        odd = _mm512_sub_ps(odd, bf16_floats(o));
    }
}

static void attn_pack_kv(const cvx_ctx *ctx, char *head, const float *k, int64_t ldk, const float *v,
                         int64_t ldv, int64_t j0, int64_t sk, int64_t d)
{
    cvx_tensor keys = {.data = (void *)(uintptr_t)k, .dtype = CVX_F32, .ndim = 2, .dim = {sk, d},
                       .stride = {ldk, 1}};
    int64_t end = cvx_min_i64(j0 + BK, sk), per_key_panel = (int64_t)gemm_panel_bytes(ctx, CVX_F32, d);
    int parts = row_parts(ctx);

    for (int64_t j = j0; j < end; j += 32) {
        gemm_pack_panel(ctx, head + j / 32 * per_key_panel, &keys, j);
    }
    for (int64_t e = 0; e < d; e += 16) { /* tile column e / 16 */
        char *panel = head + key_bytes(ctx, sk, d) + e / 32 * value_bytes(ctx, sk) + e / 16 % 2 * TILE;
        for (int64_t j = j0; j < cvx_round_up(end, 32); j += 2) {
            char *to = panel + j / 32 * parts * 2 * TILE + j % 32 / 2 * 64;
            __m512 even = _mm512_maskz_loadu_ps(j < sk ? first(d - e) : 0, v + j * ldv + e);
            __m512 odd = _mm512_maskz_loadu_ps(j + 1 < sk ? first(d - e) : 0, v + (j + 1) * ldv + e);
            split_pairs(to, parts, even, odd);
        }
    }
}

static void attn_pack_q(const cvx_ctx *ctx, attn_block *b, const float *src, int64_t ld, int64_t d,
                        float scale)
{
    b->parts = row_parts(ctx);
    b->p = b->q + (int64_t)BQ * HD * 2 * b->parts;
    split_rows(b->q, src, ld, b->rows, d, steps_of(d), b->parts, scale);
}

/* Probabilities j .. j + 32 of row i, as a left operand of width / 32 steps. Rows past b->rows keep what
 * they hold: a row of the product depends on its own row only. */
INLINE void attn_store_p(attn_block *b, int64_t i, int64_t j, int64_t width, int parts, vf p0, vf p1)
{
    char *to = b->p + ((i / 32 * (width / 32) + j / 32) * parts * 2 * TILE + i % 32 * 64);
    split32(to, 2 * TILE, parts, p0, p1);
}

static void attn_scores(const cvx_ctx *ctx, attn_block *b, const char *head, int64_t j0,
                            int64_t nk, int64_t sk, int64_t d)
{
    int64_t bytes = (int64_t)gemm_panel_bytes(ctx, CVX_F32, d), panels = (nk + 31) / 32;
    const char *keys = head + j0 / 32 * bytes;

    (void)sk;
    if (b->parts == 1) {
        amx_tiles(b->s, HD, b->q, b->rows, keys, bytes, panels, steps_of(d), 1, 1, false);
    } else {
        amx_tiles(b->s, HD, b->q, b->rows, keys, bytes, panels, steps_of(d), 3, 3, false);
    }
}

/* o = alpha·o + p·v of 32 rows from i and 32 columns from e */
INLINE void accumulate_tile(attn_block *b, int64_t i, int64_t e, const char *p, const char *v,
                            int64_t steps, int parts)
{
    float t[32 * 32] __attribute__((aligned(64)));

    amx_zero();
    amx_kernel(p, v, steps, parts, parts, false);
    amx_store(t, 32, false);
    for (int64_t r = 0; r < 32; r++) {
        float *o = b->o + (i + r) * HD + e;
        vf f = vset1(b->alpha[i + r]);
        vstore(o, vfma(vload(o), f, vload(t + r * 32)));
        vstore(o + 16, vfma(vload(o + 16), f, vload(t + r * 32 + 16)));
    }
}

static void attn_accumulate(const cvx_ctx *ctx, attn_block *b, const char *head, int64_t j0,
                            int64_t nk, int64_t sk, int64_t d)
{
    int parts = b->parts;
    int64_t steps = steps_of(nk);
    const char *values = head + key_bytes(ctx, sk, d) + j0 / 32 * parts * 2 * TILE;

    for (int64_t i = 0; i < b->rows; i += 32) {
        const char *pi = b->p + i / 32 * steps * parts * 2 * TILE;
        for (int64_t e = 0; e < d; e += 32) {
            const char *v = values + e / 32 * value_bytes(ctx, sk);
            if (parts == 1) {
                accumulate_tile(b, i, e, pi, v, steps, 1);
            } else {
                accumulate_tile(b, i, e, pi, v, steps, 3);
            }
        }
    }
}
