/* Ops on pictures [h, w, c], the definition: resampling, warping, mixing, shuffling. */
#include <math.h>

#include "kernels/ref/ref.h"

static float *at(const cvx_tensor *t, int64_t r, int64_t c)
{
    return (float *)t->data + r * t->stride[0] + c * t->stride[1];
}

static int64_t clamp(int64_t i, int64_t n)
{
    return i < 0 ? 0 : i >= n ? n - 1 : i;
}

/* The four weights of cubic convolution at distance t from the second sample (Keys, with torch's a). */
static void cubic_weights(double w[4], double t)
{
    const double a = -0.75;
    double d[4] = {1 + t, t, 1 - t, 2 - t};

    for (int k = 0; k < 4; k++) {
        double x = d[k];
        w[k] = k == 1 || k == 2 ? ((a + 2) * x - (a + 3)) * x * x + 1
                                : ((a * x - 5 * a) * x + 8 * a) * x - 4 * a;
    }
}

/* Indices and weights of one axis at output position i; the number of them. */
static int taps(int64_t index[4], double weight[4], int64_t i, int64_t n, double step, bool cubic)
{
    double x = ((double)i + 0.5) * step - 0.5;

    x = !cubic && x < 0 ? 0 : x;
    double first = floor(x);
    if (cubic) {
        cubic_weights(weight, x - first);
    } else {
        weight[0] = 1 - (x - first);
        weight[1] = x - first;
    }
    for (int k = 0; k < (cubic ? 4 : 2); k++) {
        index[k] = clamp((int64_t)first + k - (cubic ? 1 : 0), n);
    }
    return cubic ? 4 : 2;
}

cvx_status cvx_ref_resize(cvx_ctx *ctx, const cvx_resize_args *a)
{
    const int64_t *n = a->y->dim;

#pragma omp parallel for num_threads(ctx->threads) schedule(static)
    for (int64_t r = 0; r < n[0]; r++) {
        int64_t ir[4], ic[4];
        double wr[4], wc[4];
        int count = taps(ir, wr, r, a->x->dim[0], a->step, a->cubic);
        for (int64_t c = 0; c < n[1]; c++) {
            float *y = at(a->y, r, c);
            taps(ic, wc, c, a->x->dim[1], a->step, a->cubic);
            for (int64_t k = 0; k < n[2]; k++) {
                double sum = 0;
                for (int i = 0; i < count; i++) {
                    for (int j = 0; j < count; j++) {
                        sum += wr[i] * wc[j] * (double)at(a->x, ir[i], ic[j])[k];
                    }
                }
                y[k] = (float)(a->gain * sum + (a->add ? (double)y[k] : 0));
            }
        }
    }
    return CVX_OK;
}

static double within(double v, int64_t n)
{
    return v > (double)(n - 1) ? (double)(n - 1) : v > 0 ? v : 0;
}

cvx_status cvx_ref_warp(cvx_ctx *ctx, const cvx_warp_args *a)
{
    const int64_t *n = a->y->dim;

#pragma omp parallel for num_threads(ctx->threads) schedule(static)
    for (int64_t r = 0; r < n[0]; r++) {
        for (int64_t c = 0; c < n[1]; c++) {
            const float *f = at(a->flow, r, c);
            double x = within((double)c + (double)f[0], n[1]);
            double y = within((double)r + (double)f[1], n[0]);
            int64_t x0 = (int64_t)x, y0 = (int64_t)y;
            int64_t x1 = clamp(x0 + 1, n[1]), y1 = clamp(y0 + 1, n[0]);
            double fx = x - (double)x0, fy = y - (double)y0;
            for (int64_t k = 0; k < n[2]; k++) {
                double top =
                    (double)at(a->x, y0, x0)[k] * (1 - fx) + (double)at(a->x, y0, x1)[k] * fx;
                double low =
                    (double)at(a->x, y1, x0)[k] * (1 - fx) + (double)at(a->x, y1, x1)[k] * fx;
                at(a->y, r, c)[k] = (float)(top * (1 - fy) + low * fy);
            }
        }
    }
    return CVX_OK;
}

cvx_status cvx_ref_sigmoid_mix(cvx_ctx *ctx, const cvx_sigmoid_mix_args *a)
{
    const int64_t *n = a->y->dim;

#pragma omp parallel for num_threads(ctx->threads) schedule(static)
    for (int64_t r = 0; r < n[0]; r++) {
        for (int64_t c = 0; c < n[1]; c++) {
            double m = 1 / (1 + exp(-(double)at(a->mask, r, c)[0]));
            for (int64_t k = 0; k < n[2]; k++) {
                at(a->y, r, c)[k] =
                    (float)((double)at(a->a, r, c)[k] * m + (double)at(a->b, r, c)[k] * (1 - m));
            }
        }
    }
    return CVX_OK;
}

cvx_status cvx_ref_pixel_shuffle(cvx_ctx *ctx, const cvx_pixel_shuffle_args *a)
{
    const int64_t *n = a->y->dim;

#pragma omp parallel for num_threads(ctx->threads) schedule(static)
    for (int64_t r = 0; r < n[0]; r++) {
        for (int64_t c = 0; c < n[1]; c++) {
            const float *x = at(a->x, r / a->n, c / a->n);
            const float *base = a->base != NULL ? at(a->base, r / a->n, c / a->n) : NULL;
            for (int64_t k = 0; k < n[2]; k++) {
                float v = x[(k * a->n + r % a->n) * a->n + c % a->n];
                at(a->y, r, c)[k] = base != NULL ? v + base[k] : v;
            }
        }
    }
    return CVX_OK;
}

cvx_status cvx_ref_abs_max(cvx_ctx *ctx, const cvx_abs_max_args *a)
{
    const int64_t *n = a->x->dim;
    float most = 0;

    (void)ctx;
    for (int64_t r = 0; r < n[0]; r++) {
        for (int64_t c = 0; c < n[1]; c++) {
            for (int64_t k = 0; k < n[2]; k++) {
                float v = fabsf(at(a->x, r, c)[k]);
                most = v > most ? v : most;
            }
        }
    }
    *a->out = most;
    return CVX_OK;
}
