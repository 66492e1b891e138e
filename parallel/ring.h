/* Ring attention (arXiv 2310.01889): every rank keeps its rows of q; blocks of keys and values go round the ring,
 * and what a rank has attended so far is merged with each new block by log-sum-exp. The next block is on its
 * way while one is attended to. Shards may be uneven, also empty.
 *
 * A row's keys come in another order than on one rank (its own block first, then the blocks of the ranks before
 * it), so the bits differ; see tests/rank/dit.c for the bound. */
#ifndef CVX_PARALLEL_RING_H
#define CVX_PARALLEL_RING_H

#include "kernels/ops.h"
#include "parallel/mesh.h"

/* Rows that the buffer of a block must have room for: the most of any rank. */
int64_t cvx_ring_room(const int64_t *rows, int size);

/* o = attention of q over the keys and values of all ranks. q, o [b, rows[rank], h, d], o dense; kv [b,
 * rows[rank], 2, h, d] (keys, values), dense, at the beginning of a buffer with room for cvx_ring_room() rows of
 * each item: it is overwritten. rows[]: rows of each rank. The arena holds a second block, a partial output
 * and log-sum-exps. Collective over c (more than one rank). Sends in size - 1 calls
 *     8·b·h·d·(sum of rows - rows[(rank + 1) % size]) bytes:
 * every block but that of the next rank, which has it from the beginning. sage: as op attention. */
cvx_status cvx_ring_attention(cvx_ctx *ctx, cvx_comm *c, cvx_arena *arena, const int64_t *rows,
                              const cvx_tensor *o, const cvx_tensor *q, const cvx_tensor *kv,
                              double scale, bool sage) CVX_CHECK;

#endif
