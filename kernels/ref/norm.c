/* Norms over the innermost dimension, in double precision. */
#include <math.h>

#include "kernels/ref/ref.h"

/* mean and 1 / sqrt(variance + eps) of c values */
static void moments(double *mean, double *rstd, const float *x, int64_t c, double eps)
{
    double s = 0, q = 0;

    for (int64_t i = 0; i < c; i++) {
        s += x[i];
    }
    s /= (double)c;
    for (int64_t i = 0; i < c; i++) {
        q += (x[i] - s) * (x[i] - s);
    }
    *mean = s;
    *rstd = 1 / sqrt(q / (double)c + eps);
}

static const float *modulation_row(const cvx_tensor *t, int64_t stream)
{
    return t != NULL ? (const float *)t->data + stream * t->dim[1] : NULL;
}

cvx_status cvx_ref_layer_norm(cvx_ctx *ctx, const cvx_layer_norm_args *a)
{
    int64_t m = a->x->dim[0], c = a->x->dim[1];
    const float *gamma = a->gamma != NULL ? a->gamma->data : NULL;
    const float *beta = a->beta != NULL ? a->beta->data : NULL;

#pragma omp parallel for num_threads(ctx->threads) schedule(static)
    for (int64_t r = 0; r < m; r++) {
        const float *x = (const float *)a->x->data + r * a->x->stride[0];
        float *y = (float *)a->y->data + r * a->y->stride[0];
        bool two = a->scale != NULL || a->shift != NULL;
        int64_t stream = two ? cvx_stream_of_row(r, a->text_rows, a->period) : 0;
        const float *scale = modulation_row(a->scale, stream);
        const float *shift = modulation_row(a->shift, stream);
        double mean, rstd;

        moments(&mean, &rstd, x, c, a->eps);
        for (int64_t i = 0; i < c; i++) {
            double v = (x[i] - mean) * rstd;
            v = v * (gamma ? gamma[i] : 1) + (beta ? beta[i] : 0);
            v = v * (1 + (scale ? (double)scale[i] : 0)) + (shift ? shift[i] : 0);
            y[i] = (float)v;
        }
    }
    return CVX_OK;
}

cvx_status cvx_ref_rms_norm(cvx_ctx *ctx, const cvx_rms_norm_args *a)
{
    int64_t m = a->x->dim[0], c = a->x->dim[1];
    const float *gamma = a->gamma->data;

#pragma omp parallel for num_threads(ctx->threads) schedule(static)
    for (int64_t r = 0; r < m; r++) {
        const float *x = (const float *)a->x->data + r * a->x->stride[0];
        float *y = (float *)a->y->data + r * a->y->stride[0];
        double q = 0;

        for (int64_t i = 0; i < c; i++) {
            q += (double)x[i] * x[i];
        }
        q = 1 / sqrt(q / (double)c + a->eps);
        for (int64_t i = 0; i < c; i++) {
            y[i] = (float)(x[i] * q * gamma[i]);
        }
    }
    return CVX_OK;
}

/* One head of one row; cos and sin are NULL where there is no rotation. */
static void norm_rope_head(float *x, int64_t d, const float *gamma, const float *beta,
                           const float *cos, const float *sin, double eps)
{
    double mean, rstd;

    moments(&mean, &rstd, x, d, eps);
    if (cos == NULL) {
        for (int64_t i = 0; i < d; i++) {
            x[i] = (float)((x[i] - mean) * rstd * gamma[i] + beta[i]);
        }
        return;
    }
    for (int64_t i = 0; i < d; i += 2) {
        double u = (x[i] - mean) * rstd * gamma[i] + beta[i];
        double v = (x[i + 1] - mean) * rstd * gamma[i + 1] + beta[i + 1];
        x[i] = (float)(u * cos[i] - v * sin[i]);
        x[i + 1] = (float)(v * cos[i + 1] + u * sin[i + 1]);
    }
}

cvx_status cvx_ref_qk_norm_rope(cvx_ctx *ctx, const cvx_qk_norm_rope_args *a)
{
    const cvx_tensor *x = a->x;
    int64_t b = x->dim[0], s = x->dim[1], h = x->dim[2], d = x->dim[3];

#pragma omp parallel for num_threads(ctx->threads) schedule(static) collapse(2)
    for (int64_t i = 0; i < b; i++) {
        for (int64_t r = 0; r < s; r++) {
            const float *cos = NULL, *sin = NULL;
            if (a->cos != NULL && r >= a->text_rows) {
                int64_t at = r - a->text_rows + a->rope_row0;
                cos = (const float *)a->cos->data + at * a->cos->stride[0];
                sin = (const float *)a->sin->data + at * a->sin->stride[0];
            }
            for (int64_t j = 0; j < h; j++) {
                float *p =
                    (float *)x->data + i * x->stride[0] + r * x->stride[1] + j * x->stride[2];
                norm_rope_head(p, d, a->gamma->data, a->beta->data, cos, sin, a->eps);
            }
        }
    }
    return CVX_OK;
}
