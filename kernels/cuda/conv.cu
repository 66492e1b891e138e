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

/* Where output pixel m lies. */
struct pixel {
    int64_t t, r, c;
};

static __device__ __forceinline__ pixel pixel_of(const cvx_cuda_conv &a, int64_t m)
{
    pixel p;
    p.c = m % a.out[2];
    p.r = m / a.out[2] % a.out[1];
    p.t = m / a.out[2] / a.out[1];
    return p;
}

/* Elements from x to the input pixel that tap (dt, dr, dc) of output pixel p reads. */
static __device__ __forceinline__ int64_t place(const cvx_cuda_conv &a, const pixel &p, int dt,
                                                int dr, int dc)
{
    int64_t f = a.x0 + p.t + dt; /* x0 < frames, p.t + dt < frames */
    int64_t r = a.up2 ? (p.r + dr + 1) / 2 : p.r * a.stride + dr;
    int64_t c = a.up2 ? (p.c + dc + 1) / 2 : p.c * a.stride + dc;

    f = f >= a.frames ? f - a.frames : f;
    return f * a.xs[0] + r * a.xs[1] + c * a.xs[2];
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

/* Which tap and channels a step multiplies. */
struct step_of {
    int dt, dr, dc, tap, channel;
};

static __device__ __forceinline__ step_of find_step(const cvx_cuda_conv &a, int i, int per_tap)
{
    step_of s;
    s.tap = i / per_tap;
    s.channel = i % per_tap * BK;
    s.dc = s.tap % a.kw;
    s.dr = s.tap / a.kw % a.kh;
    s.dt = s.tap / a.kw / a.kh;
    return s;
}

/* One step's tiles on their way into a stage. Thread i brings piece i % 8 of rows i / 8, i / 8 + 32 ... */
template <typename T, int BN>
static __device__ __forceinline__ void bring(const cvx_cuda_conv &a, uint32_t stage,
                                             const pixel px[4], const bool there[4], int64_t n0,
                                             const step_of &s)
{
    int piece = threadIdx.x % 8, row = threadIdx.x / 8, ch = s.channel + piece * 8;
    int left = (int)(a.cin - ch) * 2, bytes = left < 0 ? 0 : left < 16 ? left : 16;
    const T *x = (const T *)a.x, *w = (const T *)a.w + s.tap * a.kp + ch;
    int64_t row_of_w = (int64_t)a.kt * a.kh * a.kw * a.kp;

#pragma unroll
    for (int i = 0; i < BM / 32; i++) {
        int n = there[i] ? bytes : 0;
        const T *from = n > 0 ? x + place(a, px[i], s.dt, s.dr, s.dc) + ch : x;
        copy_async(stage + swizzled(row + 32 * i, piece), from, n);
    }
#pragma unroll
    for (int i = 0; i < BN / 32; i++) {
        int64_t o = n0 + row + 32 * i;
        copy_async(stage + BM * BK * 2 + swizzled(row + 32 * i, piece),
                   o < a.cout ? w + o * row_of_w : w, o < a.cout ? 16 : 0);
    }
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

template <typename T, int BN> __global__ void __launch_bounds__(256) conv_mma(cvx_cuda_conv a)
{
    extern __shared__ __align__(128) char shared[];
    constexpr int WARPS_N = BN == 128 ? 2 : 1, WARPS_M = 8 / WARPS_N;
    constexpr int MI = BM / WARPS_M / 16, NI = BN / WARPS_N / 8;
    uint32_t base = shared_address(shared);
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    int m = warp / WARPS_N * MI * 16, n = warp % WARPS_N * NI * 8;
    int64_t all = a.out[0] * a.out[1] * a.out[2], m0 = (int64_t)blockIdx.x * BM;
    int64_t n0 = (int64_t)blockIdx.y * BN;
    int per_tap = (int)((a.cin + BK - 1) / BK), steps = a.kt * a.kh * a.kw * per_tap;
    float acc[MI][NI][4] = {};
    pixel px[4];
    bool there[4];

#pragma unroll
    for (int i = 0; i < 4; i++) {
        int64_t at = m0 + threadIdx.x / 8 + 32 * i;
        there[i] = at < all;
        px[i] = pixel_of(a, there[i] ? at : 0);
    }
#pragma unroll
    for (int i = 0; i < STAGES - 1; i++) {
        if (i < steps) {
            bring<T, BN>(a, base + i * stage_bytes<BN>(), px, there, n0, find_step(a, i, per_tap));
        }
        copy_commit();
    }
    for (int i = 0; i < steps; i++) {
        copy_wait<STAGES - 2>();
        __syncthreads(); /* the stage has come for all, and the one before is spent */
        int next = i + STAGES - 1;
        if (next < steps) {
            bring<T, BN>(a, base + next % STAGES * stage_bytes<BN>(), px, there, n0,
                         find_step(a, next, per_tap));
        }
        copy_commit();
        multiply_tiles<T, MI, NI>(acc, base + i % STAGES * stage_bytes<BN>(), m, n);
    }
#pragma unroll
    for (int i = 0; i < 2 * MI; i++) { /* rows lane / 4 and lane / 4 + 8 of each 16 */
        int64_t at = m0 + m + i / 2 * 16 + i % 2 * 8 + lane / 4;
        if (at < all) {
            pixel p = pixel_of(a, at);
            float *y = a.y + p.t * a.ys[0] + p.r * a.ys[1] + p.c * a.ys[2];
            const float *res = a.residual == NULL
                                   ? NULL
                                   : a.residual + p.t * a.rs[0] + p.r * a.rs[1] + p.c * a.rs[2];
#pragma unroll
            for (int j = 0; j < NI; j++) {
                int64_t o = n0 + n + j * 8 + lane % 4 * 2;
                put(a, y, res, o, acc[i / 2][j][i % 2 * 2]);
                put(a, y, res, o + 1, acc[i / 2][j][i % 2 * 2 + 1]);
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
        const float *x =
            (const float *)a.x + place(a, p, tap / a.kw / a.kh, tap / a.kw % a.kh, tap % a.kw);
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
__global__ void gather_pixels(TY *y, const TX *x, int64_t n, int64_t h, int64_t w, int64_t c,
                              int64_t cp, int64_t s0, int64_t s1, int64_t s2)
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
