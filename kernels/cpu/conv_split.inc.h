/* Convolution of f32 input where a level reads bf16 parts. Part of those levels' files, after bf16.inc.h. */

/* A pixel's channels, split. */
INLINE void split_pixel(char *to, const float *x, int64_t c, int parts)
{
    for (int64_t i = 0; i < c; i += 32) {
        split32(to + i * 2 * parts, 64, parts, _mm512_loadu_ps(x + i), _mm512_loadu_ps(x + i + 16));
    }
}

/* Rows of x, split: to [frames, rows, w, c]. */
static void split_band(const cvx_tensor *to, const cvx_tensor *x, int64_t x0, int64_t row0,
                       int parts, int threads)
{
    const int64_t *d = to->dim, *s = x->stride;
    int64_t pixel = d[3] * 2 * parts;

#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < d[0] * d[1]; i++) {
        const float *from =
            (const float *)x->data + (x0 + i / d[1]) % x->dim[0] * s[0] + (row0 + i % d[1]) * s[1];
        char *p = (char *)to->data + i * d[2] * pixel;
        for (int64_t k = 0; k < d[2]; k++) {
            split_pixel(p + k * pixel, from + k * s[2], d[3], parts);
        }
    }
}

/* Bytes of split rows that exist at a time when x comes as f32. */
#define SPLIT_BYTES ((int64_t)12 << 20)

/* Rows of output whose input fits. */
static int64_t split_rows_at_once(const conv_call *a, int parts)
{
    int64_t row = a->w->dim[2] * a->x->dim[2] * a->w->dim[1] * 2 * parts;
    int64_t fit = (SPLIT_BYTES / row - a->w->dim[3]) / a->stride, even;

    fit = fit < 2 ? 2 : fit * (a->up2 ? 2 : 1);
    even = fit / 2 * 2; /* up2 makes rows in pairs */
    return cvx_min_i64(even, a->y->dim[1]);
}

/* Split and convolved in bands of rows. */
static cvx_status conv_split(cvx_ctx *ctx, const conv_call *a, int parts)
{
    int64_t rows = split_rows_at_once(a, parts), kt = a->w->dim[2], kh = a->w->dim[3];
    int64_t in = a->up2 ? rows / 2 + 2 : (rows - 1) * a->stride + kh;
    cvx_tensor split =
        CVX_VIEW(NULL, parts == 1 ? CVX_BF16 : CVX_BF16X3, kt, in, a->x->dim[2], a->x->dim[3]);
    size_t bytes = (size_t)cvx_numel(&split) * cvx_dtype_size(split.dtype);

    for (int64_t t = 0; t < a->y->dim[0]; t++) {
        for (int64_t r = 0; r < a->y->dim[1]; r += rows) {
            cvx_tensor y = cvx_slice(a->y, 0, t, 1), res, outer;
            int64_t n = cvx_min_i64(rows, a->y->dim[1] - r);
            conv_call b = *a;
            void *scratch;
            y = cvx_slice(&y, 1, r, n);
            b.y = &y;
            if (a->residual != NULL) {
                res = cvx_slice(a->residual, 0, t, 1);
                res = cvx_slice(&res, 1, r, n);
                b.residual = &res;
            }
            if (a->outer != NULL) {
                outer = cvx_slice(a->outer, 0, t, 1);
                outer = cvx_slice(&outer, 1, r, n);
                b.outer = &outer;
            }
            CVX_RETURN_IF(cvx_cpu_scratch(ctx, &scratch, bytes + conv_scratch(ctx, &b)));
            split.dim[1] = a->up2 ? n / 2 + 2 : (n - 1) * a->stride + kh;
            split.data = (char *)scratch;
            b.x = &split;
            b.x0 = 0;
            split_band(&split, a->x, a->x0 + t, a->up2 ? r / 2 : r * a->stride, parts,
                       ctx->threads);
            conv_with(ctx, &b, (float *)(void *)((char *)scratch + bytes));
        }
    }
    return CVX_OK;
}
