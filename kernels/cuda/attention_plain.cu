/* Attention for every case that the fast kernels leave out (any head size up to 128, bias, causal, f32), and the merging
 * of partial attentions. A warp has two queries; 32 keys and values at a time stand in shared memory, each lane has
 * one key's score. The softmax goes along with the keys (running maximum and sum), so no scores are stored; the
 * order of the additions follows from the number of keys. */
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/parts.h"

#define HEAD_MAX 128
#define WARPS 8
#define PER_WARP 2
#define QUERIES (WARPS * PER_WARP)
#define KEYS 32

typedef struct plain_args {
    const void *q, *k, *v;
    void *o;
    float *lse;
    const float *bias;
    int64_t sq, sk, h, qs[3], ks[3], vs[3], os[3], ls[2], bs[2];
    int d;
    float scale;
    bool causal;
} plain_args;

typedef struct running {
    float most, sum, acc[HEAD_MAX / 32];
} running;

/* One query against the 32 keys from j0 on. */
static __device__ __forceinline__ void attend_keys(const plain_args &a, running *r, const float *q,
                                                   float (*k)[HEAD_MAX + 1],
                                                   float (*v)[HEAD_MAX + 1], int64_t head,
                                                   int64_t i, int64_t j0)
{
    int lane = threadIdx.x % 32;
    int64_t j = j0 + lane;
    bool seen = j < a.sk && (!a.causal || j <= i);
    float s = 0;

    for (int e = 0; e < a.d; e++) {
        s = fmaf(q[e], k[lane][e], s);
    }
    s *= a.scale;
    if (seen && a.bias != NULL) {
        s += a.bias[head * a.bs[0] + i * a.bs[1] + j];
    }
    s = seen ? s : -INFINITY;
    float most = s;
#pragma unroll
    for (int n = 16; n > 0; n /= 2) {
        most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, n));
    }
    most = fmaxf(most, r->most);
    float base = most == -INFINITY ? 0 : most; /* no key seen so far: nothing to weigh */
    float p = expf(s - base), old = expf(r->most - base);
    r->most = most;
    r->sum = r->sum * old + sum_over<32>(p, NULL);
    float part[HEAD_MAX / 32] = {};
    for (int n = 0; n < KEYS; n++) {
        float w = __shfl_sync(0xffffffffu, p, n);
#pragma unroll
        for (int e = 0; e < HEAD_MAX / 32; e++) {
            part[e] = fmaf(w, v[n][lane + 32 * e], part[e]);
        }
    }
#pragma unroll
    for (int e = 0; e < HEAD_MAX / 32; e++) {
        r->acc[e] = r->acc[e] * old + part[e];
    }
}

template <typename T> __global__ void __launch_bounds__(32 * WARPS) attend_plain(plain_args a)
{
    __shared__ float q[QUERIES][HEAD_MAX], k[KEYS][HEAD_MAX + 1], v[KEYS][HEAD_MAX + 1];
    int64_t head = blockIdx.y % a.h, b = blockIdx.y / a.h, i0 = (int64_t)blockIdx.x * QUERIES;
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const T *qp = (const T *)a.q + b * a.qs[0] + head * a.qs[2];
    const T *kp = (const T *)a.k + b * a.ks[0] + head * a.ks[2];
    const T *vp = (const T *)a.v + b * a.vs[0] + head * a.vs[2];
    int64_t last = a.causal && i0 + QUERIES < a.sk ? i0 + QUERIES : a.sk;
    running r[PER_WARP];

    for (int x = threadIdx.x; x < QUERIES * HEAD_MAX; x += 32 * WARPS) {
        int row = x / HEAD_MAX, e = x % HEAD_MAX;
        q[row][e] = i0 + row < a.sq && e < a.d ? to_float(qp[(i0 + row) * a.qs[1] + e]) : 0;
    }
#pragma unroll
    for (int n = 0; n < PER_WARP; n++) {
        r[n] = running{-INFINITY, 0, {}};
    }
    for (int64_t j0 = 0; j0 < last; j0 += KEYS) {
        __syncthreads();
        for (int x = threadIdx.x; x < KEYS * HEAD_MAX; x += 32 * WARPS) {
            int row = x / HEAD_MAX, e = x % HEAD_MAX;
            bool there = j0 + row < a.sk && e < a.d;
            k[row][e] = there ? to_float(kp[(j0 + row) * a.ks[1] + e]) : 0;
            v[row][e] = there ? to_float(vp[(j0 + row) * a.vs[1] + e]) : 0;
        }
        __syncthreads();
#pragma unroll
        for (int n = 0; n < PER_WARP; n++) {
            int row = warp * PER_WARP + n;
            if (i0 + row < a.sq) {
                attend_keys(a, &r[n], q[row], k, v, head, i0 + row, j0);
            }
        }
    }
#pragma unroll
    for (int n = 0; n < PER_WARP; n++) {
        int64_t i = i0 + warp * PER_WARP + n;
        if (i < a.sq) {
            T *o = (T *)a.o + b * a.os[0] + i * a.os[1] + head * a.os[2];
#pragma unroll
            for (int e = 0; e < HEAD_MAX / 32; e++) {
                if (lane + 32 * e < a.d) {
                    o[lane + 32 * e] = from_float<T>(r[n].acc[e] / r[n].sum);
                }
            }
            if (a.lse != NULL && lane == 0) {
                a.lse[b * a.ls[0] + head * a.ls[1] + i] = r[n].most + logf(r[n].sum);
            }
        }
    }
}

static void take_strides(int64_t out[3], const cvx_tensor *t)
{
    for (int i = 0; i < 3; i++) {
        out[i] = t->stride[i];
    }
}

extern "C" cvx_status cvx_cuda_attention_plain(cvx_cuda *s, const cvx_attention_args *a)
{
    plain_args p = {};

    if (a->k->dtype != a->q->dtype || a->v->dtype != a->q->dtype || a->o->dtype != a->q->dtype) {
        return cvx_fail(CVX_EINTERNAL, "attention of q %s, k %s, v %s, o %s: one type is needed",
                        cvx_dtype_name(a->q->dtype), cvx_dtype_name(a->k->dtype),
                        cvx_dtype_name(a->v->dtype), cvx_dtype_name(a->o->dtype));
    }
    p.q = a->q->data;
    p.k = a->k->data;
    p.v = a->v->data;
    p.o = a->o->data;
    p.sq = a->q->dim[1];
    p.sk = a->k->dim[1];
    p.h = a->q->dim[2];
    p.d = (int)a->q->dim[3];
    p.scale = (float)a->scale;
    p.causal = a->causal;
    take_strides(p.qs, a->q);
    take_strides(p.ks, a->k);
    take_strides(p.vs, a->v);
    take_strides(p.os, a->o);
    if (a->lse != NULL) {
        p.lse = (float *)a->lse->data;
        p.ls[0] = a->lse->stride[0];
        p.ls[1] = a->lse->stride[1];
    }
    if (a->bias != NULL) {
        p.bias = (const float *)a->bias->data;
        p.bs[0] = a->bias->stride[0];
        p.bs[1] = a->bias->stride[1];
    }
    int64_t items = a->q->dim[0] * p.h;
    if (items > 65535) {
        return cvx_fail(CVX_EUNSUPPORTED, "attention of %lld heads in all: at most 65535",
                        (long long)items);
    }
    if (p.sq > 0 && items > 0) {
        dim3 grid((unsigned)((p.sq + QUERIES - 1) / QUERIES), (unsigned)items);
        WITH_TYPE(a->q->dtype, T, attend_plain<T><<<grid, 32 * WARPS, 0, s->stream>>>(p));
    }
    return cvx_cuda_launched(s, "attention");
}

/* --- merging --- */

typedef struct merge_args {
    void *o;
    const void *part;
    float *lse;
    const float *part_lse;
    int64_t n, s, h, os[3], ps[3], ls[2], pls[2];
    int d;
} merge_args;

/* One row of one head a warp. */
template <typename T> __global__ void __launch_bounds__(CVX_THREADS) merge_rows(merge_args a)
{
    int64_t at = (int64_t)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (at >= a.n) {
        return;
    }
    int64_t head = at % a.h, i = at / a.h % a.s, b = at / a.h / a.s;
    float *lse = a.lse + b * a.ls[0] + head * a.ls[1] + i;
    float mine = *lse, theirs = a.part_lse[b * a.pls[0] + head * a.pls[1] + i];
    float most = fmaxf(mine, theirs), u = expf(mine - most), v = expf(theirs - most);
    T *o = (T *)a.o + b * a.os[0] + i * a.os[1] + head * a.os[2];
    const T *p = (const T *)a.part + b * a.ps[0] + i * a.ps[1] + head * a.ps[2];

    __syncwarp(); /* every lane has read lse */
    for (int e = threadIdx.x % 32; e < a.d; e += 32) {
        o[e] = from_float<T>((u * to_float(o[e]) + v * to_float(p[e])) / (u + v));
    }
    if (threadIdx.x % 32 == 0) {
        *lse = most + logf(u + v);
    }
}

extern "C" cvx_status cvx_cuda_op_attention_merge(cvx_ctx *ctx, const cvx_attention_merge_args *a)
{
    cvx_cuda *s = cvx_cuda_of(ctx);
    merge_args m = {};

    if (a->o->dtype != a->part->dtype) {
        return cvx_fail(CVX_EINTERNAL, "attention_merge of o %s and part %s: one type is needed",
                        cvx_dtype_name(a->o->dtype), cvx_dtype_name(a->part->dtype));
    }
    m.o = a->o->data;
    m.part = a->part->data;
    m.lse = (float *)a->lse->data;
    m.part_lse = (const float *)a->part_lse->data;
    m.s = a->o->dim[1];
    m.h = a->o->dim[2];
    m.n = a->o->dim[0] * m.s * m.h;
    m.d = (int)a->o->dim[3];
    take_strides(m.os, a->o);
    take_strides(m.ps, a->part);
    m.ls[0] = a->lse->stride[0];
    m.ls[1] = a->lse->stride[1];
    m.pls[0] = a->part_lse->stride[0];
    m.pls[1] = a->part_lse->stride[1];
    if (m.n > 0) {
        WITH_TYPE(a->o->dtype, T,
                  merge_rows<T><<<blocks_for(32 * m.n), CVX_THREADS, 0, s->stream>>>(m));
    }
    return cvx_cuda_launched(s, "attention_merge");
}
