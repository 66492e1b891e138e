/* Gated activations, additions, how much rows changed. Part of a level file; see vec.h. */

/* Elements a thread takes at a time: small enough to balance, large enough not to be noticed. */
#define GRAIN 16384

INLINE void gated_span(cvx_act act, float *y, const float *a, const float *b, int64_t n)
{
    int64_t i = 0;

    for (; i + VW <= n; i += VW) {
        vstore(y + i, act_of(act, vload(a + i)) * vload(b + i));
    }
    if (i < n) {
        vstore_n(y + i, act_of(act, vload_n(a + i, n - i)) * vload_n(b + i, n - i), n - i);
    }
}

static cvx_status cpu_gated_act(cvx_ctx *ctx, const cvx_gated_act_args *p)
{
    int64_t n = cvx_numel(p->y);
    const float *a = p->a->data, *b = p->b->data;
    float *y = p->y->data;

#pragma omp parallel for num_threads(ctx->threads) schedule(static)
    for (int64_t i = 0; i < n; i += GRAIN) {
        int64_t len = cvx_min_i64(GRAIN, n - i);
        switch (p->act) { /* one loop per activation: the choice stays outside of it */
        case CVX_ACT_NONE: gated_span(CVX_ACT_NONE, y + i, a + i, b + i, len); break;
        case CVX_ACT_GELU_TANH: gated_span(CVX_ACT_GELU_TANH, y + i, a + i, b + i, len); break;
        case CVX_ACT_GELU: gated_span(CVX_ACT_GELU, y + i, a + i, b + i, len); break;
        case CVX_ACT_QUICK_GELU: gated_span(CVX_ACT_QUICK_GELU, y + i, a + i, b + i, len); break;
        case CVX_ACT_SILU: gated_span(CVX_ACT_SILU, y + i, a + i, b + i, len); break;
        }
    }
    return CVX_OK;
}

INLINE void add_span(float *y, const float *a, const float *b, int64_t n)
{
    int64_t i = 0;

    for (; i + VW <= n; i += VW) {
        vstore(y + i, vload(a + i) + vload(b + i));
    }
    for (; i < n; i++) {
        y[i] = a[i] + b[i];
    }
}

static cvx_status cpu_add(cvx_ctx *ctx, const cvx_add_args *p)
{
    int64_t n = cvx_numel(p->y), nb = cvx_numel(p->b);
    const float *a = p->a->data, *b = p->b->data;
    float *y = p->y->data;

#pragma omp parallel for num_threads(ctx->threads) schedule(static)
    for (int64_t i = 0; i < n; i += GRAIN) {
        int64_t end = cvx_min_i64(i + GRAIN, n);
        for (int64_t j = i; j < end;) { /* runs up to b's end, where it starts again */
            int64_t at = j % nb, len = cvx_min_i64(end - j, nb - at);
            add_span(y + j, a + j, b + at, len);
            j += len;
        }
    }
    return CVX_OK;
}

/* |v| */
INLINE vf vabs(vf v)
{
    return (vf)((vi)v & 0x7fffffff);
}

INLINE void change_of_row(float y[2], const float *a, const float *b, int64_t n)
{
    vf change = vset1(0), size = vset1(0);
    int64_t i = 0;

    for (; i + VW <= n; i += VW) {
        vf v = vload(b + i);
        change += vabs(vload(a + i) - v);
        size += vabs(v);
    }
    if (i < n) {
        vf v = vload_n(b + i, n - i);
        change += vabs(vload_n(a + i, n - i) - v);
        size += vabs(v);
    }
    y[0] = vsum(change);
    y[1] = vsum(size);
}

static cvx_status cpu_row_change(cvx_ctx *ctx, const cvx_row_change_args *p)
{
    int64_t n = p->a->dim[1];
    const float *a = p->a->data, *b = p->b->data;
    float *y = p->y->data;

#pragma omp parallel for num_threads(ctx->threads) schedule(static)
    for (int64_t r = 0; r < p->a->dim[0]; r++) {
        change_of_row(y + 2 * r, a + r * n, b + r * n, n);
    }
    return CVX_OK;
}
