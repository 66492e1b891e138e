/* The VAE's ops, the definition: causal convolutions over bordered inputs, group norm, time
 * pooling, and the copies and blends around them. */
#include <math.h>

#include "kernels/ref/ref.h"

static float *pixel(const cvx_tensor *t, int64_t i, int64_t r, int64_t c)
{
    return (float *)t->data + i * t->stride[0] + r * t->stride[1] + c * t->stride[2];
}

/* --- convolution; packed weights are f32 [kt, kh, kw, cin, cout] --- */

size_t cvx_ref_packed_conv_bytes(const cvx_ctx *ctx, const cvx_tensor *src)
{
    (void)ctx;
    return (size_t)cvx_numel(src) * sizeof(float);
}

cvx_status cvx_ref_pack_conv(cvx_ctx *ctx, const cvx_pack_args *a)
{
    const int64_t *d = a->src->dim;
    int64_t taps = d[2] * d[3] * d[4];
    float *out = a->dst->data;

    (void)ctx;
    for (int64_t o = 0; o < d[0]; o++) {
        for (int64_t i = 0; i < d[1]; i++) {
            for (int64_t t = 0; t < taps; t++) {
                out[(t * d[1] + i) * d[0] + o] = cvx_get_f32(a->src, (o * d[1] + i) * taps + t);
            }
        }
    }
    return CVX_OK;
}

/* sum[0 .. n) += x·w of one input pixel and one tap, for output channels o0 .. o0 + n. */
static void add_tap(double *sum, const cvx_tensor *w, const float *x, int64_t tap, int64_t o0,
                    int64_t n)
{
    int64_t taps = w->dim[2] * w->dim[3] * w->dim[4], cin = w->dim[1];

    for (int64_t i = 0; i < cin; i++) {
        if (w->layout != CVX_PLAIN) {
            const float *p = (const float *)w->data + (tap * cin + i) * w->dim[0] + o0;
            for (int64_t o = 0; o < n; o++) {
                sum[o] += (double)x[i] * (double)p[o];
            }
        } else {
            for (int64_t o = 0; o < n; o++) {
                int64_t at = ((o0 + o) * cin + i) * taps + tap;
                sum[o] += (double)x[i] * (double)cvx_get_f32(w, at);
            }
        }
    }
}

/* Bias and products of output channels o0 .. o0 + n of one pixel. */
static void conv_sums(double sum[64], const cvx_conv3d_args *a, int64_t t, int64_t r, int64_t c,
                      int64_t o0, int64_t n)
{
    const int64_t *w = a->w->dim;

    for (int64_t o = 0; o < n; o++) {
        sum[o] = a->b != NULL ? (double)((const float *)a->b->data)[o0 + o] : 0.0;
    }
    for (int64_t dt = 0; dt < w[2]; dt++) {
        int64_t frame = (a->x0 + t + dt) % a->x->dim[0];
        for (int64_t dr = 0; dr < w[3]; dr++) {
            int64_t row = a->up2 ? (r + dr + 1) / 2 : r * a->stride + dr;
            for (int64_t dc = 0; dc < w[4]; dc++) {
                int64_t col = a->up2 ? (c + dc + 1) / 2 : c * a->stride + dc;
                add_tap(sum, a->w, pixel(a->x, frame, row, col), (dt * w[3] + dr) * w[4] + dc, o0,
                        n);
            }
        }
    }
}

/* Output channels o0 .. o0 + n of one pixel. */
static void conv_pixel(const cvx_conv3d_args *a, int64_t t, int64_t r, int64_t c, int64_t o0,
                       int64_t n)
{
    double sum[64];

    conv_sums(sum, a, t, r, c, o0, n);
    const float *residual = a->residual != NULL ? pixel(a->residual, t, r, c) + o0 : NULL;
    float *y = pixel(a->y, t, r, c) + o0;
    for (int64_t o = 0; o < n; o++) {
        y[o] = (float)(residual != NULL ? sum[o] + (double)residual[o] : sum[o]);
    }
}

cvx_status cvx_ref_conv3d(cvx_ctx *ctx, const cvx_conv3d_args *a)
{
    const int64_t *y = a->y->dim;

#pragma omp parallel for num_threads(ctx->threads) schedule(static) collapse(2)
    for (int64_t t = 0; t < y[0]; t++) {
        for (int64_t r = 0; r < y[1]; r++) {
            for (int64_t c = 0; c < y[2]; c++) {
                for (int64_t o = 0; o < y[3]; o += 64) {
                    conv_pixel(a, t, r, c, o, y[3] - o < 64 ? y[3] - o : 64);
                }
            }
        }
    }
    return CVX_OK;
}

/* The same with what follows in conv2d. */
static void conv2d_pixel(const cvx_conv2d_args *p, const cvx_conv3d_args *a, int64_t t, int64_t r,
                         int64_t c, int64_t o0, int64_t n)
{
    const float *slope = p->slope != NULL ? (const float *)p->slope->data + o0 : NULL;
    float *y = pixel(a->y, t, r, c) + o0;
    double v[64];

    conv_sums(v, a, t, r, c, o0, n);
    for (int64_t o = 0; o < n; o++) {
        if (slope != NULL && !p->act_last && v[o] < 0) {
            v[o] *= (double)slope[o];
        }
        v[o] *= p->scale != 0 ? p->scale : 1;
        if (p->residual != NULL) {
            v[o] += (double)pixel(p->residual, t, r, c)[o0 + o];
        }
        if (slope != NULL && p->act_last && v[o] < 0) {
            v[o] *= (double)slope[o];
        }
        if (p->outer != NULL) {
            v[o] = (double)pixel(p->outer, t, r, c)[o0 + o] + p->outer_scale * v[o];
        }
        y[o] = (float)v[o];
    }
}

cvx_status cvx_ref_conv2d(cvx_ctx *ctx, const cvx_conv2d_args *p)
{
    cvx_conv3d_args a = {
        .y = p->y, .x = p->x, .w = p->w, .b = p->b, .stride = p->stride, .up2 = p->up2};
    const int64_t *y = p->y->dim;

#pragma omp parallel for num_threads(ctx->threads) schedule(static) collapse(2)
    for (int64_t t = 0; t < y[0]; t++) {
        for (int64_t r = 0; r < y[1]; r++) {
            for (int64_t c = 0; c < y[2]; c++) {
                for (int64_t o = 0; o < y[3]; o += 64) {
                    conv2d_pixel(p, &a, t, r, c, o, y[3] - o < 64 ? y[3] - o : 64);
                }
            }
        }
    }
    return CVX_OK;
}

/* --- group norm --- */

cvx_status cvx_ref_group_norm_stats(cvx_ctx *ctx, const cvx_group_norm_stats_args *a)
{
    const int64_t *x = a->x->dim;
    int64_t groups = a->sums->dim[2], per = x[3] / groups;

#pragma omp parallel for num_threads(ctx->threads) schedule(static) collapse(2)
    for (int64_t t = 0; t < x[0]; t++) {
        for (int64_t r = 0; r < x[1]; r++) {
            double *out = (double *)a->sums->data + (t * x[1] + r) * groups * 2;
            for (int64_t g = 0; g < groups; g++) {
                double s = 0, q = 0;
                for (int64_t c = 0; c < x[2]; c++) {
                    const float *p = pixel(a->x, t, r, c) + g * per;
                    for (int64_t i = 0; i < per; i++) {
                        s += (double)p[i];
                        q += (double)p[i] * (double)p[i];
                    }
                }
                out[2 * g] = s;
                out[2 * g + 1] = q;
            }
        }
    }
    return CVX_OK;
}

cvx_status cvx_ref_group_norm_finish(cvx_ctx *ctx, const cvx_group_norm_finish_args *a)
{
    int64_t rows = a->sums->dim[0] * a->sums->dim[1], groups = a->sums->dim[2];
    const double *sums = a->sums->data;
    double *out = a->stats->data;

    (void)ctx;
    for (int64_t g = 0; g < groups; g++) {
        double s = 0, q = 0;
        for (int64_t r = 0; r < rows; r++) {
            s += sums[(r * groups + g) * 2];
            q += sums[(r * groups + g) * 2 + 1];
        }
        double mean = s / (double)a->count, var = q / (double)a->count - mean * mean;
        out[2 * g] = mean;
        out[2 * g + 1] = 1 / sqrt((var > 0 ? var : 0) + a->eps);
    }
    return CVX_OK;
}

static void normalize_pixel(const cvx_group_norm_apply_args *a, int64_t t, int64_t r, int64_t c)
{
    const int64_t *x = a->x->dim;
    int64_t per = x[3] / a->stats->dim[0];
    const float *from = pixel(a->x, t, r, c), *zy = NULL, *zb = NULL;
    const float *gamma = a->gamma->data, *beta = a->beta->data;
    const double *stats = a->stats->data;
    float *to = pixel(a->y, t, r, c);

    if (a->zy != NULL) {
        int64_t zr = (r + a->h0) * a->zy->dim[1] / a->h_full, zc = c * a->zy->dim[2] / x[2];
        zy = pixel(a->zy, a->tmap[t], zr, zc);
        zb = pixel(a->zb, a->tmap[t], zr, zc);
    }
    for (int64_t i = 0; i < x[3]; i++) {
        const double *g = stats + i / per * 2;
        double v = ((double)from[i] - g[0]) * g[1] * (double)gamma[i] + (double)beta[i];
        v = zy != NULL ? v * (double)zy[i] + (double)zb[i] : v;
        to[i] = (float)(a->silu ? v / (1 + exp(-v)) : v);
    }
}

cvx_status cvx_ref_group_norm_apply(cvx_ctx *ctx, const cvx_group_norm_apply_args *a)
{
    const int64_t *x = a->x->dim;

#pragma omp parallel for num_threads(ctx->threads) schedule(static) collapse(2)
    for (int64_t t = 0; t < x[0]; t++) {
        for (int64_t r = 0; r < x[1]; r++) {
            for (int64_t c = 0; c < x[2]; c++) {
                normalize_pixel(a, t, r, c);
            }
        }
    }
    return CVX_OK;
}

/* --- pooling, copies, blends --- */

cvx_status cvx_ref_avg_pool_time(cvx_ctx *ctx, const cvx_avg_pool_time_args *a)
{
    const int64_t *y = a->y->dim;
    int64_t odd = a->x->dim[0] % 2;

#pragma omp parallel for num_threads(ctx->threads) schedule(static) collapse(2)
    for (int64_t t = 0; t < y[0]; t++) {
        for (int64_t r = 0; r < y[1]; r++) {
            for (int64_t c = 0; c < y[2]; c++) {
                int64_t from = 2 * t - odd;
                const float *u = pixel(a->x, from < 0 ? 0 : from, r, c);
                const float *v = pixel(a->x, from < 0 ? 0 : from + 1, r, c);
                for (int64_t i = 0; i < y[3]; i++) {
                    pixel(a->y, t, r, c)[i] = (float)(0.5 * ((double)u[i] + (double)v[i]));
                }
            }
        }
    }
    return CVX_OK;
}

/* One of the two is BF16X3: row by row. */
static void copy_split(const cvx_strided_copy_args *a)
{
    const int64_t *n = a->y->dim, *xs = a->x->stride, *ys = a->y->stride;
    int64_t xsize = (int64_t)cvx_dtype_size(a->x->dtype),
            ysize = (int64_t)cvx_dtype_size(a->y->dtype);

    for (int64_t i = 0; i < n[0] * n[1] * n[2]; i++) {
        int64_t t = i / n[2] / n[1], r = i / n[2] % n[1], c = i % n[2];
        const char *x = (const char *)a->x->data + (t * xs[0] + r * xs[1] + c * xs[2]) * xsize;
        char *y = (char *)a->y->data + (t * ys[0] + r * ys[1] + c * ys[2]) * ysize;
        if (a->x->dtype == CVX_F32) {
            cvx_from_f32(y, a->y->dtype, (const float *)(const void *)x, n[3]);
        } else {
            cvx_to_f32((float *)(void *)y, x, a->x->dtype, n[3]);
        }
    }
}

cvx_status cvx_ref_strided_copy(cvx_ctx *ctx, const cvx_strided_copy_args *a)
{
    const int64_t *n = a->y->dim, *xs = a->x->stride, *ys = a->y->stride;

    if (a->x->dtype != a->y->dtype) {
        copy_split(a);
        return CVX_OK;
    }
#pragma omp parallel for num_threads(ctx->threads) schedule(static) collapse(2)
    for (int64_t i = 0; i < n[0]; i++) {
        for (int64_t j = 0; j < n[1]; j++) {
            const float *x = (const float *)a->x->data + i * xs[0] + j * xs[1];
            float *y = (float *)a->y->data + i * ys[0] + j * ys[1];
            for (int64_t k = 0; k < n[2]; k++) {
                for (int64_t l = 0; l < n[3]; l++) {
                    y[k * ys[2] + l * ys[3]] = x[k * xs[2] + l * xs[3]];
                }
            }
        }
    }
    return CVX_OK;
}

cvx_status cvx_ref_blend(cvx_ctx *ctx, const cvx_blend_args *a)
{
    const int64_t *n = a->y->dim, *xs = a->x->stride, *ys = a->y->stride;
    double steps = (double)n[a->axis];

    (void)ctx;
    for (int64_t i = 0; i < n[0]; i++) {
        for (int64_t j = 0; j < n[1]; j++) {
            for (int64_t k = 0; k < n[2]; k++) {
                for (int64_t l = 0; l < n[3]; l++) {
                    double f = (double)(a->axis == 2 ? k : l) / steps;
                    const float *x = (const float *)a->x->data + i * xs[0] + j * xs[1] + k * xs[2];
                    float *y = (float *)a->y->data + i * ys[0] + j * ys[1] + k * ys[2] + l * ys[3];
                    float u = x[l * xs[3]] * (float)(1 - f), v = *y * (float)f;
                    *y = u + v;
                }
            }
        }
    }
    return CVX_OK;
}
