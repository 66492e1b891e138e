/* The group that does not exist: every call succeeds at once, the wrappers count it. */
#include <stdlib.h>

#include "parallel/comm.h"

static cvx_status allgatherv(cvx_comm *c, const void *send, int64_t send_bytes, void *recv,
                             const int64_t *recv_bytes, const int64_t *recv_at)
{
    (void)send, (void)recv, (void)recv_at;
    CVX_ASSERT(send_bytes == recv_bytes[c->rank]);
    return CVX_OK;
}

static cvx_status alltoallv(cvx_comm *c, const void *send, const int64_t *send_bytes,
                            const int64_t *send_at, void *recv, const int64_t *recv_bytes,
                            const int64_t *recv_at)
{
    (void)send, (void)send_at, (void)recv, (void)recv_at;
    CVX_ASSERT(send_bytes[c->rank] == recv_bytes[c->rank]);
    return CVX_OK;
}

static cvx_status reduce_scatterv(cvx_comm *c, const float *send, float *recv,
                                  const int64_t *counts)
{
    (void)c, (void)send, (void)recv, (void)counts;
    return CVX_OK;
}

static cvx_status allreduce(cvx_comm *c, float *buf, int64_t n)
{
    (void)c, (void)buf, (void)n;
    return CVX_OK;
}

static cvx_status sendrecv(cvx_comm *c, const void *send, int64_t send_bytes, int to, void *recv,
                           int64_t recv_bytes, int from)
{
    (void)send, (void)send_bytes, (void)recv, (void)recv_bytes;
    CVX_ASSERT(to < c->size && from < c->size);
    return CVX_OK;
}

static cvx_status start_sendrecv(cvx_comm *c, cvx_comm_pending *p, const void *send,
                                 int64_t send_bytes, int to, void *recv, int64_t recv_bytes,
                                 int from)
{
    (void)p; /* nothing is pending */
    return sendrecv(c, send, send_bytes, to, recv, recv_bytes, from);
}

static cvx_status broadcast(cvx_comm *c, void *buf, int64_t bytes, int root)
{
    (void)buf, (void)bytes;
    CVX_ASSERT(root >= 0 && root < c->size);
    return CVX_OK;
}

static cvx_status agree(cvx_comm *c, int *least)
{
    (void)c, (void)least;
    return CVX_OK;
}

static cvx_status split(cvx_comm *c, int colour, int key, cvx_comm **out)
{
    (void)c, (void)colour, (void)key, (void)out;
    return cvx_fail(CVX_EINTERNAL, "a dry communicator knows no other rank's colour");
}

static cvx_status first(cvx_comm *c, int n, cvx_comm **out)
{
    *out = NULL;
    return c->rank < n ? cvx_comm_dry(out, c->rank, n) : CVX_OK;
}

static void close_dry(cvx_comm *c)
{
    (void)c;
}

cvx_status cvx_comm_dry(cvx_comm **out, int rank, int size)
{
    static const cvx_comm_ops ops = {.name = "dry",
                                     .allgatherv = allgatherv,
                                     .alltoallv = alltoallv,
                                     .reduce_scatterv_f32 = reduce_scatterv,
                                     .allreduce_f32 = allreduce,
                                     .sendrecv = sendrecv,
                                     .start_sendrecv = start_sendrecv,
                                     .broadcast = broadcast,
                                     .agree = agree,
                                     .split = split,
                                     .first = first,
                                     .close = close_dry};

    CVX_ASSERT(rank >= 0 && rank < size);
    CVX_RETURN_IF(cvx_comm_new(out, &ops, rank, size, NULL));
    (*out)->dry = true;
    return CVX_OK;
}
