/* Scratch memory of a context, see cpu.h. */
#include <stdlib.h>
#include <sys/mman.h>

#include "kernels/cpu/cpu.h"

#define HUGE_PAGE ((size_t)2 << 20)

typedef struct scratch {
    void *data;
    size_t size;
} scratch;

cvx_status cvx_cpu_scratch(cvx_ctx *ctx, void **out, size_t bytes)
{
    scratch *s = ctx->backend;

    if (s == NULL && (s = ctx->backend = calloc(1, sizeof *s)) == NULL) {
        return cvx_fail(CVX_ENOMEM, "no memory for the kernels' scratch");
    }
    if (bytes > s->size) {
        size_t size = (bytes + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
        free(s->data);
        *s = (scratch){.data = aligned_alloc(HUGE_PAGE, size)};
        if (s->data == NULL) {
            return cvx_fail(CVX_ENOMEM, "no memory for %zu MiB of kernel scratch", size >> 20);
        }
        s->size = size;
        madvise(s->data, size, MADV_HUGEPAGE); /* advice: failure costs speed only */
    }
    *out = s->data;
    return CVX_OK;
}

void cvx_cpu_scratch_free(cvx_ctx *ctx)
{
    scratch *s = ctx->backend;

    if (s != NULL) {
        free(s->data);
        free(s);
        ctx->backend = NULL;
    }
}
