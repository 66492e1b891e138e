/* Norms over the innermost dimension. Four vectors of partial sums, joined in a fixed tree: the
 * order of additions follows from the row's length alone. Part of a level file; see vec.h. */

/* Sum of f(x[i]) for f = x or (x - mean)². */
INLINE float row_sum(const float *x, int64_t c, bool square, float mean)
{
    vf s[4] = {0}, mu = vset1(mean);
    int64_t i = 0;

    for (; i + 4 * VW <= c; i += 4 * VW) {
        for (int j = 0; j < 4; j++) {
            vf v = vload(x + i + j * VW);
            s[j] = square ? vfma(v - mu, v - mu, s[j]) : s[j] + v;
        }
    }
    for (int j = 0; i < c; i += VW, j++) {
        int64_t n = cvx_min_i64(VW, c - i);
        vf v = n == VW ? vload(x + i) : vload_n(x + i, n);
        if (square) {
            v -= mu;
            float t[VW] = {0}; /* lanes past the end hold -mean here */
            vstore_n(t, v, n);
            v = n == VW ? v : vload(t);
            s[j] = vfma(v, v, s[j]);
        } else {
            s[j] += v;
        }
    }
    return vsum((s[0] + s[1]) + (s[2] + s[3]));
}

INLINE void moments(float *mean, float *rstd, const float *x, int64_t c, double eps)
{
    *mean = row_sum(x, c, false, 0) / (float)c;
    *rstd = (float)(1 / sqrt((double)(row_sum(x, c, true, *mean) / (float)c) + eps));
}

typedef struct norm_row {
    const float *gamma, *beta, *scale, *shift; /* NULL where absent */
} norm_row;

INLINE vf load_at(const float *p, int64_t i, int64_t n)
{
    return n >= VW ? vload(p + i) : vload_n(p + i, n);
}

INLINE vf norm_at(const norm_row *p, vf v, int64_t i, int64_t n)
{
    if (p->gamma != NULL) {
        v = p->beta != NULL ? vfma(v, load_at(p->gamma, i, n), load_at(p->beta, i, n))
                            : v * load_at(p->gamma, i, n);
    } else if (p->beta != NULL) {
        v += load_at(p->beta, i, n);
    }
    if (p->scale != NULL) {
        v *= load_at(p->scale, i, n) + 1.0f;
    }
    return p->shift != NULL ? v + load_at(p->shift, i, n) : v;
}

INLINE void layer_norm_row(float *y, const float *x, int64_t c, const norm_row *p, double eps)
{
    float mean, rstd;
    int64_t i = 0;

    moments(&mean, &rstd, x, c, eps);
    vf mu = vset1(mean), r = vset1(rstd);
    for (; i + VW <= c; i += VW) {
        vstore(y + i, norm_at(p, (vload(x + i) - mu) * r, i, VW));
    }
    if (i < c) {
        vstore_n(y + i, norm_at(p, (vload_n(x + i, c - i) - mu) * r, i, c - i), c - i);
    }
}

INLINE const float *row_of(const cvx_tensor *t, int64_t stream)
{
    return t != NULL ? (const float *)t->data + stream * t->dim[1] : NULL;
}

static cvx_status cpu_layer_norm(cvx_ctx *ctx, const cvx_layer_norm_args *a)
{
    int64_t m = a->x->dim[0], c = a->x->dim[1];
    bool two = a->scale != NULL || a->shift != NULL;

#pragma omp parallel for num_threads(ctx->threads) schedule(static)
    for (int64_t i = 0; i < m; i++) {
        int64_t stream = two ? cvx_stream_of_row(i, a->text_rows, a->period) : 0;
        norm_row p = {.gamma = a->gamma != NULL ? a->gamma->data : NULL,
                      .beta = a->beta != NULL ? a->beta->data : NULL,
                      .scale = row_of(a->scale, stream),
                      .shift = row_of(a->shift, stream)};
        layer_norm_row((float *)a->y->data + i * a->y->stride[0],
                       (const float *)a->x->data + i * a->x->stride[0], c, &p, a->eps);
    }
    return CVX_OK;
}

static cvx_status cpu_rms_norm(cvx_ctx *ctx, const cvx_rms_norm_args *a)
{
    int64_t m = a->x->dim[0], c = a->x->dim[1];
    const float *gamma = a->gamma->data;

#pragma omp parallel for num_threads(ctx->threads) schedule(static)
    for (int64_t r = 0; r < m; r++) {
        const float *x = (const float *)a->x->data + r * a->x->stride[0];
        float *y = (float *)a->y->data + r * a->y->stride[0];
        double mean = (double)(row_sum(x, c, true, 0) / (float)c);
        vf q = vset1((float)(1 / sqrt(mean + a->eps)));
        int64_t i = 0;
        for (; i + VW <= c; i += VW) {
            vstore(y + i, vload(x + i) * q * vload(gamma + i));
        }
        if (i < c) {
            vstore_n(y + i, vload_n(x + i, c - i) * q * vload_n(gamma + i, c - i), c - i);
        }
    }
    return CVX_OK;
}

/* Pairs (u, v) of x turn to (u·cos - v·sin, v·cos + u·sin). */
INLINE void rotate_row(float *x, int64_t d, const float *cs, const float *sn)
{
    vf sign;
    int64_t i = 0;

    for (int j = 0; j < VW; j++) {
        sign[j] = j % 2 == 0 ? -1.0f : 1.0f;
    }
    for (; i + VW <= d; i += VW) {
        vf v = vload(x + i);
        vstore(x + i, v * vload(cs + i) + vswap_pairs(v) * (vload(sn + i) * sign));
    }
    for (; i < d; i += 2) {
        float u = x[i], v = x[i + 1];
        x[i] = u * cs[i] - v * sn[i];
        x[i + 1] = v * cs[i + 1] + u * sn[i + 1];
    }
}

static cvx_status cpu_qk_norm_rope(cvx_ctx *ctx, const cvx_qk_norm_rope_args *a)
{
    const cvx_tensor *x = a->x;
    int64_t b = x->dim[0], s = x->dim[1], h = x->dim[2], d = x->dim[3];
    norm_row p = {.gamma = a->gamma->data, .beta = a->beta->data};

#pragma omp parallel for num_threads(ctx->threads) schedule(static) collapse(2)
    for (int64_t i = 0; i < b; i++) {
        for (int64_t r = 0; r < s; r++) {
            bool turn = a->cos != NULL && r >= a->text_rows;
            int64_t at = turn ? r - a->text_rows + a->rope_row0 : 0;
            for (int64_t j = 0; j < h; j++) {
                float *row =
                    (float *)x->data + i * x->stride[0] + r * x->stride[1] + j * x->stride[2];
                layer_norm_row(row, row, d, &p, a->eps);
                if (turn) {
                    rotate_row(row, d, (const float *)a->cos->data + at * a->cos->stride[0],
                               (const float *)a->sin->data + at * a->sin->stride[0]);
                }
            }
        }
    }
    return CVX_OK;
}
