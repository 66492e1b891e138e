/* The `ref` backend: plain loops with double accumulation. It is the definition of each op that the
 * other backends are tested against, and what they fall back on for ops where there is nothing to
 * win. Contracts are those of kernels/ops.h; shapes were checked by the wrappers in kernels/ops.c.
 */
#ifndef CVX_KERNELS_REF_REF_H
#define CVX_KERNELS_REF_REF_H

#include "kernels/ops.h"

#define CVX_OP(op) cvx_status cvx_ref_##op(cvx_ctx *ctx, const cvx_##op##_args *a) CVX_CHECK;
#include "kernels/ops.def"
#undef CVX_OP

/* PACKED_CONV in ref; the layout is private to kernels/ref/vae.c. */
size_t cvx_ref_packed_conv_bytes(const cvx_ctx *ctx, const cvx_tensor *src);
cvx_status cvx_ref_pack_conv(cvx_ctx *ctx, const cvx_pack_args *a) CVX_CHECK;

/* packed_bytes of the ref table; PACKED_LINEAR is the weight as dense f32 [n, k]. */
size_t cvx_ref_packed_bytes(const cvx_ctx *ctx, const cvx_tensor *src, cvx_layout layout);

/* The activations in double precision. */
double cvx_ref_act(cvx_act act, double x);

/* Shares of two partial attentions with these log sums of exponentials, and the log sum of both. */
typedef struct cvx_merge_weights {
    double o, part, lse;
} cvx_merge_weights;
cvx_merge_weights cvx_ref_merge_weights(double lse, double part);

/* Which of the two rows of a modulation or gate [2, c] belongs to row r of the stream. */
static inline int64_t cvx_stream_of_row(int64_t r, int64_t text_rows, int64_t period)
{
    return r % period < text_rows ? 0 : 1;
}

#endif
