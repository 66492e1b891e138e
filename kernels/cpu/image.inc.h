/* Ops on pictures [h, w, c]. Rows are dealt to threads; four channels at a time are one small vector whatever the
 * level, since pictures have few of them. Part of a level file; see vec.h. */

typedef float v4 __attribute__((vector_size(16)));

INLINE v4 load4(const float *p)
{
    v4 v;
    memcpy(&v, p, sizeof v);
    return v;
}

INLINE void store4(float *p, v4 v)
{
    memcpy(p, &v, sizeof v);
}

INLINE float *picture_row(const cvx_tensor *t, int64_t r)
{
    return (float *)t->data + r * t->stride[0];
}

/* Where an output pixel reads along one axis. */
typedef struct axis_tap {
    int64_t i0, i1;
    float w1; /* of i1; i0 has 1 - w1 */
} axis_tap;

INLINE axis_tap bilinear_tap(int64_t i, int64_t n, float step)
{
    float x = step * ((float)i + 0.5f) - 0.5f; /* torch's order */
    x = x < 0 ? 0 : x;
    int64_t i0 = cvx_min_i64((int64_t)x, n - 1);
    return (axis_tap){i0, i0 + (i0 < n - 1), x - (float)i0};
}

/* One pixel of c channels out of four: w0 .. w3 are the weights of p00, p01, p10, p11. */
INLINE void four_pixels(float *y, const float *p00, const float *p01, const float *p10,
                        const float *p11, const float w[4], int64_t c, bool add)
{
    int64_t k = 0;

    for (; k + 4 <= c; k += 4) {
        v4 v = load4(p00 + k) * w[0] + load4(p01 + k) * w[1] +
               (load4(p10 + k) * w[2] + load4(p11 + k) * w[3]);
        store4(y + k, add ? load4(y + k) + v : v);
    }
    for (; k < c; k++) {
        float v = p00[k] * w[0] + p01[k] * w[1] + (p10[k] * w[2] + p11[k] * w[3]);
        y[k] = add ? y[k] + v : v;
    }
}

INLINE void resize_row(const cvx_resize_args *a, int64_t r, int64_t c)
{
    axis_tap tr = bilinear_tap(r, a->x->dim[0], (float)a->step);
    const float *x0 = picture_row(a->x, tr.i0), *x1 = picture_row(a->x, tr.i1);
    float *y = picture_row(a->y, r), gain = (float)a->gain;
    float low = tr.w1 * gain, top = (1 - tr.w1) * gain;
    int64_t s = a->x->stride[1];

    for (int64_t i = 0; i < a->y->dim[1]; i++, y += a->y->stride[1]) {
        axis_tap t = bilinear_tap(i, a->x->dim[1], (float)a->step);
        const float w[4] = {(1 - t.w1) * top, t.w1 * top, (1 - t.w1) * low, t.w1 * low};
        four_pixels(y, x0 + t.i0 * s, x0 + t.i1 * s, x1 + t.i0 * s, x1 + t.i1 * s, w, c, a->add);
    }
}

static cvx_status cpu_resize(cvx_ctx *ctx, const cvx_resize_args *a)
{
    int64_t c = a->y->dim[2];

    if (a->cubic) {
        return cvx_ref_resize(ctx, a);
    }
#pragma omp parallel for num_threads(ctx->threads) schedule(static)
    for (int64_t r = 0; r < a->y->dim[0]; r++) {
        if (c == 4) { /* the counts that there are get loops of their own */
            resize_row(a, r, 4);
        } else if (c == 1) {
            resize_row(a, r, 1);
        } else {
            resize_row(a, r, c);
        }
    }
    return CVX_OK;
}

INLINE float held(float v, int64_t n)
{
    float last = (float)(n - 1);
    return v > last ? last : v > 0 ? v : 0; /* NaN becomes 0 */
}

INLINE void warp_row(const cvx_warp_args *a, int64_t r, int64_t c)
{
    int64_t h = a->y->dim[0], w = a->y->dim[1], sr = a->x->stride[0], sc = a->x->stride[1];
    const float *x = a->x->data, *f = picture_row(a->flow, r);
    float *y = picture_row(a->y, r);

    for (int64_t i = 0; i < w; i++, y += a->y->stride[1], f += a->flow->stride[1]) {
        float px = held((float)i + f[0], w), py = held((float)r + f[1], h);
        int64_t x0 = (int64_t)px, y0 = (int64_t)py;
        float fx = px - (float)x0, fy = py - (float)y0;
        const float *p = x + y0 * sr + x0 * sc, *q = p + (y0 < h - 1 ? sr : 0);
        int64_t right = x0 < w - 1 ? sc : 0;
        const float k[4] = {(1 - fx) * (1 - fy), fx * (1 - fy), (1 - fx) * fy, fx * fy};
        four_pixels(y, p, p + right, q, q + right, k, c, false);
    }
}

static cvx_status cpu_warp(cvx_ctx *ctx, const cvx_warp_args *a)
{
    int64_t c = a->y->dim[2];

#pragma omp parallel for num_threads(ctx->threads) schedule(static)
    for (int64_t r = 0; r < a->y->dim[0]; r++) {
        if (c == 4) {
            warp_row(a, r, 4);
        } else {
            warp_row(a, r, c);
        }
    }
    return CVX_OK;
}

/* m of up to VW pixels. */
INLINE void sigmoids(float m[VW], const float *mask, int64_t stride, int64_t n)
{
    float t[VW] = {0};

    for (int64_t i = 0; i < n; i++) {
        t[i] = mask[i * stride];
    }
    vstore(m, 1.0f / (1.0f + vexp(-vload(t))));
}

static cvx_status cpu_sigmoid_mix(cvx_ctx *ctx, const cvx_sigmoid_mix_args *p)
{
    int64_t w = p->y->dim[1], c = p->y->dim[2];

#pragma omp parallel for num_threads(ctx->threads) schedule(static)
    for (int64_t r = 0; r < p->y->dim[0]; r++) {
        float *y = picture_row(p->y, r), m[VW];
        const float *a = picture_row(p->a, r), *b = picture_row(p->b, r);
        const float *mask = picture_row(p->mask, r);
        for (int64_t i = 0; i < w; i++) {
            int64_t at = i % VW;
            if (at == 0) {
                sigmoids(m, mask + i * p->mask->stride[1], p->mask->stride[1],
                         cvx_min_i64(VW, w - i));
            }
            for (int64_t k = 0; k < c; k++) {
                y[i * p->y->stride[1] + k] =
                    a[i * p->a->stride[1] + k] * m[at] + b[i * p->b->stride[1] + k] * (1 - m[at]);
            }
        }
    }
    return CVX_OK;
}

/* n rows of output from one row of x: each pixel's numbers are read in their order. */
INLINE void shuffle_row(const cvx_pixel_shuffle_args *a, int64_t r, int64_t n, int64_t c)
{
    const float *x = picture_row(a->x, r);
    const float *base = a->base != NULL ? picture_row(a->base, r) : NULL;
    int64_t ys = a->y->stride[1];

    for (int64_t i = 0; i < a->x->dim[1]; i++, x += a->x->stride[1]) {
        for (int64_t di = 0; di < n; di++) {
            float *y = picture_row(a->y, r * n + di) + i * n * ys;
            for (int64_t dj = 0; dj < n; dj++, y += ys) {
                for (int64_t k = 0; k < c; k++) {
                    float v = x[(k * n + di) * n + dj];
                    y[k] = base != NULL ? v + base[i * a->base->stride[1] + k] : v;
                }
            }
        }
    }
}

static cvx_status cpu_pixel_shuffle(cvx_ctx *ctx, const cvx_pixel_shuffle_args *a)
{
    int64_t c = a->y->dim[2];

#pragma omp parallel for num_threads(ctx->threads) schedule(static)
    for (int64_t r = 0; r < a->x->dim[0]; r++) {
        if (a->n == 4 && c == 3) {
            shuffle_row(a, r, 4, 3);
        } else if (a->n == 2) {
            shuffle_row(a, r, 2, c);
        } else {
            shuffle_row(a, r, a->n, c);
        }
    }
    return CVX_OK;
}

static cvx_status cpu_abs_max(cvx_ctx *ctx, const cvx_abs_max_args *a)
{
    const int64_t *n = a->x->dim;
    float most = 0;

#pragma omp parallel for num_threads(ctx->threads) schedule(static) reduction(max : most)
    for (int64_t r = 0; r < n[0]; r++) {
        const float *x = picture_row(a->x, r);
        for (int64_t i = 0; i < n[1]; i++, x += a->x->stride[1]) {
            for (int64_t k = 0; k < n[2]; k++) {
                float v = fabsf(x[k]);
                most = v > most ? v : most;
            }
        }
    }
    *a->out = most;
    return CVX_OK;
}

/* A pixel's c channels (a multiple of 32) split into bf16 parts, or put together. */
INLINE void split_copy(char *to, const char *from, int64_t c, bool split)
{
#if defined(__AVX512BF16__)
    if (split) {
        split_pixel(to, (const float *)(const void *)from, c, 3);
        return;
    }
    float *y = (float *)(void *)to;
    for (int64_t i = 0; i < c; i += 16) {
        const char *p = from + i / 32 * 192 + i % 32 * 2;
        __m512 part[3];
        for (int k = 0; k < 3; k++) {
            part[k] = bf16_floats(_mm256_loadu_si256((const __m256i *)(const void *)(p + 64 * k)));
        }
        _mm512_storeu_ps(y + i, _mm512_add_ps(part[0], _mm512_add_ps(part[1], part[2])));
    }
#else
    if (split) {
        cvx_from_f32(to, CVX_BF16X3, (const float *)(const void *)from, c);
    } else {
        cvx_to_f32((float *)(void *)to, from, CVX_BF16X3, c);
    }
#endif
}

static cvx_status cpu_strided_copy(cvx_ctx *ctx, const cvx_strided_copy_args *a)
{
    const int64_t *n = a->y->dim, *xs = a->x->stride, *ys = a->y->stride;
    int64_t xsize = (int64_t)cvx_dtype_size(a->x->dtype);
    int64_t ysize = (int64_t)cvx_dtype_size(a->y->dtype);
    bool split = a->y->dtype == CVX_BF16X3;

    if (a->x->dtype == a->y->dtype || n[3] % 32 != 0) {
        return cvx_ref_strided_copy(ctx, a);
    }
#pragma omp parallel for num_threads(ctx->threads) schedule(static) collapse(2)
    for (int64_t t = 0; t < n[0]; t++) {
        for (int64_t r = 0; r < n[1]; r++) {
            const char *x = (const char *)a->x->data + (t * xs[0] + r * xs[1]) * xsize;
            char *y = (char *)a->y->data + (t * ys[0] + r * ys[1]) * ysize;
            for (int64_t c = 0; c < n[2]; c++) {
                split_copy(y + c * ys[2] * ysize, x + c * xs[2] * xsize, n[3], split);
            }
        }
    }
    return CVX_OK;
}
