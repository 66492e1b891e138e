#include "model/linear.h"

#include <stdio.h>

#include "kernels/memory.h"
#include "kernels/transfer.h"

static cvx_layout layout_of(const cvx_load *l)
{
    return l->fp8 ? CVX_PACKED_LINEAR_F8 : CVX_PACKED_LINEAR;
}

/* *w <- packed form of src [n, k] (any row stride). */
static cvx_status pack(const cvx_load *l, cvx_tensor *w, const cvx_tensor *src)
{
    cvx_tensor packed = *src;

    packed.data = w->data;
    packed.layout = layout_of(l);
    CVX_RETURN_IF(cvx_op_pack(l->ctx, &(cvx_pack_args){.dst = &packed, .src = src}));
    *w = packed;
    return CVX_OK;
}

cvx_status cvx_linear_pack(const cvx_load *l, cvx_tensor *w)
{
    cvx_tensor packed = {0};

    if (!l->pack) {
        cvx_weights_count_in_place(l->weights, w);
        return CVX_OK;
    }
    CVX_RETURN_IF(
        cvx_arena_alloc(l->arena, &packed.data, cvx_packed_bytes(l->ctx, w, layout_of(l))));
    CVX_RETURN_IF(pack(l, &packed, w));
    cvx_weights_release(l->weights, w);
    *w = packed;
    return CVX_OK;
}

/* dst, dense <- src, which may have a row stride; the same dtype. */
static void copy_rows(const cvx_load *l, const cvx_tensor *dst, const cvx_tensor *src)
{
    for (int64_t i = 0; i < src->dim[0]; i++) {
        cvx_tensor to = cvx_slice(dst, 0, i, 1), from = cvx_slice(src, 0, i, 1);
        cvx_copy(l->ctx, &to, &from);
    }
}

/* What a part needs beyond a view: packing, its changes, or a copy of its columns. `part` is its place in
 * `name` [n, k]. */
static cvx_status own_part(const cvx_load *l, cvx_tensor *w, const char *name, int64_t n, int64_t k,
                           const cvx_weights_part *part)
{
    bool changed = cvx_weights_changes(l->weights, name) > 0;
    cvx_tensor src = *w, out = {0}, plain = cvx_view(NULL, changed ? CVX_F32 : w->dtype, 2, w->dim);

    if (l->pack) {
        CVX_RETURN_IF(
            cvx_arena_alloc(l->arena, &out.data, cvx_packed_bytes(l->ctx, &plain, layout_of(l))));
    }
    size_t mark = cvx_arena_mark(l->arena);
    if (changed || !l->pack) {
        cvx_host_values host = {0};
        CVX_RETURN_IF(cvx_tensor_alloc(l->arena, &plain, plain.dtype, 2, w->dim));
        if (!changed) {
            copy_rows(l, &plain, w);
        } else if (!l->ctx->measure) {
            CVX_RETURN_IF(cvx_host_open(l->ctx, &host, &plain, false));
            cvx_tensor values = plain;
            values.data = host.data;
            cvx_status st = cvx_weights_changed_part(l->weights, &values, name, n, k, part);
            cvx_host_close(l->ctx, &host, &plain, st == CVX_OK);
            CVX_RETURN_IF(st);
        }
        src = plain;
    }
    if (l->pack) {
        CVX_RETURN_IF(pack(l, &out, &src));
        cvx_arena_release(l->arena, mark, false); /* a part with changes was there to be packed */
    } else {
        out = plain;
    }
    if (!l->ctx->measure) {
        cvx_weights_release(l->weights, w);
    }
    *w = out;
    return CVX_OK;
}

static cvx_status load_bias(const cvx_load *l, cvx_tensor *b, const char *name, int64_t n,
                            const cvx_weights_part *part)
{
    cvx_tensor t;

    CVX_RETURN_IF(CVX_WEIGHT(l->weights, &t, name, n));
    t = cvx_slice(&t, 0, part->row0, part->rows);
    CVX_RETURN_IF(CVX_ALLOC(l->arena, b, CVX_F32, part->rows));
    return cvx_weights_widen(l->arena, b, &t);
}

cvx_status cvx_linear_load_part(const cvx_load *l, cvx_linear *out, const char *name, int64_t n,
                                int64_t k, bool bias, const cvx_weights_part *part)
{
    char full[256];
    cvx_linear lin = {0};

    snprintf(full, sizeof full, "%s.weight", name);
    CVX_RETURN_IF(cvx_weights_get_part(l->weights, &lin.w, full, n, k, part));
    if (cvx_numel(&lin.w) == 0) {
        lin.w.data = NULL;
    } else if (l->pack || part->cols < k || cvx_weights_changes(l->weights, full) > 0) {
        CVX_RETURN_IF(own_part(l, &lin.w, full, n, k, part));
    } else {
        cvx_weights_count_in_place(l->weights, &lin.w);
    }
    if (bias) {
        snprintf(full, sizeof full, "%s.bias", name);
        CVX_RETURN_IF(load_bias(l, &lin.b, full, n, part));
    }
    *out = lin;
    return CVX_OK;
}

cvx_status cvx_linear_load(const cvx_load *l, cvx_linear *out, const char *name, int64_t n,
                           int64_t k, bool bias)
{
    return cvx_linear_load_part(l, out, name, n, k, bias, &(cvx_weights_part){0, n, 0, k});
}

cvx_status cvx_vector_load(const cvx_load *l, cvx_tensor *out, const char *name, const char *suffix,
                           int64_t n)
{
    char full[256];

    snprintf(full, sizeof full, "%s.%s", name, suffix);
    return CVX_WEIGHT_F32(l->weights, l->arena, out, full, n);
}

cvx_status cvx_linear_run(cvx_ctx *ctx, const cvx_linear *l, const cvx_tensor *y,
                          const cvx_tensor *x, cvx_act act)
{
    cvx_tensor x2 = *x, y2 = *y;

    if (x->ndim != 2) {
        x2 = CVX_RESHAPE(x, cvx_numel(x) / x->dim[x->ndim - 1], x->dim[x->ndim - 1]);
    }
    if (y->ndim != 2) {
        y2 = CVX_RESHAPE(y, cvx_numel(y) / y->dim[y->ndim - 1], y->dim[y->ndim - 1]);
    }
    return cvx_op_linear(
        ctx, &(cvx_linear_args){
                 .y = &y2, .x = &x2, .w = &l->w, .b = l->b.data ? &l->b : NULL, .act = act});
}
