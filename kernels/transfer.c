#include "kernels/transfer.h"

#include <string.h>

static size_t bytes(const cvx_tensor *t)
{
    CVX_ASSERT(cvx_is_dense(t));
    return (size_t)cvx_numel(t) * cvx_dtype_size(t->dtype);
}

void cvx_upload(cvx_ctx *ctx, const cvx_tensor *t, const void *host)
{
    if (!ctx->measure) {
        memcpy(t->data, host, bytes(t));
    }
}

void cvx_download(cvx_ctx *ctx, void *host, const cvx_tensor *t)
{
    if (!ctx->measure) {
        memcpy(host, t->data, bytes(t));
    }
}

void cvx_copy(cvx_ctx *ctx, const cvx_tensor *dst, const cvx_tensor *src)
{
    CVX_ASSERT(bytes(dst) == bytes(src));
    if (!ctx->measure) {
        memmove(dst->data, src->data, bytes(dst));
    }
}

void cvx_zero(cvx_ctx *ctx, const cvx_tensor *t)
{
    if (!ctx->measure) {
        memset(t->data, 0, bytes(t));
    }
}
