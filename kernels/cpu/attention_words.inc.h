/* The two products of attention on the micro-kernel of gemm.inc.h, whose words its operands are.
 * Part of a level file. A head's keys are packed as the panels of a weight [sk, d], its values as
 * panels [words of sk][NR]. b->parts: 1 where words are pairs, else 0. */

static int64_t value_panels(int64_t d)
{
    return (d + NR - 1) / NR;
}

/* Words of a head's keys, after which its values come. */
INLINE int64_t key_words(int64_t sk, int64_t d, bool pairs)
{
    return cvx_round_up(sk, NR) * words_of(d, pairs);
}

static size_t attn_head_bytes(const cvx_ctx *ctx, int64_t sk, int64_t d)
{
    bool pairs = in_pairs(ctx);

    return (size_t)(key_words(sk, d, pairs) + words_of(sk, pairs) * value_panels(d) * NR) *
           sizeof(float);
}

static size_t attn_q_bytes(const cvx_ctx *ctx)
{
    (void)ctx;
    return (size_t)BQ * HD * sizeof(float);
}

/* Values j0 .. end, columns e on, as rows of a panel of words; sk of them are there. */
static void pack_values(float *to, const float *v, int64_t ldv, int64_t j0, int64_t end, int64_t n,
                        bool pairs)
{
    float rows[2][NR] = {0};

    for (int64_t j = j0; j < end; j += pairs ? 2 : 1) {
        memcpy(rows[0], v + j * ldv, (size_t)n * sizeof *v);
        if (!pairs) {
            memcpy(to + j * NR, rows[0], sizeof rows[0]);
            continue;
        }
        memset(rows[1], 0, sizeof rows[1]);
        if (j + 1 < end) {
            memcpy(rows[1], v + (j + 1) * ldv, (size_t)n * sizeof *v);
        }
        pair_rows(to + j / 2 * NR, rows[0], rows[1]);
    }
}

/* Keys and values j0 .. j0 + BK of a head. */
static void attn_pack_kv(const cvx_ctx *ctx, char *head, const float *k, int64_t ldk,
                         const float *v, int64_t ldv, int64_t j0, int64_t sk, int64_t d)
{
    cvx_tensor keys = keys_of(k, ldk, sk, d);
    bool pairs = in_pairs(ctx);
    int64_t end = cvx_min_i64(j0 + BK, sk);
    float *to = (float *)(void *)head;

    for (int64_t j = j0; j < end; j += NR) {
        gemm_pack_panel(ctx, to + j * words_of(d, pairs), &keys, j);
    }
    to += key_words(sk, d, pairs);
    for (int64_t e = 0; e < d; e += NR) {
        pack_values(to + e * words_of(sk, pairs), v + e, ldv, j0, end, cvx_min_i64(NR, d - e),
                    pairs);
    }
}

/* Scaled query rows [BQ][HD], zeros past their end. */
static void attn_pack_q(const cvx_ctx *ctx, attn_block *b, const float *src, int64_t ld, int64_t d,
                        float scale)
{
    float *to = (float *)(void *)b->q, row[HD];

    b->parts = in_pairs(ctx);
    memset(to, 0, (size_t)BQ * HD * sizeof *to);
    for (int64_t i = 0; i < b->rows; i++) {
        for (int64_t e = 0; e < d; e++) {
            row[e] = src[i * ld + e] * scale;
        }
        to_words(to + i * HD, row, d, b->parts != 0);
    }
}

/* To the scores' place. A pair lies at or before the scores that it comes from. */
INLINE void attn_store_p(const attn_step *t, int64_t r, int64_t j, int parts, vf p0, vf p1)
{
    float *row = t->s + r * HD;

#if defined(__AVX512BF16__)
    if (parts == 1) {
        split32((char *)(row + j / 2), 64, 1, (__m512)p0, (__m512)p1);
        return;
    }
#endif
    (void)parts;
    vstore(row + j, p0);
    vstore(row + j + VW, p1);
}

INLINE void attn_scores(const attn_step *t, const char *head, bool pairs)
{
    const float *keys = (const float *)(const void *)head, *q = (const void *)t->b->q;
    int64_t words = words_of(t->l->d, pairs);

    for (int64_t j = 0; j < t->nk; j += NR) {
        for (int64_t i = 0; i < t->rows; i += MR) {
            tile_product(t->s + i * HD + j, HD, q + i * HD, HD, keys + (t->j0 + j) * words, words,
                         false, pairs);
        }
    }
}

/* o = alpha·o + p·v */
INLINE void attn_accumulate(const attn_step *t, const char *head, bool pairs)
{
    int64_t sk = t->l->sk, d = t->l->d;
    const float *values = (const float *)(const void *)head + key_words(sk, d, pairs);

    for (int64_t e = 0; e < d; e += NR) {
        const float *panel = values + e * words_of(sk, pairs) + words_of(t->j0, pairs) * NR;
        for (int64_t i = 0; i < t->rows; i += MR) {
            vf acc[MR][2];
#pragma GCC unroll 16
            for (int r = 0; r < MR; r++) {
                acc[r][0] = acc[r][1] = vset1(0);
            }
            micro_kernel(acc, t->s + i * HD, HD, panel, words_of(t->nk, pairs), pairs);
#pragma GCC unroll 16
            for (int r = 0; r < MR; r++) {
                float *o = t->b->o + (i + r) * HD + e;
                vf f = vset1(t->alpha[i + r]);
                vstore(o, vfma(vload(o), f, acc[r][0]));
                vstore(o + VW, vfma(vload(o + VW), f, acc[r][1]));
            }
        }
    }
}

INLINE void run_blocks(attn_step *t, const char *head, int64_t keys, bool pairs)
{
    t->rows = t->b->rows;
    t->s = t->b->s;
    t->alpha = t->b->alpha;
    for (t->j0 = 0; t->j0 < keys; t->j0 += BK) {
        t->nk = cvx_min_i64(BK, t->l->sk - t->j0);
        t->width = cvx_round_up(t->nk, 2 * VW);
        attn_scores(t, head, pairs);
        rows_raise(t);
        for (int64_t r = 0; r < t->rows; r++) {
            row_exp(t, r, pairs);
        }
        attn_accumulate(t, head, pairs);
    }
}

/* All keys of a block of query rows. */
static void attn_run(const cvx_ctx *ctx, attn_step *t, const char *head, int64_t keys)
{
    if (in_pairs(ctx)) {
        run_blocks(t, head, keys, true);
    } else {
        run_blocks(t, head, keys, false);
    }
}
