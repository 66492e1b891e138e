/* Convolution on AMX tiles: the other way to add up a band of rows. Part of the amx level, after
 * gemm_amx.inc.h, whose splitting of floats into bf16 parts it shares.
 *
 * x is BF16X3 (or BF16): 16 pixels x 32 channels of a part are a tile wherever they begin. Two such
 * tiles meet 2 x 16 output channels. The sums of an output element run through one accumulator:
 * kernel rows, within them steps of 32 channels, then taps along the row, then parts. Channels must
 * be a multiple of 32; other convolutions are done in f32. */

#include "kernels/cpu/conv_split.inc.h"

static bool takes_parts(const cvx_ctx *ctx, const cvx_tensor *w)
{
    (void)ctx;
    return w->dim[1] % 32 == 0;
}

/* Sums of up2 taps have all the bits of an f32. */
static int amx_weight_parts(const cvx_ctx *ctx, const cvx_tensor *w, bool up2)
{
    return parts_of(ctx, up2 ? CVX_F32 : w->dtype);
}

static size_t parts_block_bytes(const cvx_ctx *ctx, const cvx_tensor *w, bool up2)
{
    return (size_t)(packed_kernel(w, up2) * w->dim[1] / 32 * amx_weight_parts(ctx, w, up2) * 2 *
                    TILE);
}

/* block [tap][cin][32] f32 -> [kernel row][step of 32 channels][tap of the row][part][2 tiles]. */
static void fold_parts(char *out, const float *block, const cvx_ctx *ctx, const cvx_tensor *w,
                       bool up2)
{
    int64_t cin = w->dim[1], kw = packed_taps(w->dim[4], up2), rows = packed_kernel(w, up2) / kw;
    int parts = amx_weight_parts(ctx, w, up2);

    for (int64_t i = 0; i < rows * (cin / 32) * kw; i++, out += parts * 2 * TILE) {
        int64_t tap = i / kw / (cin / 32) * kw + i % kw, step = i / kw % (cin / 32);
        for (int64_t p = 0; p < 16; p++) {
            const float *v = block + (tap * cin + step * 32 + 2 * p) * 32;
            for (int half = 0; half < 2; half++, v += 16) {
                split_pair(out + half * TILE + p * 64, parts, _mm512_loadu_ps(v),
                           _mm512_loadu_ps(v + 32));
            }
        }
    }
}

static cvx_dtype cpu_conv_input(const cvx_ctx *ctx, const cvx_tensor *w)
{
    return !takes_parts(ctx, w) ? CVX_F32 : ctx->compute == CVX_BF16 ? CVX_BF16 : CVX_BF16X3;
}

/* Tile registers 0-5 with m rows (pixels), 6-7 whole (weights). */
static void conv_begin(int m)
{
    if (m == 0) {
        return;
    }
    struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } __attribute__((packed, aligned(64))) cfg = {.palette = 1};

    for (int i = 0; i < 8; i++) {
        cfg.row_bytes[i] = 64;
        cfg.rows[i] = (uint8_t)(i < 6 ? m : 16);
    }
    _tile_loadconfig(&cfg);
}

/* Lines to ask for while a kernel row is computed: the next `bytes` of `at` per tap and step. */
typedef struct ahead {
    const char *at;
    int64_t bytes;
} ahead;

/* Registers 0-3 += one kernel row for two tiles of pixels (`one`: only the first). */
INLINE void amx_kernel_row(const char *xa, const char *xb, const char *w, const conv_job *j, int pa,
                           int pb, bool one, ahead soon)
{
    int64_t next = j->xs[2] * j->stride;

    for (int64_t step = 0; step < j->cin / 32; step++, xa += pa * 64, xb += pa * 64) {
        const char *a0 = xa, *a1 = xb;
        for (int64_t tap = 0; tap < j->kw;
             tap++, a0 += j->xs[2], a1 += j->xs[2], w += pb * 2 * TILE) {
            for (int64_t i = 0; i < soon.bytes; i += 64) {
                __builtin_prefetch(soon.at + i);
            }
            soon.at += soon.bytes;
            for (int q = pb - 1; q >= 0; q--) {
                _tile_loadd(6, w + q * 2 * TILE, 64);
                _tile_loadd(7, w + q * 2 * TILE + TILE, 64);
                for (int p = pa - 1 < 2 - q ? pa - 1 : 2 - q; p >= 0; p--) {
                    _tile_loadd(4, a0 + p * 64, next);
                    _tile_dpbf16ps(0, 4, 6);
                    _tile_dpbf16ps(1, 4, 7);
                    if (!one) {
                        _tile_loadd(5, a1 + p * 64, next);
                        _tile_dpbf16ps(2, 5, 6);
                        _tile_dpbf16ps(3, 5, 7);
                    }
                }
            }
        }
    }
}

/* Two tiles of pixels and a block of channels. */
typedef struct amx_place {
    int64_t t;    /* frame */
    int64_t a, b; /* bytes from a frame's first tap to the tiles' */
    const char *w;
    int64_t nth, of; /* the how manieth block of how many for these pixels */
} amx_place;

/* All sums of two tiles (or one): sum [2][tile][32]. Meanwhile the same rows of the next column of
 * tiles are asked for, each block asking for its share. */
INLINE void amx_pair(float *sum, const conv_job *j, const amx_place *p, int pa, int pb, bool one)
{
    float *sum1 = sum + j->tile * 32;
    const char *w = p->w;
    int64_t column = j->tile * j->xs[2] * j->stride;
    int64_t share = j->ahead ? column / (p->of * j->cin / 32 * j->kw) : 0;

    amx_zero();
    for (int64_t dt = 0; dt < j->kt; dt++) {
        const char *x = j->x + (j->x0 + p->t + dt) % j->ring * j->xs[0];
        for (int64_t dr = 0; dr < j->kh; dr++, x += j->xs[1], w += j->row_bytes) {
            ahead soon = {x + p->a + column + p->nth * column / p->of, dr < 2 ? share : 0};
            amx_kernel_row(x + p->a, x + p->b, w, j, pa, pb, one, soon);
        }
    }
    _tile_stored(0, sum, 128);
    _tile_stored(1, sum + 16, 128);
    if (!one) {
        _tile_stored(2, sum1, 128);
        _tile_stored(3, sum1 + 16, 128);
    }
}

/* The inner loops are made for each count of parts. */
INLINE void amx_pair_of_parts(float *sum, const conv_job *j, const amx_place *p, bool one)
{
    switch (j->x_parts == 1 ? 0 : j->w_parts) {
    case 0: amx_pair(sum, j, p, 1, 1, one); break;
    case 1: amx_pair(sum, j, p, 3, 1, one); break;
    case 2: amx_pair(sum, j, p, 3, 2, one); break;
    default: amx_pair(sum, j, p, 3, 3, one); break;
    }
}

/* Asks for the lines that a tile's results go to: they come while its sums are computed. */
INLINE void expect_results(const conv_job *j, int64_t t, int64_t r, int64_t c0, int64_t o0)
{
    const char *y = j->y + t * j->ys[0] + r * j->ys[1] + c0 * j->ys[2] + o0 * j->y_size;

    for (int64_t i = 0; i < j->tile; i++) {
        for (int64_t k = 0; k < 32 * j->y_size; k += 64) {
            __builtin_prefetch(y + i * j->ys[2] + k, 1);
        }
    }
    if (j->residual != NULL && (const void *)j->residual != j->y) {
        const float *q = j->residual + t * j->rs[0] + r * j->rs[1] + c0 * j->rs[2] + o0;
        for (int64_t i = 0; i < j->tile; i++) {
            __builtin_prefetch(q + i * j->rs[2]);
            __builtin_prefetch(q + i * j->rs[2] + 16);
        }
    }
}

/* Blocks b0 .. b1 of channels for the tiles at column c0 of rows r and, unless `one`, r + 1; the
 * columns before `fresh` are another tile's. */
static void amx_tiles_at(const conv_job *j, int64_t t, int64_t r, int64_t c0, int64_t fresh,
                         bool one, int64_t b0, int64_t b1)
{
    float sum[2 * 16 * 32] __attribute__((aligned(64))), bias[NR];
    int64_t skip = fresh - c0;
    amx_place p = {.t = t, .a = (r * j->xs[1] + c0 * j->xs[2]) * j->stride, .of = b1 - b0};

    p.b = one ? p.a : p.a + j->xs[1] * j->stride;
    for (int64_t b = b0; b < b1; b++, p.nth++) {
        int64_t n = cvx_min_i64(NR, j->cout - b * NR);
        p.w = j->w_packed + b * j->kt * j->kh * j->row_bytes;
        expect_results(j, t, r, c0, b * NR);
        if (one) {
            amx_pair_of_parts(sum, j, &p, true);
        } else {
            expect_results(j, t, r + 1, c0, b * NR);
            amx_pair_of_parts(sum, j, &p, false);
        }
        block_bias(bias, j, b * NR, n);
        for (int i = 0; i < (one ? 1 : 2); i++) {
            conv_finish(j, sum + (i * j->tile + skip) * NR, bias, t, r + i, fresh, j->tile - skip,
                        b * NR, n);
        }
    }
}

/* One band of rows and one group of channel blocks, column of tiles by column of tiles: the weights
 * of a group stay in the L2 cache, and so do the pixels until all rows of the band had them. */
static void amx_conv_task(const conv_job *j, int64_t task)
{
    int64_t g = task % j->groups, r0 = task / j->groups % j->bands * j->band;
    int64_t t = task / j->groups / j->bands, r1 = cvx_min_i64(r0 + j->band, j->h);
    int64_t b0 = g * j->group, b1 = cvx_min_i64(b0 + j->group, conv_blocks(j->cout));

    for (int64_t c = 0; c < j->w; c += j->tile) {
        int64_t at = cvx_min_i64(c, j->w - j->tile); /* the last tile begins early */
        for (int64_t r = r0; r < r1; r += 2) {
            amx_tiles_at(j, t, r, at, c, r + 1 == r1, b0, b1);
        }
    }
}

/* Shares of the L2 cache: the weights that a task works with; the pixels of a column of tiles;
 * both, and the next column, if that is to be asked for ahead. */
#define GROUP_BYTES ((int64_t)512 << 10)
#define COLUMN_BYTES ((int64_t)512 << 10)
#define AHEAD_BYTES ((int64_t)1800 << 10)
#define MOST_ROWS 16

static void deal_parts(conv_job *j, const cvx_ctx *ctx, const conv_call *a)
{
    int64_t blocks = conv_blocks(j->cout), weights = j->kt * j->kh * j->row_bytes, row, rows;

    j->tile = cvx_min_i64(16, j->w);
    j->x_parts = row_parts(ctx);
    j->w_parts = amx_weight_parts(ctx, a->w, a->up2);
    j->group = cvx_min_i64(GROUP_BYTES / weights < 1 ? 1 : GROUP_BYTES / weights, blocks);
    j->groups = (blocks + j->group - 1) / j->group;
    row = j->kt * (j->tile * j->stride + j->kw - 1) * j->xs[2];
    rows = cvx_min_i64((COLUMN_BYTES / row - j->kh) / j->stride / 2 * 2, MOST_ROWS);
    rows = rows < 2 ? 2 : rows;
    j->ahead = 2 * row * (rows * j->stride + j->kh) + j->group * weights <= AHEAD_BYTES;
    while (rows > 2 && j->t * ((j->h + rows - 1) / rows) * j->groups < 4 * ctx->threads) {
        rows -= 2;
    }
    j->band = rows;
    j->bands = (j->h + rows - 1) / rows;
}

/* A convolution of f32 input. */
static cvx_status conv_of_f32(cvx_ctx *ctx, const conv_call *a)
{
    return conv_split(ctx, a, row_parts(ctx));
}
