/* All-gather of keys and values: the third form of attention over a shared sequence, beside ulysses and ring. Every
 * rank gets all rows of k and v and attends with its own rows of q: nothing comes back, heads need not
 * be dealt out. A row of attention does not depend on which other rows there are, so the bits are those of one
 * rank. */
#ifndef CVX_PARALLEL_GATHER_H
#define CVX_PARALLEL_GATHER_H

#include "kernels/ops.h"
#include "parallel/mesh.h"

typedef enum cvx_exchange {
    CVX_EXCHANGE_AUTO = 0,
    CVX_EXCHANGE_ULYSSES,
    CVX_EXCHANGE_ALLGATHER
} cvx_exchange;

/* The form for `heads` heads on `size` ranks where nothing is asked for (AUTO). With e bytes of q, k, v or o of
 * the whole sequence, one call's bytes over all ranks are
 *     ulysses      4·e·(size - 1) / size
 *     all-gather   2·e·(size - 1)
 * the same on two ranks, size / 2 times more on others; and every rank makes ready the keys and values of all heads
 * rather than its own. Ulysses is therefore first choice, on two ranks too (measured: docs/decisions.md). But it
 * deals out whole heads: all-gather wins where the rank with the most of them would have more than 5/4 of an
 * even share, since attention grows with the square of the sequence and the exchange only with its length. */
cvx_exchange cvx_exchange_choose(cvx_exchange asked, int64_t heads, int size);

/* kv [b, sum of rows, ...], dense, holds this rank's rows in their place; afterwards everyone's. rows[]: rows of
 * each rank. Collective over c. Sends, in b all-gathers: b·rows[rank]·row bytes·(size - 1). */
cvx_status cvx_gather_rows(cvx_comm *c, const int64_t *rows, const cvx_tensor *kv) CVX_CHECK;

#endif
