/* Activations, additions, table rows, patches and the scheduler's update. */
#include <math.h>
#include <string.h>

#include "kernels/ref/ref.h"

double cvx_ref_act(cvx_act act, double x)
{
    switch (act) {
    case CVX_ACT_NONE: return x;
    case CVX_ACT_GELU_TANH:
        return 0.5 * x * (1 + tanh(0.79788456080286535588 * (x + 0.044715 * x * x * x)));
    case CVX_ACT_GELU: return 0.5 * x * (1 + erf(x * 0.70710678118654752440));
    case CVX_ACT_QUICK_GELU: return x / (1 + exp(-1.702 * x));
    case CVX_ACT_SILU: return x / (1 + exp(-x));
    }
    return x;
}

cvx_status cvx_ref_gated_act(cvx_ctx *ctx, const cvx_gated_act_args *a)
{
    int64_t n = cvx_numel(a->y);
    const float *u = a->a->data, *v = a->b->data;
    float *y = a->y->data;

#pragma omp parallel for num_threads(ctx->threads) schedule(static)
    for (int64_t i = 0; i < n; i++) {
        y[i] = (float)(cvx_ref_act(a->act, u[i]) * v[i]);
    }
    return CVX_OK;
}

cvx_status cvx_ref_add(cvx_ctx *ctx, const cvx_add_args *a)
{
    int64_t n = cvx_numel(a->y), nb = cvx_numel(a->b);
    const float *u = a->a->data, *v = a->b->data;
    float *y = a->y->data;

#pragma omp parallel for num_threads(ctx->threads) schedule(static)
    for (int64_t i = 0; i < n; i++) {
        y[i] = u[i] + v[i % nb];
    }
    return CVX_OK;
}

cvx_status cvx_ref_embed(cvx_ctx *ctx, const cvx_embed_args *a)
{
    int64_t n = a->y->dim[0], c = a->y->dim[1], size = (int64_t)cvx_dtype_size(a->table->dtype);

#pragma omp parallel for num_threads(ctx->threads) schedule(static)
    for (int64_t i = 0; i < n; i++) {
        cvx_to_f32((float *)a->y->data + i * a->y->stride[0],
                   (const char *)a->table->data + a->ids[i] * a->table->stride[0] * size,
                   a->table->dtype, c);
    }
    return CVX_OK;
}

/* One patch row and its pixels: runs of p pixels in the latents [f, c, h, w], columns (c, t, i, j).
 */
static void move_patch(float *row, float *x, const int64_t *dim, int64_t r, int64_t p, int64_t pt,
                       bool gather)
{
    int64_t c = dim[2], h = dim[3], w = dim[4], gw = w / p, gh = h / p;
    int64_t px = r % gw * p, py = r / gw % gh * p, t0 = r / (gw * gh) * pt;

    for (int64_t ch = 0; ch < c; ch++) {
        for (int64_t t = 0; t < pt; t++) {
            for (int64_t i = 0; i < p; i++, row += p) {
                float *at = x + (((t0 + t) * c + ch) * h + py + i) * w + px;
                memcpy(gather ? row : at, gather ? at : row, (size_t)p * sizeof(float));
            }
        }
    }
}

static void move_patches(cvx_ctx *ctx, const cvx_patchify_args *a, const cvx_tensor *rows,
                         const cvx_tensor *latents, bool gather)
{
    int64_t nb = rows->dim[0], n = rows->dim[1];
    int64_t pt = a->pt > 0 ? a->pt : 1;
    int64_t item = cvx_numel(latents) / (nb > 0 ? nb : 1);

#pragma omp parallel for num_threads(ctx->threads) schedule(static) collapse(2)
    for (int64_t b = 0; b < nb; b++) {
        for (int64_t r = 0; r < n; r++) {
            float *row = (float *)rows->data + b * rows->stride[0] + r * rows->stride[1];
            move_patch(row, (float *)latents->data + b * item, latents->dim, a->row0 + r, a->p, pt,
                       gather);
        }
    }
}

cvx_status cvx_ref_patchify(cvx_ctx *ctx, const cvx_patchify_args *a)
{
    move_patches(ctx, a, a->y, a->x, true);
    return CVX_OK;
}

cvx_status cvx_ref_unpatchify(cvx_ctx *ctx, const cvx_unpatchify_args *a)
{
    move_patches(ctx, a, a->x, a->y, false);
    return CVX_OK;
}

static const float *data_or_null(const cvx_tensor *t)
{
    return t != NULL ? t->data : NULL;
}

cvx_status cvx_ref_sched_step(cvx_ctx *ctx, const cvx_sched_step_args *a)
{
    int64_t n = cvx_numel(a->prev);
    const float *sample = a->sample->data, *cond = a->cond->data, *c = a->c;
    const float *uncond = data_or_null(a->uncond), *old = data_or_null(a->old_x0);
    const float *noise = data_or_null(a->noise);
    float *prev = a->prev->data, *x0_out = a->x0_out != NULL ? a->x0_out->data : NULL;
    float g = (float)a->guidance;

#pragma omp parallel for num_threads(ctx->threads) schedule(static)
    for (int64_t i = 0; i < n; i++) {
        float v = uncond == NULL ? cond[i] : uncond[i] + g * (cond[i] - uncond[i]);
        float x0 = c[0] * sample[i] + c[1] * v;
        float p = c[2] * sample[i] + c[3] * x0 + c[4] * v;
        p = old != NULL ? p + c[5] * old[i] : p;
        p = noise != NULL ? p + c[6] * noise[i] : p;
        if (x0_out != NULL) {
            x0_out[i] = x0;
        }
        prev[i] = p;
    }
    return CVX_OK;
}

cvx_status cvx_ref_combine(cvx_ctx *ctx, const cvx_combine_args *a)
{
    int64_t n = cvx_numel(a->y);
    float *y = a->y->data;

#pragma omp parallel for num_threads(ctx->threads) schedule(static)
    for (int64_t i = 0; i < n; i++) {
        float sum = a->c[0] * ((const float *)a->x[0]->data)[i];
        for (int k = 1; k < a->n; k++) {
            sum += a->c[k] * ((const float *)a->x[k]->data)[i];
        }
        y[i] = sum;
    }
    return CVX_OK;
}

cvx_status cvx_ref_row_change(cvx_ctx *ctx, const cvx_row_change_args *p)
{
    int64_t m = p->a->dim[0], n = p->a->dim[1];
    const float *a = p->a->data, *b = p->b->data;
    float *y = p->y->data;

#pragma omp parallel for num_threads(ctx->threads) schedule(static)
    for (int64_t r = 0; r < m; r++) {
        double change = 0, size = 0;
        for (int64_t i = r * n; i < (r + 1) * n; i++) {
            change += fabs((double)a[i] - (double)b[i]);
            size += fabs((double)b[i]);
        }
        y[2 * r] = (float)change;
        y[2 * r + 1] = (float)size;
    }
    return CVX_OK;
}
