/* One coder (encoder or decoder) run over the chunks of a video.
 *
 * Activations are [t, h, w, c]. Only whole layers' results stand in memory; what a 3x3x3
 * convolution reads is normalized frame by frame into a ring with zero borders, in which the two
 * frames before the first are the last two of the previous chunk (or the first frame again, at the
 * start of the video).
 *
 * Over several ranks each holds a band of rows, on every level those of its latent rows, and nothing else changes: the
 * border rows between bands come from the neighbours, the rows' sums of a group norm from all ranks. */
#include <stdlib.h>
#include <string.h>

#include "kernels/memory.h"
#include "kernels/transfer.h"
#include "model/vae/parts.h"
#include "model/vae/pool.h"
#include "parallel/halo.h"

/* Frames of a ring beyond this many bytes are not kept: the more frames a call of conv3d has, the
 * less of its work is repeated at the seams, and the more memory the ring takes. */
#define RING_BYTES ((int64_t)96 << 20)

typedef struct run {
    const coding *job;
    cvx_ctx *ctx;
    cvx_comm *comm;         /* the ranks that have rows */
    int64_t rows, rows_all; /* latent rows of this rank's band, and of the picture */
    pool pool;
    cvx_tensor
        *cache; /* [2, h + 2, w + 2, c] per causal convolution; data NULL before its first use */
    bool first, last; /* chunk */
    cvx_tensor z;     /* the chunk's latents [t, h, w, c]: spatial norm reads them; decoder only */
} run;

/* An activation with `lo` border pixels above and left of it and `hi` below and right. */
typedef struct act {
    cvx_tensor t, whole; /* the inside; with its borders */
    int end;             /* of the pool */
    size_t below;        /* pool.used[end] before it */
} act;

static cvx_tensor inside(const cvx_tensor *whole, int lo, int hi)
{
    cvx_tensor t = cvx_slice(whole, 1, lo, whole->dim[1] - lo - hi);
    return cvx_slice(&t, 2, lo, t.dim[2] - lo - hi);
}

/* Zeros `len` rows or columns from `start` on. */
static void zero_edge(run *r, const cvx_tensor *whole, int dim, int64_t start, int64_t len)
{
    cvx_tensor to = cvx_slice(whole, dim, start, len);

    cvx_zero(r->ctx, &to);
}

static void zero_borders(run *r, const cvx_tensor *whole, int lo, int hi)
{
    for (int d = 1; d <= 2; d++) {
        zero_edge(r, whole, d, 0, lo);
        zero_edge(r, whole, d, whole->dim[d] - hi, hi);
    }
}

static cvx_status new_act(run *r, act *out, int end, int lo, int hi, const int64_t dim[4])
{
    act a = {.end = end, .below = r->pool.used[end]};

    CVX_RETURN_IF(POOL_ALLOC(&r->pool, &a.whole, end, CVX_F32, dim[0], dim[1] + lo + hi,
                             dim[2] + lo + hi, dim[3]));
    a.t = inside(&a.whole, lo, hi);
    *out = a;
    zero_borders(r, &a.whole, lo, hi);
    return CVX_OK;
}
#define NEW_ACT(r, out, end, lo, hi, ...)                                                          \
    new_act((r), (out), (end), (lo), (hi), (const int64_t[4]){__VA_ARGS__})

/* Gives back an activation and whatever was allocated after it at its end. */
static void drop_act(run *r, const act *a)
{
    r->pool.used[a->end] = a->below;
}

/* Fills the borders of frames first .. first + n of `whole` from the neighbours' bands. Scratch is taken at `end`. */
static cvx_status fill_halo(run *r, const cvx_tensor *whole, int64_t first, int64_t n, bool above,
                            bool below, int end)
{
    const cvx_halo h = {.whole = *whole, .first = first, .n = n, .above = above, .below = below};
    size_t mark = r->pool.used[end];
    void *scratch = NULL;

    if (r->comm->size == 1) {
        return CVX_OK;
    }
    CVX_RETURN_IF(cvx_pool_alloc(&r->pool, &scratch, end, cvx_halo_bytes(&h)));
    CVX_RETURN_IF(cvx_halo_exchange(r->ctx, r->comm, &h, scratch));
    r->pool.used[end] = mark;
    return CVX_OK;
}

/* The band of rank i where this rank's has `rows` rows. */
static cvx_shard band(const run *r, int64_t rows, int i)
{
    int64_t scale = rows / r->rows; /* every level has whole latent rows */
    cvx_shard s = cvx_shard_of(r->rows_all, r->comm->size, i);
    return (cvx_shard){s.start * scale, s.len * scale};
}

static cvx_status copy_frames(run *r, const cvx_tensor *y, const cvx_tensor *x)
{
    if (x->dtype == y->dtype && x->dtype != CVX_F32) {
        cvx_copy(r->ctx, y, x);
        return CVX_OK;
    }
    return cvx_op_strided_copy(r->ctx, &(cvx_strided_copy_args){.y = y, .x = x});
}

/* --- norms --- */

/* A norm with the chunk's statistics and its latents' maps. */
typedef struct ready {
    const norm *n;
    cvx_tensor stats, zy, zb;
    int64_t height;
    int64_t tmap[CVX_VAE_MAX_CHUNK];
} ready;

/* 1x1x1 convolution of the latents for a spatial norm. */
static cvx_status map_latents(run *r, cvx_tensor *out, int end, const conv *c)
{
    const int64_t *z = r->z.dim;

    CVX_RETURN_IF(POOL_ALLOC(&r->pool, out, end, CVX_F32, z[0], z[1], z[2], c->w.dim[0]));
    return cvx_op_conv3d(
        r->ctx, &(cvx_conv3d_args){.y = out, .x = &r->z, .w = &c->w, .b = &c->b, .stride = 1});
}

/* all [t, rows of the picture, groups, 2] <- every rank's sums [t, rows of its band, groups, 2]. */
static cvx_status gather_sums(run *r, cvx_tensor *all, int end, const cvx_tensor *sums)
{
    const int64_t *d = sums->dim;
    int64_t row = d[2] * 2 * (int64_t)sizeof(double), bytes[CVX_MAX_RANKS], at[CVX_MAX_RANKS];
    int64_t height = band(r, d[1], r->comm->size - 1).start + band(r, d[1], r->comm->size - 1).len;
    cvx_tensor blocks;

    CVX_RETURN_IF(POOL_ALLOC(&r->pool, all, end, CVX_F64, d[0], height, d[2], 2));
    CVX_RETURN_IF(POOL_ALLOC(&r->pool, &blocks, end, CVX_F64, d[0], height, d[2], 2));
    for (int i = 0; i < r->comm->size; i++) {
        cvx_shard b = band(r, d[1], i);
        bytes[i] = d[0] * b.len * row;
        at[i] = d[0] * b.start * row;
    }
    CVX_RETURN_IF(
        cvx_comm_allgatherv(r->comm, sums->data, bytes[r->comm->rank], blocks.data, bytes, at));
    for (int i = 0; i < r->comm->size; i++) {
        cvx_shard b = band(r, d[1], i);
        for (int64_t t = 0; t < d[0]; t++) {
            char *from = (char *)blocks.data + at[i] + t * b.len * row;
            char *to = (char *)all->data + (t * height + b.start) * row;
            cvx_tensor src = CVX_VIEW(from, CVX_U8, b.len * row),
                       dst = CVX_VIEW(to, CVX_U8, b.len * row);
            cvx_copy(r->ctx, &dst, &src);
        }
    }
    return CVX_OK;
}

/* Statistics of x over the chunk; everything is allocated at `end`. */
static cvx_status prepare_norm(run *r, ready *out, int end, const norm *n, const cvx_tensor *x)
{
    const int64_t *d = x->dim;
    int64_t groups = r->job->vae->cfg.norm_num_groups, tz = r->z.dim[0];
    cvx_tensor sums, all;

    CVX_ASSERT(d[0] <= CVX_VAE_MAX_CHUNK);
    out->n = n;
    out->height = d[1];
    CVX_RETURN_IF(POOL_ALLOC(&r->pool, &out->stats, end, CVX_F64, groups, 2));
    if (n->spatial) {
        CVX_RETURN_IF(map_latents(r, &out->zy, end, &n->y));
        CVX_RETURN_IF(map_latents(r, &out->zb, end, &n->b));
        /* nearest in time; the first frame of an odd chunk has a latent frame of its own */
        int64_t odd = d[0] > 1 && d[0] % 2 == 1 ? 1 : 0;
        for (int64_t t = 0; t < d[0]; t++) {
            out->tmap[t] = t < odd ? 0 : odd + (t - odd) * (tz - odd) / (d[0] - odd);
        }
    }
    size_t mark = r->pool.used[end];
    CVX_RETURN_IF(POOL_ALLOC(&r->pool, &sums, end, CVX_F64, d[0], d[1], groups, 2));
    CVX_RETURN_IF(
        cvx_op_group_norm_stats(r->ctx, &(cvx_group_norm_stats_args){.sums = &sums, .x = x}));
    all = sums;
    if (r->comm->size > 1) {
        CVX_RETURN_IF(gather_sums(r, &all, end, &sums));
    }
    CVX_RETURN_IF(cvx_op_group_norm_finish(
        r->ctx, &(cvx_group_norm_finish_args){.stats = &out->stats,
                                              .sums = &all,
                                              .count = d[0] * all.dim[1] * d[2] * (d[3] / groups),
                                              .eps = n->eps}));
    r->pool.used[end] = mark;
    return CVX_OK;
}

/* y = silu(norm(x)) for frame t of the chunk. */
static cvx_status apply_norm(run *r, const ready *n, const cvx_tensor *y, const cvx_tensor *x,
                             int64_t t)
{
    return cvx_op_group_norm_apply(r->ctx,
                                   &(cvx_group_norm_apply_args){.y = y,
                                                                .x = x,
                                                                .stats = &n->stats,
                                                                .gamma = &n->n->gamma,
                                                                .beta = &n->n->beta,
                                                                .zy = n->n->spatial ? &n->zy : NULL,
                                                                .zb = n->n->spatial ? &n->zb : NULL,
                                                                .tmap = n->tmap + t,
                                                                .h_full = n->height,
                                                                .silu = true});
}

/* --- causal convolutions --- */

typedef struct ring {
    cvx_tensor whole, in; /* [slots, h + 2, w + 2, c] and its inside */
    int64_t slots;
} ring;

/* Frame i of a ring, borders and all. */
static cvx_tensor slot(const cvx_tensor *whole, int64_t i)
{
    return cvx_slice(whole, 0, i % whole->dim[0], 1);
}

static cvx_status open_ring(run *r, ring *out, int end, const cvx_tensor *x, cvx_dtype dtype)
{
    const int64_t *d = x->dim;
    int64_t rows =
        band(r, d[1], 0).len; /* the tallest: neighbours exchange equally many frames at a time */
    int64_t frame = (rows + 2) * (d[2] + 2) * d[3] * (int64_t)cvx_dtype_size(dtype);
    int64_t slots = RING_BYTES / r->comm->size / frame;

    slots = slots < 3 ? 3 : slots > d[0] + 2 ? d[0] + 2 : slots;
    *out = (ring){.slots = slots};
    CVX_RETURN_IF(POOL_ALLOC(&r->pool, &out->whole, end, dtype, slots, d[1] + 2, d[2] + 2, d[3]));
    out->in = inside(&out->whole, 1, 1);
    zero_borders(r, &out->whole, 1, 1);
    return CVX_OK;
}

/* The two frames before the chunk's first. */
static cvx_status load_cache(run *r, const ring *g, int id)
{
    for (int64_t i = 0; i < 2; i++) {
        cvx_tensor to = slot(&g->whole, i);
        if (r->first) {
            cvx_tensor from = slot(&g->whole, 2);
            cvx_copy(r->ctx, &to, &from);
        } else {
            cvx_tensor from = slot(&r->cache[id], i);
            CVX_RETURN_IF(copy_frames(r, &to, &from));
        }
    }
    return CVX_OK;
}

/* The last two frames, of ring index t and t + 1, for the next chunk. */
static cvx_status save_cache(run *r, const ring *g, int id, int64_t t)
{
    const int64_t *d = g->whole.dim;
    /* a split float takes six bytes: carried over as the float it stands for */
    cvx_dtype dtype = g->whole.dtype == CVX_BF16X3 ? CVX_F32 : g->whole.dtype;

    if (r->last) {
        return CVX_OK;
    }
    if (r->first) {
        CVX_RETURN_IF(CVX_ALLOC(r->job->step, &r->cache[id], dtype, 2, d[1], d[2], d[3]));
    }
    for (int64_t i = 0; i < 2; i++) {
        cvx_tensor to = slot(&r->cache[id], i), from = slot(&g->whole, t + i);
        CVX_RETURN_IF(copy_frames(r, &to, &from));
    }
    return CVX_OK;
}

/* y = conv(silu(norm(x))) (+ residual); without a norm y = conv(x). y may be the residual. Scratch
 * is taken at `end`, which must not be y's or x's top. */
static cvx_status causal(run *r, const cvx_tensor *y, const cvx_tensor *x, const norm *n,
                         const conv *c, const cvx_tensor *residual, int end)
{
    int64_t t = x->dim[0], step;
    size_t mark = r->pool.used[end];
    ready rn;
    ring g;

    if (n != NULL) {
        CVX_RETURN_IF(prepare_norm(r, &rn, end, n, x));
    }
    CVX_RETURN_IF(open_ring(r, &g, end, x, n != NULL ? cvx_conv_input(r->ctx, &c->w) : CVX_F32));
    step = g.slots - 2;
    if (!r->first) {
        CVX_RETURN_IF(load_cache(r, &g, c->cache));
    }
    for (int64_t t0 = 0; t0 < t; t0 += step) {
        int64_t len = t - t0 < step ? t - t0 : step;
        for (int64_t i = t0; i < t0 + len; i++) {
            cvx_tensor from = cvx_slice(x, 0, i, 1), to = cvx_slice(&g.in, 0, (i + 2) % g.slots, 1);
            CVX_RETURN_IF(n != NULL ? apply_norm(r, &rn, &to, &from, i)
                                    : copy_frames(r, &to, &from));
        }
        CVX_RETURN_IF(fill_halo(r, &g.whole, (t0 + 2) % g.slots, len, true, true, end));
        if (r->first && t0 == 0) {
            CVX_RETURN_IF(load_cache(r, &g, c->cache));
        }
        cvx_tensor to = cvx_slice(y, 0, t0, len), res;
        if (residual != NULL) {
            res = cvx_slice(residual, 0, t0, len);
        }
        CVX_RETURN_IF(
            cvx_op_conv3d(r->ctx, &(cvx_conv3d_args){.y = &to,
                                                     .x = &g.whole,
                                                     .w = &c->w,
                                                     .b = &c->b,
                                                     .x0 = t0 % g.slots,
                                                     .stride = 1,
                                                     .residual = residual ? &res : NULL}));
    }
    CVX_RETURN_IF(save_cache(r, &g, c->cache, t));
    r->pool.used[end] = mark;
    return CVX_OK;
}

/* --- blocks --- */

/* x = shortcut(x) with fewer channels, in x's own memory, frame by frame. */
static cvx_status shrink(run *r, act *x, const conv *c, int64_t cout, int lo, int hi)
{
    const int64_t d[4] = {x->t.dim[0], x->t.dim[1], x->t.dim[2], cout};
    size_t top = r->pool.used[x->end], mark = r->pool.used[1 - x->end];
    act y, tmp;

    CVX_RETURN_IF(NEW_ACT(r, &tmp, 1 - x->end, lo, hi, 1, d[1], d[2], d[3]));
    drop_act(r, x);
    CVX_RETURN_IF(POOL_ALLOC(&r->pool, &y.whole, x->end, CVX_F32, d[0], d[1] + lo + hi,
                             d[2] + lo + hi, cout));
    CVX_ASSERT(r->pool.used[x->end] <= top);
    y.t = inside(&y.whole, lo, hi);
    y.end = x->end;
    y.below = x->below;
    for (int64_t i = 0; i < d[0]; i++) {
        /* from the end that y shares with x, so that no frame is overwritten before it is read */
        int64_t t = x->end == 0 ? i : d[0] - 1 - i;
        cvx_tensor from = cvx_slice(&x->t, 0, t, 1), to = cvx_slice(&y.whole, 0, t, 1);
        CVX_RETURN_IF(cvx_op_conv3d(
            r->ctx,
            &(cvx_conv3d_args){.y = &tmp.t, .x = &from, .w = &c->w, .b = &c->b, .stride = 1}));
        cvx_copy(r->ctx, &to, &tmp.whole);
    }
    r->pool.used[1 - x->end] = mark;
    *x = y;
    return CVX_OK;
}

/* x = resnet(x). lo, hi: borders of the result. */
static cvx_status run_resnet(run *r, act *x, const resnet *n, int lo, int hi)
{
    const int64_t d[4] = {x->t.dim[0], x->t.dim[1], x->t.dim[2], n->cout};
    int other = 1 - x->end;
    act y = *x, h;

    if (n->cout > n->cin) {
        CVX_RETURN_IF(new_act(r, &y, other, lo, hi, d));
        CVX_RETURN_IF(cvx_op_conv3d(r->ctx, &(cvx_conv3d_args){.y = &y.t,
                                                               .x = &x->t,
                                                               .w = &n->shortcut.w,
                                                               .b = &n->shortcut.b,
                                                               .stride = 1}));
    }
    CVX_RETURN_IF(new_act(r, &h, other, 0, 0, d));
    CVX_RETURN_IF(causal(r, &h.t, &x->t, &n->n1, &n->c1, NULL, other));
    if (n->cout < n->cin) {
        CVX_RETURN_IF(shrink(r, &y, &n->shortcut, n->cout, lo, hi));
    }
    CVX_RETURN_IF(causal(r, &y.t, &h.t, &n->n2, &n->c2, &y.t, other));
    drop_act(r, &h);
    if (n->cout > n->cin) {
        drop_act(r, x);
    }
    *x = y;
    return CVX_OK;
}

/* Twice the height and width, and with `time` the frames doubled (all but the first of an odd
 * number): equal frames are convolved once and copied. */
static cvx_status upsample(run *r, act *x, const block *b, int lo, int hi)
{
    int64_t t = x->t.dim[0], n = b->time ? cvx_vae_time_up(t) : t;
    act y;

    CVX_RETURN_IF(
        NEW_ACT(r, &y, 1 - x->end, lo, hi, n, 2 * x->t.dim[1], 2 * x->t.dim[2], x->t.dim[3]));
    CVX_RETURN_IF(fill_halo(r, &x->whole, 0, t, true, true, 1 - x->end));
    for (int64_t i = 0, at = 0; i < t; i++) {
        int64_t copies = n == t || (i == 0 && t % 2 == 1) ? 1 : 2;
        cvx_tensor from = cvx_slice(&x->whole, 0, i, 1), to = cvx_slice(&y.t, 0, at, 1);
        CVX_RETURN_IF(cvx_op_conv3d(r->ctx, &(cvx_conv3d_args){.y = &to,
                                                               .x = &from,
                                                               .w = &b->sampler.w,
                                                               .b = &b->sampler.b,
                                                               .stride = 1,
                                                               .up2 = true}));
        if (copies == 2) {
            cvx_tensor a = slot(&y.whole, at), c = slot(&y.whole, at + 1);
            cvx_copy(r->ctx, &c, &a);
        }
        at += copies;
    }
    drop_act(r, x);
    *x = y;
    return CVX_OK;
}

/* Half the height and width; with `time` pairs of frames are averaged first. Without, x has a
 * border. */
static cvx_status downsample(run *r, act *x, const block *b, int lo, int hi)
{
    const int64_t d[4] = {b->time ? cvx_vae_time_down(x->t.dim[0]) : x->t.dim[0], x->t.dim[1],
                          x->t.dim[2], x->t.dim[3]};
    act y;

    if (b->time) {
        act p;
        CVX_RETURN_IF(new_act(r, &p, 1 - x->end, 0, 1, d));
        CVX_RETURN_IF(
            cvx_op_avg_pool_time(r->ctx, &(cvx_avg_pool_time_args){.y = &p.t, .x = &x->t}));
        drop_act(r, x);
        *x = p;
    }
    CVX_RETURN_IF(NEW_ACT(r, &y, 1 - x->end, lo, hi, d[0], d[1] / 2, d[2] / 2, d[3]));
    CVX_RETURN_IF(fill_halo(r, &x->whole, 0, x->whole.dim[0], false, true, 1 - x->end));
    CVX_RETURN_IF(cvx_op_conv3d(r->ctx, &(cvx_conv3d_args){.y = &y.t,
                                                           .x = &x->whole,
                                                           .w = &b->sampler.w,
                                                           .b = &b->sampler.b,
                                                           .stride = 2}));
    drop_act(r, x);
    *x = y;
    return CVX_OK;
}

static void tap(run *r, const char *name, const cvx_tensor *t)
{
    const cvx_vae *v = r->job->vae;

    if (v->tap != NULL && r->first && !r->ctx->measure) {
        v->tap(v->tap_payload, name, t);
    }
}

/* The borders that activations of block i need for its sampler. */
static void borders_of(const coder *m, int i, int *lo, int *hi)
{
    const block *b = &m->blocks[i];

    *lo = m->decoder && b->sampled ? 1 : 0;
    *hi = b->sampled && (m->decoder || !b->time) ? 1 : 0;
}

static cvx_status run_mid(run *r, act *x, int lo, int hi)
{
    const coder *m = r->job->model;

    for (int i = 0; i < 2; i++) {
        CVX_RETURN_IF(run_resnet(r, x, &m->mid[i], lo, hi));
    }
    tap(r, "mid", &x->t);
    return CVX_OK;
}

static cvx_status run_blocks(run *r, act *x)
{
    static const char *const names[CVX_VAE_MAX_BLOCKS] = {"block0", "block1", "block2", "block3",
                                                          "block4", "block5", "block6", "block7"};
    const coder *m = r->job->model;
    int n = r->job->vae->cfg.n_blocks, lo, hi;

    for (int i = 0; i < n; i++) {
        const block *b = &m->blocks[i];
        borders_of(m, i, &lo, &hi);
        for (int64_t j = 0; j < b->n_res; j++) {
            CVX_RETURN_IF(run_resnet(r, x, &b->res[j], lo, hi));
        }
        if (b->sampled) {
            borders_of(m, i + 1, &lo, &hi);
            CVX_RETURN_IF(m->decoder ? upsample(r, x, b, lo, hi) : downsample(r, x, b, lo, hi));
        }
        tap(r, names[i], &x->t);
    }
    return CVX_OK;
}

/* --- a chunk --- */

/* to [t, c, rows of the picture, w] on rank 0 <- every rank's planes [t, c, rows of its band, w]. */
static cvx_status collect(run *r, const cvx_tensor *to, const cvx_tensor *planes, int end)
{
    const int64_t *d = planes->dim;
    cvx_tensor part, place = *planes;

    if (r->comm->rank > 0) {
        return cvx_comm_sendrecv(r->comm, planes->data, 4 * cvx_numel(planes), 0, NULL, 0, -1);
    }
    for (int i = 0; i < r->comm->size; i++) {
        cvx_shard b = band(r, d[2], i);
        size_t mark = r->pool.used[end];
        part = *planes;
        if (i > 0) {
            CVX_RETURN_IF(POOL_ALLOC(&r->pool, &part, end, CVX_F32, d[0], d[1], b.len, d[3]));
            CVX_RETURN_IF(
                cvx_comm_sendrecv(r->comm, NULL, 0, -1, part.data, 4 * cvx_numel(&part), i));
        }
        place = cvx_slice(to, 2, b.start, b.len);
        CVX_RETURN_IF(copy_frames(r, &place, &part));
        r->pool.used[end] = mark;
    }
    return CVX_OK;
}

cvx_status cvx_vae_tell_sink(cvx_ctx *ctx, cvx_vae_sink sink, void *payload, const cvx_tensor *rgb,
                             int64_t first)
{
    cvx_host_values v;

    if (ctx->measure) {
        return CVX_OK;
    }
    CVX_RETURN_IF(cvx_host_open(ctx, &v, rgb, true));
    cvx_status st = sink(payload, v.data, first, rgb->dim[0]);
    cvx_host_close(ctx, &v, rgb, false);
    return st;
}

/* The result y [t, h, w, c], frames `first` .. of the whole, to its place. */
static cvx_status emit(run *r, const cvx_tensor *y, int64_t first, int end)
{
    const coding *c = r->job;
    cvx_tensor planes, to = {0};
    cvx_tensor from = *y; /* as [t, c, h, w] */
    int64_t height =
        band(r, y->dim[1], r->comm->size - 1).start + band(r, y->dim[1], r->comm->size - 1).len;

    from.dim[1] = y->dim[3], from.dim[2] = y->dim[1], from.dim[3] = y->dim[2];
    from.stride[1] = y->stride[3], from.stride[2] = y->stride[1], from.stride[3] = y->stride[2];
    if (r->comm->size > 1) { /* dense, to be sent */
        CVX_RETURN_IF(POOL_ALLOC(&r->pool, &planes, end, CVX_F32, from.dim[0], from.dim[1],
                                 from.dim[2], from.dim[3]));
        CVX_RETURN_IF(copy_frames(r, &planes, &from));
        from = planes;
    }
    if (c->out != NULL) {
        to = cvx_slice(c->out, 0, first, from.dim[0]);
    } else if (r->comm->rank == 0) {
        CVX_RETURN_IF(
            POOL_ALLOC(&r->pool, &to, end, CVX_F32, from.dim[0], from.dim[1], height, from.dim[3]));
    }
    CVX_RETURN_IF(collect(r, &to, &from, end));
    return c->out != NULL || r->comm->rank > 0
               ? CVX_OK
               : cvx_vae_tell_sink(r->ctx, c->sink, c->payload, &to, first);
}

/* A 1x1x1 convolution of *x at `end`, if the model has one. */
static cvx_status quantize(run *r, cvx_tensor *x, int end)
{
    const coder *m = r->job->model;
    const int64_t *d = x->dim;
    cvx_tensor y;

    if (!m->has_quant) {
        return CVX_OK;
    }
    CVX_RETURN_IF(POOL_ALLOC(&r->pool, &y, end, CVX_F32, d[0], d[1], d[2], d[3]));
    CVX_RETURN_IF(cvx_op_conv3d(
        r->ctx,
        &(cvx_conv3d_args){.y = &y, .x = x, .w = &m->quant.w, .b = &m->quant.b, .stride = 1}));
    *x = y;
    return CVX_OK;
}

/* chunk [t, c, h, w]: frames of the input, all rows. */
static cvx_status run_chunk(run *r, const cvx_tensor *chunk, int64_t first_out)
{
    const coder *m = r->job->model;
    int64_t scale = chunk->dim[2] / r->rows_all;
    cvx_shard own = band(r, r->rows * scale, r->comm->rank);
    cvx_tensor rows = cvx_slice(chunk, 2, own.start, own.len), *x = &rows;
    const int64_t *d = x->dim;
    cvx_tensor in, y;
    int lo = 0, hi = 0;
    act a;

    r->pool.used[0] = r->pool.used[1] = 0;
    CVX_RETURN_IF(POOL_ALLOC(&r->pool, &in, 0, CVX_F32, d[0], d[2], d[3], d[1]));
    cvx_tensor planes = in; /* as [t, c, h, w] */
    memcpy(planes.dim, d, 4 * sizeof *d);
    planes.stride[1] = in.stride[3], planes.stride[2] = in.stride[1],
    planes.stride[3] = in.stride[2];
    CVX_RETURN_IF(copy_frames(r, &planes, x));
    if (m->decoder) {
        CVX_RETURN_IF(quantize(r, &in, 0));
        r->z = in;
    }
    borders_of(m, 0, &lo, &hi);
    CVX_RETURN_IF(NEW_ACT(r, &a, 1, lo, hi, d[0], d[2], d[3], m->in.w.dim[0]));
    CVX_RETURN_IF(causal(r, &a.t, &in, NULL, &m->in, NULL, 0));
    tap(r, "conv_in", &a.t);
    if (m->decoder) {
        CVX_RETURN_IF(run_mid(r, &a, lo, hi));
    }
    CVX_RETURN_IF(run_blocks(r, &a));
    if (!m->decoder) {
        CVX_RETURN_IF(run_mid(r, &a, 0, 0));
    }
    int end = 1 - a.end;
    const int64_t *o = a.t.dim;
    CVX_RETURN_IF(POOL_ALLOC(&r->pool, &y, end, CVX_F32, o[0], o[1], o[2], m->cout));
    CVX_RETURN_IF(causal(r, &y, &a.t, &m->norm_out, &m->out, NULL, end));
    if (!m->decoder) {
        CVX_RETURN_IF(quantize(r, &y, end));
    }
    return emit(r, &y, first_out, end);
}

static int64_t frames_out(const coding *c, int64_t t)
{
    const cvx_vae_config *cfg = &c->vae->cfg;

    for (int64_t f = 1; f < cfg->temporal_compression_ratio; f *= 2) {
        t = c->model->decoder ? cvx_vae_time_up(t) : cvx_vae_time_down(t);
    }
    return t;
}

/* The pool's size: the first chunk is the longest, and is walked without computing or sending. */
static cvx_status size_pool(const run *real, const cvx_tensor *chunk, size_t *out)
{
    cvx_ctx ctx = *real->ctx;
    run dry = *real;

    ctx.measure = true;
    dry.ctx = &ctx;
    dry.pool = CVX_POOL_COUNTING;
    dry.first = dry.last = true;
    CVX_RETURN_IF(cvx_comm_dry(&dry.comm, real->comm->rank, real->comm->size));
    cvx_status st = run_chunk(&dry, chunk, 0);
    cvx_comm_close(dry.comm);
    *out = dry.pool.peak;
    return st;
}

/* All chunks on the ranks that have rows. */
static cvx_status run_chunks(run *r)
{
    const coding *c = r->job;
    int64_t batch = c->model->decoder ? CVX_VAE_LATENT_BATCH : CVX_VAE_SAMPLE_BATCH;
    int64_t n = cvx_vae_chunks(c->x->dim[0], batch), first, len, out = 0;

    for (int64_t i = 0; i < n; i++) {
        cvx_vae_chunk(c->x->dim[0], batch, i, &first, &len);
        cvx_tensor x = cvx_slice(c->x, 0, first, len);
        r->first = i == 0;
        r->last = i == n - 1;
        if (i == 0) {
            CVX_RETURN_IF(size_pool(r, &x, &r->pool.size));
            cvx_status st = cvx_arena_alloc(c->step, (void **)&r->pool.base, r->pool.size);
            CVX_RETURN_IF(cvx_comm_agree(r->comm, st));
        }
        /* the sink's failure is rank 0's alone */
        CVX_RETURN_IF(cvx_comm_agree(r->comm, run_chunk(r, &x, out)));
        out += frames_out(c, len);
    }
    return CVX_OK;
}

cvx_status cvx_vae_code(const coding *c)
{
    int64_t latent = c->x->dim[2] / (c->model->decoder ? 1 : cvx_vae_spatial(&c->vae->cfg));
    int ranks = c->comm->size < latent ? c->comm->size : (int)latent;
    run r = {.job = c, .ctx = c->vae->load.ctx, .rows_all = latent};
    size_t mark = cvx_arena_mark(c->step);
    cvx_status st = CVX_OK;

    CVX_RETURN_IF(cvx_comm_first(c->comm, ranks, &r.comm));
    if (r.comm == NULL) { /* more ranks than latent rows: this one has none */
        return CVX_OK;
    }
    r.rows = cvx_shard_of(latent, ranks, r.comm->rank).len;
    st = cvx_vae_pack_coder(c->vae, c->model);
    r.cache = calloc((size_t)c->model->n_caches, sizeof *r.cache);
    if (st == CVX_OK && r.cache == NULL) {
        st = cvx_fail(CVX_ENOMEM, "no memory for the VAE's caches");
    }
    CVX_TRY(st, cvx_comm_agree(r.comm, st), done);
    st = run_chunks(&r);
done:
    free(r.cache);
    cvx_comm_end_first(c->comm, r.comm);
    cvx_arena_release(c->step, mark, false);
    return st;
}
