/* Attention without the S x S matrix: a block of query rows meets the keys block by block and carries a
 * running maximum, sum and output per row. Part of a level file; the two matrix products are the
 * level's own (attention_f32.inc.h, attention_amx.inc.h).
 *
 * A row's result depends on its own query and on the keys only: key blocks are BK wide and begin at 0
 * whatever the call's shape, and every row keeps its own maximum.
 *
 * Keys and values of a group of heads are packed by all threads, then the group's query blocks are
 * dealt out. */

#define BQ 96   /* query rows of a block */
#define BK 128  /* keys of a block */
#define HD 128  /* row stride of scores, queries and outputs in scratch; most of a head's width */

/* What a block of query rows carries along. */
typedef struct attn_block {
    float s[BQ * HD]; /* scores, on most levels then probabilities */
    float o[BQ * HD]; /* output so far, not yet divided by sum */
    float max[BQ], sum[BQ], alpha[BQ];
    int64_t rows;
    char *q, *p; /* queries and probabilities as the products read them */
    int parts;   /* into which both are split, on amx */
} attn_block;

#include CVX_ATTENTION_PRODUCTS

typedef struct attn_job {
    const cvx_attention_args *a;
    int64_t heads, nh, sq, sk, d;
    int64_t q_blocks, group; /* query blocks of a head, heads of a group */
    char *packed;            /* of the group */
    int64_t head_bytes;
    char *scratch; /* of all threads */
    int64_t thread_bytes;
} attn_job;

static const float *head_rows(const cvx_tensor *t, const attn_job *l, int64_t head, int64_t row)
{
    return (const float *)t->data + head / l->nh * t->stride[0] + row * t->stride[1] +
           head % l->nh * t->stride[2];
}

/* One row of scores: bias added, keys past `seen` masked, raised to the new maximum in b->max, the exponent of
 * the factor for what was summed before in b->alpha. `width` is nk rounded up to two
 * vectors. */
static void row_max(attn_block *b, int64_t i, const float *bias, int64_t seen, int64_t width)
{
    float *s = b->s + i * HD;
    vf m = vset1(-3.402823466e38f); /* finite: a row that sees nothing yet must not give NaN */
    int64_t j = 0;

    for (; j + VW <= seen; j += VW) {
        vf v = vload(s + j);
        if (bias != NULL) {
            v += vload(bias + j);
            vstore(s + j, v);
        }
        m = vmax(v, m);
    }
    for (; j < width; j++) {
        s[j] = j < seen ? s[j] + (bias != NULL ? bias[j] : 0.0f) : -INFINITY;
    }
    for (j = seen / VW * VW; j < cvx_min_i64(width, seen / VW * VW + VW); j += VW) {
        m = vmax(vload(s + j), m);
    }
    float now = vmax_of(m);
    now = now > b->max[i] ? now : b->max[i];
    b->alpha[i] = b->max[i] - now;
    b->max[i] = now;
}

INLINE void row_exp(attn_block *b, int64_t i, int64_t width, int parts)
{
    const float *s = b->s + i * HD;
    vf m = vset1(b->max[i]), sum[2] = {0};

    for (int64_t j = 0; j < width; j += 2 * VW) {
        vf p0 = vexp(vload(s + j) - m), p1 = vexp(vload(s + j + VW) - m);
        attn_store_p(b, i, j, width, parts, p0, p1);
        sum[0] += p0;
        sum[1] += p1;
    }
    b->sum[i] = b->sum[i] * b->alpha[i] + vsum(sum[0] + sum[1]);
}

/* Scores of keys j0 .. j0 + nk become probabilities. */
static void softmax_block(const attn_job *l, attn_block *b, int64_t head, int64_t i0, int64_t j0,
                          int64_t nk)
{
    const cvx_tensor *bias = l->a->bias;
    int64_t width = cvx_round_up(nk, 2 * VW);

    for (int64_t i = 0; i < b->rows; i++) {
        int64_t seen = l->a->causal ? cvx_min_i64(nk, i0 + i - j0 + 1) : nk;
        const float *row = NULL;
        if (bias != NULL) {
            row = (const float *)bias->data + head % l->nh * bias->stride[0] +
                  (i0 + i) * bias->stride[1] + j0;
        }
        row_max(b, i, row, seen > 0 ? seen : 0, width);
    }
    for (int64_t i = 0; i < b->rows; i += VW) {
        vstore(b->alpha + i, vexp(vload(b->alpha + i)));
    }
    for (int64_t i = 0; i < b->rows; i++) {
        if (b->parts == 1) {
            row_exp(b, i, width, 1);
        } else {
            row_exp(b, i, width, 3);
        }
    }
}

static void store_rows(const attn_job *l, const attn_block *b, int64_t head, int64_t i0)
{
    const cvx_tensor *o = l->a->o, *lse = l->a->lse;

    for (int64_t i = 0; i < b->rows; i++) {
        float *to = (float *)o->data + head / l->nh * o->stride[0] + (i0 + i) * o->stride[1] +
                    head % l->nh * o->stride[2];
        float inv = 1.0f / b->sum[i];
        for (int64_t e = 0; e < l->d; e++) {
            to[e] = b->o[i * HD + e] * inv;
        }
        if (lse != NULL) {
            ((float *)lse->data)[head / l->nh * lse->stride[0] + head % l->nh * lse->stride[1] + i0 +
                                 i] = (float)((double)b->max[i] + log((double)b->sum[i]));
        }
    }
}

/* One block of query rows of a head against all its keys. */
static void query_block(const cvx_ctx *ctx, const attn_job *l, int64_t head, int64_t i0,
                        const char *packed, char *scratch)
{
    attn_block *b = (attn_block *)(void *)scratch;
    int64_t keys = l->sk;

    b->rows = cvx_min_i64(BQ, l->sq - i0);
    b->q = scratch + cvx_round_up((int64_t)sizeof *b, 64);
    for (int64_t i = 0; i < BQ; i++) {
        b->max[i] = -3.402823466e38f;
        b->sum[i] = b->alpha[i] = 0;
    }
    memset(b->o, 0, sizeof b->o);
    attn_pack_q(ctx, b, head_rows(l->a->q, l, head, i0), l->a->q->stride[1], l->d,
                (float)l->a->scale);
    if (l->a->causal) {
        keys = cvx_min_i64(keys, i0 + b->rows);
    }
    for (int64_t j0 = 0; j0 < keys; j0 += BK) {
        int64_t nk = cvx_min_i64(BK, l->sk - j0);
        attn_scores(ctx, b, packed, j0, nk, l->sk, l->d);
        softmax_block(l, b, head, i0, j0, nk);
        attn_accumulate(ctx, b, packed, j0, nk, l->sk, l->d);
    }
    store_rows(l, b, head, i0);
}

/* Heads h0 .. h0 + n, by all threads of the enclosing parallel region. */
static void head_group(const cvx_ctx *ctx, const attn_job *l, int64_t h0, int64_t n, char *scratch)
{
    int64_t blocks = (l->sk + BK - 1) / BK;

#pragma omp for schedule(static) collapse(2)
    for (int64_t h = 0; h < n; h++) {
        for (int64_t j = 0; j < blocks; j++) {
            attn_pack_kv(ctx, l->packed + h * l->head_bytes, head_rows(l->a->k, l, h0 + h, 0),
                         l->a->k->stride[1], head_rows(l->a->v, l, h0 + h, 0), l->a->v->stride[1],
                         j * BK, l->sk, l->d);
        }
    }
#pragma omp for schedule(dynamic, 1) collapse(2)
    for (int64_t h = 0; h < n; h++) {
        for (int64_t i = l->q_blocks - 1; i >= 0; i--) { /* causal: the longest first */
            query_block(ctx, l, h0 + h, i * BQ, l->packed + h * l->head_bytes, scratch);
        }
    }
}

static cvx_status cpu_attention(cvx_ctx *ctx, const cvx_attention_args *a)
{
    attn_job l = {.a = a, .nh = a->q->dim[2], .sq = a->q->dim[1], .sk = a->k->dim[1],
                  .d = a->q->dim[3], .heads = a->q->dim[0] * a->q->dim[2]};
    void *buffer;

    if (l.heads == 0 || l.sq == 0 || l.d == 0) {
        return CVX_OK;
    }
    l.q_blocks = (l.sq + BQ - 1) / BQ;
    l.group = cvx_min_i64(l.heads, (16 * ctx->threads + l.q_blocks - 1) / l.q_blocks);
    l.head_bytes = cvx_round_up((int64_t)attn_head_bytes(ctx, l.sk, l.d), 64);
    l.thread_bytes = cvx_round_up(cvx_round_up((int64_t)sizeof(attn_block), 64) +
                                  (int64_t)attn_q_bytes(ctx), 4096);
    CVX_RETURN_IF(cvx_cpu_scratch(ctx, &buffer, (size_t)(l.group * l.head_bytes +
                                                         ctx->threads * l.thread_bytes)));
    l.scratch = buffer;
    l.packed = l.scratch + ctx->threads * l.thread_bytes;
#pragma omp parallel num_threads(ctx->threads)
    {
        char *mine = l.scratch + omp_get_thread_num() * l.thread_bytes;
        gemm_begin();
        for (int64_t h = 0; h < l.heads; h += l.group) {
            head_group(ctx, &l, h, cvx_min_i64(l.group, l.heads - h), mine);
        }
        gemm_end();
    }
    return CVX_OK;
}
