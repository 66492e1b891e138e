/* The group of one: every collective is a copy or nothing. */
#include <stdlib.h>
#include <string.h>

#include "parallel/comm.h"

static void copy(void *to, const void *from, int64_t bytes)
{
    if (to != from && bytes > 0) {
        memmove(to, from, (size_t)bytes);
    }
}

static cvx_status allgatherv(cvx_comm *c, const void *send, int64_t send_bytes, void *recv,
                             const int64_t *recv_bytes, const int64_t *recv_at)
{
    (void)c;
    CVX_ASSERT(send_bytes == recv_bytes[0]);
    copy((char *)recv + recv_at[0], send, send_bytes);
    return CVX_OK;
}

static cvx_status alltoallv(cvx_comm *c, const void *send, const int64_t *send_bytes,
                            const int64_t *send_at, void *recv, const int64_t *recv_bytes,
                            const int64_t *recv_at)
{
    (void)c;
    CVX_ASSERT(send_bytes[0] == recv_bytes[0]);
    copy((char *)recv + recv_at[0], (const char *)send + send_at[0], send_bytes[0]);
    return CVX_OK;
}

static cvx_status reduce_scatterv(cvx_comm *c, const float *send, float *recv,
                                  const int64_t *counts)
{
    (void)c;
    copy(recv, send, counts[0] * (int64_t)sizeof(float));
    return CVX_OK;
}

static cvx_status allreduce(cvx_comm *c, float *buf, int64_t n)
{
    (void)c;
    (void)buf;
    (void)n;
    return CVX_OK;
}

static cvx_status sendrecv(cvx_comm *c, const void *send, int64_t send_bytes, int to, void *recv,
                           int64_t recv_bytes, int from)
{
    (void)c;
    if (to < 0 && from < 0) {
        return CVX_OK;
    }
    if (to != 0 || from != 0 || send_bytes != recv_bytes) {
        return cvx_fail(CVX_EINTERNAL,
                        "sendrecv in a group of one: to %d (%lld bytes), from %d (%lld "
                        "bytes)",
                        to, (long long)send_bytes, from, (long long)recv_bytes);
    }
    copy(recv, send, send_bytes);
    return CVX_OK;
}

/* Done before it returns: there is nothing to wait for. */
static cvx_status start_sendrecv(cvx_comm *c, cvx_comm_pending *p, const void *send,
                                 int64_t send_bytes, int to, void *recv, int64_t recv_bytes,
                                 int from)
{
    (void)p;
    return sendrecv(c, send, send_bytes, to, recv, recv_bytes, from);
}

static cvx_status wait_nothing(cvx_comm *c, cvx_comm_pending *p)
{
    (void)c;
    (void)p;
    return CVX_OK;
}

static cvx_status broadcast(cvx_comm *c, void *buf, int64_t bytes, int root)
{
    (void)c;
    (void)buf;
    (void)bytes;
    CVX_ASSERT(root == 0);
    return CVX_OK;
}

static cvx_status agree(cvx_comm *c, int *least)
{
    (void)c;
    (void)least;
    return CVX_OK;
}

static cvx_status split(cvx_comm *c, int colour, int key, cvx_comm **out)
{
    (void)c;
    (void)colour;
    (void)key;
    return cvx_comm_self(out);
}

static cvx_status first(cvx_comm *c, int n, cvx_comm **out)
{
    (void)c, (void)n;
    return cvx_comm_self(out);
}

static void close_self(cvx_comm *c)
{
    (void)c;
}

cvx_status cvx_comm_self(cvx_comm **out)
{
    static const cvx_comm_ops ops = {.name = "self",
                                     .allgatherv = allgatherv,
                                     .alltoallv = alltoallv,
                                     .reduce_scatterv_f32 = reduce_scatterv,
                                     .allreduce_f32 = allreduce,
                                     .sendrecv = sendrecv,
                                     .start_sendrecv = start_sendrecv,
                                     .wait = wait_nothing,
                                     .broadcast = broadcast,
                                     .agree = agree,
                                     .split = split,
                                     .first = first,
                                     .close = close_self};

    return cvx_comm_new(out, &ops, 0, 1, NULL);
}
