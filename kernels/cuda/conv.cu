/* Convolution as a matrix product whose left operand is never stored: row m is an output pixel, column (tap, channel) is
 * read from the input where the tap falls. The input's borders are already there (kernels/ops.h), so there is no
 * padding to make and no edge case; frames come from a ring.
 *
 * bf16 and f16: tiles of 128 pixels x 128 (or 32) output channels x 64 channels of one tap, three of them on their way
 * (cp.async), multiplied with mma.sync m16n8k16 and summed in f32. Rows of a tile are 128 bytes; the 16-byte pieces
 * of row r are stored at piece ^ (r % 8), so that neither cp.async nor ldmatrix meets a bank twice.
 * f32: tiles of 64 x 64 x 16 with fused multiply-adds; sums of 256 products are added to a total, so that the error
 * grows with the square root of their number.
 *
 * An output's additions follow the order (tap, channel), whatever the call's size. */
#include "kernels/cuda/instr.cuh"
#include "kernels/cuda/rows.h"

#define BM 128
#define BK 64
#define STAGES 3

/* Where an output pixel lies. */
struct pixel {
    int t, r, c;
};

static __device__ __forceinline__ pixel pixel_of(const cvx_cuda_conv &a, int64_t m)
{
    int64_t row = m / a.out[2];
    return {(int)(row / a.out[1]), (int)(row % a.out[1]), (int)(m % a.out[2])};
}

/* The n-th pixel after p; n is small: short divisions do. */
static __device__ __forceinline__ pixel pixel_after(const cvx_cuda_conv &a, const pixel &p, int n)
{
    unsigned h = (unsigned)a.out[1], w = (unsigned)a.out[2], c = (unsigned)(p.c + n);
    unsigned r = (unsigned)p.r + c / w;
    return {p.t + (int)(r / h), (int)(r % h), (int)(c % w)};
}

/* The input's frame, row or column that a tap of an output pixel reads. */
static __device__ __forceinline__ int64_t frame_of(const cvx_cuda_conv &a, const pixel &p, int dt)
{
    int64_t f = a.x0 + p.t + dt; /* x0 < frames, p.t + dt < frames */
    return f >= a.frames ? f - a.frames : f;
}
static __device__ __forceinline__ int line_of(const cvx_cuda_conv &a, int at, int d)
{
    return a.up2 ? (at + d + 1) / 2 : at * a.stride + d;
}

/* The byte offset of 16-byte piece `piece` of row `row` in a tile of 128-byte rows. */
static __device__ __forceinline__ uint32_t swizzled(int row, int piece)
{
    return (uint32_t)(row * 128 + ((piece ^ (row & 7)) << 4));
}

/* Bytes of shared memory of one stage. */
template <int BN> __host__ __device__ constexpr int stage_bytes()
{
    return (BM + BN) * BK * 2;
}

/* What a thread brings of each step: piece i % 8 of rows i / 8, i / 8 + 32 ... of both tiles. Steps go through the channels
 * of a tap, columns, rows and frames of taps; what changes seldom is kept, since a step's addresses take as long as its
 * products otherwise. */
template <typename T, int BN> struct feed {
    const T *frame[BM / 32], *x[BM / 32]; /* of the frame that the tap reads, of the pixel in it */
    const T *w[BN / 32];                  /* weights follow each other by steps */
    pixel p[BM / 32];
    bool there[BM / 32], row[BN / 32];
    int dt, dr, dc, channel;
};

template <typename T, int BN>
static __device__ __forceinline__ void find_frames(const cvx_cuda_conv &a, feed<T, BN> &f)
{
#pragma unroll
    for (int i = 0; i < BM / 32; i++) {
        f.frame[i] = (const T *)a.x + frame_of(a, f.p[i], f.dt) * a.xs[0] + threadIdx.x % 8 * 8;
    }
}

template <typename T, int BN>
static __device__ __forceinline__ void find_pixels(const cvx_cuda_conv &a, feed<T, BN> &f)
{
#pragma unroll
    for (int i = 0; i < BM / 32; i++) {
        f.x[i] = f.frame[i] + (int64_t)line_of(a, f.p[i].r, f.dr) * (int)a.xs[1] +
                 (int64_t)line_of(a, f.p[i].c, f.dc) * (int)a.xs[2];
    }
}

template <typename T, int BN>
static __device__ __forceinline__ void begin(const cvx_cuda_conv &a, feed<T, BN> &f,
                                             const pixel &p0, int64_t left, int64_t n0)
{
    int row = threadIdx.x / 8;

    f.dt = f.dr = f.dc = f.channel = 0;
#pragma unroll
    for (int i = 0; i < BM / 32; i++) {
        f.there[i] = row + 32 * i < left;
        f.p[i] = pixel_after(a, p0, f.there[i] ? row + 32 * i : 0);
    }
#pragma unroll
    for (int i = 0; i < BN / 32; i++) {
        int64_t o = n0 + row + 32 * i;
        f.row[i] = o < a.cout;
        f.w[i] =
            (const T *)a.w + (f.row[i] ? o : 0) * (a.kt * a.kh * a.kw) * a.kp + threadIdx.x % 8 * 8;
    }
    find_frames(a, f);
    find_pixels(a, f);
}

/* The next step's tiles on their way into a stage. */
template <typename T, int BN>
static __device__ __forceinline__ void bring(const cvx_cuda_conv &a, uint32_t stage, feed<T, BN> &f)
{
    int piece = threadIdx.x % 8, row = threadIdx.x / 8;
    int left = (int)(a.cin - f.channel - piece * 8) * 2, bytes = left < 0    ? 0
                                                                 : left < 16 ? left
                                                                             : 16;

#pragma unroll
    for (int i = 0; i < BM / 32; i++) {
        int n = f.there[i] ? bytes : 0;
        copy_async(stage + swizzled(row + 32 * i, piece),
                   n > 0 ? f.x[i] + f.channel : (const T *)a.x, n);
    }
#pragma unroll
    for (int i = 0; i < BN / 32; i++) {
        copy_async(stage + BM * BK * 2 + swizzled(row + 32 * i, piece), f.w[i], f.row[i] ? 16 : 0);
        f.w[i] += BK;
    }
    f.channel += BK;
    if (f.channel < a.cin) {
        return;
    }
    f.channel = 0;
    if (++f.dc == a.kw) {
        f.dc = 0;
        if (++f.dr == a.kh) {
            f.dr = 0;
            f.dt++;
            find_frames(a, f);
        }
    }
    find_pixels(a, f);
}

/* One step's products: a warp has MI · 16 pixels and NI · 8 channels. */
template <typename T, int MI, int NI>
static __device__ __forceinline__ void multiply_tiles(float acc[MI][NI][4], uint32_t stage, int m,
                                                      int n)
{
    int lane = threadIdx.x % 32;

#pragma unroll
    for (int k = 0; k < BK / 16; k++) {
        uint32_t af[MI][4], bf[NI / 2][4];
#pragma unroll
        for (int i = 0; i < MI; i++) {
            load_matrices(af[i], stage + swizzled(m + i * 16 + (lane & 15), 2 * k + (lane >> 4)));
        }
#pragma unroll
        for (int j = 0; j < NI / 2; j++) {
            int row = n + j * 16 + (lane & 7) + ((lane >> 4) << 3);
            load_matrices(bf[j], stage + BM * BK * 2 + swizzled(row, 2 * k + ((lane >> 3) & 1)));
        }
#pragma unroll
        for (int i = 0; i < MI; i++) {
#pragma unroll
            for (int j = 0; j < NI; j++) {
                multiply<T>(acc[i][j], af[i], bf[j / 2][j % 2 * 2], bf[j / 2][j % 2 * 2 + 1]);
            }
        }
    }
}

/* An output value: bias and residual added in f32. */
static __device__ __forceinline__ void put(const cvx_cuda_conv &a, float *y, const float *res,
                                           int64_t o, float v)
{
    if (o < a.cout) {
        v = a.b != NULL ? v + a.b[o] : v;
        y[o] = res != NULL ? v + res[o] : v;
    }
}

/* Whether neighbouring outputs of even number can be read and written as one. */
static __device__ __forceinline__ bool in_pairs(const cvx_cuda_conv &a)
{
    int64_t odd = a.cout | a.ys[0] | a.ys[1] | a.ys[2] | a.rs[0] | a.rs[1] | a.rs[2];
    return odd % 2 == 0 && ((uintptr_t)a.y | (uintptr_t)a.residual | (uintptr_t)a.b) % 8 == 0;
}

/* Outputs o and o + 1; o is even. */
static __device__ __forceinline__ void put_two(const cvx_cuda_conv &a, float *y, const float *res,
                                               int64_t o, const float *v, bool pairs)
{
    if (!pairs) {
        put(a, y, res, o, v[0]);
        put(a, y, res, o + 1, v[1]);
    } else if (o < a.cout) {
        float sum[2] = {v[0], v[1]}, by[2];
        if (a.b != NULL) {
            load<float, 2>(by, a.b + o);
            sum[0] += by[0];
            sum[1] += by[1];
        }
        if (res != NULL) {
            load<float, 2>(by, res + o);
            sum[0] += by[0];
            sum[1] += by[1];
        }
        store<float, 2>(y + o, sum);
    }
}

/* A frame beyond the last tap's is never read: the ring's next one may be looked for, and is not asked for. */
template <typename T, int BN> __global__ void __launch_bounds__(256) conv_mma(cvx_cuda_conv a)
{
    extern __shared__ __align__(128) char shared[];
    constexpr int WARPS_N = BN == 128 ? 2 : 1, WARPS_M = 8 / WARPS_N;
    constexpr int MI = BM / WARPS_M / 16, NI = BN / WARPS_N / 8;
    uint32_t base = shared_address(shared);
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    int m = warp / WARPS_N * MI * 16, n = warp % WARPS_N * NI * 8;
    int64_t m0 = (int64_t)blockIdx.x * BM, left = a.out[0] * a.out[1] * a.out[2] - m0;
    int64_t n0 = (int64_t)blockIdx.y * BN;
    int steps = a.kt * a.kh * a.kw * (int)((a.cin + BK - 1) / BK);
    pixel p0 = pixel_of(a, m0);
    float acc[MI][NI][4] = {};
    feed<T, BN> f;

    begin(a, f, p0, left, n0);
#pragma unroll
    for (int i = 0; i < STAGES - 1; i++) {
        if (i < steps) {
            bring(a, base + i * stage_bytes<BN>(), f);
        }
        copy_commit();
    }
    for (int i = 0; i < steps; i++) {
        copy_wait<STAGES - 2>();
        __syncthreads(); /* the stage has come for all, and the one before is spent */
        int next = i + STAGES - 1;
        if (next < steps) {
            bring(a, base + next % STAGES * stage_bytes<BN>(), f);
        }
        copy_commit();
        multiply_tiles<T, MI, NI>(acc, base + i % STAGES * stage_bytes<BN>(), m, n);
    }
    bool pairs = in_pairs(a);
#pragma unroll
    for (int i = 0; i < 2 * MI; i++) { /* rows lane / 4 and lane / 4 + 8 of each 16 */
        int at = m + i / 2 * 16 + i % 2 * 8 + lane / 4;
        if (at < left) {
            pixel p = pixel_after(a, p0, at);
            float *y = a.y + p.t * a.ys[0] + p.r * a.ys[1] + p.c * a.ys[2];
            const float *res = a.residual == NULL
                                   ? NULL
                                   : a.residual + p.t * a.rs[0] + p.r * a.rs[1] + p.c * a.rs[2];
#pragma unroll
            for (int j = 0; j < NI; j++) {
                put_two(a, y, res, n0 + n + j * 8 + lane % 4 * 2, &acc[i / 2][j][i % 2 * 2], pairs);
            }
        }
    }
}

/* --- f32 --- */

#define FM 64
#define FK 16
/* Products that are summed before they are added to the total. */
#define BLOCK 256

static __global__ void __launch_bounds__(256) conv_f32(cvx_cuda_conv a)
{
    __shared__ float xs[FK][FM + 4], ws[FK][FM + 4];
    int64_t all = a.out[0] * a.out[1] * a.out[2], m0 = (int64_t)blockIdx.x * FM;
    int64_t n0 = (int64_t)blockIdx.y * FM;
    int row = threadIdx.x / 4, ch0 = threadIdx.x % 4 * 4, tm = threadIdx.x / 16 * 4,
        tn = threadIdx.x % 16 * 4;
    bool there = m0 + row < all;
    pixel p = pixel_of(a, there ? m0 + row : 0);
    float acc[4][4] = {}, total[4][4] = {};
    int since = 0;

    for (int tap = 0; tap < a.kt * a.kh * a.kw; tap++) {
        const float *x = (const float *)a.x + frame_of(a, p, tap / a.kw / a.kh) * a.xs[0] +
                         line_of(a, p.r, tap / a.kw % a.kh) * a.xs[1] +
                         line_of(a, p.c, tap % a.kw) * a.xs[2];
        const float *w = (const float *)a.w + ((n0 + row) * (a.kt * a.kh * a.kw) + tap) * a.kp;
        for (int64_t k = 0; k < a.cin; k += FK) {
            float u[4], v[4];
#pragma unroll
            for (int j = 0; j < 4; j++) {
                int64_t ch = k + ch0 + j;
                u[j] = there && ch < a.cin ? x[ch] : 0;
                v[j] = n0 + row < a.cout && ch < a.cin ? w[ch] : 0;
            }
            __syncthreads();
#pragma unroll
            for (int j = 0; j < 4; j++) {
                xs[ch0 + j][row] = u[j];
                ws[ch0 + j][row] = v[j];
            }
            __syncthreads();
#pragma unroll
            for (int e = 0; e < FK; e++) {
#pragma unroll
                for (int i = 0; i < 4; i++) {
#pragma unroll
                    for (int j = 0; j < 4; j++) {
                        acc[i][j] = fmaf(xs[e][tm + i], ws[e][tn + j], acc[i][j]);
                    }
                }
            }
            since += FK;
            if (since == BLOCK) {
                since = 0;
#pragma unroll
                for (int i = 0; i < 16; i++) {
                    total[i / 4][i % 4] += acc[i / 4][i % 4];
                    acc[i / 4][i % 4] = 0;
                }
            }
        }
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
        if (m0 + tm + i < all) {
            pixel q = pixel_of(a, m0 + tm + i);
            float *y = a.y + q.t * a.ys[0] + q.r * a.ys[1] + q.c * a.ys[2];
            const float *res = a.residual == NULL
                                   ? NULL
                                   : a.residual + q.t * a.rs[0] + q.r * a.rs[1] + q.c * a.rs[2];
#pragma unroll
            for (int j = 0; j < 4; j++) {
                put(a, y, res, n0 + tn + j, total[i][j] + acc[i][j]);
            }
        }
    }
}

/* --- the host's side --- */

template <typename T, int BN> static cvx_status launch_mma(cvx_cuda *s, const cvx_cuda_conv *c)
{
    int64_t all = c->out[0] * c->out[1] * c->out[2];
    dim3 grid((unsigned)((all + BM - 1) / BM), (unsigned)((c->cout + BN - 1) / BN));
    int room = STAGES * stage_bytes<BN>();

    CVX_RETURN_IF(
        cvx_cuda_status((int)cudaFuncSetAttribute(
                            conv_mma<T, BN>, cudaFuncAttributeMaxDynamicSharedMemorySize, room),
                        "shared memory of a convolution"));
    conv_mma<T, BN><<<grid, 256, (size_t)room, s->stream>>>(*c);
    return cvx_cuda_launched(s, "conv3d");
}

template <typename T> static cvx_status run_mma(cvx_cuda *s, const cvx_cuda_conv *c)
{
    return c->cout > 32 ? launch_mma<T, 128>(s, c) : launch_mma<T, 32>(s, c);
}

extern "C" cvx_status cvx_cuda_conv_run(cvx_cuda *s, const cvx_cuda_conv *c)
{
    int64_t all = c->out[0] * c->out[1] * c->out[2];

    if (all == 0 || c->cout == 0) {
        return CVX_OK;
    }
    if (c->t == CVX_BF16) {
        return run_mma<bf16>(s, c);
    }
    if (c->t == CVX_F16) {
        return run_mma<f16>(s, c);
    }
    dim3 grid((unsigned)((all + FM - 1) / FM), (unsigned)((c->cout + FM - 1) / FM));
    conv_f32<<<grid, 256, 0, s->stream>>>(*c);
    return cvx_cuda_launched(s, "conv3d");
}

/* Channels V at a time, dense [frames, rows, columns, cp] of type TY <- pixels of any strides, zeros from c on. */
template <typename TX, typename TY, int V>
__global__ void __launch_bounds__(CVX_THREADS)
    gather_pixels(TY *y, const TX *x, int64_t n, int64_t h, int64_t w, int64_t c, int64_t cp,
                  int64_t s0, int64_t s1, int64_t s2)
{
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) {
        return;
    }
    int64_t per = cp / V, ch = i % per * V, q = i / per % w, r = i / per / w % h,
            f = i / per / w / h;
    float v[V];
    if (ch < c) { /* V divides c where it is above 1 */
        load<TX, V>(v, x + f * s0 + r * s1 + q * s2 + ch);
    } else {
#pragma unroll
        for (int j = 0; j < V; j++) {
            v[j] = 0;
        }
    }
    store<TY, V>(y + i * V, v);
}

extern "C" cvx_status cvx_cuda_gather_pixels(cvx_cuda *s, void *y, cvx_dtype yt, int64_t cp,
                                             const cvx_tensor *x)
{
    const int64_t *d = x->dim, *st = x->stride;
    bool wide = d[3] % 4 == 0 && st[0] % 4 == 0 && st[1] % 4 == 0 && st[2] % 4 == 0 &&
                aligned_to(x->data, 4 * cvx_dtype_size(x->dtype));
    int64_t n = d[0] * d[1] * d[2] * cp / (wide ? 4 : 1);

    if (n == 0) {
        return CVX_OK;
    }
    if (wide) {
        WITH_TYPE(x->dtype, TX,
                  WITH_TYPE(yt, TY,
                            gather_pixels<TX, TY, 4><<<blocks_for(n), CVX_THREADS, 0, s->stream>>>(
                                (TY *)y, (const TX *)x->data, n, d[1], d[2], d[3], cp, st[0], st[1],
                                st[2])));
    } else {
        WITH_TYPE(x->dtype, TX,
                  WITH_TYPE(yt, TY,
                            gather_pixels<TX, TY, 1><<<blocks_for(n), CVX_THREADS, 0, s->stream>>>(
                                (TY *)y, (const TX *)x->data, n, d[1], d[2], d[3], cp, st[0], st[1],
                                st[2])));
    }
    return cvx_cuda_launched(s, "pixels to the convolution's type");
}
