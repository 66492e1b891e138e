/* The two products of attention in f32, on the micro-kernel of gemm.inc.h. Part of a level file.
 * A head's keys are packed as the panels of a weight [sk, d], its values as panels [sk][NR]. */

static int64_t value_panels(int64_t d)
{
    return (d + NR - 1) / NR;
}

static size_t attn_head_bytes(const cvx_ctx *ctx, int64_t sk, int64_t d)
{
    (void)ctx;
    return (size_t)(cvx_round_up(sk, NR) * d + sk * value_panels(d) * NR) * sizeof(float);
}

static float *packed_values(char *head, int64_t sk, int64_t d)
{
    return (float *)(void *)head + cvx_round_up(sk, NR) * d;
}

static size_t attn_q_bytes(const cvx_ctx *ctx)
{
    (void)ctx;
    return (size_t)BQ * HD * sizeof(float);
}

/* Keys and values j0 .. j0 + BK of a head. */
static void attn_pack_kv(const cvx_ctx *ctx, char *head, const float *k, int64_t ldk,
                         const float *v, int64_t ldv, int64_t j0, int64_t sk, int64_t d)
{
    cvx_tensor keys = {.data = (void *)(uintptr_t)k,
                       .dtype = CVX_F32,
                       .ndim = 2,
                       .dim = {sk, d},
                       .stride = {ldk, 1}};
    int64_t end = cvx_min_i64(j0 + BK, sk);

    for (int64_t j = j0; j < end; j += NR) {
        gemm_pack_panel(ctx, (float *)(void *)head + j * d, &keys, j);
    }
    for (int64_t e = 0; e < d; e += NR) {
        int64_t n = cvx_min_i64(NR, d - e);
        float *to = packed_values(head, sk, d) + e * sk;
        for (int64_t j = j0; j < end; j++) {
            memset(to + j * NR, 0, NR * sizeof *to);
            memcpy(to + j * NR, v + j * ldv + e, (size_t)n * sizeof *to);
        }
    }
}

/* Scaled query rows [BQ][HD], zeros past their end. */
static void attn_pack_q(const cvx_ctx *ctx, attn_block *b, const float *src, int64_t ld, int64_t d,
                        float scale)
{
    float *to = (float *)(void *)b->q;

    (void)ctx;
    b->parts = 1;
    memset(to, 0, (size_t)BQ * HD * sizeof *to);
    for (int64_t i = 0; i < b->rows; i++) {
        for (int64_t e = 0; e < d; e++) {
            to[i * HD + e] = src[i * ld + e] * scale;
        }
    }
}

INLINE void attn_store_p(const attn_step *t, int64_t r, int64_t j, int parts, vf p0, vf p1)
{
    (void)parts;
    vstore(t->s + r * HD + j, p0); /* the scores' place */
    vstore(t->s + r * HD + j + VW, p1);
}

static void attn_scores(attn_block *b, const char *head, int64_t j0, int64_t nk, int64_t d)
{
    const float *keys = (const float *)(const void *)head;

    for (int64_t j = 0; j < nk; j += NR) {
        for (int64_t i = 0; i < b->rows; i += MR) {
            tile_product(b->s + i * HD + j, HD, (const float *)(const void *)b->q + i * HD, HD,
                         keys + (j0 + j) * d, d, false);
        }
    }
}

/* o = alpha·o + p·v */
static void attn_accumulate(attn_block *b, const char *head, int64_t j0, int64_t nk, int64_t sk,
                            int64_t d)
{
    const float *values = (const float *)(const void *)head + cvx_round_up(sk, NR) * d;

    for (int64_t e = 0; e < d; e += NR) {
        for (int64_t i = 0; i < b->rows; i += MR) {
            vf acc[MR][2];
#pragma GCC unroll 16
            for (int r = 0; r < MR; r++) {
                acc[r][0] = acc[r][1] = vset1(0);
            }
            micro_kernel(acc, b->s + i * HD, HD, values + e * sk + j0 * NR, nk);
#pragma GCC unroll 16
            for (int r = 0; r < MR; r++) {
                float *o = b->o + (i + r) * HD + e;
                vf f = vset1(b->alpha[i + r]);
                vstore(o, vfma(vload(o), f, acc[r][0]));
                vstore(o + VW, vfma(vload(o + VW), f, acc[r][1]));
            }
        }
    }
}

/* All keys of a block of query rows. */
static void attn_run(const cvx_ctx *ctx, attn_step *t, const char *head, int64_t keys)
{
    const attn_job *l = t->l;
    attn_block *b = t->b;

    (void)ctx;
    t->rows = b->rows;
    t->s = b->s;
    t->alpha = b->alpha;
    for (t->j0 = 0; t->j0 < keys; t->j0 += BK) {
        t->nk = cvx_min_i64(BK, l->sk - t->j0);
        t->width = cvx_round_up(t->nk, 2 * VW);
        attn_scores(b, head, t->j0, t->nk, l->d);
        rows_raise(t);
        for (int64_t r = 0; r < t->rows; r++) {
            row_exp(t, r, 1);
        }
        attn_accumulate(b, head, t->j0, t->nk, l->sk, l->d);
    }
}
