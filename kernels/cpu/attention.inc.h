/* Attention without the S x S matrix: a block of query rows meets the keys block by block and
 * carries a running maximum, sum and output per row. Part of a level file; the two matrix products
 * are the level's own (attention_words.inc.h, attention_amx.inc.h).
 *
 * A row's result depends on its own query and on the keys only: key blocks are BK wide and begin at
 * 0 whatever the call's shape, and every row keeps its own maximum.
 *
 * Keys and values of a group of heads are packed by all threads, then the group's query blocks are
 * dealt out. */

#define BK 128 /* keys of a block */
#define HD 128 /* row stride of scores, queries and outputs in scratch; most of a head's width */

/* BQ, the most query rows of a block, is the level's choice. */

/* What a block of query rows carries along. */
typedef struct attn_block {
    float s[BQ * HD]; /* scores, on most levels then probabilities */
    float o[BQ * HD]; /* output so far, not yet divided by sum */
    float max[BQ], sum[BQ], alpha[BQ];
    int64_t rows;
    char *q, *p; /* queries and probabilities as the products read them */
    int parts;   /* bf16 parts into which both are split, 0: none */
} attn_block;

typedef struct attn_job {
    const cvx_attention_args *a;
    int64_t heads, nh, sq, sk, d;
    int64_t bq, q_blocks, group; /* rows of a query block, blocks of a head, heads of a group */
    char *packed;                /* of the group */
    int64_t head_bytes;
    char *scratch; /* of all threads */
    int64_t thread_bytes;
} attn_job;

/* Some rows of a block against one block of keys. */
typedef struct attn_step {
    const attn_job *l;
    attn_block *b;
    int64_t head, i0;   /* the block's first row in the head */
    int64_t row0, rows; /* within the block */
    int64_t j0, nk;     /* the keys */
    int64_t width;      /* nk rounded up to two vectors */
    float *s, *alpha;   /* of row0 */
    char *p;
} attn_step;

/* Probabilities j .. j + 2·VW of row r of the step, where the second product wants them. */
INLINE void attn_store_p(const attn_step *t, int64_t r, int64_t j, int parts, vf p0, vf p1);

static const float *head_rows(const cvx_tensor *t, const attn_job *l, int64_t head, int64_t row)
{
    return (const float *)t->data + head / l->nh * t->stride[0] + row * t->stride[1] +
           head % l->nh * t->stride[2];
}

/* A head's keys as a weight to pack. */
INLINE cvx_tensor keys_of(const float *k, int64_t ldk, int64_t sk, int64_t d)
{
    return (cvx_tensor){.data = (void *)(uintptr_t)k,
                        .dtype = CVX_F32,
                        .ndim = 2,
                        .dim = {sk, d},
                        .stride = {ldk, 1}};
}

/* The maximum of a row of scores; bias added, keys from `seen` on masked. */
INLINE float row_max(float *s, const float *bias, int64_t seen, int64_t width)
{
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
    if (j < width) {
        int64_t tail = j;
        for (; j < width; j++) {
            s[j] = j < seen ? s[j] + (bias != NULL ? bias[j] : 0.0f) : -INFINITY;
        }
        m = vmax(vload(s + tail), m);
    }
    return vmax_of(m);
}

/* The rows of a step are raised to their new maxima; alpha is the factor for what was summed
 * before. */
static void rows_raise(const attn_step *t)
{
    const cvx_tensor *bias = t->l->a->bias;
    attn_block *b = t->b;

    for (int64_t r = 0; r < t->rows; r++) {
        int64_t i = t->row0 + r, seen = t->nk;
        const float *row = NULL;
        if (t->l->a->causal) {
            seen = cvx_min_i64(seen, t->i0 + i - t->j0 + 1);
            seen = seen > 0 ? seen : 0;
        }
        if (bias != NULL) {
            row = (const float *)bias->data + t->head % t->l->nh * bias->stride[0] +
                  (t->i0 + i) * bias->stride[1] + t->j0;
        }
        float now = row_max(t->s + r * HD, row, seen, t->width);
        now = now > b->max[i] ? now : b->max[i];
        t->alpha[r] = b->max[i] - now;
        b->max[i] = now;
    }
    for (int64_t r = 0; r < t->rows; r += VW) { /* alpha has room for whole vectors */
        vstore(t->alpha + r, vexp(vload(t->alpha + r)));
    }
}

/* Row r's scores become probabilities, its sum is brought up to date. */
INLINE void row_exp(const attn_step *t, int64_t r, int parts)
{
    attn_block *b = t->b;
    int64_t i = t->row0 + r;
    const float *s = t->s + r * HD;
    vf m = vset1(b->max[i]), sum[2] = {0};

    for (int64_t j = 0; j < t->width; j += 2 * VW) {
        vf p0 = vexp(vload(s + j) - m), p1 = vexp(vload(s + j + VW) - m);
        attn_store_p(t, r, j, parts, p0, p1);
        sum[0] += p0;
        sum[1] += p1;
    }
    b->sum[i] = b->sum[i] * t->alpha[r] + vsum(sum[0] + sum[1]);
}

#include CVX_ATTENTION_PRODUCTS

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
            ((float *)lse
                 ->data)[head / l->nh * lse->stride[0] + head % l->nh * lse->stride[1] + i0 + i] =
                (float)((double)b->max[i] + log((double)b->sum[i]));
        }
    }
}

/* One block of query rows of a head against all its keys. */
static void query_block(const cvx_ctx *ctx, const attn_job *l, int64_t head, int64_t i0,
                        const char *packed, char *scratch)
{
    attn_block *b = (attn_block *)(void *)scratch;
    int64_t keys = l->sk;

    b->rows = cvx_min_i64(l->bq, l->sq - i0);
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
    attn_run(ctx, &(attn_step){.l = l, .b = b, .head = head, .i0 = i0}, packed, keys);
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
            query_block(ctx, l, h0 + h, i * l->bq, l->packed + h * l->head_bytes, scratch);
        }
    }
}

static cvx_status cpu_attention(cvx_ctx *ctx, const cvx_attention_args *a)
{
    attn_job l = {.a = a,
                  .nh = a->q->dim[2],
                  .sq = a->q->dim[1],
                  .sk = a->k->dim[1],
                  .d = a->q->dim[3],
                  .heads = a->q->dim[0] * a->q->dim[2]};
    void *buffer;

    if (l.heads == 0 || l.sq == 0 || l.d == 0) {
        return CVX_OK;
    }
    l.bq = BQ;
    while (l.bq > 96 && l.heads * ((l.sq + l.bq - 1) / l.bq) < 4 * ctx->threads) {
        l.bq /= 2; /* enough blocks for every thread */
    }
    l.q_blocks = (l.sq + l.bq - 1) / l.bq;
    l.group = cvx_min_i64(l.heads, (8 * ctx->threads + l.q_blocks - 1) / l.q_blocks);
    l.head_bytes = cvx_round_up((int64_t)attn_head_bytes(ctx, l.sk, l.d), 64);
    l.thread_bytes =
        cvx_round_up(cvx_round_up((int64_t)sizeof(attn_block), 64) + (int64_t)attn_q_bytes(ctx),
                     4096);
    CVX_RETURN_IF(cvx_cpu_scratch(
        ctx, &buffer, (size_t)(l.group * l.head_bytes + ctx->threads * l.thread_bytes)));
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

/* o = a·o + b·part over d elements. */
INLINE void merge_span(float *o, const float *part, float a, float b, int64_t d)
{
    vf va = vset1(a), vb = vset1(b);

    for (int64_t e = 0; e < d; e += VW) {
        int64_t left = d - e;
        if (left >= VW) {
            vstore(o + e, vfma(va, vload(o + e), vb * vload(part + e)));
        } else {
            vstore_n(o + e, vfma(va, vload_n(o + e, left), vb * vload_n(part + e, left)), left);
        }
    }
}

static cvx_status cpu_attention_merge(cvx_ctx *ctx, const cvx_attention_merge_args *a)
{
    const cvx_tensor *o = a->o, *p = a->part, *lse = a->lse, *pl = a->part_lse;

#pragma omp parallel for num_threads(ctx->threads) schedule(static) collapse(3)
    for (int64_t b = 0; b < o->dim[0]; b++) {
        for (int64_t i = 0; i < o->dim[1]; i++) {
            for (int64_t h = 0; h < o->dim[2]; h++) {
                float *l = (float *)lse->data + b * lse->stride[0] + h * lse->stride[1] + i;
                const float *m =
                    (const float *)pl->data + b * pl->stride[0] + h * pl->stride[1] + i;
                cvx_merge_weights w = cvx_ref_merge_weights(*l, *m);
                merge_span(
                    (float *)o->data + b * o->stride[0] + i * o->stride[1] + h * o->stride[2],
                    (const float *)p->data + b * p->stride[0] + i * p->stride[1] + h * p->stride[2],
                    (float)w.o, (float)w.part, o->dim[3]);
                *l = (float)w.lse;
            }
        }
    }
    return CVX_OK;
}
