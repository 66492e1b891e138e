/* The wrappers count calls, bytes and time; the tables do the work. */
#include "parallel/comm.h"

#include <stdlib.h>
#include <time.h>

#include "base/beat.h"
#include "base/fault.h"

cvx_status cvx_comm_new(cvx_comm **out, const cvx_comm_ops *ops, int rank, int size, void *impl)
{
    cvx_comm *c = calloc(1, sizeof *c);

    if (c == NULL) {
        return cvx_fail(CVX_ENOMEM, "no memory for a communicator");
    }
    *c = (cvx_comm){.ops = ops, .rank = rank, .size = size, .impl = impl};
    *out = c;
    return CVX_OK;
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* The clock before a collective. */
static double begin(const cvx_comm *c)
{
    if (!c->dry) {
        cvx_fault_at("collective");
    }
    return now();
}

static cvx_status count(cvx_comm *c, cvx_comm_kind kind, int64_t sent, double start, cvx_status st)
{
    cvx_comm_stat *s = &c->stat[kind];

    cvx_beat();
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
    double t = begin(c);
    cvx_status st = c->ops->allgatherv(c, send, send_bytes, recv, recv_bytes, recv_at);
    return count(c, CVX_COMM_ALLGATHER, send_bytes * (c->size - 1), t, st);
}

cvx_status cvx_comm_gather_each(cvx_comm *c, const void *own, int64_t bytes, void *all)
{
    int64_t each[CVX_MAX_RANKS], at[CVX_MAX_RANKS];

    CVX_ASSERT(c->size <= CVX_MAX_RANKS);
    for (int i = 0; i < c->size; i++) {
        each[i] = bytes;
        at[i] = i * bytes;
    }
    return cvx_comm_allgatherv(c, own, bytes, all, each, at);
}

cvx_status cvx_comm_alltoallv(cvx_comm *c, const void *send, const int64_t *send_bytes,
                              const int64_t *send_at, void *recv, const int64_t *recv_bytes,
                              const int64_t *recv_at)
{
    double t = begin(c);
    cvx_status st = c->ops->alltoallv(c, send, send_bytes, send_at, recv, recv_bytes, recv_at);
    return count(c, CVX_COMM_ALLTOALL, to_others(c, send_bytes), t, st);
}

cvx_status cvx_comm_reduce_scatterv_f32(cvx_comm *c, const float *send, float *recv,
                                        const int64_t *counts)
{
    double t = begin(c);
    cvx_status st = c->ops->reduce_scatterv_f32(c, send, recv, counts);
    return count(c, CVX_COMM_REDUCE_SCATTER, 4 * to_others(c, counts), t, st);
}

cvx_status cvx_comm_allreduce_f32(cvx_comm *c, float *buf, int64_t n)
{
    double t = begin(c);
    cvx_status st = c->ops->allreduce_f32(c, buf, n);
    /* everyone gets his shard of the summands, and gives everyone his shard of the sum */
    cvx_shard own = cvx_shard_of(n, c->size, c->rank);
    return count(c, CVX_COMM_ALLREDUCE, 4 * (n - own.len + own.len * (c->size - 1)), t, st);
}

cvx_status cvx_comm_sendrecv(cvx_comm *c, const void *send, int64_t send_bytes, int to, void *recv,
                             int64_t recv_bytes, int from)
{
    double t = begin(c);
    cvx_status st = c->ops->sendrecv(c, send, send_bytes, to, recv, recv_bytes, from);
    return count(c, CVX_COMM_SENDRECV, to >= 0 && to != c->rank ? send_bytes : 0, t, st);
}

cvx_status cvx_comm_start_sendrecv(cvx_comm *c, cvx_comm_pending *p, const void *send,
                                   int64_t send_bytes, int to, void *recv, int64_t recv_bytes,
                                   int from)
{
    double t = begin(c);
    *p = (cvx_comm_pending){NULL};
    cvx_status st = c->ops->start_sendrecv(c, p, send, send_bytes, to, recv, recv_bytes, from);
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
    double t = begin(c);
    cvx_status st = c->ops->broadcast(c, buf, bytes, root);
    return count(c, CVX_COMM_BROADCAST, c->rank == root ? bytes * (c->size - 1) : 0, t, st);
}

/* A rank's failure, as code·CVX_MAX_RANKS + rank. */
static cvx_status failed_peer(int value)
{
    int code = (value - CVX_MAX_RANKS + 1) / CVX_MAX_RANKS; /* rounded down */
    return cvx_fail_peer((cvx_status)code, value - code * CVX_MAX_RANKS);
}

cvx_status cvx_comm_least(cvx_comm *c, int *value)
{
    double t = begin(c);
    int least = *value;
    cvx_status st = c->ops->agree(c, &least);

    st = st == CVX_OK && least < CVX_COMM_BROKEN ? failed_peer(least - CVX_COMM_BROKEN) : st;
    *value = st == CVX_OK ? least : *value;
    return count(c, CVX_COMM_AGREE, 4 * (c->size - 1), t, st);
}

cvx_status cvx_comm_agree_wish(cvx_comm *c, cvx_status own, bool *wish)
{
    /* Codes are negative: the least of these is a failure if there is any, of the lowest rank that has the worst;
     * then a wish, then nothing. */
    int mine = own * CVX_MAX_RANKS + c->rank;
    int least = own != CVX_OK ? mine : *wish ? 0 : CVX_MAX_RANKS;

    CVX_RETURN_IF(cvx_comm_least(c, &least));
    *wish = least == 0;
    if (least >= 0 || least == mine) {
        return own;
    }
    return failed_peer(least);
}

cvx_status cvx_comm_agree(cvx_comm *c, cvx_status own)
{
    bool wish = false;
    return cvx_comm_agree_wish(c, own, &wish);
}

cvx_status cvx_comm_split(cvx_comm *c, int colour, int key, cvx_comm **out)
{
    return c->ops->split(c, colour, key, out);
}

cvx_status cvx_comm_first(cvx_comm *c, int n, cvx_comm **out)
{
    CVX_ASSERT(n >= 1 && n <= c->size);
    return c->ops->first(c, n, out);
}

void cvx_comm_end_first(cvx_comm *c, cvx_comm *first)
{
    for (int k = 0; first != NULL && k < CVX_COMM_KINDS; k++) {
        c->stat[k].calls += first->stat[k].calls;
        c->stat[k].bytes_sent += first->stat[k].bytes_sent;
        c->stat[k].seconds += first->stat[k].seconds;
    }
    cvx_comm_close(first);
}

void cvx_comm_close(cvx_comm *c)
{
    if (c != NULL) {
        c->ops->close(c);
        free(c);
    }
}
