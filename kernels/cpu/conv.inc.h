/* Convolution as matrix products over input that is read in place: a row of pixels lies in memory
 * as a matrix [pixel][channel], so the taps of one kernel row are products with shifted views of it
 * and nothing is gathered. Part of a level file; see vec.h.
 *
 * Work is dealt in bands of output rows. Within a band, for each block of NR output channels, the
 * sums of one kernel row after the other (kt · kh of them) are added up in scratch: the weights of
 * a kernel row stay in the nearest cache while the band's pixels go by. An output element is summed
 * as follows, whatever the shape of the call: per kernel row over its taps and input channels in
 * ascending order, starting at 0; these sums in ascending order; then bias, then residual.
 *
 * up2 is four convolutions of 2 x 2 taps, one for each of the output pixels that share a source
 * pixel: where two or more taps of the 3 x 3 meet the same source pixel, their weights were added
 * when packing. */

/* Output pixels of a band, about: few enough for their sums to stay in the L2 cache, many for the
 * weights to be used often. */
#define BAND_PIXELS 512

/* What follows a sum and its bias in conv2d: see cvx_conv2d_args. */
typedef struct conv_after {
    const float *slope, *outer; /* NULL: none */
    int64_t os[3];              /* of outer, in floats */
    float scale, outer_scale;
    bool act_last;
} conv_after;

/* What conv3d and conv2d ask for. */
typedef struct conv_call {
    const cvx_tensor *y, *x, *w, *b, *residual, *outer;
    int64_t x0;
    int stride;
    bool up2;
    const conv_after *after; /* NULL: nothing follows */
} conv_call;

/* One convolution without gaps in its output; up2 is four of these. */
typedef struct conv_job {
    int64_t cin, cout, kt, kh, kw;
    int64_t t, h, w;  /* output */
    const char *x;    /* first tap of the first output pixel, were ring frame 0 the first */
    int64_t xs[3];    /* bytes from frame to frame, row to row, pixel to pixel */
    int64_t ring, x0; /* frames of x, and the first one's place */
    int64_t stride;
    char *y;
    int64_t y_size;        /* bytes of one number: 4, or as bf16 2 and as three of them 6 */
    const float *residual; /* NULL: none */
    int64_t ys[3], rs[3];  /* in bytes; in floats */
    bool follows;          /* `after` holds */
    conv_after after;
    const float *bias;    /* NULL: none */
    const char *w_packed; /* of this job, [block][kt][kh] kernel rows of row_bytes */
    int64_t row_bytes;
    bool pairs;            /* x is bf16, read in pairs of channels */
    int64_t words;         /* of a pixel: channels, or pairs of them */
    int64_t tile;          /* amx: pixels of a tile; 0: rows of words */
    int x_parts, w_parts;  /* amx */
    bool ahead;            /* amx: ask for the next column of tiles while one is computed */
    int64_t band, bands;   /* rows of a band, bands of a frame */
    int64_t group, groups; /* channel blocks of a task, tasks along the channels */
} conv_job;

static int64_t conv_blocks(int64_t cout)
{
    return (cout + NR - 1) / NR;
}

/* Taps in a row or column of the packed kernel. */
static int64_t packed_taps(int64_t k, bool up2)
{
    return up2 ? 2 : k;
}

/* Taps of all kernel rows of a packed kernel. */
static int64_t packed_kernel(const cvx_tensor *w, bool up2)
{
    return w->dim[2] * packed_taps(w->dim[3], up2) * packed_taps(w->dim[4], up2);
}

/* Of one block of channels. */
static size_t f32_block_bytes(const cvx_tensor *w, bool up2)
{
    return (size_t)(packed_kernel(w, up2) * w->dim[1] * NR) * sizeof(float);
}

/* For up2: whether tap d of three meets the k-th of the two source pixels of output pixel 2i +
 * phase. */
static bool same_source(int64_t d, int64_t k, int phase)
{
    return (d + 1 + phase) / 2 - phase == k;
}

/* out [tap][cin][NR]: one block of channels in f32; for up2 sums of the taps that meet one source
 * pixel. rows: scratch of NR·cin·(taps of w) floats. */
static void unfold_block(float *out, float *rows, const cvx_tensor *w, int64_t block, int phase,
                         bool up2)
{
    const int64_t *d = w->dim;
    int64_t flat = d[3] * d[4], taps = d[2] * flat, len = d[1] * taps;
    int64_t n = cvx_min_i64(NR, d[0] - block * NR), packed = packed_kernel(w, up2);

    cvx_to_f32(rows, (const char *)w->data + block * NR * len * (int64_t)cvx_dtype_size(w->dtype),
               w->dtype, n * len);
    memset(rows + n * len, 0, (size_t)((NR - n) * len) * sizeof *rows);
    memset(out, 0, (size_t)(packed * d[1] * NR) * sizeof *out);
    for (int64_t to = 0; to < packed; to++) {
        for (int64_t from = 0; from < taps; from++) {
            bool meets = up2 ? same_source(from / 3, to / 2, phase / 2) &&
                                   same_source(from % 3, to % 2, phase % 2)
                             : from == to;
            for (int64_t i = 0; i < d[1] && meets; i++) {
                float *p = out + (to * d[1] + i) * NR;
                for (int64_t o = 0; o < NR; o++) {
                    p[o] += rows[o * len + i * taps + from];
                }
            }
        }
    }
}

/* acc[MR][nv] += MR pixels (x, s words apart) x k words · b[k][NR]. */
INLINE void conv_micro(vf acc[MR][2], int nv, const float *x, int64_t s, const float *b, int64_t k,
                       bool pairs)
{
    const float *r[MR / 3]; /* three pixels from one address register: at 0, s and 2s */

#pragma GCC unroll 16
    for (int g = 0; g < MR / 3; g++) {
        r[g] = x + 3 * g * s;
    }
    for (int64_t p = 0; p < k; p++) {
        vf b0 = vload(b + p * NR), b1 = nv > 1 ? vload(b + p * NR + VW) : b0;
#pragma GCC unroll 16
        for (int i = 0; i < MR; i++) {
            const float *v = r[i / 3] + i % 3 * s;
            acc[i][0] = word_fma(v, b0, acc[i][0], pairs);
            if (nv > 1) {
                acc[i][1] = word_fma(v, b1, acc[i][1], pairs);
            }
        }
#pragma GCC unroll 16
        for (int g = 0; g < MR / 3; g++) {
            r[g]++;
        }
    }
}

/* One kernel row for MR output pixels, s words apart: c [MR][NR] = or += their sums. px: words from
 * tap to tap. */
INLINE void conv_tile(float *c, const float *x, int64_t px, int64_t s, const float *b,
                      const conv_job *j, bool add, int nv, bool pairs)
{
    vf acc[MR][2];

#pragma GCC unroll 16
    for (int i = 0; i < MR; i++) {
        acc[i][0] = acc[i][1] = vset1(0);
    }
    for (int64_t tap = 0; tap < j->kw; tap++) {
        conv_micro(acc, nv, x + tap * px, s, b + tap * j->words * NR, j->words, pairs);
    }
#pragma GCC unroll 16
    for (int i = 0; i < MR; i++) {
        for (int v = 0; v < nv; v++) {
            float *p = c + i * NR + v * VW;
            vstore(p, add ? vload(p) + acc[i][v] : acc[i][v]);
        }
    }
}

/* c = or += the first n floats of `sum`. */
static void take_sums(float *c, const float *sum, int64_t n, bool add)
{
    for (int64_t i = 0; i < n; i++) {
        c[i] = add ? c[i] + sum[i] : sum[i];
    }
}

/* One kernel row for one output row: sums c [w][NR]. */
INLINE void conv_row(float *c, const float *x, const float *b, const conv_job *j, bool add, int nv,
                     bool pairs)
{
    int64_t px = j->xs[2] / (int64_t)sizeof(float), s = px * j->stride, i = 0;
    float spare[MR * NR] = {0};

    for (; i + MR <= j->w; i += MR) {
        conv_tile(c + i * NR, x + i * s, px, s, b, j, add, nv, pairs);
    }
    if (i < j->w && j->w >= MR) { /* the last MR pixels, some of them again */
        int64_t again = i + MR - j->w;
        conv_tile(spare, x + (i - again) * s, px, s, b, j, false, nv, pairs);
        take_sums(c + i * NR, spare + again * NR, (MR - again) * NR, add);
        return;
    }
    for (; i < j->w;
         i++) { /* a row shorter than a tile: pixel by pixel, nothing is read past the row */
        conv_tile(spare, x + i * s, px, 0, b, j, false, nv, pairs);
        take_sums(c + i * NR, spare, NR, add);
    }
}

/* nv: vectors of output channels, 1 or 2. */
INLINE void conv_rows(float *c, const char *x, const char *w, const conv_job *j, int64_t rows,
                      bool add, int nv)
{
    const float *b = (const float *)(const void *)w;

    for (int64_t r = 0; r < rows; r++) {
        const float *p = (const float *)(const void *)(x + r * j->stride * j->xs[1]);
        if (j->pairs) {
            conv_row(c + r * j->w * NR, p, b, j, add, nv, true);
        } else {
            conv_row(c + r * j->w * NR, p, b, j, add, nv, false);
        }
    }
}

/* bias and residual onto the sums of n < NR channels, to y. */
static void finish_few(float *y, const float *sum, const float *bias, const float *residual,
                       int64_t n)
{
    for (int64_t o = 0; o < n; o++) {
        float v = sum[o] + bias[o];
        y[o] = residual != NULL ? v + residual[o] : v;
    }
}

/* A block's slopes, residuals or outer values of n <= NR channels, zeros past them. */
INLINE void take_block(vf v[2], const float *p, int64_t n)
{
    float t[NR] = {0};

    if (n < NR) {
        memcpy(t, p, (size_t)n * sizeof *t);
        p = t;
    }
    v[0] = vload(p);
    v[1] = vload(p + VW);
}

/* PReLU: negative values times their channel's slope. */
INLINE vf leak(vf v, vf slope)
{
    return vselect(v > 0, v, v * slope);
}

/* n <= NR numbers to y, as its dtype has them; other than f32 only for whole blocks on the levels that read bf16. */
INLINE void put_block(char *y, const vf v[2], int64_t n, int64_t size)
{
    float t[NR];

#if defined(__AVX512BF16__)
    if (size != sizeof(float)) {
        split32(y, 64, size == 2 ? 1 : 3, (__m512)v[0], (__m512)v[1]);
        return;
    }
#endif
    (void)size;
    if (n == NR) {
        vstore((float *)(void *)y, v[0]);
        vstore((float *)(void *)y + VW, v[1]);
        return;
    }
    vstore(t, v[0]);
    vstore(t + VW, v[1]);
    memcpy(y, t, (size_t)n * sizeof *t);
}

/* As conv_finish, for what conv2d asks. */
static void finish_after(const conv_job *j, const float *sum, const float *bias, char *y,
                         const float *res, const float *outer, int64_t len, int64_t o0, int64_t n)
{
    const conv_after *f = &j->after;
    vf slope[2] = {vset1(1), vset1(1)}, more[2];

    if (f->slope != NULL) {
        take_block(slope, f->slope + o0, n);
    }
    for (int64_t i = 0; i < len; i++, sum += NR, y += j->ys[2]) {
        vf v[2] = {vload(sum) + vload(bias), vload(sum + VW) + vload(bias + VW)};
        for (int k = 0; k < 2; k++) {
            v[k] = (f->act_last ? v[k] : leak(v[k], slope[k])) * f->scale;
        }
        if (res != NULL) {
            take_block(more, res + i * j->rs[2], n);
            v[0] += more[0], v[1] += more[1];
        }
        if (f->act_last) {
            v[0] = leak(v[0], slope[0]), v[1] = leak(v[1], slope[1]);
        }
        if (outer != NULL) {
            take_block(more, outer + i * f->os[2], n);
            v[0] = v[0] * f->outer_scale + more[0], v[1] = v[1] * f->outer_scale + more[1];
        }
        put_block(y, v, n, j->y_size);
    }
}

/* Pixels c0 .. c0 + len of an output row: sums [len][NR] of n <= NR channels from o0 on, through
 * bias [NR], residual and what follows to y. */
static void conv_finish(const conv_job *j, const float *sum, const float *bias, int64_t t,
                        int64_t r, int64_t c0, int64_t len, int64_t o0, int64_t n)
{
    char *to = j->y + t * j->ys[0] + r * j->ys[1] + c0 * j->ys[2] + o0 * j->y_size;
    const float *res = NULL, *outer = j->after.outer;
    vf b0 = vload(bias), b1 = vload(bias + VW);

    if (j->residual != NULL) {
        res = j->residual + t * j->rs[0] + r * j->rs[1] + c0 * j->rs[2] + o0;
    }
    if (j->follows) {
        const int64_t *os = j->after.os;
        outer = outer != NULL ? outer + t * os[0] + r * os[1] + c0 * os[2] + o0 : NULL;
        finish_after(j, sum, bias, to, res, outer, len, o0, n);
        return;
    }
    for (int64_t i = 0; i < len; i++, sum += NR, to += j->ys[2]) {
        float *y = (float *)(void *)to;
        if (n < NR) {
            finish_few(y, sum, bias, res, n);
        } else {
            vf v0 = vload(sum) + b0, v1 = vload(sum + VW) + b1;
            vstore(y, res != NULL ? v0 + vload(res) : v0);
            vstore(y + VW, res != NULL ? v1 + vload(res + VW) : v1);
        }
        res = res != NULL ? res + j->rs[2] : NULL;
    }
}

/* The bias of a block, zeros past its n channels. */
static void block_bias(float bias[NR], const conv_job *j, int64_t o0, int64_t n)
{
    memset(bias, 0, NR * sizeof *bias);
    if (j->bias != NULL) {
        memcpy(bias, j->bias + o0, (size_t)n * sizeof *bias);
    }
}

static size_t conv_scratch(const cvx_ctx *ctx, const conv_call *a);
static void conv_with(cvx_ctx *ctx, const conv_call *a, float *scratch);
static void deal_rows(conv_job *j, int threads);

#if defined(__AMX_BF16__)
#include "kernels/cpu/conv_amx.inc.h"
#else
#include "kernels/cpu/conv_words.inc.h"
#endif

static conv_job make_conv_job(const cvx_ctx *ctx, const conv_call *a, int p);
#include "kernels/cpu/winograd.inc.h"

static size_t cpu_packed_conv_bytes(const cvx_ctx *ctx, const cvx_tensor *w, cvx_layout layout)
{
    bool up2 = layout == CVX_PACKED_CONV_UP2;
    bool wino = layout == CVX_PACKED_PICTURE && wino_takes(ctx, w);
    size_t block = takes_parts(ctx, w) ? parts_block_bytes(ctx, w, up2)
                   : wino              ? wino_block_bytes(w)
                                       : f32_block_bytes(w, up2);

    return block * (size_t)((up2 ? 4 : 1) * conv_blocks(w->dim[0]));
}

static cvx_status cpu_pack_conv(cvx_ctx *ctx, const cvx_pack_args *a)
{
    const cvx_tensor *w = a->src;
    bool up2 = a->dst->layout == CVX_PACKED_CONV_UP2, parts = takes_parts(ctx, w);
    bool wino = a->dst->layout == CVX_PACKED_PICTURE && wino_takes(ctx, w), fold = parts || wino;
    int64_t blocks = conv_blocks(w->dim[0]), all = blocks * (up2 ? 4 : 1);
    int64_t size = (int64_t)cpu_packed_conv_bytes(ctx, w, a->dst->layout) / all;
    int64_t rows = NR * w->dim[1] * w->dim[2] * w->dim[3] * w->dim[4];
    int64_t room = rows + (int64_t)(f32_block_bytes(w, up2) / sizeof(float));
    void *scratch;

    CVX_RETURN_IF(cvx_cpu_scratch(ctx, &scratch, (size_t)(ctx->threads * room) * sizeof(float)));
#pragma omp parallel for num_threads(ctx->threads) schedule(static)
    for (int64_t i = 0; i < all; i++) {
        float *r = (float *)scratch + omp_get_thread_num() * room;
        char *to = (char *)a->dst->data + i * size;
        float *block = fold ? r + rows : (float *)(void *)to;
        unfold_block(block, r, w, i % blocks, (int)(i / blocks), up2);
        if (parts) {
            fold_parts(to, block, ctx, w, up2);
        } else if (wino) {
            wino_fold_block((float *)(void *)to, block, w->dim[1]);
        }
    }
    return CVX_OK;
}

/* One band of rows and one group of channel blocks. */
static void rows_conv_task(const conv_job *j, float *c, int64_t task)
{
    int64_t g = task % j->groups, r0 = task / j->groups % j->bands * j->band;
    int64_t t = task / j->groups / j->bands, rows = cvx_min_i64(j->band, j->h - r0);
    int64_t end = cvx_min_i64((g + 1) * j->group, conv_blocks(j->cout));
    float bias[NR];

    for (int64_t b = g * j->group; b < end; b++) {
        int64_t n = cvx_min_i64(NR, j->cout - b * NR);
        const char *w = j->w_packed + b * j->kt * j->kh * j->row_bytes;
        for (int64_t k = 0; k < j->kt * j->kh; k++, w += j->row_bytes) {
            const char *x = j->x + (j->x0 + t + k / j->kh) % j->ring * j->xs[0] +
                            (r0 * j->stride + k % j->kh) * j->xs[1];
            if (n <= VW) {
                conv_rows(c, x, w, j, rows, k > 0, 1);
            } else {
                conv_rows(c, x, w, j, rows, k > 0, 2);
            }
        }
        block_bias(bias, j, b * NR, n);
        for (int64_t r = 0; r < rows; r++) {
            conv_finish(j, c + r * j->w * NR, bias, t, r0 + r, 0, j->w, b * NR, n);
        }
    }
}

/* Bands, and groups of channel blocks where bands alone are too few for the threads. */
static void deal_rows(conv_job *j, int threads)
{
    int64_t blocks = conv_blocks(j->cout), want = 4 * threads;

    j->band = cvx_min_i64((BAND_PIXELS + j->w - 1) / j->w, j->h);
    j->bands = (j->h + j->band - 1) / j->band;
    j->groups = cvx_min_i64(blocks, (want + j->t * j->bands - 1) / (j->t * j->bands));
    j->group = (blocks + j->groups - 1) / j->groups;
    j->groups = (blocks + j->group - 1) / j->group;
}

/* Floats of scratch that one thread needs. */
static int64_t conv_sums(const conv_job *j)
{
    return j->tile > 0 ? 0 : j->band * j->w * NR;
}

static void run_conv(const conv_job *j, float *scratch, int threads)
{
    int64_t tasks = j->t * j->bands * j->groups;

#pragma omp parallel num_threads(threads)
    {
        conv_begin((int)j->tile);
#pragma omp for schedule(dynamic, 1)
        for (int64_t i = 0; i < tasks; i++) {
            if (j->tile > 0) {
                amx_conv_task(j, i);
            } else {
                rows_conv_task(j, scratch + omp_get_thread_num() * conv_sums(j), i);
            }
        }
        gemm_end();
    }
}

/* The job of phase p of an up2 convolution, or (p = 0) of any other. */
static conv_job make_conv_job(const cvx_ctx *ctx, const conv_call *a, int p)
{
    const int64_t *y = a->y->dim, *w = a->w->dim, *xs = a->x->stride, *ys = a->y->stride;
    int64_t size = (int64_t)cvx_dtype_size(a->x->dtype), half = a->up2 ? 2 : 1;
    int64_t y_size = (int64_t)cvx_dtype_size(a->y->dtype);
    int64_t pr = p / 2, pc = p % 2, blocks = conv_blocks(w[0]);
    conv_job j = {.cin = w[1],
                  .words = w[1],
                  .cout = w[0],
                  .kt = w[2],
                  .kh = packed_taps(w[3], a->up2),
                  .kw = packed_taps(w[4], a->up2),
                  .t = y[0],
                  .h = y[1] / half,
                  .w = y[2] / half,
                  .xs = {xs[0] * size, xs[1] * size, xs[2] * size},
                  .ring = a->x->dim[0],
                  .x0 = a->x0,
                  .stride = a->stride,
                  .y_size = y_size,
                  .ys = {ys[0] * y_size, ys[1] * half * y_size, ys[2] * half * y_size}};

    j.x = (const char *)a->x->data + pr * j.xs[1] + pc * j.xs[2];
    j.y = (char *)a->y->data + (pr * ys[1] + pc * ys[2]) * y_size;
    if (a->residual != NULL) {
        const int64_t *rs = a->residual->stride;
        j.residual = (const float *)a->residual->data + pr * rs[1] + pc * rs[2];
        j.rs[0] = rs[0], j.rs[1] = rs[1] * half, j.rs[2] = rs[2] * half;
    }
    if (a->after != NULL) {
        const int64_t *os = a->outer != NULL ? a->outer->stride : ys;
        j.follows = true;
        j.after = *a->after;
        j.after.outer =
            a->outer != NULL ? (const float *)a->outer->data + pr * os[1] + pc * os[2] : NULL;
        j.after.os[0] = os[0], j.after.os[1] = os[1] * half, j.after.os[2] = os[2] * half;
    }
    j.bias = a->b != NULL ? a->b->data : NULL;
    j.row_bytes = (int64_t)cpu_packed_conv_bytes(ctx, a->w, a->w->layout) /
                  (blocks * (a->up2 ? 4 : 1) * j.kt * j.kh);
    j.w_packed = (const char *)a->w->data + p * blocks * j.kt * j.kh * j.row_bytes;
    if (takes_parts(ctx, a->w)) {
        deal_parts(&j, ctx, a);
    } else {
        deal_rows(&j, ctx->threads);
    }
    return j;
}

static size_t conv_scratch(const cvx_ctx *ctx, const conv_call *a)
{
    conv_job j = make_conv_job(ctx, a, 0);

    return (size_t)(ctx->threads * conv_sums(&j)) * sizeof(float);
}

static void conv_with(cvx_ctx *ctx, const conv_call *a, float *scratch)
{
    for (int p = 0; p < (a->up2 ? 4 : 1); p++) {
        conv_job j = make_conv_job(ctx, a, p);
        run_conv(&j, scratch, ctx->threads);
    }
}

static cvx_status call_conv(cvx_ctx *ctx, const conv_call *a)
{
    void *scratch;

    if (takes_parts(ctx, a->w) && a->x->dtype == CVX_F32) {
        return conv_of_f32(ctx, a);
    }
    if (a->w->layout == CVX_PACKED_PICTURE && wino_takes(ctx, a->w)) {
        return wino_conv(ctx, a);
    }
    CVX_RETURN_IF(cvx_cpu_scratch(ctx, &scratch, conv_scratch(ctx, a)));
    conv_with(ctx, a, scratch);
    return CVX_OK;
}

static cvx_status cpu_conv3d(cvx_ctx *ctx, const cvx_conv3d_args *a)
{
    if (a->w->layout == CVX_PLAIN) {
        return cvx_ref_conv3d(ctx, a);
    }
    return call_conv(ctx, &(conv_call){.y = a->y,
                                       .x = a->x,
                                       .w = a->w,
                                       .b = a->b,
                                       .residual = a->residual,
                                       .x0 = a->x0,
                                       .stride = a->stride,
                                       .up2 = a->up2});
}

static cvx_status cpu_conv2d(cvx_ctx *ctx, const cvx_conv2d_args *a)
{
    conv_after after = {.slope = a->slope != NULL ? a->slope->data : NULL,
                        .act_last = a->act_last,
                        .scale = a->scale != 0 ? (float)a->scale : 1,
                        .outer_scale = (float)a->outer_scale};

    if (a->w->layout == CVX_PLAIN) {
        return cvx_ref_conv2d(ctx, a);
    }
    return call_conv(ctx, &(conv_call){.y = a->y,
                                       .x = a->x,
                                       .w = a->w,
                                       .b = a->b,
                                       .residual = a->residual,
                                       .outer = a->outer,
                                       .stride = a->stride,
                                       .up2 = a->up2,
                                       .after = &after});
}
