#include "kernels/memory.h"

#include <stdlib.h>
#include <unistd.h>

#include "kernels/transfer.h"

cvx_status cvx_ctx_arena(cvx_ctx *ctx, cvx_arena *a, const char *name, size_t size)
{
    if (ctx->measure) {
        cvx_arena_open_measure(a, name);
        return CVX_OK;
    }
    return ctx->ops->memory != NULL ? ctx->ops->memory->arena(ctx, a, name, size)
                                    : cvx_arena_open(a, name, size);
}

bool cvx_ctx_has_device(const cvx_ctx *ctx)
{
    return ctx->ops->memory != NULL;
}

cvx_status cvx_sync(cvx_ctx *ctx)
{
    return ctx->ops->memory != NULL && !ctx->measure ? ctx->ops->memory->sync(ctx) : CVX_OK;
}

void cvx_step_begin(cvx_ctx *ctx)
{
    if (ctx->ops->memory != NULL && !ctx->measure) {
        ctx->ops->memory->step_begin(ctx);
    }
}

cvx_status cvx_step_end(cvx_ctx *ctx, cvx_status st, bool *again)
{
    *again = false;
    return ctx->ops->memory != NULL && !ctx->measure ? ctx->ops->memory->step_end(ctx, st, again)
                                                     : st;
}

void cvx_ctx_memory(const cvx_ctx *ctx, size_t *unused, size_t *all)
{
    if (ctx->ops->memory != NULL) {
        ctx->ops->memory->available(ctx, unused, all);
        return;
    }
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    *unused = (size_t)sysconf(_SC_AVPHYS_PAGES) * page;
    *all = (size_t)sysconf(_SC_PHYS_PAGES) * page;
}

void cvx_ctx_forget(cvx_ctx *ctx)
{
    if (ctx->ops->memory != NULL && !ctx->measure) {
        ctx->ops->memory->forget(ctx);
    }
}

void cvx_ctx_range(cvx_ctx *ctx, const char *name)
{
    if (ctx->ops->memory != NULL && !ctx->measure) {
        ctx->ops->memory->range(ctx, name);
    }
}

size_t cvx_ctx_peak(const cvx_ctx *ctx)
{
    return ctx->ops->memory != NULL ? ctx->ops->memory->peak(ctx) : 0;
}

cvx_status cvx_host_open(cvx_ctx *ctx, cvx_host_values *out, const cvx_tensor *t, bool read)
{
    size_t bytes = (size_t)cvx_numel(t) * cvx_dtype_size(t->dtype);

    CVX_ASSERT(!ctx->measure && cvx_is_dense(t));
    if (ctx->ops->memory == NULL) {
        *out = (cvx_host_values){.data = t->data};
        return CVX_OK;
    }
    cvx_host_values v = {.data = malloc(bytes + 1), .copied = true};
    if (v.data == NULL) {
        return cvx_fail(CVX_ENOMEM, "no memory for a host copy of %zu MiB", bytes >> 20);
    }
    if (read) {
        cvx_download(ctx, v.data, t);
        cvx_status st = cvx_sync(ctx);
        if (st != CVX_OK) {
            free(v.data);
            return st;
        }
    }
    *out = v;
    return CVX_OK;
}

void cvx_host_close(cvx_ctx *ctx, cvx_host_values *v, const cvx_tensor *t, bool write)
{
    if (v->copied && write) {
        cvx_upload(ctx, t, v->data);
    }
    if (v->copied) {
        free(v->data);
    }
    *v = (cvx_host_values){0};
}
