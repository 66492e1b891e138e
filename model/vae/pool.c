#include "model/vae/pool.h"

#define ALIGN 64

cvx_status cvx_pool_alloc(pool *p, void **out, int end, size_t bytes)
{
    size_t need = (bytes + ALIGN - 1) / ALIGN * ALIGN, total = p->used[0] + p->used[1] + need;

    if (total > p->size) {
        return cvx_fail(CVX_EINTERNAL, "VAE memory: %zu bytes needed, %zu were measured", total,
                        p->size);
    }
    p->used[end] += need;
    if (total > p->peak) {
        p->peak = total;
    }
    *out = end == 0 ? p->base + (p->used[0] - need) : p->base + (p->size - p->used[1]);
    return CVX_OK;
}

cvx_status cvx_pool_tensor(pool *p, cvx_tensor *out, int end, cvx_dtype dtype, int ndim,
                           const int64_t *dim)
{
    cvx_tensor t = cvx_view(NULL, dtype, ndim, dim);

    CVX_RETURN_IF(cvx_pool_alloc(p, &t.data, end, (size_t)cvx_numel(&t) * cvx_dtype_size(dtype)));
    *out = t;
    return CVX_OK;
}
