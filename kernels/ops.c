/* The public face of every op: shapes are checked once here, so that backends need not; operations
 * and time are counted; then the context's backend runs. */
#include "kernels/ops.h"

#include <omp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/beat.h"
#include "base/progress.h"
#include "kernels/cpu/cpu.h"
#include "kernels/memory.h"
#include "kernels/moved.h"
#include "kernels/trace.h"
#ifdef CVX_HAVE_CUDA
#include "kernels/cuda/parts.h"
#endif

const char *const cvx_op_names[CVX_OP_COUNT] = {
#define CVX_OP(op) #op,
#include "kernels/ops.def"
#undef CVX_OP
};

/* Which operands an op was given and which it needs, in one line. The operands follow as pairs of a
 * name and a tensor (NULL tensors are left out), closed by a NULL name. */
static cvx_status wrong(const char *op, const char *need, ...)
{
    char given[600] = "", one[128];
    size_t at = 0;
    va_list ap;

    va_start(ap, need);
    for (const char *name; (name = va_arg(ap, const char *)) != NULL && at < sizeof given;) {
        const cvx_tensor *t = va_arg(ap, const cvx_tensor *);
        if (t != NULL) {
            at += (size_t)snprintf(given + at, sizeof given - at, "%s%s %s%s%s", at ? ", " : "",
                                   name, cvx_tensor_describe(t, one, sizeof one),
                                   t->name[0] ? " " : "", t->name);
        }
    }
    va_end(ap);
    return cvx_fail(CVX_EINTERNAL, "op %s: given %s; needed: %s", op, given, need);
}

/* A plain f32 tensor of ndim dims whose innermost dimension is contiguous. */
static bool f32(const cvx_tensor *t, int ndim)
{
    return t != NULL && t->dtype == CVX_F32 && t->layout == CVX_PLAIN && t->ndim == ndim &&
           (t->dim[ndim - 1] <= 1 || t->stride[ndim - 1] == 1);
}

/* The same, or of another dtype that activations may have (cvx_activations). */
static bool activation(const cvx_tensor *t, int ndim)
{
    cvx_tensor as_f32;

    if (t == NULL || t->dtype != CVX_BF16) {
        return f32(t, ndim);
    }
    as_f32 = *t;
    as_f32.dtype = CVX_F32;
    return f32(&as_f32, ndim);
}

static bool dense(const cvx_tensor *t, int ndim)
{
    return f32(t, ndim) && cvx_is_dense(t);
}

/* An absent operand, or a dense f32 vector of n, or with `rows` a dense matrix [rows, n]. */
static bool vector(const cvx_tensor *t, int64_t rows, int64_t n)
{
    if (t == NULL) {
        return true;
    }
    return rows == 0 ? dense(t, 1) && t->dim[0] == n
                     : dense(t, 2) && t->dim[0] == rows && t->dim[1] == n;
}

static bool is_float(const cvx_tensor *t)
{
    return t->dtype == CVX_F32 || t->dtype == CVX_F16 || t->dtype == CVX_BF16;
}

static bool same_dims(const cvx_tensor *a, const cvx_tensor *b)
{
    return a->ndim == b->ndim && memcmp(a->dim, b->dim, (size_t)a->ndim * sizeof *a->dim) == 0;
}

/* Text and video rows are told apart only where there is a table of two rows, and rows at all. */
static bool streams(bool used, const cvx_tensor *y, int64_t text_rows, int64_t period)
{
    return !used || y->dim[0] == 0 || (text_rows >= 0 && period > 0);
}

/* --- one check and one count of floating-point operations per op --- */

static cvx_status check_pack(const cvx_pack_args *a)
{
    const cvx_tensor *s = a->src, *d = a->dst;
    int ndim = d->layout == CVX_PACKED_LINEAR || d->layout == CVX_PACKED_LINEAR_F8 ? 2 : 5;

    if (d->layout == CVX_PLAIN || s->layout != CVX_PLAIN || !is_float(s) || s->ndim != ndim ||
        !(ndim == 2 ? s->dim[1] <= 1 || s->stride[1] == 1 : cvx_is_dense(s)) || !same_dims(s, d)) {
        return wrong("pack",
                     "src plain, float, [n, k] or dense [cout, cin, kt, kh, kw]; dst packed, "
                     "of the same dims",
                     "dst", d, "src", s, NULL);
    }
    return CVX_OK;
}

static double flops_pack(const cvx_pack_args *a)
{
    (void)a;
    return 0;
}

static cvx_status check_linear(const cvx_linear_args *a)
{
    const cvx_tensor *y = a->y, *x = a->x, *w = a->w;
    bool ok = activation(y, 2) && activation(x, 2) && w->ndim == 2 && is_float(w) &&
              (w->layout == CVX_PACKED_LINEAR || w->layout == CVX_PACKED_LINEAR_F8 ||
               (w->layout == CVX_PLAIN && (w->dim[1] <= 1 || w->stride[1] == 1))) &&
              y->dim[0] == x->dim[0] && y->dim[1] == w->dim[0] && x->dim[1] == w->dim[1] &&
              x->dim[1] >= 1;

    ok = ok && vector(a->b, 0, y->dim[1]) && vector(a->gate, 2, y->dim[1]) &&
         streams(a->gate != NULL, y, a->text_rows, a->period) &&
         (a->residual == NULL || (f32(a->residual, 2) && same_dims(a->residual, y)));
    if (!ok) {
        return wrong("linear", "y [m, n], x [m, k], w [n, k], b [n], residual [m, n], gate [2, n]",
                     "y", y, "x", x, "w", w, "b", a->b, "residual", a->residual, "gate", a->gate,
                     NULL);
    }
    return CVX_OK;
}

static double flops_linear(const cvx_linear_args *a)
{
    return 2.0 * (double)cvx_numel(a->y) * (double)a->x->dim[1];
}

static cvx_status check_layer_norm(const cvx_layer_norm_args *a)
{
    const cvx_tensor *y = a->y, *x = a->x;
    int64_t c = x->dim[1];

    if (!activation(y, 2) || !f32(x, 2) || !same_dims(x, y) || !vector(a->gamma, 0, c) ||
        !vector(a->beta, 0, c) || !vector(a->scale, 2, c) || !vector(a->shift, 2, c) ||
        !streams(a->scale != NULL || a->shift != NULL, y, a->text_rows, a->period)) {
        return wrong("layer_norm", "y, x [m, c], gamma, beta [c], scale, shift [2, c]", "y", y, "x",
                     x, "gamma", a->gamma, "beta", a->beta, "scale", a->scale, "shift", a->shift,
                     NULL);
    }
    return CVX_OK;
}

static double flops_layer_norm(const cvx_layer_norm_args *a)
{
    return 9.0 * (double)cvx_numel(a->x);
}

static cvx_status check_rms_norm(const cvx_rms_norm_args *a)
{
    if (!activation(a->y, 2) || !f32(a->x, 2) || !same_dims(a->x, a->y) || a->gamma == NULL ||
        !vector(a->gamma, 0, a->x->dim[1])) {
        return wrong("rms_norm", "y, x [m, c], gamma [c]", "y", a->y, "x", a->x, "gamma", a->gamma,
                     NULL);
    }
    return CVX_OK;
}

static double flops_rms_norm(const cvx_rms_norm_args *a)
{
    return 4.0 * (double)cvx_numel(a->x);
}

static cvx_status check_qk_norm_rope(const cvx_qk_norm_rope_args *a)
{
    const cvx_tensor *x = a->x;
    int64_t s = x->dim[1], d = x->dim[3];
    bool ok = activation(x, 4) && a->gamma != NULL && a->beta != NULL && vector(a->gamma, 0, d) &&
              vector(a->beta, 0, d) && (a->cos == NULL) == (a->sin == NULL);

    if (ok && a->cos != NULL) {
        int64_t last = s - a->text_rows + a->rope_row0;
        ok = f32(a->cos, 2) && f32(a->sin, 2) && a->cos->dim[1] == d && a->sin->dim[1] == d &&
             d % 2 == 0 && a->text_rows >= 0 && a->rope_row0 >= 0 &&
             (s <= a->text_rows || (last <= a->cos->dim[0] && last <= a->sin->dim[0]));
    }
    if (!ok) {
        return wrong("qk_norm_rope",
                     "x [b, s, h, d], gamma, beta [d], cos, sin [at least s - "
                     "text_rows + rope_row0, d]",
                     "x", x, "gamma", a->gamma, "beta", a->beta, "cos", a->cos, "sin", a->sin,
                     NULL);
    }
    return CVX_OK;
}

static double flops_qk_norm_rope(const cvx_qk_norm_rope_args *a)
{
    return (a->cos != NULL ? 10.0 : 7.0) * (double)cvx_numel(a->x);
}

static cvx_status check_attention(const cvx_attention_args *a)
{
    const cvx_tensor *q = a->q, *k = a->k, *v = a->v, *o = a->o, *bias = a->bias, *lse = a->lse;
    bool ok = activation(q, 4) && activation(k, 4) && activation(v, 4) && activation(o, 4) &&
              q->dtype == k->dtype && q->dtype == v->dtype && q->dtype == o->dtype &&
              same_dims(q, o) && same_dims(k, v) && q->dim[0] == k->dim[0] &&
              q->dim[2] == k->dim[2] && q->dim[3] == k->dim[3] && q->dim[3] <= 128 &&
              k->dim[1] >= 1 && (!a->causal || q->dim[1] == k->dim[1]);

    ok = ok && (bias == NULL || (f32(bias, 3) && bias->dim[0] == q->dim[2] &&
                                 bias->dim[1] == q->dim[1] && bias->dim[2] == k->dim[1]));
    ok = ok && (lse == NULL || (f32(lse, 3) && lse->dim[0] == q->dim[0] &&
                                lse->dim[1] == q->dim[2] && lse->dim[2] == q->dim[1]));
    if (!ok) {
        return wrong("attention",
                     "q, o [b, sq, h, d <= 128], k, v [b, sk, h, d], bias [h, sq, sk], lse "
                     "[b, h, sq]; causal: sq == sk",
                     "q", q, "k", k, "v", v, "o", o, "bias", bias, "lse", lse, NULL);
    }
    return CVX_OK;
}

static double flops_attention(const cvx_attention_args *a)
{
    double all = 4.0 * (double)cvx_numel(a->q) * (double)a->k->dim[1];
    return a->causal ? all / 2 : all;
}

static cvx_status check_attention_merge(const cvx_attention_merge_args *a)
{
    const cvx_tensor *o = a->o, *p = a->part, *lse = a->lse, *pl = a->part_lse;
    bool ok = activation(o, 4) && activation(p, 4) && o->dtype == p->dtype && f32(lse, 3) &&
              f32(pl, 3) && same_dims(o, p) && same_dims(lse, pl) && lse->dim[0] == o->dim[0] &&
              lse->dim[1] == o->dim[2] && lse->dim[2] == o->dim[1];

    if (!ok) {
        return wrong("attention_merge", "o, part [b, s, h, d], lse, part_lse [b, h, s]", "o", o,
                     "part", p, "lse", lse, "part_lse", pl, NULL);
    }
    return CVX_OK;
}

static double flops_attention_merge(const cvx_attention_merge_args *a)
{
    return 3.0 * (double)cvx_numel(a->o);
}

static cvx_status check_gated_act(const cvx_gated_act_args *a)
{
    int n = a->y->ndim;
    bool ok = activation(a->y, n) && activation(a->a, n) && activation(a->b, n) &&
              cvx_is_dense(a->y) && cvx_is_dense(a->a) && cvx_is_dense(a->b) &&
              a->y->dtype == a->a->dtype && a->y->dtype == a->b->dtype;

    if (!ok || !same_dims(a->y, a->a) || !same_dims(a->y, a->b)) {
        return wrong("gated_act", "y, a, b dense and of the same dims", "y", a->y, "a", a->a, "b",
                     a->b, NULL);
    }
    return CVX_OK;
}

static double flops_gated_act(const cvx_gated_act_args *a)
{
    return 2.0 * (double)cvx_numel(a->y);
}

static cvx_status check_add(const cvx_add_args *a)
{
    const cvx_tensor *b = a->b;
    int64_t n = cvx_numel(b);
    bool ok = dense(a->y, a->y->ndim) && dense(a->a, a->y->ndim) && dense(b, b->ndim) &&
              cvx_numel(a->y) == cvx_numel(a->a) && (n > 0 || cvx_numel(a->y) == 0);

    /* b's dims, read from the innermost, are a's until only ones are left */
    for (int i = 1; ok && i <= b->ndim && n > 1; i++) {
        int64_t want = i <= a->a->ndim ? a->a->dim[a->a->ndim - i] : 1;
        ok = b->dim[b->ndim - i] == want;
        n /= b->dim[b->ndim - i] > 0 ? b->dim[b->ndim - i] : 1;
    }
    if (!ok) {
        return wrong("add", "y and a of one shape, b a trailing part of it, all dense", "y", a->y,
                     "a", a->a, "b", b, NULL);
    }
    return CVX_OK;
}

static double flops_add(const cvx_add_args *a)
{
    return (double)cvx_numel(a->y);
}

static cvx_status check_embed(const cvx_embed_args *a)
{
    const cvx_tensor *y = a->y, *t = a->table;

    if (!f32(y, 2) || t->ndim != 2 || !is_float(t) || t->layout != CVX_PLAIN || t->stride[1] != 1 ||
        y->dim[1] != t->dim[1]) {
        return wrong("embed", "y [n, c], table [v, c] plain float", "y", y, "table", t, NULL);
    }
    for (int64_t i = 0; i < y->dim[0] && a->ids != NULL; i++) {
        if (a->ids[i] < 0 || a->ids[i] >= t->dim[0]) {
            return cvx_fail(CVX_EINVAL, "token id %d at position %lld is not in 0 .. %lld",
                            a->ids[i], (long long)i, (long long)t->dim[0] - 1);
        }
    }
    return CVX_OK;
}

static double flops_embed(const cvx_embed_args *a)
{
    (void)a;
    return 0;
}

/* rows [b, n, k] against latents [b, f, c, h, w] */
static cvx_status check_patches(const char *op, const cvx_patchify_args *a, const cvx_tensor *rows,
                                const cvx_tensor *x)
{
    int64_t pt = a->pt > 0 ? a->pt : 1, p = a->p;
    bool ok = f32(rows, 3) && dense(x, 5) && p > 0 && a->pt >= 0 && a->row0 >= 0 &&
              rows->dim[0] == x->dim[0] && x->dim[1] % pt == 0 && x->dim[3] % p == 0 &&
              x->dim[4] % p == 0 && rows->dim[2] == x->dim[2] * pt * p * p &&
              a->row0 + rows->dim[1] <= x->dim[1] / pt * (x->dim[3] / p) * (x->dim[4] / p);

    if (!ok) {
        return wrong(
            op,
            "rows [b, n, c·pt·p·p] and latents [b, f, c, h, w] dense, f % pt == 0, h and w "
            "% p == 0, row0 + n at most the patches",
            "y", a->y, "x", a->x, NULL);
    }
    return CVX_OK;
}

static cvx_status check_patchify(const cvx_patchify_args *a)
{
    return check_patches("patchify", a, a->y, a->x);
}

static double flops_patchify(const cvx_patchify_args *a)
{
    (void)a;
    return 0;
}

static cvx_status check_unpatchify(const cvx_unpatchify_args *a)
{
    return check_patches("unpatchify", a, a->x, a->y);
}

static double flops_unpatchify(const cvx_unpatchify_args *a)
{
    (void)a;
    return 0;
}

static cvx_status check_sched_step(const cvx_sched_step_args *a)
{
    const cvx_tensor *t[] = {a->sample, a->cond, a->x0_out, a->uncond, a->old_x0, a->noise};
    bool ok = a->sample != NULL && a->cond != NULL && dense(a->prev, a->prev->ndim);

    for (size_t i = 0; i < sizeof t / sizeof *t && ok; i++) {
        ok = t[i] == NULL || (dense(t[i], t[i]->ndim) && cvx_numel(t[i]) == cvx_numel(a->prev));
    }
    if (!ok) {
        return wrong("sched_step",
                     "prev, sample, cond (and x0_out, uncond, old_x0, noise) dense, of one "
                     "count",
                     "prev", a->prev, "x0_out", a->x0_out, "sample", a->sample, "uncond", a->uncond,
                     "cond", a->cond, "old_x0", a->old_x0, "noise", a->noise, NULL);
    }
    return CVX_OK;
}

static double flops_sched_step(const cvx_sched_step_args *a)
{
    return 12.0 * (double)cvx_numel(a->prev);
}

static cvx_status check_combine(const cvx_combine_args *a)
{
    bool ok = a->n >= 1 && a->n <= 4 && dense(a->y, a->y->ndim);

    for (int i = 0; ok && i < a->n; i++) {
        ok = dense(a->x[i], a->x[i]->ndim) && cvx_numel(a->x[i]) == cvx_numel(a->y);
    }
    if (!ok) {
        return wrong("combine", "1 to 4 dense x of y's count", "y", a->y, "x[0]", a->x[0], NULL);
    }
    return CVX_OK;
}

static double flops_combine(const cvx_combine_args *a)
{
    return 2.0 * a->n * (double)cvx_numel(a->y);
}

/* The input's extents fit the output's, taps and stride. */
static bool conv_fits(const cvx_conv3d_args *a)
{
    const int64_t *y = a->y->dim, *x = a->x->dim, *w = a->w->dim;

    if (x[0] < y[0] + w[2] - 1 || a->x0 < 0 || a->x0 >= x[0]) {
        return false;
    }
    if (a->up2) {
        return w[2] == 1 && w[3] == 3 && w[4] == 3 && a->stride == 1 && y[1] % 2 == 0 &&
               y[2] % 2 == 0 && x[1] == y[1] / 2 + 2 && x[2] == y[2] / 2 + 2;
    }
    return (y[1] - 1) * a->stride + w[3] <= x[1] && (y[2] - 1) * a->stride + w[4] <= x[2];
}

/* f32, or one of the dtypes that cvx_conv_input() may name. */
static bool conv_operand(const cvx_tensor *t)
{
    return f32(t, 4) || ((t->dtype == CVX_BF16X3 || t->dtype == CVX_BF16) && t->ndim == 4 &&
                         t->layout == CVX_PLAIN && t->stride[3] == 1);
}

static cvx_status check_conv3d(const cvx_conv3d_args *a)
{
    const cvx_tensor *y = a->y, *x = a->x, *w = a->w;
    bool ok = f32(y, 4) && conv_operand(x) && w->ndim == 5 && is_float(w) &&
              (w->layout == (a->up2 ? CVX_PACKED_CONV_UP2 : CVX_PACKED_CONV) ||
               (w->layout == CVX_PLAIN && cvx_is_dense(w))) &&
              y->dim[3] == w->dim[0] && x->dim[3] == w->dim[1] && vector(a->b, 0, y->dim[3]) &&
              (a->residual == NULL || (f32(a->residual, 4) && same_dims(a->residual, y))) &&
              (a->stride == 1 || a->stride == 2) && conv_fits(a);

    if (!ok) {
        return wrong(
            "conv3d",
            "y [t, h, w, cout], x [t + kt - 1, (h - 1)·stride + kh, .., cin] (up2: "
            "[t, h/2 + 2, w/2 + 2, cin], taps 1 x 3 x 3), w [cout, cin, kt, kh, kw], b [cout], "
            "residual like y, stride 1 or 2",
            "y", y, "x", x, "w", w, "b", a->b, "residual", a->residual, NULL);
    }
    return CVX_OK;
}

static double flops_conv3d(const cvx_conv3d_args *a)
{
    double taps = (double)(a->w->dim[1] * a->w->dim[2] * a->w->dim[3] * a->w->dim[4]);
    return 2.0 * (double)cvx_numel(a->y) * taps;
}

static cvx_status check_group_norm_stats(const cvx_group_norm_stats_args *a)
{
    const cvx_tensor *s = a->sums, *x = a->x;

    if (!f32(x, 4) || s->dtype != CVX_F64 || s->ndim != 4 || !cvx_is_dense(s) ||
        s->dim[0] != x->dim[0] || s->dim[1] != x->dim[1] || s->dim[2] < 1 ||
        x->dim[3] % s->dim[2] != 0 || s->dim[3] != 2) {
        return wrong("group_norm_stats",
                     "x [t, h, w, c], sums [t, h, groups, 2] f64, c % groups == 0", "sums", s, "x",
                     x, NULL);
    }
    return CVX_OK;
}

static double flops_group_norm_stats(const cvx_group_norm_stats_args *a)
{
    return 3.0 * (double)cvx_numel(a->x);
}

static cvx_status check_group_norm_finish(const cvx_group_norm_finish_args *a)
{
    const cvx_tensor *m = a->stats, *s = a->sums;

    if (s->dtype != CVX_F64 || s->ndim != 4 || !cvx_is_dense(s) || s->dim[3] != 2 ||
        m->dtype != CVX_F64 || m->ndim != 2 || !cvx_is_dense(m) || m->dim[0] != s->dim[2] ||
        m->dim[1] != 2 || a->count < 1) {
        return wrong("group_norm_finish",
                     "stats [groups, 2] f64, sums [t, h, groups, 2] f64, count >= 1", "stats", m,
                     "sums", s, NULL);
    }
    return CVX_OK;
}

static double flops_group_norm_finish(const cvx_group_norm_finish_args *a)
{
    return (double)cvx_numel(a->sums);
}

static cvx_status check_group_norm_apply(const cvx_group_norm_apply_args *a)
{
    const cvx_tensor *x = a->x, *y = a->y, *s = a->stats, *zy = a->zy, *zb = a->zb;
    bool ok = f32(x, 4) && conv_operand(y) && same_dims(x, y) && s->dtype == CVX_F64 &&
              s->ndim == 2 && cvx_is_dense(s) && s->dim[0] >= 1 && s->dim[1] == 2 &&
              x->dim[3] % s->dim[0] == 0 && a->gamma != NULL && a->beta != NULL &&
              vector(a->gamma, 0, x->dim[3]) && vector(a->beta, 0, x->dim[3]) &&
              (zy == NULL) == (zb == NULL);

    if (ok && zy != NULL) {
        ok = f32(zy, 4) && f32(zb, 4) && same_dims(zy, zb) && zy->dim[3] == x->dim[3] &&
             a->h0 >= 0 && a->h0 + x->dim[1] <= a->h_full;
    }
    if (!ok) {
        return wrong("group_norm_apply",
                     "x, y [t, h, w, c], stats [groups, 2] f64, gamma, beta [c], "
                     "zy, zb [tz, hz, wz, c] or none, h0 + h <= h_full",
                     "y", y, "x", x, "stats", s, "gamma", a->gamma, "beta", a->beta, "zy", zy, "zb",
                     zb, NULL);
    }
    return CVX_OK;
}

static double flops_group_norm_apply(const cvx_group_norm_apply_args *a)
{
    return (a->zy != NULL ? 8.0 : 6.0) * (double)cvx_numel(a->x);
}

static cvx_status check_avg_pool_time(const cvx_avg_pool_time_args *a)
{
    const cvx_tensor *y = a->y, *x = a->x;

    if (!f32(x, 4) || !f32(y, 4) || y->dim[0] != (x->dim[0] + 1) / 2 || y->dim[1] != x->dim[1] ||
        y->dim[2] != x->dim[2] || y->dim[3] != x->dim[3]) {
        return wrong("avg_pool_time", "x [t, h, w, c], y [(t + 1) / 2, h, w, c]", "y", y, "x", x,
                     NULL);
    }
    return CVX_OK;
}

static double flops_avg_pool_time(const cvx_avg_pool_time_args *a)
{
    return (double)cvx_numel(a->x);
}

/* Two tensors of activations of the same dtype and four dims, any strides. */
static bool pair4(const cvx_tensor *y, const cvx_tensor *x)
{
    return (y->dtype == CVX_F32 || y->dtype == CVX_BF16) && x->dtype == y->dtype &&
           y->layout == CVX_PLAIN && x->layout == CVX_PLAIN && y->ndim == 4 && same_dims(x, y);
}

static cvx_status check_strided_copy(const cvx_strided_copy_args *a)
{
    bool split = a->x->dtype == CVX_BF16X3 || a->y->dtype == CVX_BF16X3;

    if (split ? !conv_operand(a->x) || !conv_operand(a->y) || a->x->dtype == a->y->dtype ||
                    !same_dims(a->x, a->y)
              : !pair4(a->y, a->x)) {
        return wrong("strided_copy", "x, y [i, j, k, l] f32, or one bf16x3", "y", a->y, "x", a->x,
                     NULL);
    }
    return CVX_OK;
}

static double flops_strided_copy(const cvx_strided_copy_args *a)
{
    (void)a;
    return 0;
}

static cvx_status check_blend(const cvx_blend_args *a)
{
    if (!pair4(a->y, a->x) || a->y->dtype != CVX_F32 || (a->axis != 2 && a->axis != 3)) {
        return wrong("blend", "x, y [i, j, k, l] f32, axis 2 or 3", "y", a->y, "x", a->x, NULL);
    }
    return CVX_OK;
}

static double flops_blend(const cvx_blend_args *a)
{
    return 3.0 * (double)cvx_numel(a->y);
}

static cvx_status check_conv2d(const cvx_conv2d_args *a)
{
    cvx_conv3d_args same = {.y = a->y, .x = a->x, .w = a->w, .stride = a->stride, .up2 = a->up2};
    const cvx_tensor *y = a->y, *w = a->w, *more[2] = {a->residual, a->outer};
    bool split = y->dtype != CVX_F32;
    bool ok = conv_operand(y) && conv_operand(a->x) && w->ndim == 5 && is_float(w) &&
              w->dim[2] == 1 && y->dim[0] == a->x->dim[0] && y->dim[3] == w->dim[0] &&
              a->x->dim[3] == w->dim[1] && vector(a->b, 0, y->dim[3]) &&
              vector(a->slope, 0, y->dim[3]) && (a->stride == 1 || a->stride == 2) &&
              conv_fits(&same) &&
              (w->layout == (a->up2 ? CVX_PACKED_CONV_UP2 : CVX_PACKED_CONV) ||
               (w->layout == CVX_PACKED_PICTURE && a->stride == 1 && !a->up2) ||
               (w->layout == CVX_PLAIN && cvx_is_dense(w) && !split)) &&
              (!split || y->dim[3] % 32 == 0);

    for (int i = 0; i < 2; i++) {
        ok = ok && (more[i] == NULL || (f32(more[i], 4) && same_dims(more[i], y)));
    }
    if (!ok) {
        return wrong("conv2d",
                     "as conv3d with one tap in time; y f32, or a split dtype with cout % 32 == 0, "
                     "slope [cout], residual and outer like y in f32",
                     "y", y, "x", a->x, "w", w, "b", a->b, "slope", a->slope, "residual",
                     a->residual, "outer", a->outer, NULL);
    }
    return CVX_OK;
}

static double flops_conv2d(const cvx_conv2d_args *a)
{
    double taps = (double)(a->w->dim[1] * a->w->dim[3] * a->w->dim[4]);
    return 2.0 * (double)cvx_numel(a->y) * taps;
}

static cvx_status check_resize(const cvx_resize_args *a)
{
    const cvx_tensor *y = a->y, *x = a->x;

    if (!f32(y, 3) || !f32(x, 3) || y->dim[2] != x->dim[2] || x->dim[0] < 1 || x->dim[1] < 1 ||
        !(a->step > 0)) {
        return wrong("resize", "x [h, w, c], y [.., .., c], step > 0", "y", y, "x", x, NULL);
    }
    return CVX_OK;
}

static double flops_resize(const cvx_resize_args *a)
{
    return (a->cubic ? 40.0 : 8.0) * (double)cvx_numel(a->y);
}

static cvx_status check_warp(const cvx_warp_args *a)
{
    const cvx_tensor *y = a->y, *x = a->x, *f = a->flow;

    if (!f32(y, 3) || !f32(x, 3) || !f32(f, 3) || !same_dims(x, y) || f->dim[0] != y->dim[0] ||
        f->dim[1] != y->dim[1] || f->dim[2] != 2) {
        return wrong("warp", "x, y [h, w, c], flow [h, w, 2]", "y", y, "x", x, "flow", f, NULL);
    }
    return CVX_OK;
}

static double flops_warp(const cvx_warp_args *a)
{
    return 8.0 * (double)cvx_numel(a->y);
}

static cvx_status check_sigmoid_mix(const cvx_sigmoid_mix_args *a)
{
    const cvx_tensor *y = a->y, *m = a->mask;

    if (!f32(y, 3) || !f32(a->a, 3) || !f32(a->b, 3) || !f32(m, 3) || !same_dims(y, a->a) ||
        !same_dims(y, a->b) || m->dim[0] != y->dim[0] || m->dim[1] != y->dim[1] || m->dim[2] != 1) {
        return wrong("sigmoid_mix", "y, a, b [h, w, c], mask [h, w, 1]", "y", y, "a", a->a, "b",
                     a->b, "mask", m, NULL);
    }
    return CVX_OK;
}

static double flops_sigmoid_mix(const cvx_sigmoid_mix_args *a)
{
    return 6.0 * (double)cvx_numel(a->y);
}

static cvx_status check_pixel_shuffle(const cvx_pixel_shuffle_args *a)
{
    const cvx_tensor *y = a->y, *x = a->x, *b = a->base;
    int64_t n = a->n;
    bool ok = f32(y, 3) && f32(x, 3) && n >= 1 && y->dim[0] == x->dim[0] * n &&
              y->dim[1] == x->dim[1] * n && x->dim[2] == y->dim[2] * n * n;

    ok = ok && (b == NULL || (f32(b, 3) && b->dim[0] == x->dim[0] && b->dim[1] == x->dim[1] &&
                              b->dim[2] == y->dim[2]));
    if (!ok) {
        return wrong("pixel_shuffle", "x [h, w, c·n·n], y [h·n, w·n, c], base [h, w, c]", "y", y,
                     "x", x, "base", b, NULL);
    }
    return CVX_OK;
}

static double flops_pixel_shuffle(const cvx_pixel_shuffle_args *a)
{
    return (double)cvx_numel(a->y);
}

static cvx_status check_abs_max(const cvx_abs_max_args *a)
{
    if (!f32(a->x, 3) || a->out == NULL) {
        return wrong("abs_max", "x [h, w, c] and a place for the result", "x", a->x, NULL);
    }
    return CVX_OK;
}

static double flops_abs_max(const cvx_abs_max_args *a)
{
    return (double)cvx_numel(a->x);
}

static cvx_status check_row_change(const cvx_row_change_args *a)
{
    bool ok = dense(a->y, 2) && dense(a->a, 2) && dense(a->b, 2) && same_dims(a->a, a->b) &&
              a->y->dim[0] == a->a->dim[0] && a->y->dim[1] == 2;

    if (!ok) {
        return wrong("row_change", "a, b [m, n], y [m, 2], all dense", "y", a->y, "a", a->a, "b",
                     a->b, NULL);
    }
    return CVX_OK;
}

static double flops_row_change(const cvx_row_change_args *a)
{
    return 4.0 * (double)cvx_numel(a->a);
}

/* An op that succeeded took that long. */
static cvx_status written_down(cvx_ctx *ctx, cvx_status st, int op, double begin, double seconds,
                               double flops)
{
    if (ctx->trace == NULL || st != CVX_OK) {
        return st;
    }
    return cvx_trace_note(ctx->trace, &(cvx_trace_op){op, begin, seconds, flops});
}

#define CVX_OP(op)                                                                                 \
    cvx_status cvx_op_##op(cvx_ctx *ctx, const cvx_##op##_args *a)                                 \
    {                                                                                              \
        cvx_op_stat *s = &ctx->stat[CVX_OP_ID_##op];                                               \
        CVX_RETURN_IF(check_##op(a));                                                              \
        double flops = flops_##op(a);                                                              \
        s->calls++;                                                                                \
        s->flops += flops;                                                                         \
        s->bytes += cvx_moved_##op(a);                                                             \
        if (ctx->measure) {                                                                        \
            return CVX_OK;                                                                         \
        }                                                                                          \
        if (ctx->ops->op == NULL) {                                                                \
            return cvx_fail(CVX_EUNSUPPORTED, "backend %s has no op " #op, ctx->ops->name);        \
        }                                                                                          \
        double start = cvx_now();                                                                  \
        cvx_status st = ctx->ops->op(ctx, a);                                                      \
        if (ctx->timed && st == CVX_OK) {                                                          \
            st = cvx_sync(ctx);                                                                    \
        }                                                                                          \
        double seconds = cvx_now() - start;                                                        \
        s->seconds += seconds;                                                                     \
        cvx_beat();                                                                                \
        return written_down(ctx, st, CVX_OP_ID_##op, start, seconds, flops);                       \
    }
#include "kernels/ops.def"
#undef CVX_OP

size_t cvx_packed_bytes(const cvx_ctx *ctx, const cvx_tensor *src, cvx_layout layout)
{
    return ctx->ops->packed_bytes(ctx, src, layout);
}

cvx_dtype cvx_conv_input(const cvx_ctx *ctx, const cvx_tensor *w)
{
    return ctx->ops->conv_input != NULL ? ctx->ops->conv_input(ctx, w) : CVX_F32;
}

cvx_dtype cvx_activations(const cvx_ctx *ctx)
{
    return ctx->ops->activations != NULL ? ctx->ops->activations(ctx) : CVX_F32;
}

/* --- contexts --- */

#ifndef CVX_HAVE_CUDA
bool cvx_cuda_built(void)
{
    return false;
}

bool cvx_cuda_usable(char what[160])
{
    snprintf(what, 160, "this build has no backend \"cuda\"");
    return false;
}

bool cvx_cudnn_usable(char what[160])
{
    return cvx_cuda_usable(what);
}
#endif

/* The backend "cuda": CVX_EUNSUPPORTED where the build or the machine lacks it. */
static cvx_status choose_cuda(const cvx_ops **out)
{
#ifdef CVX_HAVE_CUDA
    *out = &cvx_cuda_ops;
    return CVX_OK;
#else
    (void)out;
    return cvx_fail(CVX_EUNSUPPORTED, "backend \"cuda\" is not in this build; \"cpu\" is");
#endif
}

/* What a backend keeps for a context. */
static cvx_status open_backend(cvx_ctx *ctx)
{
#ifdef CVX_HAVE_CUDA
    if (ctx->ops == &cvx_cuda_ops) {
        return cvx_cuda_open(ctx);
    }
#endif
    (void)ctx;
    return CVX_OK;
}

static cvx_status choose_table(const cvx_ops **out, const cvx_ctx_options *opt)
{
    const char *backend = opt->backend != NULL ? opt->backend : "auto";
    char what[160];
    const char *isa = opt->isa != NULL && strcmp(opt->isa, "auto") != 0 ? opt->isa : cvx_cpu_isa();
    bool known = false;

    for (int i = 0; cvx_cpu_levels[i] != NULL; i++) {
        known = known || strcmp(isa, cvx_cpu_levels[i]) == 0;
    }
    if (!known) {
        return cvx_fail(CVX_EINVAL, "instruction set \"%s\" is not one of auto|" CVX_CPU_LEVELS,
                        isa);
    }
    if (strcmp(backend, "ref") == 0) {
        *out = &cvx_ref_ops;
        return CVX_OK;
    }
    if (strcmp(backend, "cuda") == 0 || (strcmp(backend, "auto") == 0 && cvx_cuda_usable(what))) {
        return choose_cuda(out);
    }
    if (strcmp(backend, "auto") != 0 && strcmp(backend, "cpu") != 0) {
        return cvx_fail(CVX_EINVAL, "backend \"%s\" is not one of auto, ref, cpu, cuda", backend);
    }
    *out = cvx_cpu_ops(isa);
    if (*out == NULL) {
        return cvx_fail(CVX_EUNSUPPORTED,
                        "this machine cannot run \"%s\"; its best level is \"%s\"", isa,
                        cvx_cpu_isa());
    }
    return CVX_OK;
}

cvx_status cvx_ctx_open(cvx_ctx **out, const cvx_ctx_options *opt)
{
    const cvx_ops *ops = NULL;

    CVX_RETURN_IF(choose_table(&ops, opt));
    if (opt->threads < 0 || opt->threads > 4096) {
        return cvx_fail(CVX_EINVAL, "%d threads: give 0 (all cores) to 4096", opt->threads);
    }
    if (opt->compute != CVX_F32 && opt->compute != CVX_BF16 &&
        (opt->compute != CVX_F16 || ops->memory == NULL)) {
        return cvx_fail(CVX_EINVAL, "precision %s: the CPU computes in f32 or bf16",
                        cvx_dtype_name(opt->compute));
    }
    cvx_ctx *ctx = calloc(1, sizeof *ctx);
    if (ctx == NULL) {
        return cvx_fail(CVX_ENOMEM, "no memory for a compute context");
    }
    ctx->ops = ops;
    ctx->cores = omp_get_num_procs();
    ctx->threads = opt->threads > 0 ? opt->threads : ctx->cores;
    ctx->compute = opt->compute;
    cvx_status st = open_backend(ctx);
    if (st != CVX_OK) {
        free(ctx);
        return st;
    }
    *out = ctx;
    return CVX_OK;
}

void cvx_ctx_close(cvx_ctx *ctx)
{
    if (ctx != NULL) {
        if (ctx->ops->memory != NULL) {
            ctx->ops->memory->close(ctx);
        } else {
            cvx_cpu_scratch_free(ctx);
        }
        free(ctx);
    }
}
