/* Group norm in three steps, as the op table has it: sums of each row of pixels, their sum, the norm itself with the
 * spatial norm's maps and silu. Sums are f64, in an order that does not depend on how many rows a rank has. */
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/parts.h"

/* The most channels: a row's sums stand in shared memory. */
#define CHANNELS_MAX 2048

typedef struct stats_args {
    const float *x;
    double *sums;
    int64_t h, w, st, sh, sw;
    int c, groups;
} stats_args;

/* One row of pixels a block. A thread has one channel at a time and every `side`-th pixel; then the channels' sums are
 * added in order. */
static __global__ void __launch_bounds__(CVX_THREADS) row_sums(stats_args a)
{
    extern __shared__ double part[]; /* [side · c][2] */
    int64_t t = blockIdx.x / a.h, r = blockIdx.x % a.h;
    const float *x = a.x + t * a.st + r * a.sh;
    int side = a.c < (int)blockDim.x ? (int)blockDim.x / a.c : 1;
    int step = a.c < (int)blockDim.x ? a.c : (int)blockDim.x;
    int first = threadIdx.x % step, pixel0 = threadIdx.x / step;

    for (int ch = first; ch < a.c && pixel0 < side; ch += step) {
        double s = 0, q = 0;
        for (int64_t p = pixel0; p < a.w; p += side) {
            double v = (double)x[p * a.sw + ch];
            s += v;
            q += v * v;
        }
        part[2 * (pixel0 * a.c + ch)] = s;
        part[2 * (pixel0 * a.c + ch) + 1] = q;
    }
    __syncthreads();
    int per = a.c / a.groups;
    for (int i = threadIdx.x; i < 2 * a.groups; i += blockDim.x) {
        int g = i / 2;
        double v = 0;
        for (int p = 0; p < side; p++) {
            for (int ch = g * per; ch < (g + 1) * per; ch++) {
                v += part[2 * (p * a.c + ch) + i % 2];
            }
        }
        a.sums[((int64_t)blockIdx.x * a.groups + g) * 2 + i % 2] = v;
    }
}

extern "C" cvx_status cvx_cuda_op_group_norm_stats(cvx_ctx *ctx, const cvx_group_norm_stats_args *a)
{
    cvx_cuda *s = cvx_cuda_of(ctx);
    const int64_t *d = a->x->dim;
    stats_args k = {};

    k.x = (const float *)a->x->data;
    k.sums = (double *)a->sums->data;
    k.h = d[1];
    k.w = d[2];
    k.st = a->x->stride[0];
    k.sh = a->x->stride[1];
    k.sw = a->x->stride[2];
    k.c = (int)d[3];
    k.groups = (int)a->sums->dim[2];
    if (d[3] > CHANNELS_MAX) {
        return cvx_fail(CVX_EUNSUPPORTED, "group norm of %lld channels: at most %d on a GPU",
                        (long long)d[3], CHANNELS_MAX);
    }
    if (d[0] * d[1] > 0) {
        int64_t side = k.c < CVX_THREADS ? CVX_THREADS / k.c : 1;
        size_t room = (size_t)(2 * side * k.c) * sizeof(double);
        row_sums<<<(unsigned)(d[0] * d[1]), CVX_THREADS, room, s->stream>>>(k);
    }
    return cvx_cuda_launched(s, "group_norm_stats");
}

/* One group a block: each thread adds every 256th row's sums, then a tree over the threads. */
static __global__ void __launch_bounds__(CVX_THREADS)
    all_sums(double *stats, const double *sums, int64_t rows, int groups, double count, double eps)
{
    __shared__ double s[CVX_THREADS], q[CVX_THREADS];
    int g = blockIdx.x, i = threadIdx.x;
    double a = 0, b = 0;

    for (int64_t r = i; r < rows; r += CVX_THREADS) {
        a += sums[(r * groups + g) * 2];
        b += sums[(r * groups + g) * 2 + 1];
    }
    s[i] = a;
    q[i] = b;
    for (int n = CVX_THREADS / 2; n > 0; n /= 2) {
        __syncthreads();
        if (i < n) {
            s[i] += s[i + n];
            q[i] += q[i + n];
        }
    }
    if (i == 0) {
        double mean = s[0] / count, var = q[0] / count - mean * mean;
        stats[2 * g] = mean;
        stats[2 * g + 1] = 1 / sqrt((var > 0 ? var : 0) + eps);
    }
}

extern "C" cvx_status cvx_cuda_op_group_norm_finish(cvx_ctx *ctx,
                                                    const cvx_group_norm_finish_args *a)
{
    cvx_cuda *s = cvx_cuda_of(ctx);
    const int64_t *d = a->sums->dim;

    if (d[2] > 0) {
        all_sums<<<(unsigned)d[2], CVX_THREADS, 0, s->stream>>>((double *)a->stats->data,
                                                                (const double *)a->sums->data,
                                                                d[0] * d[1], (int)d[2],
                                                                (double)a->count, a->eps);
    }
    return cvx_cuda_launched(s, "group_norm_finish");
}

/* Frames whose map entries travel with one launch. */
#define MAP_FRAMES 32

typedef struct apply_args {
    const float *x;
    void *y;
    const double *stats;
    const float *gamma, *beta, *zy, *zb;
    int64_t n, h, w, xs[3], ys[3], zs[3], bs[3], hz, wz, h0, h_full;
    int map[MAP_FRAMES];
    int c, per;
    bool silu;
} apply_args;

/* V neighbouring channels of one pixel a thread; I: an index that holds n. */
template <typename T, int V, typename I>
__global__ void __launch_bounds__(CVX_THREADS) normalize(apply_args a)
{
    int64_t at = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= a.n) {
        return;
    }
    I cv = (I)(a.c / V), w = (I)a.w, h = (I)a.h, pixel = (I)at / cv, row = pixel / w;
    int ch = (int)((I)at % cv) * V;
    int64_t c = pixel % w, r = row % h, t = row / h;
    float v[V], zy[V], zb[V], gamma[V], beta[V];

    load<float, V>(v, a.x + t * a.xs[0] + r * a.xs[1] + c * a.xs[2] + ch);
    if (a.zy != NULL) {
        int64_t zr = (I)(r + a.h0) * (I)a.hz / (I)a.h_full, zc = (I)c * (I)a.wz / w, f = a.map[t];
        load<float, V>(zy, a.zy + f * a.zs[0] + zr * a.zs[1] + zc * a.zs[2] + ch);
        load<float, V>(zb, a.zb + f * a.bs[0] + zr * a.bs[1] + zc * a.bs[2] + ch);
    }
    load<float, V>(gamma, a.gamma + ch);
    load<float, V>(beta, a.beta + ch);
    int group = ch / a.per, left = (group + 1) * a.per - ch; /* channels of this group from ch on */
#pragma unroll
    for (int i = 0; i < V; i++) {
        const double *g = a.stats + 2 * group;
        float u = (float)(((double)v[i] - g[0]) * g[1]) * gamma[i] + beta[i];
        u = a.zy != NULL ? u * zy[i] + zb[i] : u;
        v[i] = a.silu ? u / (1 + expf(-u)) : u;
        if (--left == 0) {
            group++;
            left = a.per;
        }
    }
    store<T, V>((T *)a.y + t * a.ys[0] + r * a.ys[1] + c * a.ys[2] + ch, v);
}

template <typename T> static void launch_normalize(cvx_cuda *s, const apply_args *a, bool wide)
{
    const unsigned blocks = blocks_for(a->n);

    /* products of rows or columns are less than 2^32, too */
    if (a->n >= (int64_t)1 << 31 || a->h_full >= 65536 || a->w >= 65536 || a->hz >= 65536 ||
        a->wz >= 65536) {
        wide ? normalize<T, 4, uint64_t><<<blocks, CVX_THREADS, 0, s->stream>>>(*a)
             : normalize<T, 1, uint64_t><<<blocks, CVX_THREADS, 0, s->stream>>>(*a);
    } else {
        wide ? normalize<T, 4, uint32_t><<<blocks, CVX_THREADS, 0, s->stream>>>(*a)
             : normalize<T, 1, uint32_t><<<blocks, CVX_THREADS, 0, s->stream>>>(*a);
    }
}

static bool wide_enough(const cvx_tensor *t)
{
    return t == NULL || (aligned_to(t->data, 4 * cvx_dtype_size(t->dtype)) &&
                         t->stride[0] % 4 == 0 && t->stride[1] % 4 == 0 && t->stride[2] % 4 == 0);
}

extern "C" cvx_status cvx_cuda_op_group_norm_apply(cvx_ctx *ctx, const cvx_group_norm_apply_args *a)
{
    cvx_cuda *s = cvx_cuda_of(ctx);
    const int64_t *d = a->x->dim;
    bool wide = d[3] % 4 == 0 && wide_enough(a->x) && wide_enough(a->y) && wide_enough(a->zy) &&
                wide_enough(a->zb) && aligned_to(a->gamma->data, 16) &&
                aligned_to(a->beta->data, 16);
    apply_args k = {};

    k.stats = (const double *)a->stats->data;
    k.gamma = (const float *)a->gamma->data;
    k.beta = (const float *)a->beta->data;
    k.h = d[1];
    k.w = d[2];
    k.c = (int)d[3];
    k.per = (int)(d[3] / a->stats->dim[0]);
    k.silu = a->silu;
    for (int i = 0; i < 3; i++) {
        k.xs[i] = a->x->stride[i];
        k.ys[i] = a->y->stride[i];
        k.zs[i] = a->zy != NULL ? a->zy->stride[i] : 0;
        k.bs[i] = a->zb != NULL ? a->zb->stride[i] : 0;
    }
    if (a->zy != NULL) {
        k.zy = (const float *)a->zy->data;
        k.zb = (const float *)a->zb->data;
        k.hz = a->zy->dim[1];
        k.wz = a->zy->dim[2];
        k.h0 = a->h0;
        k.h_full = a->h_full;
    }
    for (int64_t t0 = 0; t0 < d[0] && d[1] * d[2] * d[3] > 0; t0 += MAP_FRAMES) {
        int64_t frames = d[0] - t0 < MAP_FRAMES ? d[0] - t0 : MAP_FRAMES;
        for (int64_t i = 0; i < frames && a->zy != NULL; i++) {
            k.map[i] = (int)a->tmap[t0 + i];
        }
        k.n = frames * d[1] * d[2] * d[3] / (wide ? 4 : 1);
        k.x = (const float *)a->x->data + t0 * k.xs[0];
        k.y = (char *)a->y->data + t0 * k.ys[0] * (int64_t)cvx_dtype_size(a->y->dtype);
        WITH_TYPE(a->y->dtype, T, launch_normalize<T>(s, &k, wide));
    }
    return cvx_cuda_launched(s, "group_norm_apply");
}
