/* What the CPU backend's files share: the scratch memory of a context and the tables of the levels.
 */
#ifndef CVX_KERNELS_CPU_CPU_H
#define CVX_KERNELS_CPU_CPU_H

#include "kernels/ref/ref.h"

/* At least `bytes` of scratch, aligned to 64, contents undefined. It belongs to the context
 * (ctx->backend) and grows with the greatest need seen; valid until the next call, so one op asks
 * once. Not to be called by several threads at a time. CVX_ENOMEM. */
cvx_status cvx_cpu_scratch(cvx_ctx *ctx, void **out, size_t bytes) CVX_CHECK;

/* Gives the scratch back; a context that never had any is accepted. */
void cvx_cpu_scratch_free(cvx_ctx *ctx);

/* The tables of the levels; all but portable exist on x86-64 only. */
extern const cvx_ops cvx_cpu_table_portable;
#if defined(__x86_64__)
extern const cvx_ops cvx_cpu_table_avx2, cvx_cpu_table_avx512, cvx_cpu_table_avx512_bf16,
    cvx_cpu_table_amx;
#endif

/* Rounds up to a multiple. */
static inline int64_t cvx_round_up(int64_t n, int64_t to)
{
    return (n + to - 1) / to * to;
}

static inline int64_t cvx_min_i64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

#endif
