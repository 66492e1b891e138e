/* Opening, and the two ways to send a video through: whole, or in overlapping tiles. */
#include "model/vae/vae.h"

#include <stdlib.h>
#include <string.h>

#include "model/vae/parts.h"

cvx_status cvx_vae_open(cvx_vae **out, const cvx_load *l, const cvx_vae_config *cfg)
{
    cvx_vae *v = calloc(1, sizeof *v);
    cvx_status st;

    if (v == NULL) {
        return cvx_fail(CVX_ENOMEM, "no memory for the VAE");
    }
    v->load = *l;
    v->cfg = *cfg;
    CVX_TRY(st, cvx_vae_load_coder(v, &v->enc, false), done);
    CVX_TRY(st, cvx_vae_load_coder(v, &v->dec, true), done);
    *out = v;
    v = NULL;
done:
    cvx_vae_close(v);
    return st;
}

void cvx_vae_close(cvx_vae *v)
{
    if (v != NULL) {
        cvx_vae_free_coder(&v->enc);
        cvx_vae_free_coder(&v->dec);
        free(v);
    }
}

void cvx_vae_set_tap(cvx_vae *v, cvx_vae_tap tap, void *payload)
{
    v->tap = tap;
    v->tap_payload = payload;
}

/* --- tiles --- */

/* Along one axis: a tile covers `tile` of the input, the next begins `stride` on; of its output
 * `keep` are kept, after `blend` were mixed with the tile before. */
typedef struct axis {
    int64_t tile, stride, blend, keep;
    int64_t up, down; /* output length = input · up / down */
} axis;

/* Python's int(x·(1 - f)) and int(x·f) in the same doubles. */
static axis make_axis(const cvx_vae_config *cfg, int64_t sample, double overlap, bool decode)
{
    int64_t scale = cvx_vae_spatial(cfg), latent = sample / scale;
    int64_t in = decode ? latent : sample, out = decode ? sample : latent;
    axis a = {.tile = in, .up = decode ? scale : 1, .down = decode ? 1 : scale};

    a.stride = (int64_t)((double)in * (1 - overlap));
    a.blend = (int64_t)((double)out * overlap);
    a.keep = out - a.blend;
    return a;
}

/* Whether the tiles of an input of n make an output without gaps or repeats. */
static bool aligned(const axis *a, int64_t n)
{
    if (a->tile < 1 || a->stride < 1 || a->stride % a->down != 0) {
        return false;
    }
    int64_t last = (n - 1) / a->stride * a->stride; /* start of the last tile */
    return (last == 0 || a->stride * a->up / a->down == a->keep) &&
           (n - last) * a->up / a->down <= a->keep;
}

static bool both_aligned(const cvx_vae_config *cfg, int64_t sample, double overlap, int64_t pixels)
{
    axis dec = make_axis(cfg, sample, overlap, true), enc = make_axis(cfg, sample, overlap, false);

    return aligned(&dec, pixels / cvx_vae_spatial(cfg)) && aligned(&enc, pixels);
}

typedef struct tile_plan {
    int64_t sample[2];
    double overlap[2];
} tile_plan;

static tile_plan plan_tiles(const cvx_vae_config *cfg, const cvx_vae_tiling *t)
{
    return (tile_plan){
        .sample = {t->sample_min_height > 0 ? t->sample_min_height : cfg->sample_height / 2,
                   t->sample_min_width > 0 ? t->sample_min_width : cfg->sample_width / 2},
        .overlap = {t->overlap_factor_height > 0 ? t->overlap_factor_height : 1.0 / 6,
                    t->overlap_factor_width > 0 ? t->overlap_factor_width : 1.0 / 5}};
}

/* Whether a video of h x w pixels is large enough to be cut. */
static bool is_tiled(const cvx_vae_config *cfg, const cvx_vae_tiling *t, int64_t h, int64_t w)
{
    if (t == NULL || !t->enabled) {
        return false;
    }
    tile_plan p = plan_tiles(cfg, t);
    int64_t scale = cvx_vae_spatial(cfg);
    return h / scale > p.sample[0] / scale || w / scale > p.sample[1] / scale;
}

/* The aligned tile size nearest to `sample`, 0 if there is none. */
static int64_t nearest_tile(const cvx_vae_config *cfg, int64_t sample, double overlap,
                            int64_t pixels)
{
    int64_t limit = pixels > sample ? pixels : sample;

    for (int64_t d = 0; d <= limit; d++) {
        if (sample - d > 0 && both_aligned(cfg, sample - d, overlap, pixels)) {
            return sample - d;
        }
        if (both_aligned(cfg, sample + d, overlap, pixels)) {
            return sample + d;
        }
    }
    return 0;
}

cvx_status cvx_vae_check_tiling(const cvx_vae_config *cfg, const cvx_vae_tiling *tiling, int64_t h,
                                int64_t w)
{
    static const char *const names[] = {"height", "width"};
    int64_t size[] = {h, w};

    if (!is_tiled(cfg, tiling, h, w)) {
        return CVX_OK;
    }
    tile_plan p = plan_tiles(cfg, tiling);
    for (int i = 0; i < 2; i++) {
        if (!(p.overlap[i] > 0 && p.overlap[i] < 1)) {
            return cvx_fail(CVX_EINVAL, "tile overlap factor %g in %s: it must lie between 0 and 1",
                            p.overlap[i], names[i]);
        }
        if (!both_aligned(cfg, p.sample[i], p.overlap[i], size[i])) {
            int64_t near = nearest_tile(cfg, p.sample[i], p.overlap[i], size[i]);
            return near > 0
                       ? cvx_fail(CVX_EINVAL,
                                  "tiles of %s %lld do not meet at overlap %.4g; the "
                                  "nearest that do: %lld",
                                  names[i], (long long)p.sample[i], p.overlap[i], (long long)near)
                       : cvx_fail(CVX_EINVAL,
                                  "tiles of %s %lld do not meet at overlap %.4g, and no "
                                  "other size does: use another overlap factor",
                                  names[i], (long long)p.sample[i], p.overlap[i]);
        }
    }
    return CVX_OK;
}

/* What is kept of finished tiles for the seams of the next ones. */
typedef struct seams {
    cvx_tensor *above;       /* per column: last rows of the tile above */
    cvx_tensor left;         /* last columns of the tile to the left */
    int64_t n_above, n_left; /* rows in above[], columns in left */
} seams;

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static cvx_status copy_view(cvx_ctx *ctx, const cvx_tensor *y, const cvx_tensor *x)
{
    return cvx_op_strided_copy(ctx, &(cvx_strided_copy_args){.y = y, .x = x});
}

/* Blends the first part of t along axis d (2 or 3) with the last part of `prev`, `blend` at most.
 */
static cvx_status blend_seam(cvx_ctx *ctx, const cvx_tensor *t, const cvx_tensor *prev,
                             int64_t prev_len, int d, int64_t blend)
{
    int64_t n = least(least(prev_len, t->dim[d]), blend), other = 5 - d;
    cvx_tensor y = cvx_slice(t, d, 0, n), x = cvx_slice(prev, d, prev_len - n, n);

    if (n == 0) {
        return CVX_OK;
    }
    x = cvx_slice(&x, (int)other, 0, t->dim[other]);
    return cvx_op_blend(ctx, &(cvx_blend_args){.y = &y, .x = &x, .axis = d});
}

/* Keeps the last `n` along axis d of t. */
static cvx_status keep_seam(cvx_ctx *ctx, const cvx_tensor *kept, const cvx_tensor *t, int d,
                            int64_t n)
{
    int64_t other = 5 - d;
    cvx_tensor x = cvx_slice(t, d, t->dim[d] - n, n), y = cvx_slice(kept, d, 0, n);

    y = cvx_slice(&y, (int)other, 0, t->dim[other]);
    return copy_view(ctx, &y, &x);
}

/* What a tile of this size counted when a plan was measured. */
typedef struct measured {
    int64_t size[2];
    int runs;
    cvx_op_stat counted[CVX_OP_COUNT];
} measured;
#define SIZES 16

typedef struct tiler {
    coding c;       /* x: the whole input */
    cvx_comm *deal; /* the ranks that the tiles are dealt to; c.comm is one rank's */
    axis axes[2];   /* height, width */
    int64_t cols, n;
    cvx_tensor out;        /* [F', C', H', W'], any strides; on rank 0 */
    cvx_tensor cur, other; /* room for one tile's output, dense: of this rank, of another one */
    seams s;               /* on rank 0 */
    measured *sizes;       /* SIZES of them, in measure mode; else NULL */
} tiler;

/* Where tile k lies in the input, and its output's view of `room`. */
static cvx_tensor tile_at(const tiler *t, int64_t k, const cvx_tensor *room, int64_t at[2],
                          int64_t size[2])
{
    const axis *v = &t->axes[0], *h = &t->axes[1];
    const int64_t *in = t->c.x->dim, *o = t->out.dim;

    at[0] = k / t->cols * v->stride;
    at[1] = k % t->cols * h->stride;
    size[0] = least(v->tile, in[2] - at[0]);
    size[1] = least(h->tile, in[3] - at[1]);
    return CVX_VIEW(room->data, CVX_F32, o[0], o[1], size[0] * v->up / v->down,
                    size[1] * h->up / h->down);
}

static cvx_status code_tile(const tiler *t, const int64_t at[2], const int64_t size[2],
                            const cvx_tensor *out)
{
    cvx_tensor x = cvx_slice(t->c.x, 2, at[0], size[0]);
    coding c = t->c;

    x = cvx_slice(&x, 3, at[1], size[1]);
    c.x = &x;
    c.out = out;
    return cvx_vae_code(&c);
}

/* In measure mode: tiles of one size count alike, so only two are walked (the first packs weights, too). A plan of a large
 * picture has many thousands. */
static cvx_status measure_tile(tiler *t, const int64_t at[2], const int64_t size[2],
                               const cvx_tensor *out)
{
    cvx_ctx *ctx = t->c.vae->load.ctx;
    cvx_op_stat before[CVX_OP_COUNT];
    measured *m = t->sizes;

    while (m < t->sizes + SIZES && m->runs > 0 &&
           (m->size[0] != size[0] || m->size[1] != size[1])) {
        m++;
    }
    if (m == t->sizes + SIZES) {
        return code_tile(t, at, size, out);
    }
    if (m->runs == 2) {
        for (int i = 0; i < CVX_OP_COUNT; i++) {
            ctx->stat[i].calls += m->counted[i].calls;
            ctx->stat[i].flops += m->counted[i].flops;
            ctx->stat[i].bytes += m->counted[i].bytes;
        }
        return CVX_OK;
    }
    memcpy(before, ctx->stat, sizeof before);
    CVX_RETURN_IF(code_tile(t, at, size, out));
    for (int i = 0; i < CVX_OP_COUNT; i++) {
        m->counted[i].calls = ctx->stat[i].calls - before[i].calls;
        m->counted[i].flops = ctx->stat[i].flops - before[i].flops;
        m->counted[i].bytes = ctx->stat[i].bytes - before[i].bytes;
    }
    memcpy(m->size, size, sizeof m->size);
    m->runs++;
    return CVX_OK;
}

/* This rank computes tile k. */
static cvx_status run_tile(tiler *t, int64_t k)
{
    int64_t at[2], size[2];
    cvx_tensor out = tile_at(t, k, &t->cur, at, size);

    return t->sizes != NULL ? measure_tile(t, at, size, &out) : code_tile(t, at, size, &out);
}

/* Tile k, in `room`, is blended with those above and to the left and put into its place. In the order of k. */
static cvx_status place_tile(tiler *t, int64_t k, const cvx_tensor *room)
{
    const axis *v = &t->axes[0], *h = &t->axes[1];
    cvx_ctx *ctx = t->c.vae->load.ctx;
    int64_t at[2], size[2], col = k % t->cols;
    cvx_tensor out = tile_at(t, k, room, at, size);

    if (at[0] > 0) {
        if (col == 0) { /* every tile above is as high */
            t->s.n_above = least(v->blend, v->tile * v->up / v->down);
        }
        CVX_RETURN_IF(blend_seam(ctx, &out, &t->s.above[col], t->s.n_above, 2, v->blend));
    }
    if (at[1] > 0) {
        CVX_RETURN_IF(blend_seam(ctx, &out, &t->s.left, t->s.n_left, 3, h->blend));
    }
    CVX_RETURN_IF(keep_seam(ctx, &t->s.above[col], &out, 2, least(v->blend, out.dim[2])));
    t->s.n_left = least(h->blend, out.dim[3]);
    CVX_RETURN_IF(keep_seam(ctx, &t->s.left, &out, 3, t->s.n_left));
    cvx_tensor to = cvx_slice(&t->out, 2, at[0] * v->up / v->down, least(v->keep, out.dim[2]));
    to = cvx_slice(&to, 3, at[1] * h->up / h->down, least(h->keep, out.dim[3]));
    out = cvx_slice(&out, 2, 0, to.dim[2]);
    out = cvx_slice(&out, 3, 0, to.dim[3]);
    return copy_view(ctx, &to, &out);
}

/* Tiles k0 .. k0 + ranks: rank r computes number k0 + r, rank 0 gets and places them. */
static cvx_status run_deal(tiler *t, int64_t k0)
{
    cvx_comm *c = t->deal;
    int64_t at[2], size[2], own = k0 + c->rank;

    CVX_RETURN_IF(cvx_comm_agree(c, own < t->n ? run_tile(t, own) : CVX_OK));
    if (c->rank > 0 && own < t->n) {
        cvx_tensor out = tile_at(t, own, &t->cur, at, size);
        return cvx_comm_sendrecv(c, out.data, 4 * cvx_numel(&out), 0, NULL, 0, -1);
    }
    for (int64_t k = k0; c->rank == 0 && k < k0 + c->size && k < t->n; k++) {
        const cvx_tensor *room = k == k0 ? &t->cur : &t->other;
        cvx_tensor out = tile_at(t, k, room, at, size);
        if (k > k0) {
            CVX_RETURN_IF(
                cvx_comm_sendrecv(c, NULL, 0, -1, out.data, 4 * cvx_numel(&out), (int)(k - k0)));
        }
        CVX_RETURN_IF(place_tile(t, k, room));
    }
    return CVX_OK;
}

/* Rooms and seams, in the step arena. */
static cvx_status open_tiles(tiler *t)
{
    const axis *v = &t->axes[0], *h = &t->axes[1];
    const int64_t *in = t->c.x->dim, *o = t->out.dim;
    cvx_arena *step = t->c.step;
    int64_t th = least(v->tile, in[2]) * v->up / v->down,
            tw = least(h->tile, in[3]) * h->up / h->down;

    CVX_RETURN_IF(CVX_ALLOC(step, &t->cur, CVX_F32, o[0] * o[1] * th * tw));
    if (t->deal->rank > 0) {
        return CVX_OK;
    }
    if (t->deal->size > 1) {
        CVX_RETURN_IF(CVX_ALLOC(step, &t->other, CVX_F32, o[0] * o[1] * th * tw));
    }
    CVX_RETURN_IF(CVX_ALLOC(step, &t->s.left, CVX_F32, o[0], o[1], th, least(h->blend, tw)));
    for (int64_t j = 0; j < t->cols; j++) {
        CVX_RETURN_IF(
            CVX_ALLOC(step, &t->s.above[j], CVX_F32, o[0], o[1], least(v->blend, th), tw));
    }
    return CVX_OK;
}

static cvx_status run_tiles(tiler *t)
{
    const axis *v = &t->axes[0], *h = &t->axes[1];
    const int64_t *in = t->c.x->dim;
    cvx_status st = CVX_OK;

    t->cols = (in[3] + h->stride - 1) / h->stride;
    t->n = (in[2] + v->stride - 1) / v->stride * t->cols;
    bool measure = t->c.vae->load.ctx->measure;
    t->s.above = calloc((size_t)t->cols, sizeof *t->s.above);
    t->sizes = measure ? calloc(SIZES, sizeof *t->sizes) : NULL;
    st = t->s.above != NULL && (t->sizes != NULL || !measure)
             ? open_tiles(t)
             : cvx_fail(CVX_ENOMEM, "no memory for %lld tiles", (long long)t->n);
    CVX_TRY(st, cvx_comm_agree(t->deal, st), done);
    for (int64_t k = 0; k < t->n; k += t->deal->size) {
        CVX_TRY(st, run_deal(t, k), done);
    }
done:
    free(t->sizes);
    free(t->s.above);
    return st;
}

static cvx_status code_tiled(const coding *c, const cvx_vae_tiling *tiling, const cvx_tensor *out)
{
    const cvx_vae_config *cfg = &c->vae->cfg;
    tile_plan p = plan_tiles(cfg, tiling);
    tiler t = {.c = *c, .deal = c->comm, .out = *out};

    for (int i = 0; i < 2; i++) {
        t.axes[i] = make_axis(cfg, p.sample[i], p.overlap[i], c->model->decoder);
    }
    CVX_RETURN_IF(cvx_comm_self(&t.c.comm));
    cvx_status st = run_tiles(&t);
    cvx_comm_close(t.c.comm);
    return st;
}

cvx_status cvx_vae_decode(cvx_vae *v, cvx_arena *step, const cvx_tensor *latents,
                          const cvx_vae_tiling *tiling, cvx_vae_sink sink, void *payload)
{
    const int64_t *d = latents->dim;
    int64_t scale = cvx_vae_spatial(&v->cfg), h = d[2] * scale, w = d[3] * scale;
    coding c = {.vae = v,
                .model = &v->dec,
                .comm = v->load.mesh->replica,
                .step = step,
                .x = latents,
                .sink = sink,
                .payload = payload};
    size_t mark = cvx_arena_mark(step);
    cvx_tensor video;
    bool first = c.comm->rank == 0;

    if (latents->ndim != 4 || d[1] != v->cfg.latent_channels || d[0] < 1 || d[2] < 1 || d[3] < 1) {
        char buf[128];
        return cvx_fail(CVX_EINTERNAL, "VAE decode: latents %s, needed [F, %lld, h, w]",
                        cvx_tensor_describe(latents, buf, sizeof buf),
                        (long long)v->cfg.latent_channels);
    }
    if (!is_tiled(&v->cfg, tiling, h, w)) {
        return cvx_vae_code(&c);
    }
    CVX_RETURN_IF(cvx_vae_check_tiling(&v->cfg, tiling, h, w));
    video = CVX_VIEW(NULL, CVX_F32, cvx_vae_video_frames(&v->cfg, d[0]), v->cfg.out_channels, h, w);
    cvx_status st = CVX_OK;
    if (first) {
        st = cvx_arena_alloc(step, &video.data, (size_t)(4 * cvx_numel(&video)));
    }
    CVX_RETURN_IF(cvx_comm_agree(c.comm, st));
    CVX_RETURN_IF(code_tiled(&c, tiling, &video));
    if (first) {
        st = cvx_vae_tell_sink(v->load.ctx, sink, payload, &video, 0);
    }
    cvx_arena_release(step, mark, false);
    return cvx_comm_agree(c.comm, st);
}

cvx_status cvx_vae_encode(cvx_vae *v, cvx_arena *step, const cvx_tensor *moments,
                          const cvx_tensor *video, const cvx_vae_tiling *tiling)
{
    const int64_t *d = video->dim, *m = moments->dim;
    int64_t scale = cvx_vae_spatial(&v->cfg);
    coding c = {
        .vae = v, .model = &v->enc, .comm = v->load.mesh->replica, .step = step, .x = video};
    size_t mark = cvx_arena_mark(step);
    cvx_tensor out = *moments; /* as [F', C', h, w] */

    if (d[2] % scale != 0 || d[3] % scale != 0) {
        return cvx_fail(CVX_EINVAL, "VAE encode: %lldx%lld pixels; both must be multiples of %lld",
                        (long long)d[3], (long long)d[2], (long long)scale);
    }
    if (moments->ndim != 4 || m[0] != 2 * v->cfg.latent_channels || d[1] != v->cfg.in_channels ||
        m[1] != cvx_vae_latent_frames(&v->cfg, d[0]) || m[2] != d[2] / scale ||
        m[3] != d[3] / scale) {
        char a[128], b[128];
        return cvx_fail(CVX_EINTERNAL, "VAE encode: moments %s for a video %s",
                        cvx_tensor_describe(moments, a, sizeof a),
                        cvx_tensor_describe(video, b, sizeof b));
    }
    out.dim[0] = m[1], out.dim[1] = m[0];
    out.stride[0] = moments->stride[1], out.stride[1] = moments->stride[0];
    c.out = &out;
    if (!is_tiled(&v->cfg, tiling, d[2], d[3])) {
        return cvx_vae_code(&c);
    }
    CVX_RETURN_IF(cvx_vae_check_tiling(&v->cfg, tiling, d[2], d[3]));
    CVX_RETURN_IF(code_tiled(&c, tiling, &out));
    cvx_arena_release(step, mark, false);
    return CVX_OK;
}
