#include <stdlib.h>
#include <string.h>

#include "kernels/transfer.h"
#include "model/esrgan/esrgan.h"

/* Source pixels of a piece, margins included: some 250 and 600 MB of activations. */
#define SRVGG_PIXELS 190000
#define RRDB_PIXELS 250000

/* An RRDBNet sees hundreds of pixels far, but what lies beyond this many changes nothing by 1/255: measured, see
 * docs/stages.md. */
static int64_t rrdb_margin(int64_t blocks)
{
    return 40 + 4 * blocks;
}

cvx_esrgan_tiling cvx_esrgan_default_tiling(const cvx_esrgan_config *cfg)
{
    int64_t reach = cfg->convs + 2; /* of SRVGG: all that it sees */

    if (cfg->kind == CVX_ESRGAN_RRDB) {
        int64_t all = 15 * cfg->blocks + 6, enough = rrdb_margin(cfg->blocks);
        reach = all < enough ? all : enough;
    }
    return (cvx_esrgan_tiling){.margin = reach};
}

cvx_status cvx_esrgan_check_tiling(const cvx_esrgan_tiling *t)
{
    if (t->tile != 0 && (t->tile < 16 || t->overlap < 0 || t->overlap > t->tile / 2)) {
        return cvx_fail(CVX_EINVAL,
                        "tiles of %lld with an overlap of %lld; a tile is 16 pixels or more, its "
                        "overlap at most half of it",
                        (long long)t->tile, (long long)t->overlap);
    }
    if (t->margin < 0 || t->margin > 4096 || (t->tile == 0 && t->overlap != 0)) {
        return cvx_fail(CVX_EINVAL, "tile margin %lld, overlap %lld without a tile size",
                        (long long)t->margin, (long long)t->overlap);
    }
    return CVX_OK;
}

/* Sizes of a grid's pieces. */
typedef struct grid {
    int64_t h, w; /* of a tile */
    int64_t step_h, step_w;
    int64_t overlap, margin;
} grid;

/* The longest of n even pieces of a side, with its margins: one piece has none, of two each has one. */
static int64_t extent(int64_t side, int64_t n, int64_t margin)
{
    return (side + n - 1) / n + (n == 1 ? 0 : n == 2 ? margin : 2 * margin);
}

/* The cut into nh x nw even pieces, none too large, that computes the fewest pixels. */
static grid even_grid(int64_t h, int64_t w, int64_t margin, int64_t most)
{
    int64_t least = INT64_MAX, n[2] = {h, w}; /* should nothing fit: pieces of one pixel */

    for (int64_t nh = 1; nh <= h && nh <= 256; nh++) {
        for (int64_t nw = 1; nw <= w && nw <= 256; nw++) {
            int64_t pixels = extent(h, nh, margin) * extent(w, nw, margin);
            if (pixels <= most && pixels * nh * nw < least) {
                least = pixels * nh * nw;
                n[0] = nh;
                n[1] = nw;
            }
        }
    }
    int64_t th = (h + n[0] - 1) / n[0], tw = (w + n[1] - 1) / n[1];
    return (grid){.h = th, .w = tw, .step_h = th, .step_w = tw, .margin = margin};
}

static grid make_grid(const cvx_esrgan_config *cfg, const cvx_esrgan_tiling *t, int64_t h,
                      int64_t w)
{
    int64_t most = cfg->kind == CVX_ESRGAN_SRVGG ? SRVGG_PIXELS : RRDB_PIXELS;

    if (t->tile == 0) {
        return even_grid(h, w, t->margin, most);
    }
    return (grid){.h = t->tile,
                  .w = t->tile,
                  .step_h = t->tile - t->overlap,
                  .step_w = t->tile - t->overlap,
                  .overlap = t->overlap,
                  .margin = t->margin};
}

/* One axis of a tile: its pixels in the picture and, with margins, those that are read. */
typedef struct span {
    int64_t at, len, from, read;
} span;

static span make_span(int64_t at, int64_t n, int64_t tile, int64_t overlap, int64_t margin)
{
    span s = {.at = at < n - overlap ? at : n - overlap > 0 ? n - overlap : 0};

    s.len = n - s.at < tile ? n - s.at : tile;
    s.from = s.at > margin ? s.at - margin : 0;
    s.read = (s.at + s.len + margin < n ? s.at + s.len + margin : n) - s.from;
    return s;
}

/* Weight of pixel i of n: up from the start and down to the end over `ramp` pixels; both where a tile is narrow. */
static float weight(int64_t i, int64_t n, int64_t ramp)
{
    float a = i < ramp ? (float)(i + 1) / (float)ramp : 1;
    float b = n - 1 - i < ramp ? (float)(n - i) / (float)ramp : 1;

    return a * b;
}

static float clamp01(float v)
{
    return v < 0 ? 0 : v > 1 ? 1 : v;
}

typedef struct picture {
    cvx_esrgan *m;
    cvx_ctx *ctx;
    cvx_arena *step;
    float *y, *sum; /* sum: weights so far; NULL without overlap */
    const float *x;
    int64_t h, w, f; /* f: the network's factor */
    grid g;
} picture;

/* Row r of a tile's core (p [len·f, 3]) into the picture. */
static void put_row(const picture *p, const float *from, const span *sr, const span *sc, int64_t r)
{
    int64_t n = sc->len * p->f, at = (sr->at * p->f + r) * p->w * p->f + sc->at * p->f;
    float *y = p->y + at * 3, *sum = p->sum + at;

    if (p->sum == NULL) {
        memcpy(y, from, (size_t)(n * 3) * sizeof *y);
        return;
    }
    float wr = weight(r, sr->len * p->f, p->g.overlap * p->f);
    for (int64_t i = 0; i < n; i++) {
        float k = wr * weight(i, n, p->g.overlap * p->f);
        for (int c = 0; c < 3; c++) {
            y[3 * i + c] += clamp01(from[3 * i + c]) * k;
        }
        sum[i] += k;
    }
}

static cvx_status run_tile(const picture *p, span sr, span sc)
{
    size_t mark = cvx_arena_mark(p->step);
    int64_t f = p->f;
    cvx_tensor x, y;
    float *in = malloc((size_t)(sr.read * sc.read * 3) * sizeof *in);
    float *out = malloc((size_t)(sr.read * sc.read * f * f * 3) * sizeof *out);
    cvx_status st = CVX_OK;

    if (in == NULL || out == NULL) {
        st = cvx_fail(CVX_ENOMEM, "no memory for a tile of %lldx%lld", (long long)sc.read,
                      (long long)sr.read);
        goto done;
    }
    CVX_TRY(st, CVX_ALLOC(p->step, &x, CVX_F32, sr.read, sc.read, 3), done);
    CVX_TRY(st, CVX_ALLOC(p->step, &y, CVX_F32, sr.read * f, sc.read * f, 3), done);
    for (int64_t r = 0; r < sr.read && !p->ctx->measure; r++) {
        memcpy(in + r * sc.read * 3, p->x + ((sr.from + r) * p->w + sc.from) * 3,
               (size_t)(sc.read * 3) * sizeof *in);
    }
    cvx_upload(p->ctx, &x, in);
    CVX_TRY(st, cvx_esrgan_run(p->m, p->step, &y, &x), done);
    cvx_download(p->ctx, out, &y);
    for (int64_t r = 0; r < sr.len * f && !p->ctx->measure; r++) {
        int64_t row = (sr.at - sr.from) * f + r, col = (sc.at - sc.from) * f;
        put_row(p, out + (row * sc.read * f + col) * 3, &sr, &sc, r);
    }
    cvx_arena_release(p->step, mark, false);
done:
    free(in);
    free(out);
    return st;
}

static cvx_status run_tiles(picture *p)
{
    const grid *g = &p->g;

    for (int64_t r = 0; r < p->h; r += g->step_h) {
        for (int64_t c = 0; c < p->w; c += g->step_w) {
            CVX_RETURN_IF(run_tile(p, make_span(r, p->h, g->h, g->overlap, g->margin),
                                   make_span(c, p->w, g->w, g->overlap, g->margin)));
        }
    }
    for (int64_t i = 0; p->sum != NULL && i < p->h * p->w * p->f * p->f && !p->ctx->measure; i++) {
        for (int c = 0; c < 3; c++) {
            p->y[3 * i + c] /= p->sum[i];
        }
    }
    return CVX_OK;
}

cvx_status cvx_esrgan_tiled(cvx_esrgan *m, cvx_arena *step, float *y, const float *x, int64_t h,
                            int64_t w, const cvx_esrgan_tiling *t)
{
    const cvx_esrgan_config *cfg = cvx_esrgan_config_of(m);
    int64_t n = h * w * cfg->factor * cfg->factor;
    picture p = {.m = m,
                 .ctx = cvx_esrgan_ctx(m),
                 .step = step,
                 .y = y,
                 .x = x,
                 .h = h,
                 .w = w,
                 .f = cfg->factor,
                 .g = make_grid(cfg, t, h, w)};

    CVX_RETURN_IF(cvx_esrgan_check_tiling(t));
    if (p.g.overlap > 0) {
        p.sum = calloc((size_t)n, sizeof *p.sum);
        if (p.sum == NULL) {
            return cvx_fail(CVX_ENOMEM, "no memory for the seams of a picture");
        }
        if (!p.ctx->measure) {
            memset(y, 0, (size_t)(3 * n) * sizeof *y);
        }
    }
    cvx_status st = run_tiles(&p);
    free(p.sum);
    return st;
}
