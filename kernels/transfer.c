#include "kernels/transfer.h"

#include <string.h>

#include "kernels/memory.h"

static size_t bytes(const cvx_tensor *t)
{
    CVX_ASSERT(cvx_is_dense(t));
    return (size_t)cvx_numel(t) * cvx_dtype_size(t->dtype);
}

static void copy(cvx_ctx *ctx, void *dst, const void *src, size_t n)
{
    if (ctx->measure || n == 0) {
        return;
    }
    if (ctx->ops->memory != NULL) {
        ctx->ops->memory->copy(ctx, dst, src, n);
    } else {
        memmove(dst, src, n);
    }
}

void cvx_upload(cvx_ctx *ctx, const cvx_tensor *t, const void *host)
{
    copy(ctx, t->data, host, bytes(t));
}

void cvx_download(cvx_ctx *ctx, void *host, const cvx_tensor *t)
{
    copy(ctx, host, t->data, bytes(t));
}

void cvx_copy(cvx_ctx *ctx, const cvx_tensor *dst, const cvx_tensor *src)
{
    CVX_ASSERT(bytes(dst) == bytes(src));
    copy(ctx, dst->data, src->data, bytes(dst));
}

/* The rows of a tensor whose innermost dimension is contiguous, from dimension d on. */
static void zero_rows(const cvx_tensor *t, int d, char *at)
{
    size_t size = cvx_dtype_size(t->dtype);

    if (d >= t->ndim - 1) {
        memset(at, 0, (size_t)(t->ndim > 0 ? t->dim[t->ndim - 1] : 1) * size);
        return;
    }
    for (int64_t i = 0; i < t->dim[d]; i++) {
        zero_rows(t, d + 1, at + i * t->stride[d] * (int64_t)size);
    }
}

void cvx_zero(cvx_ctx *ctx, const cvx_tensor *t)
{
    CVX_ASSERT(t->ndim == 0 || t->dim[t->ndim - 1] <= 1 || t->stride[t->ndim - 1] == 1);
    if (ctx->measure || cvx_numel(t) == 0) {
        return;
    }
    if (ctx->ops->memory != NULL) {
        ctx->ops->memory->zero(ctx, t);
    } else if (cvx_is_dense(t)) {
        memset(t->data, 0, bytes(t));
    } else {
        zero_rows(t, 0, t->data);
    }
}
