/* Device memory over ranks without NCCL, by the communicator that the ranks have for host memory: staged through pinned host
 * memory, or directly where that communicator takes device memory (cvx_comm.device). */
#ifndef CVX_PARALLEL_NCCL_BY_HOST_H
#define CVX_PARALLEL_NCCL_BY_HOST_H

#include "parallel/comm.h"

struct CUstream_st;

typedef struct cvx_by_host {
    cvx_comm *host; /* the same ranks, in the same order */
    struct CUstream_st *
        stream; /* what the exchanges are ordered by: all of it is waited for, and they are done when
                                 * they return */
    bool direct;
    void *pinned[2]; /* staged: what goes out, what comes in */
    size_t pinned_size[2];
} cvx_by_host;

/* Contracts as in parallel/comm.h; buffers are device memory. */
cvx_status cvx_by_host_allgatherv(cvx_by_host *b, const void *send, int64_t bytes, void *recv,
                                  const int64_t *recv_bytes, const int64_t *recv_at) CVX_CHECK;
cvx_status cvx_by_host_alltoallv(cvx_by_host *b, const void *send, const int64_t *send_bytes,
                                 const int64_t *send_at, void *recv, const int64_t *recv_bytes,
                                 const int64_t *recv_at) CVX_CHECK;
cvx_status cvx_by_host_sendrecv(cvx_by_host *b, const void *send, int64_t send_bytes, int to,
                                void *recv, int64_t recv_bytes, int from) CVX_CHECK;
/* Staged it is done when it returns; directly *p is host's, for its poll and wait. */
cvx_status cvx_by_host_start_sendrecv(cvx_by_host *b, cvx_comm_pending *p, const void *send,
                                      int64_t send_bytes, int to, void *recv, int64_t recv_bytes,
                                      int from) CVX_CHECK;
cvx_status cvx_by_host_broadcast(cvx_by_host *b, void *buf, int64_t bytes, int root) CVX_CHECK;
void cvx_by_host_close(cvx_by_host *b); /* frees the pinned memory; host stays */

#endif
