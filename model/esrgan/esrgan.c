#include "model/esrgan/esrgan.h"

#include <stdio.h>
#include <stdlib.h>

/* Of a dense block: four that add channels, and the fifth. */
#define DENSE 5

typedef cvx_conv dense[DENSE];

struct cvx_esrgan {
    cvx_ctx *ctx;
    cvx_esrgan_config cfg;
    int64_t n;      /* SRVGG: convolutions; RRDB: dense blocks */
    cvx_conv *body; /* SRVGG */
    dense *dense;   /* RRDB: three for each of its blocks */
    cvx_conv first, trunk, up[2], hr, last;
};

/* ---- loading --------------------------------------------------------------------------------- */

static cvx_status load_srvgg(cvx_esrgan *m, const cvx_load *l)
{
    int64_t feat = m->cfg.feat, out = 3 * m->cfg.factor * m->cfg.factor;
    char name[48];

    for (int64_t i = 0; i < m->n; i++) {
        snprintf(name, sizeof name, "body.%d", (int)(2 * i));
        CVX_RETURN_IF(cvx_conv_load(l, &m->body[i], name, i < m->n - 1 ? feat : out,
                                    i > 0 ? feat : 3, CVX_PACKED_PICTURE));
        if (i < m->n - 1) {
            snprintf(name, sizeof name, "body.%d.weight", (int)(2 * i + 1));
            CVX_RETURN_IF(cvx_conv_prelu(l, &m->body[i], name));
        }
    }
    return CVX_OK;
}

static cvx_status load_dense(const cvx_load *l, dense d, int64_t i, const cvx_esrgan_config *cfg)
{
    char name[48];

    for (int k = 0; k < DENSE; k++) {
        bool adds = k < DENSE - 1;
        snprintf(name, sizeof name, "body.%d.rdb%d.conv%d", (int)(i / 3), (int)(i % 3) + 1, k + 1);
        CVX_RETURN_IF(cvx_conv_load(l, &d[k], name, adds ? cfg->grow : cfg->feat,
                                    cfg->feat + k * cfg->grow, CVX_PACKED_PICTURE));
        if (adds) {
            CVX_RETURN_IF(cvx_conv_leaky(l, &d[k], 0.2f));
        }
    }
    return CVX_OK;
}

static cvx_status load_rrdb(cvx_esrgan *m, const cvx_load *l)
{
    int64_t f = m->cfg.feat;

    CVX_RETURN_IF(cvx_conv_load(l, &m->first, "conv_first", f, 3, CVX_PACKED_PICTURE));
    for (int64_t i = 0; i < m->n; i++) {
        CVX_RETURN_IF(load_dense(l, m->dense[i], i, &m->cfg));
    }
    CVX_RETURN_IF(cvx_conv_load(l, &m->trunk, "conv_body", f, f, CVX_PACKED_PICTURE));
    CVX_RETURN_IF(cvx_conv_load(l, &m->up[0], "conv_up1", f, f, CVX_PACKED_CONV_UP2));
    CVX_RETURN_IF(cvx_conv_leaky(l, &m->up[0], 0.2f));
    CVX_RETURN_IF(cvx_conv_load(l, &m->up[1], "conv_up2", f, f, CVX_PACKED_CONV_UP2));
    CVX_RETURN_IF(cvx_conv_leaky(l, &m->up[1], 0.2f));
    CVX_RETURN_IF(cvx_conv_load(l, &m->hr, "conv_hr", f, f, CVX_PACKED_PICTURE));
    CVX_RETURN_IF(cvx_conv_leaky(l, &m->hr, 0.2f));
    return cvx_conv_load(l, &m->last, "conv_last", 3, f, CVX_PACKED_PICTURE);
}

cvx_status cvx_esrgan_open(cvx_esrgan **out, const cvx_load *l, const cvx_esrgan_config *cfg)
{
    bool compact = cfg->kind == CVX_ESRGAN_SRVGG;
    cvx_esrgan *m = calloc(1, sizeof *m);
    cvx_status st;

    if (m == NULL) {
        return cvx_fail(CVX_ENOMEM, "no memory for Real-ESRGAN");
    }
    m->ctx = l->ctx;
    m->cfg = *cfg;
    m->n = compact ? cfg->convs + 2 : 3 * cfg->blocks;
    m->body = compact ? calloc((size_t)m->n, sizeof *m->body) : NULL;
    m->dense = compact ? NULL : calloc((size_t)m->n, sizeof *m->dense);
    if (compact ? m->body == NULL : m->dense == NULL) {
        st = cvx_fail(CVX_ENOMEM, "no memory for Real-ESRGAN");
    } else {
        st = compact ? load_srvgg(m, l) : load_rrdb(m, l);
    }
    if (st != CVX_OK) {
        cvx_esrgan_close(m);
        return st;
    }
    *out = m;
    return CVX_OK;
}

void cvx_esrgan_close(cvx_esrgan *m)
{
    if (m != NULL) {
        free(m->body);
        free(m->dense);
        free(m);
    }
}

const cvx_esrgan_config *cvx_esrgan_config_of(const cvx_esrgan *m)
{
    return &m->cfg;
}

cvx_ctx *cvx_esrgan_ctx(const cvx_esrgan *m)
{
    return m->ctx;
}

/* ---- SRVGGNetCompact ------------------------------------------------------------------------- */

static cvx_status take_picture(cvx_esrgan *m, cvx_arena *step, cvx_bordered *in,
                               const cvx_tensor *x)
{
    cvx_tensor from = *x;

    CVX_RETURN_IF(cvx_bordered_alloc(m->ctx, step, in, CVX_F32, x->dim[0], x->dim[1], 3));
    from.ndim = 4; /* one picture of those rows */
    for (int i = 3; i > 0; i--) {
        from.dim[i] = x->dim[i - 1];
        from.stride[i] = x->stride[i - 1];
    }
    from.dim[0] = 1;
    return cvx_op_strided_copy(m->ctx, &(cvx_strided_copy_args){.y = &in->in, .x = &from});
}

static cvx_status run_srvgg(cvx_esrgan *m, cvx_arena *step, const cvx_tensor *y,
                            const cvx_tensor *x)
{
    int64_t h = x->dim[0], w = x->dim[1], n = m->n, f = m->cfg.factor;
    cvx_bordered in, act[2];
    cvx_tensor last;

    CVX_RETURN_IF(take_picture(m, step, &in, x));
    for (int i = 0; i < 2; i++) {
        CVX_RETURN_IF(
            cvx_bordered_alloc(m->ctx, step, &act[i], m->body[1].input, h, w, m->cfg.feat));
    }
    CVX_RETURN_IF(cvx_conv_run(m->ctx, &m->body[0], &act[0].in, &in.whole, 1, NULL));
    for (int64_t i = 1; i < n - 1; i++) {
        CVX_RETURN_IF(
            cvx_conv_run(m->ctx, &m->body[i], &act[i % 2].in, &act[(i + 1) % 2].whole, 1, NULL));
    }
    CVX_RETURN_IF(CVX_ALLOC(step, &last, CVX_F32, 1, h, w, 3 * f * f));
    CVX_RETURN_IF(cvx_conv_run(m->ctx, &m->body[n - 1], &last, &act[n % 2].whole, 1, NULL));
    cvx_tensor from = cvx_plane(&last, 0, 3 * f * f), base = cvx_plane(&in.in, 0, 3);
    return cvx_op_pixel_shuffle(
        m->ctx, &(cvx_pixel_shuffle_args){.y = y, .x = &from, .base = &base, .n = f});
}

/* ---- RRDBNet --------------------------------------------------------------------------------- */

/* What all convolutions of a dense block can read: they share a buffer. */
static cvx_dtype dense_input(const cvx_esrgan *m)
{
    cvx_dtype t = m->dense[0][0].input;

    for (int k = 1; k < DENSE; k++) {
        t = m->dense[0][k].input == t ? t : CVX_F32;
    }
    return t;
}

/* The first feat channels of a dense block's buffer <- x. */
static cvx_status put_features(cvx_esrgan *m, const cvx_bordered *to, const cvx_tensor *x)
{
    cvx_tensor y = cvx_slice(&to->in, 3, 0, m->cfg.feat);

    if (y.dtype == CVX_F32 || y.dtype == CVX_BF16X3) {
        return cvx_op_strided_copy(m->ctx, &(cvx_strided_copy_args){.y = &y, .x = x});
    }
    return cvx_fail(CVX_EINTERNAL, "Real-ESRGAN computes in f32");
}

/* x = x + 0.2·dense(x), or with `outer` (what the block of three began with) outer + 0.2·that; buf has room for x and what
 * the convolutions add. */
static cvx_status run_dense(cvx_esrgan *m, const dense d, const cvx_bordered *buf,
                            const cvx_tensor *x, const cvx_tensor *outer)
{
    int64_t feat = m->cfg.feat, grow = m->cfg.grow;
    cvx_conv2d_args end = {.residual = x, .scale = 0.2, .outer = outer, .outer_scale = 0.2};

    CVX_RETURN_IF(put_features(m, buf, x));
    for (int k = 0; k < DENSE; k++) {
        cvx_tensor in = cvx_slice(&buf->whole, 3, 0, feat + k * grow);
        if (k == DENSE - 1) {
            return cvx_conv_run(m->ctx, &d[k], x, &in, 1, &end);
        }
        cvx_tensor out = cvx_slice(&buf->in, 3, feat + k * grow, grow);
        CVX_RETURN_IF(cvx_conv_run(m->ctx, &d[k], &out, &in, 1, NULL));
    }
    return CVX_OK;
}

/* y [1, h, w, feat] inside of its border <- the features of x, before they are enlarged. */
static cvx_status run_trunk(cvx_esrgan *m, cvx_arena *step, const cvx_bordered *y,
                            const cvx_tensor *x)
{
    int64_t h = x->dim[0], w = x->dim[1], feat = m->cfg.feat;
    cvx_bordered in, buf;
    cvx_tensor first, now, begin;

    CVX_RETURN_IF(take_picture(m, step, &in, x));
    CVX_RETURN_IF(CVX_ALLOC(step, &first, CVX_F32, 1, h, w, feat));
    CVX_RETURN_IF(CVX_ALLOC(step, &now, CVX_F32, 1, h, w, feat));
    CVX_RETURN_IF(CVX_ALLOC(step, &begin, CVX_F32, 1, h, w, feat));
    CVX_RETURN_IF(cvx_bordered_alloc(m->ctx, step, &buf, dense_input(m), h, w,
                                     feat + (DENSE - 1) * m->cfg.grow));
    CVX_RETURN_IF(cvx_conv_run(m->ctx, &m->first, &first, &in.whole, 1, NULL));
    CVX_RETURN_IF(cvx_op_strided_copy(m->ctx, &(cvx_strided_copy_args){.y = &now, .x = &first}));
    for (int64_t i = 0; i < m->n; i++) {
        if (i % 3 == 0) {
            CVX_RETURN_IF(
                cvx_op_strided_copy(m->ctx, &(cvx_strided_copy_args){.y = &begin, .x = &now}));
        }
        CVX_RETURN_IF(run_dense(m, m->dense[i], &buf, &now, i % 3 == 2 ? &begin : NULL));
    }
    CVX_RETURN_IF(put_features(m, &buf, &now));
    cvx_tensor whole = cvx_slice(&buf.whole, 3, 0, feat);
    return cvx_conv_run(m->ctx, &m->trunk, &y->in, &whole, 1,
                        &(cvx_conv2d_args){.residual = &first});
}

/* Some rows of a picture at one size: row i of `t` (columns bordered by one pixel) is row first + i of a picture of `rows`. Rows
 * that are not in the picture are zeros. */
typedef struct level {
    cvx_tensor t;
    int64_t first, rows;
} level;

static cvx_status level_alloc(cvx_esrgan *m, cvx_arena *step, level *out, cvx_dtype dtype,
                              int64_t first, int64_t end, int64_t rows, int64_t w)
{
    cvx_bordered b; /* its border rows are rows like the others here */
    level l = {.first = first, .rows = rows};

    CVX_RETURN_IF(cvx_bordered_alloc(m->ctx, step, &b, dtype, end - first - 2, w, m->cfg.feat));
    l.t = b.whole;
    if (first < 0) {
        CVX_RETURN_IF(cvx_zero_rows(m->ctx, &l.t, 0, -first));
    }
    if (end > rows) {
        CVX_RETURN_IF(cvx_zero_rows(m->ctx, &l.t, rows - first, end - rows));
    }
    *out = l;
    return CVX_OK;
}

/* The rows of `to` that are in the picture <- the convolution of `from`, of the same size or (up2) half as large. */
static cvx_status fill_level(cvx_esrgan *m, const cvx_conv *c, const level *to, const level *from)
{
    int64_t a = to->first > 0 ? to->first : 0, end = to->first + to->t.dim[1];
    int64_t b = end < to->rows ? end : to->rows, f = c->w.layout == CVX_PACKED_CONV_UP2 ? 2 : 1;
    cvx_tensor y = cvx_slice(&to->t, 1, a - to->first, b - a);
    cvx_tensor x = cvx_slice(&from->t, 1, a / f - 1 - from->first, (b - a) / f + 2);

    y = cvx_slice(&y, 2, 1, y.dim[2] - 2);
    return cvx_conv_run(m->ctx, c, &y, &x, 1, NULL);
}

/* Source rows that are enlarged at a time: the four-fold pictures of 64 channels are large. */
#define BAND 32

/* Output rows 4·r0 .. 4·r1 of y from the features `f` [1, h, w, feat], of which rows r0 - 2 .. r1 + 2 matter. */
static cvx_status run_band(cvx_esrgan *m, cvx_arena *step, const cvx_tensor *y, const level *f,
                           int64_t r0, int64_t r1)
{
    size_t mark = cvx_arena_mark(step);
    int64_t h = f->rows, w = f->t.dim[2] - 2;
    level up1, up2, hr, out = {.first = 4 * r0, .rows = 4 * h};

    CVX_RETURN_IF(level_alloc(m, step, &up1, m->up[1].input, 2 * r0 - 2, 2 * r1 + 2, 2 * h, 2 * w));
    CVX_RETURN_IF(fill_level(m, &m->up[0], &up1, f));
    CVX_RETURN_IF(level_alloc(m, step, &up2, m->hr.input, 4 * r0 - 2, 4 * r1 + 2, 4 * h, 4 * w));
    CVX_RETURN_IF(fill_level(m, &m->up[1], &up2, &up1));
    CVX_RETURN_IF(level_alloc(m, step, &hr, m->last.input, 4 * r0 - 1, 4 * r1 + 1, 4 * h, 4 * w));
    CVX_RETURN_IF(fill_level(m, &m->hr, &hr, &up2));
    out.t = cvx_slice(y, 0, 4 * r0, 4 * (r1 - r0));
    cvx_tensor to = out.t; /* [rows, 4w, 3] as one picture */
    to.ndim = 4;
    for (int i = 3; i > 0; i--) {
        to.dim[i] = out.t.dim[i - 1];
        to.stride[i] = out.t.stride[i - 1];
    }
    to.dim[0] = 1;
    CVX_RETURN_IF(cvx_conv_run(m->ctx, &m->last, &to, &hr.t, 1, NULL));
    cvx_arena_release(step, mark, false);
    return CVX_OK;
}

static cvx_status run_rrdb(cvx_esrgan *m, cvx_arena *step, const cvx_tensor *y, const cvx_tensor *x)
{
    int64_t h = x->dim[0], w = x->dim[1];
    cvx_bordered b;
    level f = {.first = -2, .rows = h};

    /* two rows of border above and below, of which the inner one is the convolution's */
    CVX_RETURN_IF(level_alloc(m, step, &f, m->up[0].input, -2, h + 2, h, w));
    b.whole = cvx_slice(&f.t, 1, 1, h + 2);
    b.in = cvx_slice(&f.t, 1, 2, h);
    b.in = cvx_slice(&b.in, 2, 1, w);
    size_t mark = cvx_arena_mark(step);
    CVX_RETURN_IF(run_trunk(m, step, &b, x));
    cvx_arena_release(step, mark, false);
    for (int64_t r = 0; r < h; r += BAND) {
        CVX_RETURN_IF(run_band(m, step, y, &f, r, r + BAND < h ? r + BAND : h));
    }
    return CVX_OK;
}

cvx_status cvx_esrgan_run(cvx_esrgan *m, cvx_arena *step, const cvx_tensor *y, const cvx_tensor *x)
{
    size_t mark = cvx_arena_mark(step);

    CVX_RETURN_IF(m->cfg.kind == CVX_ESRGAN_SRVGG ? run_srvgg(m, step, y, x)
                                                  : run_rrdb(m, step, y, x));
    cvx_arena_release(step, mark, false);
    return CVX_OK;
}
