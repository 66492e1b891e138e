/* Memory of one chunk, used from both ends: a layer's input lies at one end, its output grows from
 * the other, so that neither waits for the other to be freed. Over CVX_POOL_COUNTING there is no
 * memory: such a pool only counts. */
#ifndef CVX_MODEL_VAE_POOL_H
#define CVX_MODEL_VAE_POOL_H

#include "kernels/tensor.h"

typedef struct pool {
    char *base;
    size_t size;
    size_t used[2]; /* from the low end, from the high end */
    size_t peak;    /* of both together */
} pool;

/* A pool that counts; its pointers must not be followed. */
#define CVX_POOL_COUNTING ((pool){.base = (char *)64, .size = SIZE_MAX / 2})

/* `bytes` at end 0 or 1, aligned to 64. CVX_ENOMEM if the pool was measured for less. */
cvx_status cvx_pool_alloc(pool *p, void **out, int end, size_t bytes) CVX_CHECK;

cvx_status cvx_pool_tensor(pool *p, cvx_tensor *out, int end, cvx_dtype dtype, int ndim,
                           const int64_t *dim) CVX_CHECK;
#define POOL_ALLOC(p, out, end, dtype, ...)                                                        \
    cvx_pool_tensor((p), (out), (end), (dtype), CVX_NDIM(__VA_ARGS__), CVX_DIMS(__VA_ARGS__))

#endif
