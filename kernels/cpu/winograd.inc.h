/* 3 x 3 convolution of pictures by Winograd's minimal filtering F(4 x 4, 3 x 3) (Lavin and Gray 2016, arXiv 1509.09308):
 * an output tile of 4 x 4 pixels is A^T [(G g G^T) · (B^T d B)] A of a 6 x 6 piece d of the input, 36 products for 144.
 * The matrices are Toom and Cook's for the points 0, ±a, ±b and infinity. With a = 1/sqrt(2), b = sqrt(2) the entries
 * stay small (the greatest is 2 sqrt(2)), and rounding is some seven times that of the plain sum: op_image.c has the bound.
 * Part of a level file; see vec.h.
 *
 * A tile's bits depend on its 36 input pixels alone (what lies outside of the call counts as zero): neither on threads
 * nor on how tiles are dealt. Sums run over the input channels in ascending order. */

#define WINO_POINTS 36
/* Tiles of a task, at most: with 64 channels their transforms fill half of a 1 MiB cache. */
#define WINO_TILES 24
/* Added to the rows of a point's matrix, in floats: else all points' rows fall into few sets of a cache. */
#define WINO_SKEW 16

#define WINO_A 0x1.6a09e667f3bcdp-1 /* 1 / sqrt(2) */
#define WINO_B 0x1.6a09e667f3bcdp+0 /* sqrt(2) */

/* Whether a picture's weight is worth it and fits the vectors. */
static bool wino_takes(const cvx_ctx *ctx, const cvx_tensor *w)
{
    return !takes_parts(ctx, w) && w->dim[2] == 1 && w->dim[3] == 3 && w->dim[4] == 3 &&
           w->dim[1] % VW == 0 && w->dim[1] >= 32 && w->dim[0] >= 16;
}

static size_t wino_block_bytes(const cvx_tensor *w)
{
    return (size_t)(WINO_POINTS * w->dim[1] * NR) * sizeof(float);
}

/* out [6] <- G g: the polynomial g0 + g1 p + g2 p^2 at the points, each over the product of its distances to the
 * others. */
static void wino_filter(double out[6], double g0, double g1, double g2)
{
    const double a = WINO_A, b = WINO_B;
    double na = 2 * a * a * (a * a - b * b), nb = 2 * b * b * (b * b - a * a);

    out[0] = g0 / (a * a * b * b);
    out[1] = (g0 + a * g1 + a * a * g2) / na;
    out[2] = (g0 - a * g1 + a * a * g2) / na;
    out[3] = (g0 + b * g1 + b * b * g2) / nb;
    out[4] = (g0 - b * g1 + b * b * g2) / nb;
    out[5] = g2;
}

/* out [36][cin][NR] <- G g G^T of a block of output channels, from its taps [tap][cin][NR]. */
static void wino_fold_block(float *out, const float *taps, int64_t cin)
{
    int64_t n = cin * NR;

    for (int64_t i = 0; i < n; i++) {
        double half[3][6], u[6];
        for (int c = 0; c < 3; c++) { /* along each column of the taps */
            wino_filter(half[c], taps[c * n + i], taps[(3 + c) * n + i], taps[(6 + c) * n + i]);
        }
        for (int r = 0; r < 6; r++) {
            wino_filter(u, half[0][r], half[1][r], half[2][r]);
            for (int c = 0; c < 6; c++) {
                out[(r * 6 + c) * n + i] = (float)u[c];
            }
        }
    }
}

/* y <- B^T d of six vectors; y may be d. */
INLINE void wino_input(vf y[6], const vf d[6])
{
    const vf a = vset1((float)WINO_A), b = vset1((float)WINO_B);
    vf even = vfma(vset1(-2), d[2], d[4]), odd = vfma(a, d[3], -b * d[1]);
    vf even2 = vfma(vset1(-0.5f), d[2], d[4]), odd2 = vfma(b, d[3], -a * d[1]);
    vf first = vfma(vset1(-2.5f), d[2], d[0]) + d[4];
    vf last = vfma(vset1(-2.5f), d[3], d[1]) + d[5];

    y[0] = first;
    y[1] = even + odd;
    y[2] = even - odd;
    y[3] = even2 + odd2;
    y[4] = even2 - odd2;
    y[5] = last;
}

/* y [4] <- A^T m of six vectors. */
INLINE void wino_output(vf y[4], const vf m[6])
{
    const float a = (float)WINO_A, b = (float)WINO_B;
    vf sa = m[1] + m[2], da = m[1] - m[2], sb = m[3] + m[4], db = m[3] - m[4];

    y[0] = m[0] + sa + sb;
    y[1] = vfma(vset1(b), db, vset1(a) * da);
    y[2] = vfma(vset1(2), sb, vset1(0.5f) * sa);
    y[3] = vfma(vset1(2 * b), db, vset1(0.5f * a) * da) + m[5];
}

/* One call: its tiles, in rows of `across`. */
typedef struct wino_job {
    const conv_job *j;
    int64_t down, across, tiles; /* of a picture; of all pictures */
    int64_t task;                /* tiles of a task: a multiple of MR */
    int64_t in_step, out_step;   /* floats from point to point: of the inputs and of the sums */
    int64_t x_rows, x_cols;      /* of the input that are there */
} wino_job;

static wino_job wino_make(const conv_job *j, const cvx_tensor *x, int threads)
{
    wino_job w = {.j = j,
                  .down = (j->h + 3) / 4,
                  .across = (j->w + 3) / 4,
                  .x_rows = x->dim[1],
                  .x_cols = x->dim[2]};

    w.tiles = j->t * w.down * w.across;
    w.task = cvx_round_up((w.tiles + 4 * threads - 1) / (4 * threads), MR);
    w.task = cvx_min_i64(w.task, WINO_TILES);
    w.in_step = w.task * j->cin + WINO_SKEW;
    w.out_step = w.task * NR + WINO_SKEW;
    return w;
}

/* Floats of scratch that one thread needs. */
static int64_t wino_scratch(const wino_job *w)
{
    return cvx_round_up(WINO_POINTS * (w->in_step + w->out_step), 16);
}

/* Where tile i lies: its picture, and its first output pixel. */
INLINE void wino_place(const wino_job *w, int64_t i, int64_t *t, int64_t *r, int64_t *c)
{
    *t = i / (w->down * w->across);
    *r = i / w->across % w->down * 4;
    *c = i % w->across * 4;
}

/* B^T d B of one vector of channels: v [point], in_step apart. rows, cols: of d that are there. */
INLINE void wino_piece(float *v, int64_t step, const char *x, const int64_t xs[3], int64_t rows,
                       int64_t cols)
{
    vf d[6][6];

#pragma GCC unroll 6
    for (int c = 0; c < 6; c++) {
        vf col[6];
#pragma GCC unroll 6
        for (int r = 0; r < 6; r++) {
            const float *p = (const float *)(const void *)(x + r * xs[1] + c * xs[2]);
            col[r] = r < rows && c < cols ? vload(p) : vset1(0);
        }
        wino_input(col, col);
#pragma GCC unroll 6
        for (int r = 0; r < 6; r++) {
            d[r][c] = col[r];
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < 6; r++) {
        wino_input(d[r], d[r]);
#pragma GCC unroll 6
        for (int c = 0; c < 6; c++) {
            vstore(v + (r * 6 + c) * step, d[r][c]);
        }
    }
}

/* in [point][tile][cin] <- the transforms of tiles first .. first + n. */
static void wino_gather(const wino_job *w, float *in, int64_t first, int64_t n)
{
    const conv_job *j = w->j;

    for (int64_t i = 0; i < n; i++) {
        int64_t t, r, c;
        wino_place(w, first + i, &t, &r, &c);
        const char *x = j->x + t * j->xs[0] + r * j->xs[1] + c * j->xs[2];
        int64_t rows = w->x_rows - r, cols = w->x_cols - c;
        for (int64_t k = 0; k < j->cin; k += VW) {
            float *v = in + i * j->cin + k;
            const char *p = x + k * (int64_t)sizeof(float);
            if (rows >= 6 && cols >= 6) {
                wino_piece(v, w->in_step, p, j->xs, 6, 6);
            } else {
                wino_piece(v, w->in_step, p, j->xs, rows, cols);
            }
        }
    }
}

/* sums [point][tile][NR] <- in · u [point][cin][NR]. Rows past n are computed of what was there and not used. */
static void wino_products(const wino_job *w, float *sums, const float *in, const float *u,
                          int64_t n)
{
    int64_t cin = w->j->cin;

    for (int64_t p = 0; p < WINO_POINTS; p++) {
        for (int64_t i = 0; i < n; i += MR) {
            vf acc[MR][2];
            float *to = sums + p * w->out_step + i * NR;
#pragma GCC unroll 16
            for (int k = 0; k < MR; k++) {
                acc[k][0] = acc[k][1] = vset1(0);
            }
            conv_micro(acc, 2, in + p * w->in_step + i * cin, cin, u + p * cin * NR, cin, false);
#pragma GCC unroll 16
            for (int k = 0; k < MR; k++) {
                vstore(to + k * NR, acc[k][0]);
                vstore(to + k * NR + VW, acc[k][1]);
            }
        }
    }
}

/* out [4][4][NR] <- A^T m A of one tile and vector of channels, m `step` floats from point to point. */
INLINE void wino_tile(float *out, const float *m, int64_t step)
{
    vf half[4][6], y[4];

#pragma GCC unroll 6
    for (int c = 0; c < 6; c++) {
        vf col[6];
#pragma GCC unroll 6
        for (int r = 0; r < 6; r++) {
            col[r] = vload(m + (r * 6 + c) * step);
        }
        wino_output(y, col);
#pragma GCC unroll 4
        for (int r = 0; r < 4; r++) {
            half[r][c] = y[r];
        }
    }
#pragma GCC unroll 4
    for (int r = 0; r < 4; r++) {
        wino_output(y, half[r]);
#pragma GCC unroll 4
        for (int c = 0; c < 4; c++) {
            vstore(out + (r * 4 + c) * NR, y[c]);
        }
    }
}

/* Block b of the output channels of tiles first .. first + n, from their sums. */
static void wino_scatter(const wino_job *w, const float *sums, int64_t b, int64_t first, int64_t n)
{
    const conv_job *j = w->j;
    int64_t channels = cvx_min_i64(NR, j->cout - b * NR);
    float bias[NR], out[16 * NR];

    block_bias(bias, j, b * NR, channels);
    for (int64_t i = 0; i < n; i++) {
        int64_t t, r, c;
        wino_place(w, first + i, &t, &r, &c);
        wino_tile(out, sums + i * NR, w->out_step);
        wino_tile(out + VW, sums + i * NR + VW, w->out_step);
        for (int64_t k = 0; k < 4 && r + k < j->h; k++) {
            conv_finish(j, out + k * 4 * NR, bias, t, r + k, c, cvx_min_i64(4, j->w - c), b * NR,
                        channels);
        }
    }
}

static void wino_task(const wino_job *w, float *scratch, int64_t first)
{
    const conv_job *j = w->j;
    int64_t n = cvx_min_i64(w->task, w->tiles - first), block = WINO_POINTS * j->cin * NR;
    float *sums = scratch + WINO_POINTS * w->in_step;

    wino_gather(w, scratch, first, n);
    for (int64_t b = 0; b < conv_blocks(j->cout); b++) {
        wino_products(w, sums, scratch, (const float *)(const void *)j->w_packed + b * block, n);
        wino_scatter(w, sums, b, first, n);
    }
}

static cvx_status wino_conv(cvx_ctx *ctx, const conv_call *a)
{
    conv_job j = make_conv_job(ctx, a, 0);
    wino_job w = wino_make(&j, a->x, ctx->threads);
    int64_t room = wino_scratch(&w);
    void *scratch;

    CVX_RETURN_IF(cvx_cpu_scratch(ctx, &scratch, (size_t)(ctx->threads * room) * sizeof(float)));
#pragma omp parallel for num_threads(ctx->threads) schedule(dynamic, 1)
    for (int64_t i = 0; i < w.tiles; i += w.task) {
        wino_task(&w, (float *)scratch + omp_get_thread_num() * room, i);
    }
    return CVX_OK;
}
