/* For tests that run on a GPU where there is one: their operands lie in memory that host and device see, and contexts
 * are opened in managed mode, so that a test looks at values between ops as it does on the CPU. Included after
 * every other header: it takes the place of malloc, aligned_alloc and free in the test's own source. */
#ifndef CVX_TESTS_SHARED_MEMORY_H
#define CVX_TESTS_SHARED_MEMORY_H

#include <stdlib.h>

#include "kernels/ops.h"

#ifdef CVX_HAVE_CUDA
#include "kernels/cuda/parts.h"

__attribute__((constructor)) static void managed_mode(void)
{
    setenv("CVX_CUDA_MEMORY", "managed", 0);
}

/* Asked once: a driver takes milliseconds to tell a device's properties. */
static inline bool operands_shared(void)
{
    static int shared = -1;
    char what[160];

    shared = shared < 0 ? cvx_cuda_usable(what) : shared;
    return shared == 1;
}

static inline void *operand_alloc(size_t bytes)
{
    return operands_shared() ? cvx_cuda_shared_alloc(bytes) : malloc(bytes);
}

static inline void *operand_aligned(size_t align, size_t bytes)
{
    /* on a device: aligned to a page or so */
    return operands_shared() ? cvx_cuda_shared_alloc(bytes) : aligned_alloc(align, bytes);
}

static inline void operand_free(void *p)
{
    if (operands_shared() && cvx_cuda_owns(p)) {
        cvx_cuda_shared_free(p);
    } else { /* the library gives memory of its own, too */
        free(p);
    }
}
#define malloc(bytes) operand_alloc(bytes)
#define aligned_alloc(align, bytes) operand_aligned((align), (bytes))
#define free(p) operand_free(p)
#endif

#endif
