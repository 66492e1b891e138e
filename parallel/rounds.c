#include "parallel/rounds.h"

#include <stdlib.h>
#include <string.h>

/* Elements of each rank's share that are added over ranks at a time. */
#define SUM_PIECE ((int64_t)1 << 16)

/* size - 1 rounds; in round k a rank sends to rank + k and receives from rank - k: no hot spot, any counts. */
cvx_status cvx_rounds_alltoallv(cvx_comm *c, const void *send, const int64_t *send_bytes,
                                const int64_t *send_at, void *recv, const int64_t *recv_bytes,
                                const int64_t *recv_at)
{
    const char *s = send;
    char *r = recv;

    memcpy(r + recv_at[c->rank], s + send_at[c->rank], (size_t)send_bytes[c->rank]);
    for (int k = 1; k < c->size; k++) {
        int to = (c->rank + k) % c->size, from = (c->rank - k + c->size) % c->size;
        CVX_RETURN_IF(c->ops->sendrecv(c, s + send_at[to], send_bytes[to], to, r + recv_at[from],
                                       recv_bytes[from], from));
    }
    return CVX_OK;
}

cvx_status cvx_rounds_allgatherv(cvx_comm *c, const void *send, int64_t send_bytes, void *recv,
                                 const int64_t *recv_bytes, const int64_t *recv_at)
{
    char *r = recv;

    if ((const char *)send != r + recv_at[c->rank]) {
        memmove(r + recv_at[c->rank], send, (size_t)send_bytes);
    }
    for (int k = 1; k < c->size; k++) {
        int to = (c->rank + k) % c->size, from = (c->rank - k + c->size) % c->size;
        CVX_RETURN_IF(c->ops->sendrecv(c, r + recv_at[c->rank], send_bytes, to, r + recv_at[from],
                                       recv_bytes[from], from));
    }
    return CVX_OK;
}

/* Adds up every rank's send[at[rank]] .. + counts[rank] in rank order, a piece of every rank's share at a time.
 * recv may be this rank's own place in send. */
static cvx_status sum_shares(cvx_comm *c, const float *send, const int64_t *at,
                             const int64_t *counts, float *recv)
{
    int64_t most = 0, *bytes = calloc(4 * (size_t)c->size, sizeof *bytes);
    float *all = malloc((size_t)(SUM_PIECE * c->size) * sizeof *all);
    cvx_status st = CVX_OK;

    if (bytes == NULL || all == NULL) {
        st = cvx_fail(CVX_ENOMEM, "no memory to add over ranks");
        goto done;
    }
    int64_t *from = bytes + c->size, *in = from + c->size, *in_at = in + c->size;
    for (int i = 0; i < c->size; i++) {
        most = counts[i] > most ? counts[i] : most;
    }
    for (int64_t k = 0; k < most; k += SUM_PIECE) {
        for (int i = 0; i < c->size; i++) {
            int64_t left = counts[i] - k;
            bytes[i] = 4 * (left < 0 ? 0 : left < SUM_PIECE ? left : SUM_PIECE);
            from[i] = 4 * (at[i] + k);
        }
        int64_t n = bytes[c->rank] / 4;
        for (int i = 0; i < c->size; i++) {
            in[i] = 4 * n;
            in_at[i] = 4 * n * i;
        }
        CVX_TRY(st, cvx_rounds_alltoallv(c, send, bytes, from, all, in, in_at), done);
        for (int i = 1; i < c->size; i++) {
            for (int64_t j = 0; j < n; j++) {
                all[j] += all[i * n + j];
            }
        }
        if (n > 0) {
            memcpy(recv + k, all, (size_t)(4 * n));
        }
    }
done:
    free(all);
    free(bytes);
    return st;
}

cvx_status cvx_rounds_reduce_scatterv(cvx_comm *c, const float *send, float *recv,
                                      const int64_t *counts)
{
    int64_t *at = calloc((size_t)c->size, sizeof *at);

    if (at == NULL) {
        return cvx_fail(CVX_ENOMEM, "no memory to add over ranks");
    }
    for (int i = 1; i < c->size; i++) {
        at[i] = at[i - 1] + counts[i - 1];
    }
    cvx_status st = sum_shares(c, send, at, counts, recv);
    free(at);
    return st;
}

/* Reduce-scatter of even shards, then all-gather: the same bits everywhere, 2·(n - 1)/n of the data. */
cvx_status cvx_rounds_allreduce(cvx_comm *c, float *buf, int64_t n)
{
    int64_t *counts = calloc(4 * (size_t)c->size, sizeof *counts);
    cvx_status st = CVX_OK;

    if (counts == NULL) {
        return cvx_fail(CVX_ENOMEM, "no memory to add over ranks");
    }
    int64_t *at = counts + c->size, *bytes = at + c->size, *bytes_at = bytes + c->size;
    for (int i = 0; i < c->size; i++) {
        at[i] = n * i / c->size;
        counts[i] = n * (i + 1) / c->size - at[i];
        bytes[i] = 4 * counts[i];
        bytes_at[i] = 4 * at[i];
    }
    float *mine = buf + at[c->rank];
    CVX_TRY(st, sum_shares(c, buf, at, counts, mine), done);
    st = cvx_rounds_allgatherv(c, mine, bytes[c->rank], buf, bytes, bytes_at);
done:
    free(counts);
    return st;
}
