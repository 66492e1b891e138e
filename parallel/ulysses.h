/* Ulysses sequence parallelism (arXiv 2309.14509): before attention rows are traded for heads, after it heads
 * for rows, so that every rank attends over the whole sequence with some of the heads. Shards may be uneven
 * in rows and heads; a rank may have no head at all. */
#ifndef CVX_PARALLEL_ULYSSES_H
#define CVX_PARALLEL_ULYSSES_H

#include "kernels/ops.h"
#include "parallel/mesh.h"

#define CVX_ULYSSES_TENSORS 3

/* in[i] [b, rows[rank], heads, d] (this rank's rows, any strides but the last) -> out[i] [b, sum of rows, h, d]
 * of this rank's heads (cvx_shard_of(heads, size, rank)), allocated from `arena` (with one rank: in[i] itself). rows[]:
 * rows of each rank. n tensors (at most CVX_ULYSSES_TENSORS) go in one exchange. Collective over c. */
cvx_status cvx_ulysses_to_heads(cvx_ctx *ctx, cvx_comm *c, cvx_arena *arena, const int64_t *rows,
                                const cvx_tensor *in, cvx_tensor *out, int n) CVX_CHECK;

/* The way back: in [b, sum of rows, h, d] -> out [b, rows[rank], heads, d], which the caller provides. The
 * arena holds the buffers. With one rank the tensors must be the same. Collective over c. */
cvx_status cvx_ulysses_to_rows(cvx_ctx *ctx, cvx_comm *c, cvx_arena *arena, const int64_t *rows,
                               const cvx_tensor *in, const cvx_tensor *out) CVX_CHECK;

#endif
