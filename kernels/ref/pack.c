/* Weights in ref's own layout: dense f32. */
#include "kernels/ref/ref.h"

cvx_status cvx_ref_pack(cvx_ctx *ctx, const cvx_pack_args *a)
{
    const cvx_tensor *s = a->src;
    float *out = a->dst->data;
    int64_t n = s->dim[0], k = s->dim[1], size = (int64_t)cvx_dtype_size(s->dtype);

    if (a->dst->layout != CVX_PACKED_LINEAR) {
        return cvx_ref_pack_conv(ctx, a);
    }
#pragma omp parallel for num_threads(ctx->threads) schedule(static)
    for (int64_t j = 0; j < n; j++) {
        cvx_to_f32(out + j * k, (const char *)s->data + j * s->stride[0] * size, s->dtype, k);
    }
    return CVX_OK;
}

size_t cvx_ref_packed_bytes(const cvx_ctx *ctx, const cvx_tensor *src, cvx_layout layout)
{
    if (layout != CVX_PACKED_LINEAR) {
        return cvx_ref_packed_conv_bytes(ctx, src);
    }
    return (size_t)cvx_numel(src) * sizeof(float);
}
