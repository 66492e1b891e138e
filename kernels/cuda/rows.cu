/* What stands before and after a matrix product, see rows.h. */
#include "kernels/cuda/rows.h"

#include <cuda_fp8.h>

#include "kernels/cuda/device.cuh"

/* V neighbouring columns a thread. */
template <typename TX, typename TY, int V>
__global__ void __launch_bounds__(CVX_THREADS)
    convert_rows(TY *y, const TX *x, int64_t m, int64_t k, int64_t kp, int64_t ldx)
{
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, per = kp / V;
    if (i >= m * per) {
        return;
    }
    int64_t r = i / per, e = i % per * V;
    float v[V];
    if (e < k) { /* V divides k where it is above 1 */
        load<TX, V>(v, x + r * ldx + e);
    } else {
#pragma unroll
        for (int j = 0; j < V; j++) {
            v[j] = 0;
        }
    }
    store<TY, V>(y + r * kp + e, v);
}

extern "C" cvx_status cvx_cuda_rows_convert(cvx_cuda *s, void *y, cvx_dtype yt, int64_t kp,
                                            const void *x, cvx_dtype xt, int64_t ldx, int64_t m,
                                            int64_t k)
{
    bool wide = k % 4 == 0 && ldx % 4 == 0 && aligned_to(x, 4 * cvx_dtype_size(xt));

    if (m == 0) {
        return CVX_OK;
    }
    if (wide) {
        WITH_TYPE(xt, TX,
                  WITH_TYPE(yt, TY,
                            convert_rows<TX, TY, 4>
                            <<<blocks_for(m * kp / 4), CVX_THREADS, 0, s->stream>>>(
                                (TY *)y, (const TX *)x, m, k, kp, ldx)));
    } else {
        WITH_TYPE(xt, TX,
                  WITH_TYPE(yt, TY,
                            convert_rows<TX, TY, 1>
                            <<<blocks_for(m * kp), CVX_THREADS, 0, s->stream>>>(
                                (TY *)y, (const TX *)x, m, k, kp, ldx)));
    }
    return cvx_cuda_launched(s, "rows to the product's type");
}

/* The greatest value of e4m3. */
#define E4M3_MAX 448.0f
/* Rows whose values are all smaller are rows of zeros: the reciprocal of their scale would not be finite. */
#define LEAST 1e-30f

/* One row a block: its greatest magnitude, then its values, V neighbours a thread. */
template <typename T, int V>
__global__ void __launch_bounds__(CVX_THREADS)
    quantize_rows(uint8_t *y, float *scales, const T *x, int64_t k, int64_t kp, int64_t ldx)
{
    __shared__ float room[CVX_THREADS / 32];
    const T *row = x + (int64_t)blockIdx.x * ldx;
    float most = 0, v[V];

    for (int64_t e = threadIdx.x * V; e < k; e += CVX_THREADS * V) {
        load<T, V>(v, row + e);
#pragma unroll
        for (int j = 0; j < V; j++) {
            most = fmaxf(most, fabsf(v[j]));
        }
    }
#pragma unroll
    for (int i = 16; i > 0; i /= 2) {
        most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, i));
    }
    if (threadIdx.x % 32 == 0) {
        room[threadIdx.x / 32] = most;
    }
    __syncthreads();
    most = 0;
#pragma unroll
    for (int i = 0; i < CVX_THREADS / 32; i++) {
        most = fmaxf(most, room[i]);
    }
    bool scaled = most > LEAST;
    float scale = scaled ? most / E4M3_MAX : 1.0f, inverse = scaled ? E4M3_MAX / most : 1.0f;
    if (threadIdx.x == 0) {
        scales[blockIdx.x] = scale;
    }
    for (int64_t e = threadIdx.x * V; e < kp; e += CVX_THREADS * V) {
        pack_of<uint8_t, V> u = {};
        if (e < k) { /* V divides k where it is above 1 */
            load<T, V>(v, row + e);
#pragma unroll
            for (int j = 0; j < V; j++) {
                u.v[j] = (uint8_t)__nv_cvt_float_to_fp8(v[j] * inverse, __NV_SATFINITE, __NV_E4M3);
            }
        }
        *reinterpret_cast<pack_of<uint8_t, V> *>(y + (int64_t)blockIdx.x * kp + e) = u;
    }
}

/* 16 bytes of a row a thread, or a value. */
template <typename T>
static void launch_quantize(cvx_cuda *s, uint8_t *y, float *scales, const T *x, int64_t m,
                            int64_t k, int64_t kp, int64_t ldx)
{
    const int V = 16 / sizeof(T);

    if (k % V == 0 && kp % V == 0 && ldx % V == 0 && aligned_to(x, 16) && aligned_to(y, V)) {
        quantize_rows<T, V><<<(unsigned)m, CVX_THREADS, 0, s->stream>>>(y, scales, x, k, kp, ldx);
    } else {
        quantize_rows<T, 1><<<(unsigned)m, CVX_THREADS, 0, s->stream>>>(y, scales, x, k, kp, ldx);
    }
}

extern "C" cvx_status cvx_cuda_rows_quantize(cvx_cuda *s, void *y, float *scales, int64_t kp,
                                             const void *x, cvx_dtype xt, int64_t ldx, int64_t m,
                                             int64_t k)
{
    if (m > 0) {
        WITH_TYPE(xt, T, launch_quantize<T>(s, (uint8_t *)y, scales, (const T *)x, m, k, kp, ldx));
    }
    return cvx_cuda_launched(s, "rows to e4m3");
}

typedef struct finish_args {
    const void *p, *residual;
    void *y;
    const float *b, *gate;
    int64_t m, n, ldp, ldr, ldy, text_rows, period;
    int act;
} finish_args;

template <typename TP, typename TR, typename TY, int V>
__global__ void __launch_bounds__(CVX_THREADS) finish_rows(finish_args a)
{
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, per = a.n / V;
    if (i >= a.m * per) {
        return;
    }
    int64_t r = i / per, e = i % per * V;
    float v[V], res[V], b[V], by[V];

    load<TP, V>(v, (const TP *)a.p + r * a.ldp + e);
    if (a.residual != NULL) {
        load<TR, V>(res, (const TR *)a.residual + r * a.ldr + e);
    }
    const float *gate = a.gate;
    if (gate != NULL && r % a.period >= a.text_rows) {
        gate += a.n;
    }
    if (a.b != NULL) {
        load<float, V>(b, a.b + e);
    }
    if (gate != NULL) {
        load<float, V>(by, gate + e);
    }
#pragma unroll
    for (int j = 0; j < V; j++) {
        float t = a.b != NULL ? v[j] + b[j] : v[j];
        t = activate(a.act, t);
        t = gate != NULL ? t * by[j] : t;
        v[j] = a.residual != NULL ? t + res[j] : t;
    }
    store<TY, V>((TY *)a.y + r * a.ldy + e, v);
}

extern "C" cvx_status cvx_cuda_rows_finish(cvx_cuda *s, const cvx_cuda_finish *f)
{
    const cvx_linear_args *o = f->op;
    const cvx_tensor *res = o->residual, *y = o->y;
    cvx_dtype rt = res != NULL ? res->dtype : CVX_F32;
    finish_args a = {};

    a.p = f->p;
    a.residual = res != NULL ? res->data : NULL;
    a.y = y->data;
    a.b = o->b != NULL ? (const float *)o->b->data : NULL;
    a.gate = o->gate != NULL ? (const float *)o->gate->data : NULL;
    a.m = y->dim[0];
    a.n = y->dim[1];
    a.ldp = f->ldp;
    a.ldr = res != NULL ? res->stride[0] : 0;
    a.ldy = y->stride[0];
    a.text_rows = o->text_rows;
    a.period = o->period;
    a.act = o->act;
    if (a.m * a.n == 0) {
        return CVX_OK;
    }
    bool wide = a.n % 4 == 0 && a.ldp % 4 == 0 && a.ldr % 4 == 0 && a.ldy % 4 == 0 &&
                aligned_to(a.p, 4 * cvx_dtype_size(f->pt)) &&
                aligned_to(a.residual, 4 * cvx_dtype_size(rt)) &&
                aligned_to(a.y, 4 * cvx_dtype_size(y->dtype)) && aligned_to(a.b, 16) &&
                aligned_to(a.gate, 16);
    unsigned blocks = blocks_for(a.m * a.n / (wide ? 4 : 1));
    if (wide) {
        WITH_ACTIVATION(
            f->pt, TP,
            WITH_ACTIVATION(rt, TR,
                            WITH_ACTIVATION(y->dtype, TY,
                                            finish_rows<TP, TR, TY, 4>
                                            <<<blocks, CVX_THREADS, 0, s->stream>>>(a))));
    } else {
        WITH_ACTIVATION(
            f->pt, TP,
            WITH_ACTIVATION(rt, TR,
                            WITH_ACTIVATION(y->dtype, TY,
                                            finish_rows<TP, TR, TY, 1>
                                            <<<blocks, CVX_THREADS, 0, s->stream>>>(a))));
    }
    return cvx_cuda_launched(s, "bias, activation, gate, residual");
}

template <typename TW, typename TY>
__global__ void __launch_bounds__(CVX_THREADS)
    pack_taps(TY *y, const TW *w, int64_t n, int64_t k, int64_t kp, int64_t taps)
{
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < taps * n * kp) {
        int64_t e = i % kp, tap = i / kp % taps, o = i / kp / taps;
        y[i] = from_float<TY>(e < k ? to_float(w[(o * k + e) * taps + tap]) : 0.0f);
    }
}

extern "C" cvx_status cvx_cuda_rows_pack_conv(cvx_cuda *s, void *y, cvx_dtype yt, int64_t kp,
                                              const void *w, cvx_dtype wt, int64_t n, int64_t k,
                                              int64_t taps)
{
    int64_t all = taps * n * kp;

    if (all > 0) {
        WITH_TYPE(wt, TW,
                  WITH_TYPE(yt, TY,
                            pack_taps<TW, TY><<<blocks_for(all), CVX_THREADS, 0, s->stream>>>(
                                (TY *)y, (const TW *)w, n, k, kp, taps)));
    }
    return cvx_cuda_launched(s, "a packed convolution");
}
