/* Attention and convolution as graphs of cuDNN's: kernels/cuda/cudnn.h. */
#include "kernels/cuda/cudnn.h"

#ifdef CVX_HAVE_CUDNN

#include <string.h>

#include "kernels/cuda/cudnn_parts.h"

/* Operands' ids. */
enum { Q = 1, K, V, O, LSE, SCALE, X = 1, W, Y, BIAS, RESIDUAL, PRODUCT, BIASED };
enum { ATTENTION = 1, CONV };
/* Scratch slots for workspaces: the last that attention has to itself, and one where a convolution (linear.c) has nothing by
 * then, nor conv2d its product (picture.cu). */
enum { CONV_SLOT = 3, ATTENTION_SLOT = CVX_CUDA_SCRATCHES - 1 };

static cudnnDataType_t type_of(cvx_dtype t)
{
    return t == CVX_BF16 ? CUDNN_DATA_BFLOAT16 : CUDNN_DATA_HALF;
}

/* Bytes, 16 at most, that divide the address and all strides (in elements of `size` bytes). */
static int64_t alignment(const void *p, const int64_t *stride, int n, int64_t size)
{
    uint64_t bits = (uint64_t)(uintptr_t)p | 16;

    for (int i = 0; i < n; i++) {
        bits |= (uint64_t)(stride[i] * size);
    }
    return (int64_t)(bits & -bits);
}

static int64_t *append(int64_t *at, const int64_t *from, int n)
{
    memcpy(at, from, (size_t)n * sizeof *at);
    return at + n;
}

/* --- attention --- */

cvx_status cvx_cudnn_plan_attention(cvx_cudnn *c, const cvx_flash *f, const cvx_cudnn_plan **out)
{
    int64_t key[CVX_CUDNN_KEY] = {ATTENTION, f->b, f->sq, f->sk, f->h, f->d, f->lse != NULL},
            *at = key + 7;
    int64_t qd[] = {f->b, f->h, f->sq, f->d}, kd[] = {f->b, f->h, f->sk, f->d},
            one[] = {1, 1, 1, 1};
    int64_t ld[] = {f->b, f->h, f->sq, 1}, ls[] = {f->ls[0], f->ls[1], 1, 1};
    cvx_cudnn_builder b;

    at = append(append(at, f->qs, 3), f->ks, 3);
    at = append(append(at, f->vs, 3), f->os, 3);
    at = append(at, f->ls, 2);
    *at = alignment(f->o, f->os, 3, 2);
    const cvx_cudnn_plan *known = cvx_cudnn_find(c, key);
    if (known != NULL) {
        *out = known->plan != NULL ? known : NULL;
        return CVX_OK;
    }
    CVX_RETURN_IF(cvx_cudnn_begin(c, &b, key));
    const struct {
        cudnnBackendAttributeName_t name;
        int64_t id, *dim;
        const int64_t *from; /* strides of b, s, h */
        int64_t align;
    } all[] = {{CUDNN_ATTR_OPERATION_SDPA_FWD_QDESC, Q, qd, f->qs, 16},
               {CUDNN_ATTR_OPERATION_SDPA_FWD_KDESC, K, kd, f->ks, 16},
               {CUDNN_ATTR_OPERATION_SDPA_FWD_VDESC, V, kd, f->vs, 16},
               {CUDNN_ATTR_OPERATION_SDPA_FWD_ODESC, O, qd, f->os, alignment(f->o, f->os, 3, 2)}};
    cudnnBackendDescriptor_t op = cvx_cudnn_make(&b, CUDNN_BACKEND_OPERATION_SDPA_FWD_DESCRIPTOR);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        int64_t stride[] = {all[i].from[0], all[i].from[2], all[i].from[1], 1};
        cvx_cudnn_tensor x = {all[i].id, CUDNN_DATA_BFLOAT16, 4,    all[i].dim,
                              stride,    all[i].align,        false};
        cvx_cudnn_link(&b, op, all[i].name, cvx_cudnn_make_tensor(&b, &x));
    }
    cvx_cudnn_tensor scale = {SCALE, CUDNN_DATA_FLOAT, 4, one, one, 4, true};
    cvx_cudnn_link(&b, op, CUDNN_ATTR_OPERATION_SDPA_FWD_SCALEDESC,
                   cvx_cudnn_make_tensor(&b, &scale));
    if (f->lse != NULL) {
        cvx_cudnn_tensor l = {LSE, CUDNN_DATA_FLOAT, 4, ld, ls, 4, false};
        cvx_cudnn_link(&b, op, CUDNN_ATTR_OPERATION_SDPA_FWD_STATSDESC,
                       cvx_cudnn_make_tensor(&b, &l));
    }
    cvx_cudnn_finish(&b, op, "attention");
    return cvx_cudnn_end(c, &b, &op, 1, out);
}

cvx_status cvx_cudnn_attention(cvx_cuda *s, const cvx_flash *f, bool *done)
{
    static const int64_t ids[] = {Q, K, V, O, SCALE, LSE};
    float scale = f->scale;
    void *operands[] = {(void *)(uintptr_t)f->q,
                        (void *)(uintptr_t)f->k,
                        (void *)(uintptr_t)f->v,
                        f->o,
                        &scale,
                        f->lse};
    const cvx_cudnn_plan *p = NULL;
    cvx_cudnn *c = NULL;

    CVX_RETURN_IF(cvx_cudnn_of(s, &c));
    CVX_RETURN_IF(cvx_cudnn_plan_attention(c, f, &p));
    *done = p != NULL;
    return p != NULL ? cvx_cudnn_run(s, c, p, f->lse != NULL ? 6 : 5, ids, operands, ATTENTION_SLOT)
                     : CVX_OK;
}

/* --- convolution --- */

/* y = x + z, elementwise, z repeated where it is of length 1. */
static cudnnBackendDescriptor_t add(cvx_cudnn_builder *b, cudnnBackendDescriptor_t x,
                                    cudnnBackendDescriptor_t z, cudnnBackendDescriptor_t y)
{
    cudnnBackendDescriptor_t how = cvx_cudnn_make(b, CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
    cudnnBackendDescriptor_t op = cvx_cudnn_make(b, CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
    cudnnPointwiseMode_t mode = CUDNN_POINTWISE_ADD;
    cudnnDataType_t f32 = CUDNN_DATA_FLOAT;

    cvx_cudnn_set(b, how, CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, &mode);
    cvx_cudnn_set(b, how, CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE, 1, &f32);
    cvx_cudnn_finish(b, how, "a sum");
    cvx_cudnn_link(b, op, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, how);
    cvx_cudnn_link(b, op, CUDNN_ATTR_OPERATION_POINTWISE_XDESC, x);
    cvx_cudnn_link(b, op, CUDNN_ATTR_OPERATION_POINTWISE_BDESC, z);
    cvx_cudnn_link(b, op, CUDNN_ATTR_OPERATION_POINTWISE_YDESC, y);
    cvx_cudnn_finish(b, op, "a sum");
    return op;
}

/* y = w over x, without padding: the borders are there already. */
static cudnnBackendDescriptor_t product(cvx_cudnn_builder *b, const cvx_cuda_conv *a,
                                        cudnnBackendDescriptor_t x, cudnnBackendDescriptor_t w,
                                        cudnnBackendDescriptor_t y)
{
    cudnnBackendDescriptor_t how = cvx_cudnn_make(b, CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR);
    cudnnBackendDescriptor_t op =
        cvx_cudnn_make(b, CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR);
    int64_t dims = 3, none[] = {0, 0, 0}, one[] = {1, 1, 1}, step[] = {1, a->stride, a->stride};
    cudnnConvolutionMode_t mode = CUDNN_CROSS_CORRELATION;
    cudnnDataType_t f32 = CUDNN_DATA_FLOAT;
    float alpha = 1, beta = 0;

    cvx_cudnn_set(b, how, CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, CUDNN_TYPE_INT64, 1, &dims);
    cvx_cudnn_set(b, how, CUDNN_ATTR_CONVOLUTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &f32);
    cvx_cudnn_set(b, how, CUDNN_ATTR_CONVOLUTION_CONV_MODE, CUDNN_TYPE_CONVOLUTION_MODE, 1, &mode);
    cvx_cudnn_set(b, how, CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, CUDNN_TYPE_INT64, 3, none);
    cvx_cudnn_set(b, how, CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, CUDNN_TYPE_INT64, 3, none);
    cvx_cudnn_set(b, how, CUDNN_ATTR_CONVOLUTION_DILATIONS, CUDNN_TYPE_INT64, 3, one);
    cvx_cudnn_set(b, how, CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, CUDNN_TYPE_INT64, 3, step);
    cvx_cudnn_finish(b, how, "a convolution");
    cvx_cudnn_link(b, op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC, how);
    cvx_cudnn_link(b, op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X, x);
    cvx_cudnn_link(b, op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W, w);
    cvx_cudnn_link(b, op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y, y);
    cvx_cudnn_set(b, op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA, CUDNN_TYPE_FLOAT, 1,
                  &alpha);
    cvx_cudnn_set(b, op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA, CUDNN_TYPE_FLOAT, 1, &beta);
    cvx_cudnn_finish(b, op, "a convolution");
    return op;
}

/* A tensor [1, channels, frames, rows, columns] whose channels lie side by side; s: strides of the last three. */
static cudnnBackendDescriptor_t pixels(cvx_cudnn_builder *b, int64_t id, cudnnDataType_t type,
                                       const int64_t *dim, const int64_t s[3], int64_t align)
{
    int64_t stride[] = {dim[2] * s[0], 1, s[0], s[1], s[2]};

    return cvx_cudnn_make_tensor(b, &(cvx_cudnn_tensor){id, type, 5, dim, stride, align, false});
}

/* The product, bias and residual added one after the other in f32. */
static int build_conv(cvx_cudnn_builder *b, const cvx_cuda_conv *a, cudnnBackendDescriptor_t ops[3])
{
    const int64_t *o = a->out;
    int64_t xd[] = {1, a->cin, o[0] + a->kt - 1, (o[1] - 1) * a->stride + a->kh,
                    (o[2] - 1) * a->stride + a->kw};
    int64_t wd[] = {a->cout, a->cin, a->kt, a->kh, a->kw}, yd[] = {1, a->cout, o[0], o[1], o[2]};
    int64_t bd[] = {1, a->cout, 1, 1, 1},
            dense[] = {o[1] * o[2] * a->cout, o[2] * a->cout, a->cout};
    int64_t ws[] = {a->kt * a->kh * a->kw * a->cin, 1, a->kh * a->kw * a->cin, a->kw * a->cin,
                    a->cin};
    int64_t one[] = {a->cout, a->cout, a->cout};
    cudnnDataType_t f32 = CUDNN_DATA_FLOAT, t = type_of(a->t);
    int left = (a->b != NULL) + (a->residual != NULL), n = 0;

    cudnnBackendDescriptor_t x = pixels(b, X, t, xd, a->xs, 16),
                             y = pixels(b, Y, f32, yd, a->ys, alignment(a->y, a->ys, 3, 4));
    cudnnBackendDescriptor_t w =
        cvx_cudnn_make_tensor(b, &(cvx_cudnn_tensor){W, t, 5, wd, ws, 16, false});
    cudnnBackendDescriptor_t sum = left > 0 ? pixels(b, PRODUCT, f32, yd, dense, 0) : y;
    ops[n++] = product(b, a, x, w, sum);
    if (a->b != NULL) {
        cudnnBackendDescriptor_t to = --left > 0 ? pixels(b, BIASED, f32, yd, dense, 0) : y;
        ops[n++] = add(b, sum, pixels(b, BIAS, f32, bd, one, alignment(a->b, one, 0, 4)), to);
        sum = to;
    }
    if (a->residual != NULL) {
        ops[n++] = add(b, sum,
                       pixels(b, RESIDUAL, f32, yd, a->rs, alignment(a->residual, a->rs, 3, 4)), y);
    }
    return n;
}

cvx_status cvx_cudnn_plan_conv(cvx_cudnn *c, const cvx_cuda_conv *a, const cvx_cudnn_plan **out)
{
    int64_t key[CVX_CUDNN_KEY] = {CONV,
                                  a->t,
                                  a->cin,
                                  a->cout,
                                  a->kt,
                                  a->kh,
                                  a->kw,
                                  a->stride,
                                  a->b != NULL,
                                  a->residual != NULL,
                                  alignment(a->y, a->ys, 3, 4),
                                  alignment(a->b, a->xs, 0, 4),
                                  alignment(a->residual, a->rs, 3, 4)};
    cudnnBackendDescriptor_t ops[3];
    cvx_cudnn_builder b;
    int64_t *at = append(append(key + 13, a->out, 3), a->xs, 3);

    at = append(at, a->ys, 3);
    append(at, a->rs, 3);
    const cvx_cudnn_plan *known = cvx_cudnn_find(c, key);
    if (known != NULL) {
        *out = known->plan != NULL ? known : NULL;
        return CVX_OK;
    }
    CVX_RETURN_IF(cvx_cudnn_begin(c, &b, key));
    int n = build_conv(&b, a, ops);
    return cvx_cudnn_end(c, &b, ops, n, out);
}

/* Output frames from .. from + n of a convolution. */
static cvx_cuda_conv frames_of(const cvx_cuda_conv *a, int64_t from, int64_t n)
{
    cvx_cuda_conv part = *a;

    part.x0 = (a->x0 + from) % a->frames;
    part.out[0] = n;
    part.y = a->y + from * a->ys[0];
    part.residual = a->residual != NULL ? a->residual + from * a->rs[0] : NULL;
    return part;
}

static cvx_status run_conv(cvx_cuda *s, cvx_cudnn *c, const cvx_cudnn_plan *p,
                           const cvx_cuda_conv *a)
{
    int64_t ids[CVX_CUDNN_OPERANDS] = {X, W, Y};
    size_t size = cvx_dtype_size(a->t);
    void *operands[CVX_CUDNN_OPERANDS] = {
        (char *)(uintptr_t)a->x + (size_t)(a->x0 * a->xs[0]) * size, (void *)(uintptr_t)a->w, a->y};
    int n = 3;

    if (a->b != NULL) {
        ids[n] = BIAS;
        operands[n++] = (void *)(uintptr_t)a->b;
    }
    if (a->residual != NULL) {
        ids[n] = RESIDUAL;
        operands[n++] = (void *)(uintptr_t)a->residual;
    }
    return cvx_cudnn_run(s, c, p, n, ids, operands, CONV_SLOT);
}

cvx_status cvx_cudnn_conv(cvx_cuda *s, const cvx_cuda_conv *a, bool *done)
{
    /* output frames up to cut[1] read the ring before its end, those from cut[2] on after it */
    int64_t end = a->frames - a->x0, t = a->out[0], first = end - a->kt + 1;
    int64_t cut[] = {0, first < 0 ? 0 : first < t ? first : t, end < t ? end : t, t};
    const cvx_cudnn_plan *plan[3] = {NULL};
    cvx_cuda_conv part[3];
    cvx_cudnn *c = NULL;

    CVX_RETURN_IF(cvx_cudnn_of(s, &c));
    *done = false;
    if ((a->t != CVX_BF16 && a->t != CVX_F16) || a->up2 || a->cin != a->kp) {
        return CVX_OK;
    }
    for (int i = 0; i < 3; i++) {
        part[i] = frames_of(a, cut[i], cut[i + 1] - cut[i]);
        if (i != 1 && part[i].out[0] > 0) {
            CVX_RETURN_IF(cvx_cudnn_plan_conv(c, &part[i], &plan[i]));
            if (plan[i] == NULL) {
                return CVX_OK;
            }
        }
    }
    *done = true;
    for (int i = 0; i < 3; i++) {
        if (part[i].out[0] > 0) {
            CVX_RETURN_IF(i == 1 ? cvx_cuda_conv_run(s, &part[i])
                                 : run_conv(s, c, plan[i], &part[i]));
        }
    }
    return CVX_OK;
}

#else

cvx_status cvx_cudnn_attention(cvx_cuda *s, const cvx_flash *f, bool *done)
{
    (void)s, (void)f, (void)done;
    return cvx_cudnn_open(NULL, NULL);
}

cvx_status cvx_cudnn_conv(cvx_cuda *s, const cvx_cuda_conv *a, bool *done)
{
    (void)s, (void)a, (void)done;
    return cvx_cudnn_open(NULL, NULL);
}

#endif
