/* Group norm's sums and its application, and copies around convolutions. Part of a level file; see
 * vec.h. */

typedef double vd __attribute__((vector_size(4 * VW))); /* half as many doubles as vf has floats */
typedef float vh __attribute__((vector_size(2 * VW)));

#define HALF (VW / 2)
#define STAT_VECTORS 8 /* doubles of 8 vectors, their sums and squares: what registers hold */

/* sum[i] and square[i] of n channels over w pixels, s floats apart; n is whole half vectors. */
INLINE void channel_sums(double *sum, double *square, const float *x, int64_t w, int64_t s, int n)
{
    vd a[STAT_VECTORS] = {0}, q[STAT_VECTORS] = {0};

    for (int64_t i = 0; i < w; i++, x += s) {
#pragma GCC unroll 8
        for (int k = 0; k < n / HALF; k++) {
            vh h;
            memcpy(&h, x + k * HALF, sizeof h);
            vd v = __builtin_convertvector(h, vd);
            a[k] += v;
            q[k] += v * v;
        }
    }
#pragma GCC unroll 8
    for (int k = 0; k < n / HALF; k++) {
        memcpy(sum + k * HALF, &a[k], sizeof a[k]);
        memcpy(square + k * HALF, &q[k], sizeof q[k]);
    }
}

/* One row of pixels -> out [groups][2]. sum, square: scratch of c doubles each. */
static void row_stats(double *out, double *sum, double *square, const float *x, int64_t w,
                      int64_t s, int64_t c, int64_t groups)
{
    int64_t i = 0, per = c / groups;

    for (; i + STAT_VECTORS * HALF <= c; i += STAT_VECTORS * HALF) {
        channel_sums(sum + i, square + i, x + i, w, s, STAT_VECTORS * HALF);
    }
    for (; i + HALF <= c; i += HALF) {
        channel_sums(sum + i, square + i, x + i, w, s, HALF);
    }
    for (; i < c; i++) {
        sum[i] = square[i] = 0;
        for (int64_t p = 0; p < w; p++) {
            double v = (double)x[p * s + i];
            sum[i] += v;
            square[i] += v * v;
        }
    }
    for (int64_t g = 0; g < groups; g++) {
        double a = 0, q = 0;
        for (int64_t k = g * per; k < (g + 1) * per; k++) {
            a += sum[k];
            q += square[k];
        }
        out[2 * g] = a;
        out[2 * g + 1] = q;
    }
}

static cvx_status cpu_group_norm_stats(cvx_ctx *ctx, const cvx_group_norm_stats_args *a)
{
    const int64_t *d = a->x->dim, *s = a->x->stride;
    int64_t groups = a->sums->dim[2];
    void *scratch;

    CVX_RETURN_IF(
        cvx_cpu_scratch(ctx, &scratch, (size_t)(ctx->threads * 2 * d[3]) * sizeof(double)));
#pragma omp parallel for num_threads(ctx->threads) schedule(static)
    for (int64_t i = 0; i < d[0] * d[1]; i++) {
        double *sum = (double *)scratch + omp_get_thread_num() * 2 * d[3];
        const float *x = (const float *)a->x->data + i / d[1] * s[0] + i % d[1] * s[1];
        row_stats((double *)a->sums->data + i * groups * 2, sum, sum + d[3], x, d[2], s[2], d[3],
                  groups);
    }
    return CVX_OK;
}

/* y = v·a + b, silu if asked, for one pixel of c channels. */
INLINE void scale_pixel(float *y, const float *x, const float *a, const float *b, int64_t c,
                        bool silu)
{
    int64_t i = 0;

    for (; i + VW <= c; i += VW) {
        vf v = vfma(vload(x + i), vload(a + i), vload(b + i));
        vstore(y + i, silu ? act_of(CVX_ACT_SILU, v) : v);
    }
    if (i < c) {
        vf v = vfma(vload_n(x + i, c - i), vload_n(a + i, c - i), vload_n(b + i, c - i));
        vstore_n(y + i, silu ? act_of(CVX_ACT_SILU, v) : v, c - i);
    }
}

#if defined(__AVX512BF16__)
/* The same, split into bf16 parts. */
INLINE void scale_split_pixel(char *y, const float *x, const float *a, const float *b, int64_t c,
                              bool silu, int parts)
{
    for (int64_t i = 0; i < c; i += 32) {
        vf v0 = vfma(vload(x + i), vload(a + i), vload(b + i));
        vf v1 = vfma(vload(x + i + VW), vload(a + i + VW), vload(b + i + VW));
        if (silu) {
            v0 = act_of(CVX_ACT_SILU, v0);
            v1 = act_of(CVX_ACT_SILU, v1);
        }
        split32(y + i * 2 * parts, 64, parts, (__m512)v0, (__m512)v1);
    }
}
#else
INLINE void scale_split_pixel(char *y, const float *x, const float *a, const float *b, int64_t c,
                              bool silu, int parts)
{
    (void)y, (void)x, (void)a, (void)b, (void)c, (void)silu, (void)parts;
}
#endif

/* Scale and shift that the spatial norm makes of a and b for one latent pixel. */
INLINE void condition(float *a2, float *b2, const float *a, const float *b, const float *zy,
                      const float *zb, int64_t c)
{
    for (int64_t i = 0; i < c; i++) {
        a2[i] = a[i] * zy[i];
        b2[i] = b[i] * zy[i] + zb[i];
    }
}

/* a[i], b[i]: the norm as one product and sum per channel. */
static void norm_scales(float *a, float *b, const cvx_group_norm_apply_args *p)
{
    int64_t c = p->x->dim[3], per = c / p->stats->dim[0];
    const float *gamma = p->gamma->data, *beta = p->beta->data;
    const double *stats = p->stats->data;

    for (int64_t i = 0; i < c; i++) {
        const double *g = stats + i / per * 2;
        double scale = g[1] * (double)gamma[i];
        a[i] = (float)scale;
        b[i] = (float)((double)beta[i] - g[0] * scale);
    }
}

/* One row; ab: scale, shift, and room for two more. */
static void norm_row_pixels(const cvx_group_norm_apply_args *p, int64_t t, int64_t r, float *ab)
{
    const int64_t *d = p->x->dim, *xs = p->x->stride, *ys = p->y->stride;
    int64_t size = (int64_t)cvx_dtype_size(p->y->dtype);
    const float *x = (const float *)p->x->data + t * xs[0] + r * xs[1], *zy = NULL, *zb = NULL;
    char *y = (char *)p->y->data + (t * ys[0] + r * ys[1]) * size;
    float *a = ab, *b = ab + d[3];
    int64_t wz = 0, last = -1;

    if (p->zy != NULL) {
        int64_t zr = (r + p->h0) * p->zy->dim[1] / p->h_full;
        wz = p->zy->dim[2];
        zy = (const float *)p->zy->data + p->tmap[t] * p->zy->stride[0] + zr * p->zy->stride[1];
        zb = (const float *)p->zb->data + p->tmap[t] * p->zb->stride[0] + zr * p->zb->stride[1];
        a = ab + 2 * d[3];
        b = ab + 3 * d[3];
    }
    for (int64_t i = 0; i < d[2]; i++) {
        if (zy != NULL && i * wz / d[2] != last) {
            last = i * wz / d[2];
            condition(a, b, ab, ab + d[3], zy + last * p->zy->stride[2],
                      zb + last * p->zb->stride[2], d[3]);
        }
        char *to = y + i * ys[2] * size;
        if (p->y->dtype == CVX_BF16X3) {
            scale_split_pixel(to, x + i * xs[2], a, b, d[3], p->silu, 3);
        } else if (p->y->dtype == CVX_BF16) {
            scale_split_pixel(to, x + i * xs[2], a, b, d[3], p->silu, 1);
        } else {
            scale_pixel((float *)(void *)to, x + i * xs[2], a, b, d[3], p->silu);
        }
    }
}

static cvx_status cpu_group_norm_apply(cvx_ctx *ctx, const cvx_group_norm_apply_args *p)
{
    const int64_t *d = p->x->dim;
    int64_t room = 4 * cvx_round_up(d[3], 16);
    void *scratch;

    CVX_RETURN_IF(cvx_cpu_scratch(ctx, &scratch, (size_t)(ctx->threads * room) * sizeof(float)));
#pragma omp parallel num_threads(ctx->threads)
    {
        float *ab = (float *)scratch + omp_get_thread_num() * room;
        norm_scales(ab, ab + d[3], p);
#pragma omp for schedule(static)
        for (int64_t i = 0; i < d[0] * d[1]; i++) {
            norm_row_pixels(p, i / d[1], i % d[1], ab);
        }
    }
    return CVX_OK;
}
