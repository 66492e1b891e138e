/* Whether the ranks of a job were given the same: other options, files or versions on one of them would make them wait for ever for
 * messages that nobody sends, or mix two videos into one. */
#ifndef CVX_PARALLEL_SAME_H
#define CVX_PARALLEL_SAME_H

#include "base/json.h"
#include "parallel/comm.h"

/* Every rank brings an object. CVX_OK on all of them if all are equal; else CVX_EINVAL on all of them, and the first rank whose
 * own differs from rank 0's tells the key with both values. Collective over c; costs two agreements (30 bits of a hash are
 * compared). NULL is an object that there was no memory for. */
cvx_status cvx_comm_same(cvx_comm *c, const json_t *own) CVX_CHECK;

#endif
