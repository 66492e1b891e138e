/* Collectives of communicators that have only sends and receives between two ranks: rounds of cvx_comm_ops.sendrecv, the
 * same on every transport. Contracts as in parallel/comm.h. */
#ifndef CVX_PARALLEL_ROUNDS_H
#define CVX_PARALLEL_ROUNDS_H

#include "parallel/comm.h"

cvx_status cvx_rounds_alltoallv(cvx_comm *c, const void *send, const int64_t *send_bytes,
                                const int64_t *send_at, void *recv, const int64_t *recv_bytes,
                                const int64_t *recv_at) CVX_CHECK;
cvx_status cvx_rounds_allgatherv(cvx_comm *c, const void *send, int64_t send_bytes, void *recv,
                                 const int64_t *recv_bytes, const int64_t *recv_at) CVX_CHECK;
cvx_status cvx_rounds_reduce_scatterv(cvx_comm *c, const float *send, float *recv,
                                      const int64_t *counts) CVX_CHECK;
cvx_status cvx_rounds_allreduce(cvx_comm *c, float *buf, int64_t n) CVX_CHECK;

/* All of them, in a communicator's table. */
#define CVX_ROUNDS_OPS                                                                             \
    .allgatherv = cvx_rounds_allgatherv, .alltoallv = cvx_rounds_alltoallv,                        \
    .reduce_scatterv_f32 = cvx_rounds_reduce_scatterv, .allreduce_f32 = cvx_rounds_allreduce

#endif
