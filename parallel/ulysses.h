/* Ulysses sequence parallelism (arXiv 2309.14509): before attention rows are traded for heads, after it heads
 * for rows, so that every rank attends over the whole sequence with some of the heads. Shards may be uneven
 * in rows and heads; a rank may have no head at all.
 *
 * Tensors are [b, rows, n, heads, d]: n of them side by side in a row (keys and values), 1 for one alone. Rank
 * r's heads are cvx_shard_of(heads, size, r); rows[] are the rows of each rank. Batch items go one after the
 * other, each in one all-to-all that lands in place. */
#ifndef CVX_PARALLEL_ULYSSES_H
#define CVX_PARALLEL_ULYSSES_H

#include "kernels/ops.h"
#include "parallel/mesh.h"

/* in [b, rows[rank], n, heads, d] (any strides but the last) -> out [b, sum of rows, n, h, d], dense, of this
 * rank's h heads, which the caller provides. The arena holds the buffer. Collective over c (more than one
 * rank). Sends 4·b·rows[rank]·n·(heads - h)·d bytes in b calls. */
cvx_status cvx_ulysses_to_heads(cvx_ctx *ctx, cvx_comm *c, cvx_arena *arena, const int64_t *rows,
                                const cvx_tensor *in, const cvx_tensor *out) CVX_CHECK;

/* The way back: in [b, sum of rows, n, h, d], dense -> out [b, rows[rank], n, heads, d] (any strides but the
 * last). Sends 4·b·(sum of rows - rows[rank])·n·h·d bytes in b calls. */
cvx_status cvx_ulysses_to_rows(cvx_ctx *ctx, cvx_comm *c, cvx_arena *arena, const int64_t *rows,
                               const cvx_tensor *in, const cvx_tensor *out) CVX_CHECK;

#endif
