/* The linear layer around a level's matrix product (gemm.inc.h or gemm_amx.inc.h). Part of a level
 * file.
 *
 * Blocks of rows and columns are dealt to the threads; each block's sums go to the thread's scratch
 * and from there through bias, activation, gate and residual to y. A plain weight is first packed,
 * a chunk of columns at a time: the same panels, so the same bits as with a packed one. */

/* Packed bytes of a plain weight that exist at a time. */
#define CHUNK_BYTES ((int64_t)64 << 20)

/* Added to the row stride of a block's sums: with 1024 columns all rows of a tile would fall into
 * one set of the first-level cache. */
#define SKEW 16

typedef struct linear_job {
    const cvx_linear_args *a;
    int64_t m, n, k;
    int64_t mc, nc; /* rows and columns of a block */
    int64_t panel_bytes;
    char *panels; /* of columns col0 .. col1 */
    int64_t col0, col1;
    char *scratch;         /* of all threads */
    int64_t scratch_bytes; /* of one */
} linear_job;

static size_t cpu_packed_bytes(const cvx_ctx *ctx, const cvx_tensor *src, cvx_layout layout)
{
    if (layout != CVX_PACKED_LINEAR) {
        return cpu_packed_conv_bytes(ctx, src, layout);
    }
    int64_t panels = cvx_round_up(src->dim[0], NR) / NR;
    return (size_t)panels * gemm_panel_bytes(ctx, src->dtype, src->dim[1]);
}

static cvx_status cpu_pack(cvx_ctx *ctx, const cvx_pack_args *a)
{
    if (a->dst->layout != CVX_PACKED_LINEAR) {
        return cpu_pack_conv(ctx, a);
    }
    int64_t bytes = (int64_t)gemm_panel_bytes(ctx, a->src->dtype, a->src->dim[1]);
#pragma omp parallel for num_threads(ctx->threads) schedule(static)
    for (int64_t j = 0; j < a->src->dim[0]; j += NR) {
        gemm_pack_panel(ctx, (char *)a->dst->data + j / NR * bytes, a->src, j);
    }
    return CVX_OK;
}

/* c[0 .. n) = act(c + b) */
INLINE void act_span(cvx_act act, float *c, const float *b, int64_t n)
{
    for (int64_t j = 0; j < n; j += VW) { /* c is padded to whole vectors, b is not */
        vf v = vload(c + j);
        if (b != NULL) {
            v += n - j >= VW ? vload(b + j) : vload_n(b + j, n - j);
        }
        vstore(c + j, act_of(act, v));
    }
}

INLINE void act_row(cvx_act act, float *c, const float *b, int64_t n)
{
    switch (act) {
    case CVX_ACT_NONE: act_span(CVX_ACT_NONE, c, b, n); break;
    case CVX_ACT_GELU_TANH: act_span(CVX_ACT_GELU_TANH, c, b, n); break;
    case CVX_ACT_GELU: act_span(CVX_ACT_GELU, c, b, n); break;
    case CVX_ACT_QUICK_GELU: act_span(CVX_ACT_QUICK_GELU, c, b, n); break;
    case CVX_ACT_SILU: act_span(CVX_ACT_SILU, c, b, n); break;
    }
}

/* y = residual + gate·c, either of them optional */
INLINE void finish_row(float *y, const float *c, const float *gate, const float *res, int64_t n)
{
    for (int64_t j = 0; j < n; j += VW) {
        int64_t left = n - j;
        vf v = vload(c + j);
        if (left >= VW) {
            v = gate != NULL ? v * vload(gate + j) : v;
            vstore(y + j, res != NULL ? v + vload(res + j) : v);
        } else {
            v = gate != NULL ? v * vload_n(gate + j, left) : v;
            vstore_n(y + j, res != NULL ? v + vload_n(res + j, left) : v, left);
        }
    }
}

static void finish_block(const linear_job *l, float *c, int64_t ldc, int64_t i0, int64_t rows,
                         int64_t j0, int64_t cols)
{
    const cvx_linear_args *a = l->a;

    for (int64_t i = 0; i < rows; i++) {
        int64_t r = i0 + i;
        const float *gate = NULL, *res = NULL;
        if (a->gate != NULL) {
            int64_t stream = cvx_stream_of_row(r, a->text_rows, a->period);
            gate = (const float *)a->gate->data + stream * l->n + j0;
        }
        if (a->residual != NULL) {
            res = (const float *)a->residual->data + r * a->residual->stride[0] + j0;
        }
        if (a->b != NULL || a->act != CVX_ACT_NONE) {
            act_row(a->act, c + i * ldc, a->b != NULL ? (const float *)a->b->data + j0 : NULL,
                    cols);
        }
        finish_row((float *)a->y->data + r * a->y->stride[0] + j0, c + i * ldc, gate, res, cols);
    }
}

static void linear_block(const cvx_ctx *ctx, const linear_job *l, int64_t i0, int64_t j0,
                         char *scratch)
{
    int64_t rows = cvx_min_i64(l->mc, l->m - i0), cols = cvx_min_i64(l->nc, l->col1 - j0);
    int64_t ldc = l->nc + SKEW;
    float *c = (float *)(void *)scratch;

    gemm_block(ctx, c, ldc, (const float *)l->a->x->data + i0 * l->a->x->stride[0],
               l->a->x->stride[0], rows, l->k, l->panels + (j0 - l->col0) / NR * l->panel_bytes,
               (cols + NR - 1) / NR, l->a->w->dtype, scratch + l->mc * ldc * (int64_t)sizeof *c);
    finish_block(l, c, ldc, i0, rows, j0, cols);
}

/* Blocks as large as the caches like, but enough of them for every thread. */
static void choose_blocks(linear_job *l, int threads)
{
    int64_t row_blocks = (l->m + GEMM_MC - 1) / GEMM_MC;
    int64_t want = (4 * threads + row_blocks - 1) / row_blocks; /* blocks along n */

    l->mc = cvx_round_up((l->m + row_blocks - 1) / row_blocks, GEMM_ROWS);
    l->nc = cvx_min_i64(cvx_round_up((l->n + want - 1) / want, NR), GEMM_NC);
}

/* Columns col0 .. col1, by all threads of the enclosing parallel region. */
static void linear_chunk(cvx_ctx *ctx, const linear_job *l, char *scratch)
{
    if (l->a->w->layout == CVX_PLAIN) {
#pragma omp for schedule(static)
        for (int64_t j = l->col0; j < l->col1; j += NR) {
            gemm_pack_panel(ctx, l->panels + (j - l->col0) / NR * l->panel_bytes, l->a->w, j);
        }
    }
#pragma omp for schedule(dynamic, 1) collapse(2)
    for (int64_t i = 0; i < l->m; i += l->mc) {
        for (int64_t j = l->col0; j < l->col1; j += l->nc) {
            linear_block(ctx, l, i, j, scratch);
        }
    }
}

static cvx_status cpu_linear(cvx_ctx *ctx, const cvx_linear_args *a)
{
    linear_job l = {.a = a, .m = a->x->dim[0], .n = a->y->dim[1], .k = a->x->dim[1]};
    int64_t chunk = l.n, chunk_bytes = 0;
    void *buffer;

    if (l.m == 0 || l.n == 0) {
        return CVX_OK;
    }
    choose_blocks(&l, ctx->threads);
    l.panel_bytes = (int64_t)gemm_panel_bytes(ctx, a->w->dtype, l.k);
    if (a->w->layout == CVX_PLAIN) {
        int64_t fit = CHUNK_BYTES / (l.panel_bytes > 0 ? l.panel_bytes : 1) * NR / l.nc * l.nc;
        chunk = cvx_min_i64(cvx_round_up(l.n, NR), fit > l.nc ? fit : l.nc);
        chunk_bytes = chunk / NR * l.panel_bytes;
    }
    l.scratch_bytes =
        cvx_round_up(l.mc * (l.nc + SKEW) * 4 + (int64_t)gemm_scratch_bytes(ctx, l.mc), 4096);
    CVX_RETURN_IF(
        cvx_cpu_scratch(ctx, &buffer, (size_t)(chunk_bytes + ctx->threads * l.scratch_bytes)));
    l.scratch = buffer;
    for (l.col0 = 0; l.col0 < l.n; l.col0 = l.col1) {
        l.col1 = cvx_min_i64(l.col0 + chunk, l.n);
        l.panels = chunk_bytes > 0 ? l.scratch + ctx->threads * l.scratch_bytes
                                   : (char *)a->w->data + l.col0 / NR * l.panel_bytes;
#pragma omp parallel num_threads(ctx->threads)
        {
            gemm_begin();
            linear_chunk(ctx, &l, l.scratch + omp_get_thread_num() * l.scratch_bytes);
            gemm_end();
        }
    }
    return CVX_OK;
}
