/* op linear and op pack.
 *
 * Packed weights are [n, kp] of the product's type (f32, bf16 or f16 as ctx->compute says), kp being k padded with
 * zeros to a multiple of 64; packed as e4m3 they are followed by a scale a row. Where the library can do bias,
 * gelu or the residual in the product's epilogue it does; everything else is one more kernel (rows.cu). */
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/cudnn.h"
#include "kernels/cuda/parts.h"
#include "kernels/cuda/rows.h"

/* Scratch slots of this op. */
enum { WEIGHT, INPUT, RESULT, SMALL };

/* Bytes of a piece of a weight on its way from host memory. */
#define PIECE ((int64_t)32 << 20)

static int64_t padded(int64_t k)
{
    return (k + CVX_CUDA_K_STEP - 1) / CVX_CUDA_K_STEP * CVX_CUDA_K_STEP;
}

static int64_t bytes_of(cvx_dtype t, int64_t n)
{
    return n * (int64_t)cvx_dtype_size(t);
}

/* Where the scales of an e4m3 weight [n, kp] begin. */
static size_t scales_at(int64_t n, int64_t k)
{
    return ((size_t)(n * padded(k)) + 255) / 256 * 256;
}

size_t cvx_cuda_packed_bytes(const cvx_ctx *ctx, const cvx_tensor *src, cvx_layout layout)
{
    int64_t n = src->dim[0], kp = padded(src->dim[1]), taps = 1;

    if (layout == CVX_PACKED_LINEAR_F8) {
        return scales_at(n, src->dim[1]) + (size_t)n * sizeof(float);
    }
    for (int i = 2; i < src->ndim; i++) {
        taps *= src->dim[i];
    }
    return (size_t)bytes_of(ctx->compute, taps * n * kp);
}

/* Rows of a weight in device memory: as they are, or brought to scratch SMALL. */
static cvx_status rows_on_device(cvx_cuda *s, const cvx_tensor *w, const void **out, int64_t *ld)
{
    int64_t row = bytes_of(w->dtype, w->dim[1]);
    void *room = NULL;

    if (cvx_cuda_owns(w->data)) {
        *out = w->data;
        *ld = w->stride[0];
        return CVX_OK;
    }
    CVX_RETURN_IF(cvx_cuda_scratch(s, SMALL, &room, (size_t)(w->dim[0] * row)));
    if (w->dim[0] == 1 || w->stride[0] == w->dim[1]) {
        CVX_RETURN_IF(cvx_cuda_to_device(s, s->stream, room, w->data, (size_t)(w->dim[0] * row)));
    } else {
        for (int64_t i = 0; i < w->dim[0]; i++) {
            CVX_RETURN_IF(
                cvx_cuda_to_device(s, s->stream, (char *)room + i * row,
                                   (const char *)w->data + bytes_of(w->dtype, i * w->stride[0]),
                                   (size_t)row));
        }
    }
    *out = room;
    *ld = w->dim[1];
    return CVX_OK;
}

/* Packs w [n, k], in host or device memory, a piece of its rows at a time. What already has the packed form goes
 * straight from where it lies (the checkpoint's map) through pinned memory to its place. */
static cvx_status pack_rows(cvx_cuda *s, void *dst, cvx_dtype t, const cvx_tensor *w, float *scales)
{
    int64_t n = w->dim[0], k = w->dim[1], kp = padded(k);
    int64_t step = PIECE / (bytes_of(w->dtype, k) + 1) + 1;

    if (scales == NULL && w->dtype == t && k == kp && (n == 1 || w->stride[0] == k) &&
        !cvx_cuda_owns(w->data)) {
        return cvx_cuda_to_device(s, s->stream, dst, w->data, (size_t)bytes_of(t, n * k));
    }
    for (int64_t i = 0; i < n; i += step) {
        int64_t rows = n - i < step ? n - i : step, ld = 0;
        cvx_tensor part = cvx_slice(w, 0, i, rows);
        const void *from = NULL;
        CVX_RETURN_IF(rows_on_device(s, &part, &from, &ld));
        if (scales != NULL) {
            CVX_RETURN_IF(cvx_cuda_rows_quantize(s, (char *)dst + i * kp, scales + i, kp, from,
                                                 w->dtype, ld, rows, k));
        } else {
            CVX_RETURN_IF(cvx_cuda_rows_convert(s, (char *)dst + bytes_of(t, i * kp), t, kp, from,
                                                w->dtype, ld, rows, k));
        }
    }
    return CVX_OK;
}

/* Convolutions: [cout, taps, kp], the order that cuDNN wants, too. */
static cvx_status pack_conv(cvx_cuda *s, void *dst, cvx_dtype t, const cvx_tensor *w)
{
    int64_t taps = w->dim[2] * w->dim[3] * w->dim[4];
    cvx_tensor flat = cvx_view(w->data, w->dtype, 2, CVX_DIMS(w->dim[0], w->dim[1] * taps));
    const void *from = NULL;
    int64_t ld = 0;

    CVX_RETURN_IF(rows_on_device(s, &flat, &from, &ld));
    return cvx_cuda_rows_pack_conv(s, dst, t, padded(w->dim[1]), from, w->dtype, w->dim[0],
                                   w->dim[1], taps);
}

cvx_status cvx_cuda_op_pack(cvx_ctx *ctx, const cvx_pack_args *a)
{
    cvx_cuda *s = cvx_cuda_of(ctx);
    char *to = a->dst->data;

    if (cvx_numel(a->src) == 0) {
        return CVX_OK;
    }
    if (a->dst->layout == CVX_PACKED_LINEAR_F8) {
        if (s->sm != 90) { /* elsewhere cuBLASLt has no scale a row */
            return cvx_fail(CVX_EUNSUPPORTED,
                            "--quantize fp8 needs compute capability 9.0; %s has %d.%d", s->name,
                            s->sm / 10, s->sm % 10);
        }
        return pack_rows(s, to, CVX_U8, a->src,
                         (float *)(void *)(to + scales_at(a->src->dim[0], a->src->dim[1])));
    }
    return a->dst->layout == CVX_PACKED_LINEAR ? pack_rows(s, to, ctx->compute, a->src, NULL)
                                               : pack_conv(s, to, ctx->compute, a->src);
}

/* The weight in packed form: as it is, or brought to scratch WEIGHT. */
static cvx_status packed_weight(cvx_ctx *ctx, const cvx_tensor *w, cvx_cuda_gemm *g)
{
    cvx_cuda *s = cvx_cuda_of(ctx);
    void *room = NULL;

    g->t = w->layout == CVX_PACKED_LINEAR_F8 ? CVX_U8 : ctx->compute;
    g->ldw = g->k;
    if (w->layout == CVX_PLAIN && w->dtype == g->t && w->dim[1] == g->k && cvx_is_dense(w) &&
        !cvx_cuda_owns(w->data)) { /* it has the packed form already */
        return cvx_cuda_streamed_weight(s, w->data, (size_t)bytes_of(g->t, cvx_numel(w)), &g->w);
    }
    if (w->layout == CVX_PLAIN) {
        CVX_RETURN_IF(cvx_cuda_scratch(s, WEIGHT, &room,
                                       (size_t)bytes_of(g->t, w->dim[0] * padded(w->dim[1]))));
        CVX_RETURN_IF(pack_rows(s, room, g->t, w, NULL));
    }
    g->w = room != NULL ? room : w->data;
    g->ws =
        g->t == CVX_U8
            ? (const float *)(const void *)((const char *)w->data + scales_at(w->dim[0], w->dim[1]))
            : NULL;
    return CVX_OK;
}

/* x in the product's type, padded and aligned: as it is, or brought to scratch INPUT. */
static cvx_status product_input(cvx_cuda *s, const cvx_tensor *x, cvx_cuda_gemm *g)
{
    int64_t m = x->dim[0], k = x->dim[1], ld = m > 1 ? x->stride[0] : k;
    size_t scales = ((size_t)(m * g->k) + 255) / 256 * 256;
    void *room = NULL;

    if (x->dtype == g->t && k == g->k && (uintptr_t)x->data % 16 == 0 &&
        bytes_of(g->t, ld) % 16 == 0) {
        g->x = x->data;
        g->ldx = ld;
        return CVX_OK;
    }
    g->ldx = g->k;
    if (g->t == CVX_U8) {
        CVX_RETURN_IF(cvx_cuda_scratch(s, INPUT, &room, scales + (size_t)m * sizeof(float)));
        float *row_scales = (float *)(void *)((char *)room + scales);
        g->x = room;
        g->xs = row_scales;
        return cvx_cuda_rows_quantize(s, room, row_scales, g->k, x->data, x->dtype, x->stride[0], m,
                                      k);
    }
    CVX_RETURN_IF(cvx_cuda_scratch(s, INPUT, &room, (size_t)bytes_of(g->t, m * g->k)));
    g->x = room;
    return cvx_cuda_rows_convert(s, room, g->t, g->k, x->data, x->dtype, x->stride[0], m, k);
}

/* Tries the whole op as one product. */
static cvx_status run_fused(cvx_cuda *s, const cvx_linear_args *a, const cvx_cuda_gemm *product,
                            bool *done)
{
    const cvx_tensor *y = a->y, *res = a->residual;
    int64_t n = y->dim[1];
    cvx_cuda_gemm g = *product;
    void *room = NULL;

    *done = false;
    g.y = y->data;
    g.yt = y->dtype;
    g.ldy = g.ldc = y->dim[0] > 1 ? y->stride[0] : (n + 7) / 8 * 8;
    g.act = a->act;
    if (a->gate != NULL ||
        (a->act != CVX_ACT_NONE && (a->act != CVX_ACT_GELU_TANH || res != NULL)) ||
        (uintptr_t)g.y % 16 != 0 || bytes_of(g.yt, g.ldy) % 16 != 0 ||
        (g.t == CVX_U8 && g.yt != CVX_BF16)) {
        return CVX_OK;
    }
    if (res != NULL) {
        g.c = res->data;
        g.ldc = y->dim[0] > 1 ? res->stride[0] : g.ldy;
        if (res->dtype != g.yt || (uintptr_t)g.c % 16 != 0 || bytes_of(g.yt, g.ldc) % 16 != 0) {
            return CVX_OK;
        }
    }
    if (a->b != NULL) {
        g.b = a->b->data;
        if (g.yt != CVX_F32) { /* the library wants the bias in the result's type */
            CVX_RETURN_IF(cvx_cuda_scratch(s, SMALL, &room, (size_t)bytes_of(g.yt, padded(n))));
            CVX_RETURN_IF(
                cvx_cuda_rows_convert(s, room, g.yt, padded(n), a->b->data, CVX_F32, n, 1, n));
            g.b = room;
        }
        if ((uintptr_t)g.b % 16 != 0) {
            return CVX_OK;
        }
    }
    return cvx_cuda_gemm_run(s, &g, done);
}

/* The bare product in f32 by our own kernel, for shapes that the library refuses. */
static cvx_status run_own(cvx_cuda *s, const cvx_cuda_gemm *g)
{
    cvx_cuda_conv c = {.x = g->x,
                       .y = g->y,
                       .w = g->w,
                       .t = g->t,
                       .frames = 1,
                       .xs = {0, 0, g->ldx},
                       .ys = {0, 0, g->ldy},
                       .out = {1, 1, g->m},
                       .cin = g->k,
                       .cout = g->n,
                       .kp = g->k,
                       .kt = 1,
                       .kh = 1,
                       .kw = 1,
                       .stride = 1};

    if (g->t == CVX_U8) {
        return cvx_fail(
            CVX_EUNSUPPORTED,
            "cuBLASLt has no e4m3 product of %lld x %lld with a scale a row on this device",
            (long long)g->n, (long long)g->k);
    }
    return cvx_cuda_conv_run(s, &c);
}

/* The product to scratch, then everything else. */
static cvx_status run_in_two(cvx_cuda *s, const cvx_linear_args *a, const cvx_cuda_gemm *product)
{
    cvx_cuda_gemm g = *product;
    void *room = NULL;
    bool done = false;

    g.ldy = g.ldc = (g.n + 7) / 8 * 8;
    CVX_RETURN_IF(cvx_cuda_scratch(s, RESULT, &room, (size_t)bytes_of(CVX_F32, g.m * g.ldy)));
    g.y = room;
    g.yt = g.t == CVX_F32 ? CVX_F32 : g.t == CVX_F16 ? CVX_F32 : CVX_BF16;
    CVX_RETURN_IF(cvx_cuda_gemm_run(s, &g, &done));
    if (!done) {
        g.yt = CVX_F32;
        CVX_RETURN_IF(run_own(s, &g));
    }
    return cvx_cuda_rows_finish(s,
                                &(cvx_cuda_finish){.p = room, .pt = g.yt, .ldp = g.ldy, .op = a});
}

cvx_status cvx_cuda_op_linear(cvx_ctx *ctx, const cvx_linear_args *a)
{
    cvx_cuda *s = cvx_cuda_of(ctx);
    cvx_cuda_gemm g = {.m = a->x->dim[0], .n = a->w->dim[0], .k = padded(a->x->dim[1])};
    bool done = false;

    if (g.m == 0 || g.n == 0) {
        return CVX_OK;
    }
    CVX_RETURN_IF(packed_weight(ctx, a->w, &g));
    CVX_RETURN_IF(product_input(s, a->x, &g));
    CVX_RETURN_IF(run_fused(s, a, &g, &done));
    if (!done) {
        CVX_RETURN_IF(run_in_two(s, a, &g));
    }
    return cvx_cuda_launched(s, "linear");
}

/* --- convolution --- */

cvx_dtype cvx_cuda_conv_input(const cvx_ctx *ctx, const cvx_tensor *w)
{
    (void)w;
    return ctx->compute;
}

static void take3(int64_t out[3], const int64_t *from)
{
    memcpy(out, from, 3 * sizeof *out);
}

/* The input in the weights' type, its pixels aligned to 16 bytes: as it is, or brought to scratch INPUT. */
static cvx_status conv_input(cvx_cuda *s, const cvx_tensor *x, cvx_cuda_conv *c)
{
    const int64_t *d = x->dim, *st = x->stride;
    bool aligned = c->t == CVX_F32 || ((uintptr_t)x->data % 16 == 0 && st[0] % 8 == 0 &&
                                       st[1] % 8 == 0 && st[2] % 8 == 0);
    int64_t cp = (d[3] + 7) / 8 * 8;
    void *room = NULL;

    c->x = x->data;
    take3(c->xs, st);
    if (x->dtype == c->t && aligned) {
        return CVX_OK;
    }
    CVX_RETURN_IF(
        cvx_cuda_scratch(s, INPUT, &room, (size_t)bytes_of(c->t, d[0] * d[1] * d[2] * cp)));
    c->x = room;
    take3(c->xs, CVX_DIMS(d[1] * d[2] * cp, d[2] * cp, cp));
    return cvx_cuda_gather_pixels(s, room, c->t, cp, x);
}

cvx_status cvx_cuda_op_conv3d(cvx_ctx *ctx, const cvx_conv3d_args *a)
{
    cvx_cuda *s = cvx_cuda_of(ctx);
    const char *how = getenv("CVX_CUDA_CONV"); /* "cudnn", or our own kernel */
    const int64_t *w = a->w->dim;
    void *room = NULL;
    bool done = false;
    cvx_cuda_conv c = {.y = a->y->data,
                       .w = a->w->data,
                       .b = a->b != NULL ? a->b->data : NULL,
                       .residual = a->residual != NULL ? a->residual->data : NULL,
                       .t = ctx->compute,
                       .frames = a->x->dim[0],
                       .x0 = a->x0,
                       .cin = w[1],
                       .cout = w[0],
                       .kp = padded(w[1]),
                       .kt = (int)w[2],
                       .kh = (int)w[3],
                       .kw = (int)w[4],
                       .stride = a->stride,
                       .up2 = a->up2};

    if (cvx_numel(a->y) == 0) {
        return CVX_OK;
    }
    take3(c.ys, a->y->stride);
    take3(c.out, a->y->dim);
    if (a->residual != NULL) {
        take3(c.rs, a->residual->stride);
    }
    if (a->w->layout == CVX_PLAIN) {
        CVX_RETURN_IF(cvx_cuda_scratch(s, WEIGHT, &room,
                                       (size_t)bytes_of(c.t, w[2] * w[3] * w[4] * w[0] * c.kp)));
        CVX_RETURN_IF(pack_conv(s, room, c.t, a->w));
        c.w = room;
    }
    CVX_RETURN_IF(conv_input(s, a->x, &c));
    if (how != NULL && strcmp(how, "cudnn") == 0) {
        CVX_RETURN_IF(cvx_cudnn_conv(s, &c, &done));
    }
    return done ? CVX_OK : cvx_cuda_conv_run(s, &c);
}
