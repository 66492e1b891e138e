/* Linear layer, the definition: each output is a dot product in double precision. Weight rows are
 * dealt over the threads, so that each is widened once however many rows of x there are. */
#include <stdlib.h>

#include "kernels/ref/ref.h"

static void widen_row(double *dst, float *tmp, const cvx_tensor *w, int64_t j)
{
    int64_t k = w->dim[1], size = (int64_t)cvx_dtype_size(w->dtype);
    const float *row = tmp;

    if (w->layout == CVX_PACKED_LINEAR) {
        row = (const float *)w->data + j * k;
    } else {
        cvx_to_f32(tmp, (const char *)w->data + j * w->stride[0] * size, w->dtype, k);
    }
    for (int64_t p = 0; p < k; p++) {
        dst[p] = row[p];
    }
}

static double dot(const float *x, const double *w, int64_t k)
{
    double s = 0;

#pragma omp simd reduction(+ : s)
    for (int64_t p = 0; p < k; p++) {
        s += (double)x[p] * w[p];
    }
    return s;
}

static void one_column(const cvx_linear_args *a, int64_t j, const double *w)
{
    const cvx_tensor *x = a->x, *y = a->y, *res = a->residual;
    int64_t m = x->dim[0], k = x->dim[1], n = y->dim[1];
    double b = a->b != NULL ? ((const float *)a->b->data)[j] : 0;

    for (int64_t i = 0; i < m; i++) {
        double v = cvx_ref_act(a->act, dot((const float *)x->data + i * x->stride[0], w, k) + b);
        if (a->gate != NULL) {
            int64_t g = cvx_stream_of_row(i, a->text_rows, a->period);
            v *= ((const float *)a->gate->data)[g * n + j];
        }
        if (res != NULL) {
            v += ((const float *)res->data)[i * res->stride[0] + j];
        }
        ((float *)y->data)[i * y->stride[0] + j] = (float)v;
    }
}

cvx_status cvx_ref_linear(cvx_ctx *ctx, const cvx_linear_args *a)
{
    int64_t n = a->y->dim[1], k = a->x->dim[1];
    bool failed = false;

#pragma omp parallel num_threads(ctx->threads)
    {
        double *w = malloc((size_t)(k + 1) * sizeof *w);
        float *tmp = malloc((size_t)(k + 1) * sizeof *tmp);
        if (w == NULL || tmp == NULL) {
#pragma omp atomic write
            failed = true;
        }
#pragma omp for schedule(static)
        for (int64_t j = 0; j < n; j++) {
            if (w != NULL && tmp != NULL) {
                widen_row(w, tmp, a->w, j);
                one_column(a, j, w);
            }
        }
        free(w);
        free(tmp);
    }
    return failed ? cvx_fail(CVX_ENOMEM, "linear: no memory for a row of %lld", (long long)k)
                  : CVX_OK;
}
