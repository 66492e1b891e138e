#include "model/rife/rife.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/transfer.h"

#define CONVS_MAX 64

typedef struct block {
    cvx_conv conv0[2], convs[CONVS_MAX], last;
    int64_t out;    /* channels of `last` after its pixel shuffle: 5, or 4·6 */
    bool skip_each; /* a skip around each convolution rather than one around all */
} block;

struct cvx_rife {
    cvx_ctx *ctx;
    cvx_rife_config cfg;
    block blocks[CVX_RIFE_BLOCKS];
};

/* ---- loading --------------------------------------------------------------------------------- */

/* Activation of the layer NAME: its own slopes, where there are, else 0.2. */
static cvx_status load_act(const cvx_load *l, cvx_conv *c, const char *slopes)
{
    return cvx_weights_has(l->weights, slopes) ? cvx_conv_prelu(l, c, slopes)
                                               : cvx_conv_leaky(l, c, 0.2f);
}

static cvx_status load_plain(const cvx_load *l, cvx_conv *c, const char *name, int64_t cout,
                             int64_t cin, cvx_layout layout)
{
    char key[96];

    snprintf(key, sizeof key, "%s.0", name);
    CVX_RETURN_IF(cvx_conv_load(l, c, key, cout, cin, layout));
    snprintf(key, sizeof key, "%s.1.weight", name);
    return load_act(l, c, key);
}

/* act(conv(x)·beta + x): beta goes into weight and bias. */
static cvx_status load_scaled(const cvx_load *l, cvx_conv *c, const char *name, int64_t ch)
{
    char key[96];
    cvx_tensor w, b, beta;

    CVX_RETURN_IF(cvx_conv_place(l, c, ch, ch, CVX_F32, CVX_PACKED_PICTURE));
    CVX_RETURN_IF(cvx_conv_leaky(l, c, 0.2f));
    size_t mark = cvx_arena_mark(l->arena);
    snprintf(key, sizeof key, "%s.conv.weight", name);
    CVX_RETURN_IF(cvx_picture_weight(l, &w, key, 4, CVX_DIMS(ch, ch, 3, 3)));
    snprintf(key, sizeof key, "%s.conv.bias", name);
    CVX_RETURN_IF(CVX_WEIGHT_F32(l->weights, l->arena, &b, key, ch));
    snprintf(key, sizeof key, "%s.beta", name);
    CVX_RETURN_IF(CVX_WEIGHT_F32(l->weights, l->arena, &beta, key, 1, ch, 1, 1));
    for (int64_t o = 0; o < ch && !l->ctx->measure; o++) {
        float f = ((float *)beta.data)[o], *p = (float *)w.data + o * ch * 9;
        for (int64_t i = 0; i < ch * 9; i++) {
            p[i] *= f;
        }
        ((float *)c->b.data)[o] = ((float *)b.data)[o] * f;
    }
    cvx_tensor plain = CVX_RESHAPE(&w, ch, ch, 1, 3, 3);
    CVX_RETURN_IF(cvx_conv_put(l, c, &plain));
    cvx_arena_release(l->arena, mark, false);
    return CVX_OK;
}

/* A transposed convolution (4 taps, stride 2, padding 1) [cin, n, 4, 4] as a convolution of 3 x 3 taps to 4n channels and a
 * pixel shuffle: output row 2y + i reads source row y + d - 1 with tap i + 3 - 2d, where that is one of the four. */
static void unfold(float *to, const float *from, int64_t cin, int64_t n)
{
    for (int64_t o = 0; o < 4 * n; o++) {
        int64_t k = o / 4, i = o / 2 % 2, j = o % 2;
        for (int64_t c = 0; c < cin; c++) {
            for (int64_t d = 0; d < 9; d++) {
                int64_t r = i + 3 - d / 3 * 2, s = j + 3 - d % 3 * 2;
                bool there = r >= 0 && r < 4 && s >= 0 && s < 4;
                to[(o * cin + c) * 9 + d] = there ? from[((c * n + k) * 4 + r) * 4 + s] : 0;
            }
        }
    }
}

static cvx_status load_last(const cvx_load *l, block *b, const char *name, int64_t cin, int64_t n)
{
    char key[96];
    cvx_tensor w, bias, plain;

    CVX_RETURN_IF(cvx_conv_place(l, &b->last, 4 * n, cin, CVX_F32, CVX_PACKED_PICTURE));
    size_t mark = cvx_arena_mark(l->arena);
    snprintf(key, sizeof key, "%s.weight", name);
    CVX_RETURN_IF(cvx_picture_weight(l, &w, key, 4, CVX_DIMS(cin, n, 4, 4)));
    snprintf(key, sizeof key, "%s.bias", name);
    CVX_RETURN_IF(CVX_WEIGHT_F32(l->weights, l->arena, &bias, key, n));
    CVX_RETURN_IF(CVX_ALLOC(l->arena, &plain, CVX_F32, 4 * n, cin, 1, 3, 3));
    if (!l->ctx->measure) {
        unfold(plain.data, w.data, cin, n);
        for (int64_t o = 0; o < 4 * n; o++) {
            ((float *)b->last.b.data)[o] = ((float *)bias.data)[o / 4];
        }
    }
    CVX_RETURN_IF(cvx_conv_put(l, &b->last, &plain));
    cvx_arena_release(l->arena, mark, false);
    b->out = n;
    return CVX_OK;
}

static cvx_status load_block(const cvx_load *l, block *b, const cvx_rife_config *cfg, int i)
{
    char name[80];
    int64_t c = cfg->channels[i];

    snprintf(name, sizeof name, "block%d.conv0.0", i);
    CVX_RETURN_IF(load_plain(l, &b->conv0[0], name, c / 2, cfg->inputs[i], CVX_PACKED_CONV));
    snprintf(name, sizeof name, "block%d.conv0.1", i);
    CVX_RETURN_IF(load_plain(l, &b->conv0[1], name, c, c / 2, CVX_PACKED_CONV));
    snprintf(name, sizeof name, "block%d.convblock.0.beta", i);
    b->skip_each = cvx_weights_has(l->weights, name);
    for (int64_t k = 0; k < cfg->convs; k++) {
        snprintf(name, sizeof name, "block%d.convblock.%d", i, (int)k);
        CVX_RETURN_IF(b->skip_each ? load_scaled(l, &b->convs[k], name, c)
                                   : load_plain(l, &b->convs[k], name, c, c, CVX_PACKED_PICTURE));
    }
    snprintf(name, sizeof name, "block%d.lastconv.0.weight", i);
    bool shuffled = cvx_weights_has(l->weights, name);
    snprintf(name, sizeof name, "block%d.lastconv%s", i, shuffled ? ".0" : "");
    return load_last(l, b, name, c, shuffled ? 24 : 5);
}

cvx_status cvx_rife_open(cvx_rife **out, const cvx_load *l, const cvx_rife_config *cfg)
{
    cvx_rife *m = calloc(1, sizeof *m);
    cvx_status st = CVX_OK;

    if (m == NULL) {
        return cvx_fail(CVX_ENOMEM, "no memory for RIFE");
    }
    m->ctx = l->ctx;
    m->cfg = *cfg;
    for (int i = 0; i < CVX_RIFE_BLOCKS && st == CVX_OK; i++) {
        st = load_block(l, &m->blocks[i], cfg, i);
    }
    if (st != CVX_OK) {
        free(m);
        return st;
    }
    *out = m;
    return CVX_OK;
}

void cvx_rife_close(cvx_rife *m)
{
    free(m);
}

cvx_ctx *cvx_rife_ctx(const cvx_rife *m)
{
    return m->ctx;
}

/* ---- a frame --------------------------------------------------------------------------------- */

/* Everything of one frame; pictures are [1, h, w, c]. */
typedef struct run {
    cvx_rife *m;
    cvx_ctx *ctx;
    cvx_arena *step;
    int64_t h, w;
    const cvx_tensor *a, *b;
    cvx_tensor warped[2];  /* [1, h, w, 4] */
    cvx_tensor flow, mask; /* [1, h, w, 4], [1, h, w, 1] */
    float t;
    cvx_rife_tap *tap;
} run;

static cvx_status resize(run *r, const cvx_tensor *y, const cvx_tensor *x, double step, double gain,
                         bool add)
{
    return cvx_op_resize(
        r->ctx, &(cvx_resize_args){.y = y, .x = x, .step = step, .gain = gain, .add = add});
}

/* Channels c0 .. of a block's input <- a picture, made smaller. */
static cvx_status put_small(run *r, const cvx_tensor *to, int64_t c0, const cvx_tensor *picture,
                            double scale, double gain)
{
    cvx_tensor x = cvx_plane(picture, 0, picture->dim[3]), y = cvx_plane(to, c0, picture->dim[3]);

    return resize(r, &y, &x, scale, gain, false);
}

/* [a, b, t] or [warped a, warped b, t, mask, flow]. A picture's fourth channel lands in the place of what is written next. */
static cvx_status fill_input(run *r, const cvx_tensor *to, bool first, double scale)
{
    cvx_tensor t = CVX_VIEW(&r->t, CVX_F32, 1, to->dim[1], to->dim[2], 1);
    cvx_tensor plane = cvx_slice(to, 3, 6, 1);

    CVX_RETURN_IF(put_small(r, to, 0, first ? r->a : &r->warped[0], scale, 1));
    CVX_RETURN_IF(put_small(r, to, 3, first ? r->b : &r->warped[1], scale, 1));
    memset(t.stride, 0, sizeof t.stride);
    CVX_RETURN_IF(cvx_op_strided_copy(r->ctx, &(cvx_strided_copy_args){.y = &plane, .x = &t}));
    if (first) {
        return CVX_OK;
    }
    CVX_RETURN_IF(put_small(r, to, 7, &r->mask, scale, 1));
    return put_small(r, to, 8, &r->flow, scale, 1 / scale);
}

/* x <- the block's convolutions and skips; *x and *spare are of the same size. The result is what the last layer reads. */
static cvx_status convolve(run *r, const block *b, cvx_bordered *x, cvx_bordered *spare)
{
    const int64_t *d = x->in.dim, convs = r->m->cfg.convs;
    cvx_tensor skip;

    CVX_RETURN_IF(CVX_ALLOC(r->step, &skip, CVX_F32, 1, d[1], d[2], d[3]));
    for (int64_t k = 0; k < convs; k++) {
        bool last = k == convs - 1;
        if (k == 0 || b->skip_each) {
            CVX_RETURN_IF(
                cvx_op_strided_copy(r->ctx, &(cvx_strided_copy_args){.y = &skip, .x = &x->in}));
        }
        CVX_RETURN_IF(
            cvx_conv_run(r->ctx, &b->convs[k], &spare->in, &x->whole, 1,
                         &(cvx_conv2d_args){.residual = last || b->skip_each ? &skip : NULL,
                                            .act_last = b->skip_each}));
        cvx_bordered swap = *x;
        *x = *spare;
        *spare = swap;
    }
    return CVX_OK;
}

/* *out [1, h / scale / 2, w / scale / 2, 5 or 6 channels] (of twice that size where the layout shuffles twice). */
static cvx_status small_flow(run *r, int i, bool first, double scale, cvx_tensor *out)
{
    const block *b = &r->m->blocks[i];
    int64_t h = (int64_t)((double)r->h / scale), w = (int64_t)((double)r->w / scale);
    int64_t c = r->m->cfg.channels[i], n = 2;
    cvx_bordered in, half, x, y;
    cvx_tensor last;

    CVX_RETURN_IF(cvx_bordered_alloc(r->ctx, r->step, &in, CVX_F32, h, w, r->m->cfg.inputs[i]));
    CVX_RETURN_IF(fill_input(r, &in.in, first, scale));
    CVX_RETURN_IF(
        cvx_bordered_alloc(r->ctx, r->step, &half, b->conv0[1].input, h / 2, w / 2, c / 2));
    CVX_RETURN_IF(cvx_conv_run(r->ctx, &b->conv0[0], &half.in, &in.whole, 2, NULL));
    CVX_RETURN_IF(cvx_bordered_alloc(r->ctx, r->step, &x, b->convs[0].input, h / 4, w / 4, c));
    CVX_RETURN_IF(cvx_bordered_alloc(r->ctx, r->step, &y, b->convs[0].input, h / 4, w / 4, c));
    CVX_RETURN_IF(cvx_conv_run(r->ctx, &b->conv0[1], &x.in, &half.whole, 2, NULL));
    CVX_RETURN_IF(convolve(r, b, &x, &y));
    CVX_RETURN_IF(CVX_ALLOC(r->step, &last, CVX_F32, 1, h / 4, w / 4, 4 * b->out));
    CVX_RETURN_IF(cvx_conv_run(r->ctx, &b->last, &last, &x.whole, 1, NULL));
    for (int64_t left = b->out;; left /= 4, n *= 2) {
        CVX_RETURN_IF(CVX_ALLOC(r->step, out, CVX_F32, 1, h / 4 * n, w / 4 * n, left));
        cvx_tensor from = cvx_plane(&last, 0, last.dim[3]), to = cvx_plane(out, 0, left);
        CVX_RETURN_IF(
            cvx_op_pixel_shuffle(r->ctx, &(cvx_pixel_shuffle_args){.y = &to, .x = &from, .n = 2}));
        if (left < 24) {
            return CVX_OK;
        }
        last = *out;
    }
}

/* The block's flow and mask in full size, onto those there are or in their place. `change`: the flow goes there alone,
 * and is added later. */
static cvx_status run_block(run *r, int i, bool first, double scale, const cvx_tensor *change)
{
    size_t mark = cvx_arena_mark(r->step);
    cvx_tensor small;

    CVX_RETURN_IF(small_flow(r, i, first, scale, &small));
    double grow = (double)r->h / (double)small.dim[1]; /* 2·scale, or scale */
    cvx_tensor f = cvx_plane(&small, 0, 4), m = cvx_plane(&small, 4, 1);
    cvx_tensor to = cvx_plane(change != NULL ? change : &r->flow, 0, 4);
    cvx_tensor to_mask = cvx_plane(&r->mask, 0, 1);
    CVX_RETURN_IF(resize(r, &to, &f, 1 / grow, grow, !first && change == NULL));
    CVX_RETURN_IF(resize(r, &to_mask, &m, 1 / grow, 1, !first));
    cvx_arena_release(r->step, mark, false);
    return CVX_OK;
}

static cvx_status warp_both(run *r)
{
    for (int i = 0; i < 2; i++) {
        cvx_tensor y = cvx_plane(&r->warped[i], 0, 4), x = cvx_plane(i == 0 ? r->a : r->b, 0, 4);
        cvx_tensor flow = cvx_plane(&r->flow, 2 * i, 2);
        CVX_RETURN_IF(cvx_op_warp(r->ctx, &(cvx_warp_args){.y = &y, .x = &x, .flow = &flow}));
    }
    return CVX_OK;
}

/* Both halves of the change are longer than the threshold somewhere. */
static cvx_status too_long(run *r, const cvx_tensor *change, bool *out)
{
    float most[2] = {0};

    for (int i = 0; i < 2; i++) {
        cvx_tensor f = cvx_plane(change, 2 * i, 2);
        CVX_RETURN_IF(cvx_op_abs_max(r->ctx, &(cvx_abs_max_args){.x = &f, .out = &most[i]}));
    }
    *out = (double)most[0] > r->m->cfg.doubling && (double)most[1] > r->m->cfg.doubling;
    return CVX_OK;
}

/* Whether the picture divides at twice every scale. */
static bool can_double(const run *r)
{
    for (int i = 0; i < CVX_RIFE_BLOCKS; i++) {
        int64_t step = (int64_t)(8 * r->m->cfg.scales[i]);
        if (r->h % step != 0 || r->w % step != 0) {
            return false;
        }
    }
    return r->m->cfg.doubling > 0;
}

/* The second block, and with long flows the first two once more at twice their scales: *factor is then 2. */
static cvx_status second_block(run *r, double *factor)
{
    const double *s = r->m->cfg.scales;
    size_t mark = cvx_arena_mark(r->step);
    cvx_tensor change;
    bool again = false;

    if (!can_double(r)) {
        return run_block(r, 1, false, s[1], NULL);
    }
    CVX_RETURN_IF(CVX_ALLOC(r->step, &change, CVX_F32, 1, r->h, r->w, 4));
    CVX_RETURN_IF(run_block(r, 1, false, s[1], &change));
    CVX_RETURN_IF(too_long(r, &change, &again));
    if (again) {
        *factor = 2;
        CVX_RETURN_IF(run_block(r, 0, true, 2 * s[0], NULL));
        CVX_RETURN_IF(warp_both(r));
        CVX_RETURN_IF(run_block(r, 1, false, 2 * s[1], &change));
    }
    CVX_RETURN_IF(cvx_op_add(r->ctx, &(cvx_add_args){.y = &r->flow, .a = &r->flow, .b = &change}));
    cvx_arena_release(r->step, mark, false);
    return CVX_OK;
}

static void show(const run *r, float *flow, float *mask)
{
    if (flow != NULL && !r->ctx->measure) {
        cvx_download(r->ctx, flow, &r->flow);
    }
    if (mask != NULL && !r->ctx->measure) {
        cvx_download(r->ctx, mask, &r->mask);
    }
}

static cvx_status blocks(run *r)
{
    const double *s = r->m->cfg.scales;
    double factor = 1;

    CVX_RETURN_IF(run_block(r, 0, true, s[0], NULL));
    if (r->tap != NULL) {
        show(r, r->tap->flow0, r->tap->mask0);
    }
    CVX_RETURN_IF(warp_both(r));
    CVX_RETURN_IF(second_block(r, &factor));
    for (int i = 2; i < CVX_RIFE_BLOCKS; i++) {
        CVX_RETURN_IF(warp_both(r));
        CVX_RETURN_IF(run_block(r, i, false, factor * s[i], NULL));
    }
    if (r->tap != NULL) {
        r->tap->doubled = factor > 1;
        show(r, r->tap->flow, r->tap->mask);
    }
    return warp_both(r);
}

static cvx_status check_size(const cvx_rife *m, const cvx_tensor *y)
{
    for (int i = 0; i < CVX_RIFE_BLOCKS; i++) {
        int64_t step = (int64_t)(4 * m->cfg.scales[i]);
        if (y->dim[1] % step != 0 || y->dim[2] % step != 0) {
            return cvx_fail(CVX_EINTERNAL,
                            "RIFE: a frame of %lldx%lld; multiples of %lld are needed",
                            (long long)y->dim[2], (long long)y->dim[1], (long long)step);
        }
    }
    return CVX_OK;
}

cvx_status cvx_rife_frame(cvx_rife *m, cvx_arena *step, const cvx_tensor *y, const cvx_tensor *a,
                          const cvx_tensor *b, double t, cvx_rife_tap *tap)
{
    size_t mark = cvx_arena_mark(step);
    run r = {.m = m,
             .ctx = m->ctx,
             .step = step,
             .h = y->dim[1],
             .w = y->dim[2],
             .a = a,
             .b = b,
             .t = (float)t,
             .tap = tap};

    CVX_RETURN_IF(check_size(m, y));
    for (int i = 0; i < 2; i++) {
        CVX_RETURN_IF(CVX_ALLOC(step, &r.warped[i], CVX_F32, 1, r.h, r.w, 4));
    }
    CVX_RETURN_IF(CVX_ALLOC(step, &r.flow, CVX_F32, 1, r.h, r.w, 4));
    CVX_RETURN_IF(CVX_ALLOC(step, &r.mask, CVX_F32, 1, r.h, r.w, 1));
    CVX_RETURN_IF(blocks(&r));
    cvx_tensor to = cvx_plane(y, 0, 4), wa = cvx_plane(&r.warped[0], 0, 4);
    cvx_tensor wb = cvx_plane(&r.warped[1], 0, 4), mask = cvx_plane(&r.mask, 0, 1);
    CVX_RETURN_IF(cvx_op_sigmoid_mix(
        m->ctx, &(cvx_sigmoid_mix_args){.y = &to, .a = &wa, .b = &wb, .mask = &mask}));
    cvx_arena_release(step, mark, false);
    return CVX_OK;
}
