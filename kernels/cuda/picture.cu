/* Ops on pictures [h, w, c] for interpolation and super-resolution, and sums of tensors. */
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/parts.h"

/* Scratch of conv2d: its product before what follows it; conv3d, which makes it, has 0, 1 and 3 (linear.c,
 * cudnn_graphs.c). */
#define PRODUCT 2
/* Scratch of abs_max: one value. */
#define MOST 0

/* This thread's item. */
static __device__ __forceinline__ int64_t item(void)
{
    return (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
}

/* A picture or pictures as kernels see them: element (t, r, c, k) at t·s[0] + r·s[1] + c·s[2] + k. */
struct picture {
    float *p;
    int64_t h, w, c, s[3];
};

static picture picture_of(const cvx_tensor *t)
{
    picture q = {};
    if (t != NULL) {
        int d = t->ndim - 3; /* a leading dimension of pictures, or none */
        q.p = (float *)t->data;
        q.h = t->dim[d];
        q.w = t->dim[d + 1];
        q.c = t->dim[d + 2];
        q.s[0] = d > 0 ? t->stride[0] : 0;
        q.s[1] = t->stride[d];
        q.s[2] = t->stride[d + 1];
    }
    return q;
}

static __device__ __forceinline__ float *at(const picture &q, int64_t r, int64_t c)
{
    return q.p + r * q.s[1] + c * q.s[2];
}

static __device__ __forceinline__ int64_t clamp(int64_t i, int64_t n)
{
    return i < 0 ? 0 : i >= n ? n - 1 : i;
}

/* --- sums --- */

struct terms {
    const float *x[4];
    float c[4];
    int n;
};

/* __fmul_rn and __fadd_rn are never fused: the bits are the definition's. */
static __global__ void __launch_bounds__(CVX_THREADS) combine_values(float *y, terms a, int64_t n)
{
    int64_t i = item();
    if (i < n) {
        float sum = __fmul_rn(a.c[0], a.x[0][i]);
        for (int k = 1; k < a.n; k++) {
            sum = __fadd_rn(sum, __fmul_rn(a.c[k], a.x[k][i]));
        }
        y[i] = sum;
    }
}

extern "C" cvx_status cvx_cuda_op_combine(cvx_ctx *ctx, const cvx_combine_args *a)
{
    cvx_cuda *s = cvx_cuda_of(ctx);
    int64_t n = cvx_numel(a->y);
    terms t = {};

    t.n = a->n;
    for (int k = 0; k < a->n; k++) {
        t.x[k] = (const float *)a->x[k]->data;
        t.c[k] = a->c[k];
    }
    if (n > 0) {
        combine_values<<<blocks_for(n), CVX_THREADS, 0, s->stream>>>((float *)a->y->data, t, n);
    }
    return cvx_cuda_launched(s, "combine");
}

/* --- convolution with what follows --- */

struct tail {
    const float *v; /* dense [t, h, w, c] */
    const float *slope;
    picture residual, outer;
    float scale, outer_scale;
    bool act_last;
};

static __device__ __forceinline__ float act(const tail &a, float v, int64_t k)
{
    return a.slope == NULL || v > 0 ? v : v * a.slope[k];
}

static __device__ __forceinline__ float value(const picture &q, int64_t t, int64_t r, int64_t c,
                                              int64_t k)
{
    return q.p[t * q.s[0] + r * q.s[1] + c * q.s[2] + k];
}

template <typename T>
__global__ void __launch_bounds__(CVX_THREADS) finish_conv(T *y, picture place, tail a, int64_t n)
{
    int64_t i = item();
    if (i >= n) {
        return;
    }
    int64_t k = i % place.c, c = i / place.c % place.w, r = i / place.c / place.w % place.h;
    int64_t t = i / place.c / place.w / place.h;
    float v = a.v[i];
    v = a.act_last ? v : act(a, v, k);
    v *= a.scale;
    v = a.residual.p != NULL ? v + value(a.residual, t, r, c, k) : v;
    v = a.act_last ? act(a, v, k) : v;
    v = a.outer.p != NULL ? value(a.outer, t, r, c, k) + a.outer_scale * v : v;
    y[t * place.s[0] + r * place.s[1] + c * place.s[2] + k] = from_float<T>(v);
}

extern "C" cvx_status cvx_cuda_op_conv2d(cvx_ctx *ctx, const cvx_conv2d_args *a)
{
    cvx_cuda *s = cvx_cuda_of(ctx);
    const int64_t *d = a->y->dim;
    int64_t n = cvx_numel(a->y);
    void *room = NULL;

    if (n == 0) {
        return CVX_OK;
    }
    CVX_RETURN_IF(cvx_cuda_scratch(s, PRODUCT, &room, (size_t)n * sizeof(float)));
    cvx_tensor v = cvx_view(room, CVX_F32, 4, d);
    cvx_conv3d_args conv = {};
    conv.y = &v;
    conv.x = a->x;
    conv.w = a->w;
    conv.b = a->b;
    conv.stride = a->stride;
    conv.up2 = a->up2;
    CVX_RETURN_IF(cvx_cuda_op_conv3d(ctx, &conv));
    tail f = {};
    f.v = (const float *)room;
    f.slope = a->slope != NULL ? (const float *)a->slope->data : NULL;
    f.residual = picture_of(a->residual);
    f.outer = picture_of(a->outer);
    f.scale = a->scale != 0 ? (float)a->scale : 1.0f;
    f.outer_scale = (float)a->outer_scale;
    f.act_last = a->act_last;
    picture place = picture_of(a->y);
    WITH_TYPE(a->y->dtype, T,
              finish_conv<T>
              <<<blocks_for(n), CVX_THREADS, 0, s->stream>>>((T *)a->y->data, place, f, n));
    return cvx_cuda_launched(s, "conv2d");
}

/* --- resampling --- */

/* Indices and weights of one axis at output position i, in double as the definition has them. */
struct axis {
    int64_t index[4];
    double weight[4];
};

static __device__ axis taps(int64_t i, int64_t n, double step, bool cubic)
{
    axis a;
    double x = ((double)i + 0.5) * step - 0.5;

    x = !cubic && x < 0 ? 0 : x;
    double first = floor(x), t = x - first;
    if (cubic) {
        const double e = -0.75, d[4] = {1 + t, t, 1 - t, 2 - t};
        for (int k = 0; k < 4; k++) {
            double q = d[k];
            a.weight[k] = k == 1 || k == 2 ? ((e + 2) * q - (e + 3)) * q * q + 1
                                           : ((e * q - 5 * e) * q + 8 * e) * q - 4 * e;
            a.index[k] = clamp((int64_t)first + k - 1, n);
        }
    } else {
        a.weight[0] = 1 - t;
        a.weight[1] = t;
        a.index[0] = clamp((int64_t)first, n);
        a.index[1] = clamp((int64_t)first + 1, n);
    }
    return a;
}

static __global__ void __launch_bounds__(CVX_THREADS)
    resize_pixels(picture y, picture x, double step, double gain, bool cubic, bool add, int64_t n)
{
    int64_t i = item();
    if (i >= n) {
        return;
    }
    int64_t c = i % y.w, r = i / y.w;
    axis ar = taps(r, x.h, step, cubic), ac = taps(c, x.w, step, cubic);
    float *out = at(y, r, c);
    for (int64_t k = 0; k < y.c; k++) {
        double sum = 0;
        for (int u = 0; u < (cubic ? 4 : 2); u++) {
            for (int v = 0; v < (cubic ? 4 : 2); v++) {
                sum += ar.weight[u] * ac.weight[v] * (double)at(x, ar.index[u], ac.index[v])[k];
            }
        }
        out[k] = (float)(gain * sum + (add ? (double)out[k] : 0));
    }
}

extern "C" cvx_status cvx_cuda_op_resize(cvx_ctx *ctx, const cvx_resize_args *a)
{
    cvx_cuda *s = cvx_cuda_of(ctx);
    picture y = picture_of(a->y);
    int64_t n = y.h * y.w;

    if (n > 0) {
        resize_pixels<<<blocks_for(n), CVX_THREADS, 0, s->stream>>>(y, picture_of(a->x), a->step,
                                                                    a->gain, a->cubic, a->add, n);
    }
    return cvx_cuda_launched(s, "resize");
}

static __device__ __forceinline__ double within(double v, int64_t n)
{
    return v > (double)(n - 1) ? (double)(n - 1) : v > 0 ? v : 0;
}

static __global__ void __launch_bounds__(CVX_THREADS)
    warp_pixels(picture y, picture x, picture flow, int64_t n)
{
    int64_t i = item();
    if (i >= n) {
        return;
    }
    int64_t c = i % y.w, r = i / y.w;
    const float *f = at(flow, r, c);
    double px = within((double)c + (double)f[0], y.w), py = within((double)r + (double)f[1], y.h);
    int64_t x0 = (int64_t)px, y0 = (int64_t)py, x1 = clamp(x0 + 1, y.w), y1 = clamp(y0 + 1, y.h);
    double fx = px - (double)x0, fy = py - (double)y0;
    for (int64_t k = 0; k < y.c; k++) {
        double top = (double)at(x, y0, x0)[k] * (1 - fx) + (double)at(x, y0, x1)[k] * fx;
        double low = (double)at(x, y1, x0)[k] * (1 - fx) + (double)at(x, y1, x1)[k] * fx;
        at(y, r, c)[k] = (float)(top * (1 - fy) + low * fy);
    }
}

extern "C" cvx_status cvx_cuda_op_warp(cvx_ctx *ctx, const cvx_warp_args *a)
{
    cvx_cuda *s = cvx_cuda_of(ctx);
    picture y = picture_of(a->y);
    int64_t n = y.h * y.w;

    if (n > 0) {
        warp_pixels<<<blocks_for(n), CVX_THREADS, 0, s->stream>>>(y, picture_of(a->x),
                                                                  picture_of(a->flow), n);
    }
    return cvx_cuda_launched(s, "warp");
}

static __global__ void __launch_bounds__(CVX_THREADS)
    mix_pixels(picture y, picture a, picture b, picture mask, int64_t n)
{
    int64_t i = item();
    if (i >= n) {
        return;
    }
    int64_t c = i % y.w, r = i / y.w;
    double m = 1 / (1 + exp(-(double)at(mask, r, c)[0]));
    for (int64_t k = 0; k < y.c; k++) {
        at(y, r, c)[k] = (float)((double)at(a, r, c)[k] * m + (double)at(b, r, c)[k] * (1 - m));
    }
}

extern "C" cvx_status cvx_cuda_op_sigmoid_mix(cvx_ctx *ctx, const cvx_sigmoid_mix_args *a)
{
    cvx_cuda *s = cvx_cuda_of(ctx);
    picture y = picture_of(a->y);
    int64_t n = y.h * y.w;

    if (n > 0) {
        mix_pixels<<<blocks_for(n), CVX_THREADS, 0, s->stream>>>(y, picture_of(a->a),
                                                                 picture_of(a->b),
                                                                 picture_of(a->mask), n);
    }
    return cvx_cuda_launched(s, "sigmoid_mix");
}

static __global__ void __launch_bounds__(CVX_THREADS)
    shuffle_pixels(picture y, picture x, picture base, int64_t f, int64_t n)
{
    int64_t i = item();
    if (i >= n) {
        return;
    }
    int64_t c = i % y.w, r = i / y.w;
    const float *from = at(x, r / f, c / f);
    for (int64_t k = 0; k < y.c; k++) {
        float v = from[(k * f + r % f) * f + c % f];
        at(y, r, c)[k] = base.p != NULL ? v + at(base, r / f, c / f)[k] : v;
    }
}

extern "C" cvx_status cvx_cuda_op_pixel_shuffle(cvx_ctx *ctx, const cvx_pixel_shuffle_args *a)
{
    cvx_cuda *s = cvx_cuda_of(ctx);
    picture y = picture_of(a->y);
    int64_t n = y.h * y.w;

    if (n > 0) {
        shuffle_pixels<<<blocks_for(n), CVX_THREADS, 0, s->stream>>>(y, picture_of(a->x),
                                                                     picture_of(a->base), a->n, n);
    }
    return cvx_cuda_launched(s, "pixel_shuffle");
}

/* --- the greatest magnitude --- */

/* Bits of floats that are not negative order as the floats do; a NaN is passed over, as the definition does. */
static __global__ void __launch_bounds__(CVX_THREADS) greatest(unsigned *out, picture x, int64_t n)
{
    int64_t i = item();
    if (i < n) {
        float most = 0;
        const float *p = at(x, i / x.w, i % x.w);
        for (int64_t k = 0; k < x.c; k++) {
            float v = fabsf(p[k]);
            most = v > most ? v : most;
        }
        atomicMax(out, __float_as_uint(most));
    }
}

extern "C" cvx_status cvx_cuda_op_abs_max(cvx_ctx *ctx, const cvx_abs_max_args *a)
{
    cvx_cuda *s = cvx_cuda_of(ctx);
    picture x = picture_of(a->x);
    int64_t n = x.h * x.w;
    void *room = NULL;

    *a->out = 0;
    if (n == 0) {
        return CVX_OK;
    }
    CVX_RETURN_IF(cvx_cuda_scratch(s, MOST, &room, sizeof(unsigned)));
    CVX_RETURN_IF(cvx_cuda_status((int)cudaMemsetAsync(room, 0, sizeof(unsigned), s->stream),
                                  "the greatest magnitude"));
    greatest<<<blocks_for(n), CVX_THREADS, 0, s->stream>>>((unsigned *)room, x, n);
    CVX_RETURN_IF(cvx_cuda_launched(s, "abs_max"));
    CVX_RETURN_IF(cvx_cuda_status((int)cudaMemcpyAsync(a->out, room, sizeof(float),
                                                       cudaMemcpyDeviceToHost, s->stream),
                                  "the greatest magnitude"));
    return cvx_cuda_status((int)cudaStreamSynchronize(s->stream), "the greatest magnitude");
}
