/* What networks on pictures share: convolution layers with what follows them, and pictures with the zero border that
 * a 3 x 3 convolution reads. Layout is [1, h, w, c]: channels innermost, as op conv2d has it. */
#ifndef CVX_MODEL_PICTURES_H
#define CVX_MODEL_PICTURES_H

#include "model/linear.h"

typedef struct cvx_conv {
    cvx_tensor w, b;  /* w [cout, cin, 1, k, k] packed, b [cout] */
    cvx_tensor slope; /* [cout] for values below 0; ndim 0: no activation */
    cvx_dtype input;  /* dtype of input that is read fastest */
} cvx_conv;

/* A plain f32 copy of "NAME" with these dims in l->arena: F32, F16 and BF16 widened; I16 as fixed-point fractions
 * of 32768ths times "NAME_scale" [dim 0, dim 1] (how our own RIFE weights are stored). Errors as cvx_weights_get. */
cvx_status cvx_picture_weight(const cvx_load *l, cvx_tensor *out, const char *name, int ndim,
                              const int64_t *dim) CVX_CHECK;

/* NAME.weight [cout, cin, 3, 3] and NAME.bias [cout], packed as `layout`: PACKED_PICTURE, for stride 2 PACKED_CONV, for
 * conv2d with up2 PACKED_CONV_UP2; no activation. */
cvx_status cvx_conv_load(const cvx_load *l, cvx_conv *out, const char *name, int64_t cout,
                         int64_t cin, cvx_layout layout) CVX_CHECK;
/* In two steps, for weights that are computed: place holds room for a packed weight [cout, cin, 1, 3, 3] made from
 * `dtype`, and the bias f32 (to be filled by the caller); put packs the plain dense weight into it. */
cvx_status cvx_conv_place(const cvx_load *l, cvx_conv *out, int64_t cout, int64_t cin,
                          cvx_dtype dtype, cvx_layout layout) CVX_CHECK;
cvx_status cvx_conv_put(const cvx_load *l, cvx_conv *c, const cvx_tensor *plain) CVX_CHECK;
/* Slopes: "NAME" [cout] (PReLU), or the same number for every channel. */
cvx_status cvx_conv_prelu(const cvx_load *l, cvx_conv *c, const char *name) CVX_CHECK;
cvx_status cvx_conv_leaky(const cvx_load *l, cvx_conv *c, float slope) CVX_CHECK;

/* A picture [1, h, w, c] and the same with a border of one pixel, [1, h + 2, w + 2, c]. */
typedef struct cvx_bordered {
    cvx_tensor in, whole;
} cvx_bordered;

/* From `arena`, the border zeroed. dtype: F32, or what cvx_conv.input says. */
cvx_status cvx_bordered_alloc(cvx_ctx *ctx, cvx_arena *arena, cvx_bordered *out, cvx_dtype dtype,
                              int64_t h, int64_t w, int64_t c) CVX_CHECK;
/* Zeros rows first .. first + n of a picture [1, h, w, c] of any of these dtypes. */
cvx_status cvx_zero_rows(cvx_ctx *ctx, const cvx_tensor *t, int64_t first, int64_t n) CVX_CHECK;

/* y = act(conv(x)) and more, stride 1 or 2; x with its borders. `more` may be NULL: only its residual, outer, scales
 * and act_last are read. */
cvx_status cvx_conv_run(cvx_ctx *ctx, const cvx_conv *c, const cvx_tensor *y, const cvx_tensor *x,
                        int stride, const cvx_conv2d_args *more) CVX_CHECK;

/* The view [h, w, c] of a picture [1, h, w, c], channels c0 .. c0 + n. */
cvx_tensor cvx_plane(const cvx_tensor *t, int64_t c0, int64_t n);

#endif
