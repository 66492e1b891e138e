#include "model/pictures.h"

#include <stdio.h>
#include <string.h>

/* I16 with a table of scales, one for each pair of channels. */
static cvx_status widen_i16(const cvx_load *l, cvx_tensor *out, int64_t at, const char *name)
{
    char scale_name[160];
    cvx_tensor view = cvx_weights_at(l->weights, at), scale;
    int64_t pairs = out->dim[0] * out->dim[1], taps = cvx_numel(out) / pairs;
    float *to = out->data;

    snprintf(scale_name, sizeof scale_name, "%s_scale", name);
    CVX_RETURN_IF(CVX_WEIGHT(l->weights, &scale, scale_name, out->dim[0], out->dim[1]));
    if (l->ctx->measure) {
        return CVX_OK;
    }
    for (int64_t i = 0; i < pairs * taps; i++) {
        int16_t v;
        memcpy(&v, (const char *)view.data + i * (int64_t)sizeof v, sizeof v);
        to[i] = (float)v * 0x1p-15f * cvx_get_f32(&scale, i / taps);
    }
    return CVX_OK;
}

cvx_status cvx_picture_weight(const cvx_load *l, cvx_tensor *out, const char *name, int ndim,
                              const int64_t *dim)
{
    int64_t at = cvx_weights_find(l->weights, name);

    if (at < 0 || strcmp(cvx_weights_dtype(l->weights, at), "i16") != 0) {
        return cvx_weights_get_f32(l->weights, l->arena, out, name, ndim, dim);
    }
    cvx_tensor have = cvx_weights_at(l->weights, at);
    bool same = have.ndim == ndim;
    for (int i = 0; same && i < ndim; i++) {
        same = have.dim[i] == dim[i];
    }
    if (!same || ndim < 2) {
        return cvx_fail(CVX_EFORMAT, "%s: tensor %s: its dims are not those that the config says",
                        cvx_weights_file(l->weights, at), name);
    }
    CVX_RETURN_IF(cvx_tensor_alloc(l->arena, out, CVX_F32, ndim, dim));
    return widen_i16(l, out, at, name);
}

cvx_status cvx_conv_place(const cvx_load *l, cvx_conv *out, int64_t cout, int64_t cin,
                          cvx_dtype dtype, cvx_layout layout)
{
    cvx_conv c = {.w = CVX_VIEW(NULL, dtype, cout, cin, 1, 3, 3)};

    CVX_RETURN_IF(cvx_arena_alloc(l->arena, &c.w.data, cvx_packed_bytes(l->ctx, &c.w, layout)));
    CVX_RETURN_IF(CVX_ALLOC(l->arena, &c.b, CVX_F32, cout));
    c.w.layout = layout;
    c.input = cvx_conv_input(l->ctx, &c.w);
    *out = c;
    return CVX_OK;
}

cvx_status cvx_conv_put(const cvx_load *l, cvx_conv *c, const cvx_tensor *plain)
{
    return cvx_op_pack(l->ctx, &(cvx_pack_args){.dst = &c->w, .src = plain});
}

static cvx_status copy_bias(const cvx_load *l, const cvx_conv *c, const char *name, int64_t cout)
{
    size_t mark = cvx_arena_mark(l->arena);
    char key[160];
    cvx_tensor b;

    snprintf(key, sizeof key, "%s.bias", name);
    CVX_RETURN_IF(CVX_WEIGHT_F32(l->weights, l->arena, &b, key, cout));
    if (!l->ctx->measure) {
        memcpy(c->b.data, b.data, (size_t)cout * sizeof(float));
    }
    cvx_arena_release(l->arena, mark, false);
    return CVX_OK;
}

cvx_status cvx_conv_load(const cvx_load *l, cvx_conv *out, const char *name, int64_t cout,
                         int64_t cin, cvx_layout layout)
{
    char key[160];
    cvx_tensor w;

    snprintf(key, sizeof key, "%s.weight", name);
    int64_t at = cvx_weights_find(l->weights, key);
    bool fixed = at >= 0 && strcmp(cvx_weights_dtype(l->weights, at), "i16") == 0;
    if (!fixed) { /* packed from the map in its own dtype */
        CVX_RETURN_IF(CVX_WEIGHT(l->weights, &w, key, cout, cin, 3, 3));
    }
    CVX_RETURN_IF(cvx_conv_place(l, out, cout, cin, fixed ? CVX_F32 : w.dtype, layout));
    CVX_RETURN_IF(copy_bias(l, out, name, cout));
    size_t mark = cvx_arena_mark(l->arena);
    if (fixed) {
        CVX_RETURN_IF(cvx_picture_weight(l, &w, key, 4, CVX_DIMS(cout, cin, 3, 3)));
    }
    cvx_tensor plain = CVX_RESHAPE(&w, cout, cin, 1, 3, 3);
    CVX_RETURN_IF(cvx_conv_put(l, out, &plain));
    cvx_arena_release(l->arena, mark, false);
    return CVX_OK;
}

cvx_status cvx_conv_prelu(const cvx_load *l, cvx_conv *c, const char *name)
{
    return CVX_WEIGHT_F32(l->weights, l->arena, &c->slope, name, c->w.dim[0]);
}

cvx_status cvx_conv_leaky(const cvx_load *l, cvx_conv *c, float slope)
{
    CVX_RETURN_IF(CVX_ALLOC(l->arena, &c->slope, CVX_F32, c->w.dim[0]));
    for (int64_t i = 0; i < c->w.dim[0] && !l->ctx->measure; i++) {
        ((float *)c->slope.data)[i] = slope;
    }
    return CVX_OK;
}

/* Zeros the part of `whole` that `part` views. */
static cvx_status zero(cvx_ctx *ctx, const cvx_tensor *part)
{
    static const float none = 0;
    cvx_tensor to = *part, from;
    int64_t size = (int64_t)cvx_dtype_size(to.dtype);

    to.dtype = CVX_F32; /* zero is zero in every dtype; rows are whole floats long */
    to.dim[3] = to.dim[3] * size / 4;
    for (int i = 0; i < 3; i++) {
        to.stride[i] = to.stride[i] * size / 4;
    }
    from = to;
    from.data = (void *)(uintptr_t)&none;
    memset(from.stride, 0, sizeof from.stride);
    return cvx_op_strided_copy(ctx, &(cvx_strided_copy_args){.y = &to, .x = &from});
}

cvx_status cvx_zero_rows(cvx_ctx *ctx, const cvx_tensor *t, int64_t first, int64_t n)
{
    cvx_tensor part = cvx_slice(t, 1, first, n);

    return n > 0 ? zero(ctx, &part) : CVX_OK;
}

cvx_status cvx_bordered_alloc(cvx_ctx *ctx, cvx_arena *arena, cvx_bordered *out, cvx_dtype dtype,
                              int64_t h, int64_t w, int64_t c)
{
    cvx_bordered p;

    CVX_RETURN_IF(CVX_ALLOC(arena, &p.whole, dtype, 1, h + 2, w + 2, c));
    for (int d = 1; d <= 2; d++) {
        cvx_tensor first = cvx_slice(&p.whole, d, 0, 1);
        cvx_tensor last = cvx_slice(&p.whole, d, p.whole.dim[d] - 1, 1);
        CVX_RETURN_IF(zero(ctx, &first));
        CVX_RETURN_IF(zero(ctx, &last));
    }
    p.in = cvx_slice(&p.whole, 1, 1, h);
    p.in = cvx_slice(&p.in, 2, 1, w);
    *out = p;
    return CVX_OK;
}

cvx_status cvx_conv_run(cvx_ctx *ctx, const cvx_conv *c, const cvx_tensor *y, const cvx_tensor *x,
                        int stride, const cvx_conv2d_args *more)
{
    cvx_conv2d_args a = more != NULL ? *more : (cvx_conv2d_args){0};

    a.y = y;
    a.x = x;
    a.w = &c->w;
    a.b = &c->b;
    a.slope = c->slope.ndim > 0 ? &c->slope : NULL;
    a.stride = stride;
    a.up2 = c->w.layout == CVX_PACKED_CONV_UP2;
    return cvx_op_conv2d(ctx, &a);
}

cvx_tensor cvx_plane(const cvx_tensor *t, int64_t c0, int64_t n)
{
    cvx_tensor p = cvx_slice(t, 3, c0, n);

    p.ndim = 3;
    for (int i = 0; i < 3; i++) {
        p.dim[i] = t->dim[i + 1];
        p.stride[i] = t->stride[i + 1];
    }
    p.dim[2] = n;
    return p;
}
