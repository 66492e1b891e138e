#include "model/linear.h"

#include <stdio.h>

cvx_status cvx_linear_pack(const cvx_load *l, cvx_tensor *w)
{
    cvx_tensor packed = *w;

    if (!l->pack) {
        return CVX_OK;
    }
    packed.layout = CVX_PACKED_LINEAR;
    CVX_RETURN_IF(
        cvx_arena_alloc(l->arena, &packed.data, cvx_packed_bytes(l->ctx, w, CVX_PACKED_LINEAR)));
    CVX_RETURN_IF(cvx_op_pack(l->ctx, &(cvx_pack_args){.dst = &packed, .src = w}));
    cvx_weights_release(l->weights, w);
    *w = packed;
    return CVX_OK;
}

cvx_status cvx_linear_load_rows(const cvx_load *l, cvx_linear *out, const char *name, int64_t n_all,
                                int64_t k, bool bias, int64_t row0, int64_t n)
{
    char full[256];
    cvx_linear lin = {0};

    snprintf(full, sizeof full, "%s.weight", name);
    CVX_RETURN_IF(CVX_WEIGHT(l->weights, &lin.w, full, n_all, k));
    lin.w = cvx_slice(&lin.w, 0, row0, n);
    CVX_RETURN_IF(cvx_linear_pack(l, &lin.w));
    if (bias) {
        snprintf(full, sizeof full, "%s.bias", name);
        CVX_RETURN_IF(CVX_WEIGHT_F32(l->weights, l->arena, &lin.b, full, n_all));
        lin.b = cvx_slice(&lin.b, 0, row0, n);
    }
    *out = lin;
    return CVX_OK;
}

cvx_status cvx_linear_load(const cvx_load *l, cvx_linear *out, const char *name, int64_t n,
                           int64_t k, bool bias)
{
    return cvx_linear_load_rows(l, out, name, n, k, bias, 0, n);
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
