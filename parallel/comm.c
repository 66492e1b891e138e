/* The wrappers count calls, bytes and time; the tables do the work. */
#include "parallel/comm.h"

#include <stdlib.h>
#include <time.h>

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static cvx_status count(cvx_comm *c, cvx_comm_kind kind, int64_t sent, double start, cvx_status st)
{
    cvx_comm_stat *s = &c->stat[kind];

    s->calls++;
    s->bytes_sent += sent;
    s->seconds += now() - start;
    return st;
}

/* Bytes of a per-rank list that go to other ranks. */
static int64_t to_others(const cvx_comm *c, const int64_t *bytes)
{
    int64_t n = 0;
    for (int i = 0; i < c->size; i++) {
        n += i == c->rank ? 0 : bytes[i];
    }
    return n;
}

cvx_status cvx_comm_allgatherv(cvx_comm *c, const void *send, int64_t send_bytes, void *recv,
                               const int64_t *recv_bytes, const int64_t *recv_at)
{
    double t = now();
    cvx_status st =
        c->measure ? CVX_OK : c->ops->allgatherv(c, send, send_bytes, recv, recv_bytes, recv_at);
    return count(c, CVX_COMM_ALLGATHER, send_bytes * (c->size - 1), t, st);
}

cvx_status cvx_comm_alltoallv(cvx_comm *c, const void *send, const int64_t *send_bytes,
                              const int64_t *send_at, void *recv, const int64_t *recv_bytes,
                              const int64_t *recv_at)
{
    double t = now();
    cvx_status st =
        c->measure ? CVX_OK
                   : c->ops->alltoallv(c, send, send_bytes, send_at, recv, recv_bytes, recv_at);
    return count(c, CVX_COMM_ALLTOALL, to_others(c, send_bytes), t, st);
}

cvx_status cvx_comm_reduce_scatterv_f32(cvx_comm *c, const float *send, float *recv,
                                        const int64_t *counts)
{
    double t = now();
    cvx_status st = c->measure ? CVX_OK : c->ops->reduce_scatterv_f32(c, send, recv, counts);
    return count(c, CVX_COMM_REDUCE_SCATTER, 4 * to_others(c, counts), t, st);
}

cvx_status cvx_comm_allreduce_f32(cvx_comm *c, float *buf, int64_t n)
{
    double t = now();
    cvx_status st = c->measure ? CVX_OK : c->ops->allreduce_f32(c, buf, n);
    int64_t mine = n * (c->rank + 1) / c->size - n * c->rank / c->size;
    return count(c, CVX_COMM_ALLREDUCE, 4 * (n - mine) + 4 * mine * (c->size - 1), t, st);
}

cvx_status cvx_comm_sendrecv(cvx_comm *c, const void *send, int64_t send_bytes, int to, void *recv,
                             int64_t recv_bytes, int from)
{
    double t = now();
    cvx_status st =
        c->measure ? CVX_OK : c->ops->sendrecv(c, send, send_bytes, to, recv, recv_bytes, from);
    return count(c, CVX_COMM_SENDRECV, to >= 0 && to != c->rank ? send_bytes : 0, t, st);
}

cvx_status cvx_comm_start_sendrecv(cvx_comm *c, cvx_comm_pending *p, const void *send,
                                   int64_t send_bytes, int to, void *recv, int64_t recv_bytes,
                                   int from)
{
    double t = now();
    *p = (cvx_comm_pending){NULL};
    cvx_status st =
        c->measure ? CVX_OK
                   : c->ops->start_sendrecv(c, p, send, send_bytes, to, recv, recv_bytes, from);
    return count(c, CVX_COMM_SENDRECV, to >= 0 && to != c->rank ? send_bytes : 0, t, st);
}

void cvx_comm_poll(cvx_comm *c, cvx_comm_pending *p)
{
    if (p->impl != NULL && c->ops->poll != NULL) {
        double t = now();
        c->ops->poll(c, p);
        c->stat[CVX_COMM_SENDRECV].seconds += now() - t;
    }
}

cvx_status cvx_comm_wait(cvx_comm *c, cvx_comm_pending *p)
{
    double t = now();
    cvx_status st = p->impl == NULL ? CVX_OK : c->ops->wait(c, p);

    c->stat[CVX_COMM_SENDRECV].seconds += now() - t;
    return st;
}

cvx_status cvx_comm_broadcast(cvx_comm *c, void *buf, int64_t bytes, int root)
{
    double t = now();
    cvx_status st = c->measure ? CVX_OK : c->ops->broadcast(c, buf, bytes, root);
    return count(c, CVX_COMM_BROADCAST, c->rank == root ? bytes * (c->size - 1) : 0, t, st);
}

cvx_status cvx_comm_agree(cvx_comm *c, cvx_status own)
{
    double t = now();
    int code = own;
    cvx_status st = c->ops->agree(c, &code);

    st = count(c, CVX_COMM_AGREE, 4 * (c->size - 1), t, st);
    if (own != CVX_OK || st != CVX_OK) {
        return own != CVX_OK ? own : st;
    }
    return code == CVX_OK
               ? CVX_OK
               : cvx_fail(CVX_EPEER, "another rank failed: %s", cvx_status_name((cvx_status)code));
}

cvx_status cvx_comm_split(cvx_comm *c, int colour, int key, cvx_comm **out)
{
    CVX_RETURN_IF(c->ops->split(c, colour, key, out));
    (*out)->measure = c->measure;
    return CVX_OK;
}

void cvx_comm_close(cvx_comm *c)
{
    if (c != NULL) {
        c->ops->close(c);
        free(c);
    }
}
