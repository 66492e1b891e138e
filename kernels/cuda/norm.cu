/* Norms over the innermost dimension: one pass over memory, a row in registers. */
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/parts.h"

/* Values of a row that one thread holds. */
#define HELD 16

typedef struct norm_args {
    const void *x;
    void *y;
    const float *gamma, *beta, *scale, *shift;
    int64_t m, ldx, ldy, text_rows, period;
    int c;
    float eps;
} norm_args;

/* V values from p + at on; `none` without p. */
template <int V>
static __device__ __forceinline__ void values_at(float out[V], const float *p, int64_t at,
                                                 float none)
{
    if (p != NULL) {
        load<float, V>(out, p + at);
    } else {
#pragma unroll
        for (int j = 0; j < V; j++) {
            out[j] = none;
        }
    }
}

/* One row for N threads (a warp, or a block), V neighbouring values at a time. The order of the sums follows from N and
 * V, which follow from c and the tensors' alignment. RMS: T5's norm without mean. */
template <int N, int V, typename TX, typename TY, bool RMS>
__global__ void __launch_bounds__(N > CVX_THREADS ? N : CVX_THREADS) norm_rows(norm_args a)
{
    __shared__ float room[N / 32];
    int lane = threadIdx.x % N;
    int64_t r = (int64_t)blockIdx.x * (blockDim.x / N) + threadIdx.x / N;
    if (r >= a.m) {
        return;
    }
    const TX *x = (const TX *)a.x + r * a.ldx;
    TY *y = (TY *)a.y + r * a.ldy;
    float v[HELD], sum = 0, mean = 0, squares = 0;

#pragma unroll
    for (int i = 0; i < HELD / V; i++) {
        int e = (i * N + lane) * V;
        if (e < a.c) {
            load<TX, V>(v + i * V, x + e);
#pragma unroll
            for (int j = 0; j < V; j++) {
                sum += v[i * V + j];
            }
        }
    }
    if (!RMS) {
        mean = sum_over<N>(sum, room) / (float)a.c;
    }
#pragma unroll
    for (int i = 0; i < HELD / V; i++) {
        if ((i * N + lane) * V < a.c) {
#pragma unroll
            for (int j = 0; j < V; j++) {
                v[i * V + j] -= mean;
                squares += v[i * V + j] * v[i * V + j];
            }
        }
    }
    float rstd = 1.0f / sqrtf(sum_over<N>(squares, room) / (float)a.c + a.eps);
    bool two = a.scale != NULL || a.shift != NULL;
    int64_t at = two && r % a.period >= a.text_rows ? a.c : 0;

#pragma unroll
    for (int i = 0; i < HELD / V; i++) {
        int e = (i * N + lane) * V;
        if (e < a.c) {
            float out[V], g[V], b[V], scale[V], shift[V];
            values_at<V>(g, a.gamma, e, 1);
            values_at<V>(b, a.beta, e, 0);
            values_at<V>(scale, a.scale, at + e, 0);
            values_at<V>(shift, a.shift, at + e, 0);
#pragma unroll
            for (int j = 0; j < V; j++) {
                out[j] = (v[i * V + j] * rstd * g[j] + b[j]) * (1.0f + scale[j]) + shift[j];
            }
            store<TY, V>(y + e, out);
        }
    }
}

template <int N, int V, bool RMS>
static void launch_types(cvx_cuda *s, const norm_args *a, cvx_dtype xt, cvx_dtype yt)
{
    unsigned threads = N > CVX_THREADS ? N : CVX_THREADS, rows = threads / N;
    unsigned blocks = (unsigned)((a->m + rows - 1) / rows);

    WITH_ACTIVATION(xt, TX,
                    WITH_ACTIVATION(yt, TY,
                                    norm_rows<N, V, TX, TY, RMS>
                                    <<<blocks, threads, 0, s->stream>>>(*a)));
}

template <bool RMS>
static cvx_status run_norm(cvx_cuda *s, const norm_args *a, const cvx_tensor *x,
                           const cvx_tensor *y, const char *name)
{
    bool wide = a->c % 4 == 0 && a->ldx % 4 == 0 && a->ldy % 4 == 0 &&
                aligned_to(x->data, 4 * cvx_dtype_size(x->dtype)) &&
                aligned_to(y->data, 4 * cvx_dtype_size(y->dtype)) && aligned_to(a->gamma, 16) &&
                aligned_to(a->beta, 16) && aligned_to(a->scale, 16) && aligned_to(a->shift, 16);

    if (a->m == 0 || a->c == 0) {
        return CVX_OK;
    }
    if (a->c > HELD * 1024) {
        return cvx_fail(CVX_EUNSUPPORTED, "%s of %d values: at most %d on a GPU", name, a->c,
                        HELD * 1024);
    }
    if (a->c <= HELD * 32) {
        wide ? launch_types<32, 4, RMS>(s, a, x->dtype, y->dtype)
             : launch_types<32, 1, RMS>(s, a, x->dtype, y->dtype);
    } else if (a->c <= HELD * 256) {
        wide ? launch_types<256, 4, RMS>(s, a, x->dtype, y->dtype)
             : launch_types<256, 1, RMS>(s, a, x->dtype, y->dtype);
    } else {
        wide ? launch_types<1024, 4, RMS>(s, a, x->dtype, y->dtype)
             : launch_types<1024, 1, RMS>(s, a, x->dtype, y->dtype);
    }
    return cvx_cuda_launched(s, name);
}

/* A row a warp. */
static __global__ void __launch_bounds__(CVX_THREADS)
    row_changes(float *y, const float *a, const float *b, int64_t m, int64_t n)
{
    int lane = threadIdx.x % 32;
    int64_t r = (int64_t)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    float change = 0, size = 0;

    if (r >= m) {
        return;
    }
    for (int64_t i = r * n + lane; i < (r + 1) * n; i += 32) {
        change += fabsf(a[i] - b[i]);
        size += fabsf(b[i]);
    }
    change = sum_over<32>(change, NULL);
    size = sum_over<32>(size, NULL);
    if (lane == 0) {
        y[2 * r] = change;
        y[2 * r + 1] = size;
    }
}

extern "C" cvx_status cvx_cuda_op_row_change(cvx_ctx *ctx, const cvx_row_change_args *a)
{
    cvx_cuda *s = cvx_cuda_of(ctx);
    int64_t m = a->a->dim[0], rows = CVX_THREADS / 32;

    if (m > 0) {
        row_changes<<<(unsigned)((m + rows - 1) / rows), CVX_THREADS, 0, s->stream>>>(
            (float *)a->y->data, (const float *)a->a->data, (const float *)a->b->data, m,
            a->a->dim[1]);
    }
    return cvx_cuda_launched(s, "row_change");
}

static const float *values(const cvx_tensor *t)
{
    return t != NULL ? (const float *)t->data : NULL;
}

extern "C" cvx_status cvx_cuda_op_layer_norm(cvx_ctx *ctx, const cvx_layer_norm_args *a)
{
    norm_args n = {};

    n.x = a->x->data;
    n.y = a->y->data;
    n.gamma = values(a->gamma);
    n.beta = values(a->beta);
    n.scale = values(a->scale);
    n.shift = values(a->shift);
    n.m = a->x->dim[0];
    n.c = (int)a->x->dim[1];
    n.ldx = a->x->stride[0];
    n.ldy = a->y->stride[0];
    n.text_rows = a->text_rows;
    n.period = a->period;
    n.eps = (float)a->eps;
    return run_norm<false>(cvx_cuda_of(ctx), &n, a->x, a->y, "layer_norm");
}

extern "C" cvx_status cvx_cuda_op_rms_norm(cvx_ctx *ctx, const cvx_rms_norm_args *a)
{
    norm_args n = {};

    n.x = a->x->data;
    n.y = a->y->data;
    n.gamma = values(a->gamma);
    n.m = a->x->dim[0];
    n.c = (int)a->x->dim[1];
    n.ldx = a->x->stride[0];
    n.ldy = a->y->stride[0];
    n.eps = (float)a->eps;
    return run_norm<true>(cvx_cuda_of(ctx), &n, a->x, a->y, "rms_norm");
}

/* --- norm of a head and rotary positions --- */

typedef struct rope_args {
    void *x;
    const float *gamma, *beta, *cos, *sin;
    int64_t n, s, h, sb, ss, sh, text_rows, row0, ldcos, ldsin;
    int d;
    float eps;
} rope_args;

/* V floats, four at a time. */
template <int V> static __device__ __forceinline__ void load_floats(float out[V], const float *p)
{
#pragma unroll
    for (int j = 0; j < V; j += 4) {
        load<float, 4>(out + j, p + j);
    }
}

/* The most values of a head: each lane of the head's warp holds d / 32. */
#define HEAD_MAX 256

template <typename T> __global__ void __launch_bounds__(CVX_THREADS) norm_rope_heads(rope_args a)
{
    int64_t i = (int64_t)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    int lane = threadIdx.x % 32;
    if (i >= a.n) {
        return;
    }
    int64_t head = i % a.h, r = i / a.h % a.s, b = i / a.h / a.s, at = r - a.text_rows;
    T *x = (T *)a.x + b * a.sb + r * a.ss + head * a.sh;
    float v[HEAD_MAX / 32], sum = 0, squares = 0;
    bool turned = a.cos != NULL && at >= 0;

#pragma unroll
    for (int j = 0; j < HEAD_MAX / 32; j++) {
        int e = lane + 32 * j;
        v[j] = e < a.d ? to_float(x[e]) : 0;
        sum += v[j];
    }
    float mean = sum_over<32>(sum, NULL) / (float)a.d;
#pragma unroll
    for (int j = 0; j < HEAD_MAX / 32; j++) {
        v[j] = lane + 32 * j < a.d ? v[j] - mean : 0;
        squares += v[j] * v[j];
    }
    float rstd = 1.0f / sqrtf(sum_over<32>(squares, NULL) / (float)a.d + a.eps);
#pragma unroll
    for (int j = 0; j < HEAD_MAX / 32; j++) {
        int e = lane + 32 * j;
        bool there = e < a.d;
        float u = there ? v[j] * rstd * a.gamma[e] + a.beta[e] : 0;
        float other = __shfl_xor_sync(0xffffffffu, u, 1); /* the other of the pair */
        if (there && turned) {
            float c = a.cos[(at + a.row0) * a.ldcos + e], t = a.sin[(at + a.row0) * a.ldsin + e];
            u = u * c + (e % 2 == 0 ? -other : other) * t;
        }
        if (there) {
            x[e] = from_float<T>(u);
        }
    }
}

/* The same for heads of 64 whose rows are aligned: V neighbouring values a lane, 64 / V lanes a head. */
template <typename T, int V>
__global__ void __launch_bounds__(CVX_THREADS) norm_rope_64(rope_args a)
{
    const int L = 64 / V;
    int64_t i = (int64_t)blockIdx.x * (blockDim.x / L) + threadIdx.x / L;
    int e = threadIdx.x % L * V;
    bool there = i < a.n;
    i = there ? i : a.n - 1; /* lanes of a warp stay together: they shuffle */
    int64_t head = i % a.h, r = i / a.h % a.s, b = i / a.h / a.s, at = r - a.text_rows;
    T *x = (T *)a.x + b * a.sb + r * a.ss + head * a.sh + e;
    float v[V], g[V], by[V], sum = 0, squares = 0;

    load<T, V>(v, x);
#pragma unroll
    for (int j = 0; j < V; j++) {
        sum += v[j];
    }
    float mean = sum_lanes<L>(sum) / 64;
#pragma unroll
    for (int j = 0; j < V; j++) {
        v[j] -= mean;
        squares += v[j] * v[j];
    }
    float rstd = 1.0f / sqrtf(sum_lanes<L>(squares) / 64 + a.eps);
    load_floats<V>(g, a.gamma + e);
    load_floats<V>(by, a.beta + e);
#pragma unroll
    for (int j = 0; j < V; j++) {
        v[j] = v[j] * rstd * g[j] + by[j];
    }
    if (a.cos != NULL && at >= 0) {
        load_floats<V>(g, a.cos + (at + a.row0) * a.ldcos + e);
        load_floats<V>(by, a.sin + (at + a.row0) * a.ldsin + e);
#pragma unroll
        for (int j = 0; j < V; j += 2) {
            float u = v[j];
            v[j] = u * g[j] - v[j + 1] * by[j];
            v[j + 1] = v[j + 1] * g[j + 1] + u * by[j + 1];
        }
    }
    if (there) {
        store<T, V>(x, v);
    }
}

/* 16 bytes a lane. */
template <typename T> static void launch_rope_64(cvx_cuda *s, const rope_args *a)
{
    const int V = 16 / sizeof(T);
    norm_rope_64<T, V><<<blocks_for(64 / V * a->n), CVX_THREADS, 0, s->stream>>>(*a);
}

static bool rope_is_aligned(const rope_args *r, const cvx_tensor *x)
{
    int64_t v = 16 / (int64_t)cvx_dtype_size(x->dtype);

    return aligned_to(r->x, 16) && r->sb % v == 0 && r->ss % v == 0 && r->sh % v == 0 &&
           aligned_to(r->gamma, 16) && aligned_to(r->beta, 16) && aligned_to(r->cos, 16) &&
           aligned_to(r->sin, 16) && r->ldcos % 4 == 0 && r->ldsin % 4 == 0;
}

extern "C" cvx_status cvx_cuda_op_qk_norm_rope(cvx_ctx *ctx, const cvx_qk_norm_rope_args *a)
{
    cvx_cuda *s = cvx_cuda_of(ctx);
    const cvx_tensor *x = a->x;
    rope_args r = {};

    r.x = x->data;
    r.gamma = values(a->gamma);
    r.beta = values(a->beta);
    r.cos = values(a->cos);
    r.sin = values(a->sin);
    r.n = x->dim[0] * x->dim[1] * x->dim[2];
    r.s = x->dim[1];
    r.h = x->dim[2];
    r.d = (int)x->dim[3];
    r.sb = x->stride[0];
    r.ss = x->stride[1];
    r.sh = x->stride[2];
    r.text_rows = a->text_rows;
    r.row0 = a->rope_row0;
    r.ldcos = a->cos != NULL ? a->cos->stride[0] : 0;
    r.ldsin = a->sin != NULL ? a->sin->stride[0] : 0;
    r.eps = (float)a->eps;
    if (r.d > HEAD_MAX) {
        return cvx_fail(CVX_EUNSUPPORTED, "heads of %d values: at most %d on a GPU", r.d, HEAD_MAX);
    }
    if (r.n > 0 && r.d == 64 && rope_is_aligned(&r, x)) {
        WITH_ACTIVATION(x->dtype, T, launch_rope_64<T>(s, &r));
    } else if (r.n > 0 && r.d > 0) {
        WITH_ACTIVATION(x->dtype, T,
                        norm_rope_heads<T><<<blocks_for(32 * r.n), CVX_THREADS, 0, s->stream>>>(r));
    }
    return cvx_cuda_launched(s, "qk_norm_rope");
}
