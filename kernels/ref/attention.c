/* Attention, the definition: one query row at a time, all its scores in double precision. */
#include <math.h>
#include <stdlib.h>

#include "kernels/ref/ref.h"

static const float *at4(const cvx_tensor *t, int64_t b, int64_t s, int64_t h)
{
    return (const float *)t->data + b * t->stride[0] + s * t->stride[1] + h * t->stride[2];
}

/* p[j] <- exp(score_j - max); returns the sum, *max the greatest score. */
static double row_scores(double *p, const cvx_attention_args *a, int64_t b, int64_t h, int64_t i,
                         int64_t sk, double *max)
{
    const float *q = at4(a->q, b, i, h);
    int64_t d = a->q->dim[3];
    double sum = 0;

    *max = -INFINITY;
    for (int64_t j = 0; j < sk; j++) {
        const float *k = at4(a->k, b, j, h);
        double s = 0;
#pragma omp simd reduction(+ : s)
        for (int64_t e = 0; e < d; e++) {
            s += (double)q[e] * (double)k[e];
        }
        s *= a->scale;
        if (a->bias != NULL) {
            s +=
                ((const float *)a->bias->data)[h * a->bias->stride[0] + i * a->bias->stride[1] + j];
        }
        p[j] = s;
        *max = s > *max ? s : *max;
    }
    for (int64_t j = 0; j < sk; j++) {
        p[j] = exp(p[j] - *max);
        sum += p[j];
    }
    return sum;
}

static void one_row(const cvx_attention_args *a, double *p, double *acc, int64_t b, int64_t h,
                    int64_t i)
{
    int64_t d = a->q->dim[3], sk = a->causal ? i + 1 : a->k->dim[1];
    double max, sum = row_scores(p, a, b, h, i, sk, &max);
    float *o =
        (float *)a->o->data + b * a->o->stride[0] + i * a->o->stride[1] + h * a->o->stride[2];

    for (int64_t e = 0; e < d; e++) {
        acc[e] = 0;
    }
    for (int64_t j = 0; j < sk; j++) {
        const float *v = at4(a->v, b, j, h);
        for (int64_t e = 0; e < d; e++) {
            acc[e] += p[j] * v[e];
        }
    }
    for (int64_t e = 0; e < d; e++) {
        o[e] = (float)(acc[e] / sum);
    }
    if (a->lse != NULL) {
        const cvx_tensor *t = a->lse;
        ((float *)t->data)[b * t->stride[0] + h * t->stride[1] + i] = (float)(max + log(sum));
    }
}

cvx_status cvx_ref_attention(cvx_ctx *ctx, const cvx_attention_args *a)
{
    int64_t nb = a->q->dim[0], sq = a->q->dim[1], nh = a->q->dim[2], sk = a->k->dim[1];
    bool failed = false;

#pragma omp parallel num_threads(ctx->threads)
    {
        double acc[128];
        double *p = malloc((size_t)(sk + 1) * sizeof *p);
        if (p == NULL) {
#pragma omp atomic write
            failed = true;
        }
#pragma omp for schedule(static) collapse(3)
        for (int64_t b = 0; b < nb; b++) {
            for (int64_t h = 0; h < nh; h++) {
                for (int64_t i = 0; i < sq; i++) {
                    if (p != NULL) {
                        one_row(a, p, acc, b, h, i);
                    }
                }
            }
        }
        free(p);
    }
    return failed ? cvx_fail(CVX_ENOMEM, "attention: no memory for %lld scores", (long long)sk)
                  : CVX_OK;
}

cvx_merge_weights cvx_ref_merge_weights(double lse, double part)
{
    double most = lse > part ? lse : part;
    double a = exp(lse - most), b = exp(part - most);

    return (cvx_merge_weights){a / (a + b), b / (a + b), most + log(a + b)};
}

static void merge_row(const cvx_attention_merge_args *a, int64_t b, int64_t h, int64_t i)
{
    float *lse = (float *)a->lse->data + b * a->lse->stride[0] + h * a->lse->stride[1] + i;
    float part =
        ((const float *)
             a->part_lse->data)[b * a->part_lse->stride[0] + h * a->part_lse->stride[1] + i];
    cvx_merge_weights w = cvx_ref_merge_weights(*lse, part);
    float *o =
        (float *)a->o->data + b * a->o->stride[0] + i * a->o->stride[1] + h * a->o->stride[2];
    const float *p = at4(a->part, b, i, h);

    for (int64_t e = 0; e < a->o->dim[3]; e++) {
        o[e] = (float)(w.o * o[e] + w.part * p[e]);
    }
    *lse = (float)w.lse;
}

cvx_status cvx_ref_attention_merge(cvx_ctx *ctx, const cvx_attention_merge_args *a)
{
#pragma omp parallel for num_threads(ctx->threads) schedule(static) collapse(3)
    for (int64_t b = 0; b < a->o->dim[0]; b++) {
        for (int64_t i = 0; i < a->o->dim[1]; i++) {
            for (int64_t h = 0; h < a->o->dim[2]; h++) {
                merge_row(a, b, h, i);
            }
        }
    }
    return CVX_OK;
}
