/* The two products of attention on AMX tiles, see gemm_amx.inc.h. Part of the amx level. Keys are
 * packed as panels of a weight [sk, d]; values as panels over the keys: [32 columns of v][step of
 * 32 keys] [part][2 tiles][16 pairs of keys][16 columns][2]. In f32 queries, keys, probabilities
 * and values are three parts each. */

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

static void attn_pack_kv(const cvx_ctx *ctx, char *head, const float *k, int64_t ldk,
                         const float *v, int64_t ldv, int64_t j0, int64_t sk, int64_t d)
{
    cvx_tensor keys = keys_of(k, ldk, sk, d);
    int64_t end = cvx_min_i64(j0 + BK, sk),
            per_key_panel = (int64_t)gemm_panel_bytes(ctx, CVX_F32, d);
    int parts = row_parts(ctx);

    for (int64_t j = j0; j < end; j += 32) {
        gemm_pack_panel(ctx, head + j / 32 * per_key_panel, &keys, j);
    }
    for (int64_t e = 0; e < d; e += 16) { /* tile column e / 16 */
        char *panel =
            head + key_bytes(ctx, sk, d) + e / 32 * value_bytes(ctx, sk) + e / 16 % 2 * TILE;
        for (int64_t j = j0; j < cvx_round_up(end, 32); j += 2) {
            char *to = panel + j / 32 * parts * 2 * TILE + j % 32 / 2 * 64;
            __m512 even = _mm512_maskz_loadu_ps(j < sk ? first(d - e) : 0, v + j * ldv + e);
            __m512 odd =
                _mm512_maskz_loadu_ps(j + 1 < sk ? first(d - e) : 0, v + (j + 1) * ldv + e);
            split_pair(to, parts, even, odd);
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

INLINE void attn_store_p(const attn_step *t, int64_t r, int64_t j, int parts, vf p0, vf p1)
{
    split32(t->p + j / 32 * parts * 2 * TILE + r * 64, 2 * TILE, parts, p0, p1);
}

/* Rows of probabilities still to be made while the tiles work. */
typedef struct side_work {
    const attn_step *t;
    int64_t next;
} side_work;

INLINE void side_row(side_work *w, int parts)
{
    row_exp(w->t, w->next, parts);
    w->next++;
}

static __attribute__((noinline)) void side_row_3(side_work *w)
{
    if (w->next < w->t->rows) {
        side_row(w, 3);
    }
}

/* As amx_kernel of 32 rows, in f32 with a row of side work after every half of a step: the tile
 * unit has a queue to work on while the vector units do that row. */
INLINE void attn_kernel(const char *a, const char *b, int64_t steps, int parts, side_work *w)
{
    amx_zero();
    for (int64_t s = 0; s < steps; s++, a += parts * 2 * TILE, b += parts * 2 * TILE) {
        for (int j = parts - 1; j >= 0; j--) {
            amx_part(a, b, parts, j, false);
            if (parts == 3 && j != 2) { /* after twelve products; with one part they are too few */
                side_row_3(w);
            }
        }
    }
}

/* Scores of a step. */
INLINE void attn_scores(const attn_step *t, const char *head, int64_t key_panel, int parts,
                        side_work *w)
{
    int64_t steps = steps_of(t->l->d);
    const char *q = t->b->q + t->row0 / 32 * steps * parts * 2 * TILE;

    for (int64_t j = 0; j < t->nk; j += 32) {
        attn_kernel(q, head + (t->j0 + j) / 32 * key_panel, steps, parts, w);
        amx_store(t->s + j, HD, false);
    }
}

/* o = alpha·o + p·v of a step. Rows past the block's end hold what they may: a row of the product
 * depends on its own row only. */
INLINE void attn_accumulate(const attn_step *t, const char *values, int64_t panel, int parts,
                            side_work *w)
{
    float sums[32 * 32] __attribute__((aligned(64)));

    for (int64_t e = 0; e < t->l->d; e += 32) {
        attn_kernel(t->p, values + e / 32 * panel + t->j0 / 32 * parts * 2 * TILE, t->width / 32,
                    parts, w);
        amx_store(sums, 32, false);
        for (int64_t r = 0; r < t->rows; r++) {
            float *o = t->b->o + (t->row0 + r) * HD + e;
            vf f = vset1(t->alpha[r]);
            vstore(o, vfma(vload(o), f, vload(sums + r * 32)));
            vstore(o + 16, vfma(vload(o + 16), f, vload(sums + r * 32 + 16)));
        }
    }
}

/* Step n of a block: 32 rows at a time, all of a key block before the next. Scores, probabilities
 * and alpha alternate between two places. */
static attn_step step_at(const attn_step *of, int64_t n)
{
    attn_step t = *of;
    int64_t panels = (t.b->rows + 31) / 32;

    t.row0 = n % panels * 32;
    t.rows = cvx_min_i64(32, t.b->rows - t.row0);
    t.j0 = n / panels * BK;
    t.nk = cvx_min_i64(BK, t.l->sk - t.j0);
    t.width = cvx_round_up(t.nk, 2 * VW);
    t.s = t.b->s + n % 2 * 32 * HD;
    t.alpha = t.b->alpha + n % 2 * 32;
    t.p = t.b->p + n % 2 * 32 * BK * 2 * t.b->parts;
    return t;
}

/* All keys of a block of query rows, as a pipeline: while the vector units turn the scores of one
 * step into probabilities, the tiles make the scores of the next and add up the values of the one
 * before. */
INLINE void run_steps(const cvx_ctx *ctx, const attn_step *of, const char *head, int64_t keys,
                      int parts)
{
    int64_t steps = (keys + BK - 1) / BK * ((of->b->rows + 31) / 32);
    int64_t key_panel = (int64_t)gemm_panel_bytes(ctx, CVX_F32, of->l->d);
    const char *values = head + key_bytes(ctx, of->l->sk, of->l->d);
    int64_t panel = value_bytes(ctx, of->l->sk);
    attn_step before = {0}, now = step_at(of, 0), next;
    side_work idle = {.t = &now, .next = now.rows};

    attn_scores(&now, head, key_panel, parts, &idle);
    for (int64_t n = 0; n < steps; n++) {
        side_work w = {.t = &now};
        rows_raise(&now);
        if (n + 1 < steps) {
            next = step_at(of, n + 1);
            attn_scores(&next, head, key_panel, parts, &w);
        }
        if (n > 0) {
            attn_accumulate(&before, values, panel, parts, &w);
        }
        while (w.next < now.rows) {
            side_row(&w, parts);
        }
        before = now;
        now = n + 1 < steps ? next : now;
    }
    idle.next = now.rows;
    attn_accumulate(&before, values, panel, parts, &idle);
}

static void attn_run(const cvx_ctx *ctx, attn_step *t, const char *head, int64_t keys)
{
    if (t->b->parts == 1) {
        run_steps(ctx, t, head, keys, 1);
    } else {
        run_steps(ctx, t, head, keys, 3);
    }
}
