/* Every collective of the MPI communicator with uneven and empty counts, against values each rank can work out for
 * itself; sums bit for bit in rank order; bytes by the formulas of parallel/comm.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "parallel/mesh.h"
#include "parallel/world/world.h"

#define MUST(expr)                                                                                 \
    do {                                                                                           \
        if ((expr) != CVX_OK) {                                                                    \
            fprintf(stderr, "%s: %s\n", #expr, cvx_error());                                       \
            cvx_world_abort(1);                                                                    \
        }                                                                                          \
    } while (0)
#define IS(cond)                                                                                   \
    do {                                                                                           \
        if (!(cond)) {                                                                             \
            fprintf(stderr, "rank %d, line %d: %s is wrong\n", c->rank, __LINE__, #cond);          \
            ok = false;                                                                            \
        }                                                                                          \
    } while (0)

static bool ok = true;

/* Values of very different sizes, so that another order of additions gives other bits. */
static float value(int rank, int64_t i)
{
    uint32_t s = (uint32_t)(i * 7 + rank) * 2654435761u;
    float v = (float)(int32_t)s * 0x1p-31f;
    return s % 3 == 0 ? v * 1e6f : v;
}

static float sum_of(const cvx_comm *c, int64_t i)
{
    float s = value(0, i);
    for (int r = 1; r < c->size; r++) {
        s += value(r, i);
    }
    return s;
}

static float *make(const cvx_comm *c, int64_t n)
{
    float *f = malloc((size_t)(n + 1) * sizeof *f);
    for (int64_t i = 0; i < n; i++) {
        f[i] = value(c->rank, i);
    }
    return f;
}

static void all_reduce(cvx_comm *c, int64_t n)
{
    float *f = make(c, n);
    int64_t before = c->stat[CVX_COMM_ALLREDUCE].bytes_sent;
    int64_t own = cvx_shard_of(n, c->size, c->rank).len;
    bool same = true;

    MUST(cvx_comm_allreduce_f32(c, f, n));
    for (int64_t i = 0; i < n; i++) {
        float want = sum_of(c, i);
        same = same && memcmp(&f[i], &want, sizeof want) == 0;
    }
    IS(same);
    IS(c->stat[CVX_COMM_ALLREDUCE].bytes_sent - before == 4 * (n - own) + 4 * own * (c->size - 1));
    free(f);
}

/* Rank r gets r·scale elements: rank 0 none. */
static void reduce_scatter(cvx_comm *c, int64_t scale)
{
    int64_t counts[CVX_MAX_RANKS], n = 0, at = 0;
    bool same = true;

    for (int r = 0; r < c->size; r++) {
        counts[r] = r * scale;
        at += r < c->rank ? counts[r] : 0;
        n += counts[r];
    }
    float *f = make(c, n), *own = malloc((size_t)(counts[c->rank] + 1) * sizeof *own);
    MUST(cvx_comm_reduce_scatterv_f32(c, f, own, counts));
    for (int64_t i = 0; i < counts[c->rank]; i++) {
        float want = sum_of(c, at + i);
        same = same && memcmp(&own[i], &want, sizeof want) == 0;
    }
    IS(same);
    free(own);
    free(f);
}

/* Rank r has 3·r bytes of the value r. */
static void all_gather(cvx_comm *c)
{
    int64_t bytes[CVX_MAX_RANKS], at[CVX_MAX_RANKS], total = 0;
    char own[3 * CVX_MAX_RANKS], all[8192];

    for (int r = 0; r < c->size; r++) {
        bytes[r] = 3 * r;
        at[r] = total;
        total += bytes[r];
    }
    memset(own, c->rank, sizeof own);
    memset(all, 127, sizeof all);
    MUST(cvx_comm_allgatherv(c, own, bytes[c->rank], all, bytes, at));
    for (int r = 0; r < c->size; r++) {
        for (int64_t i = 0; i < bytes[r]; i++) {
            IS(all[at[r] + i] == r);
        }
    }
    IS(all[total] == 127);
}

/* r sends (r + s) % 3 bytes of the value 16·r + s to s. */
static void all_to_all(cvx_comm *c)
{
    int64_t out[CVX_MAX_RANKS], out_at[CVX_MAX_RANKS], in[CVX_MAX_RANKS], in_at[CVX_MAX_RANKS];
    char send[4 * CVX_MAX_RANKS], recv[4 * CVX_MAX_RANKS];

    for (int r = 0; r < c->size; r++) {
        out[r] = in[r] = (r + c->rank) % 3;
        out_at[r] = in_at[r] = 4 * r;
        memset(send + out_at[r], 16 * c->rank + r, 4);
    }
    MUST(cvx_comm_alltoallv(c, send, out, out_at, recv, in, in_at));
    for (int r = 0; r < c->size; r++) {
        for (int64_t i = 0; i < in[r]; i++) {
            IS(recv[in_at[r] + i] == (char)(16 * r + c->rank));
        }
    }
}

/* n bytes round the ring, waited for after some polls; then nothing at all. */
static void ring(cvx_comm *c, int64_t n)
{
    int next = (c->rank + 1) % c->size, before = (c->rank - 1 + c->size) % c->size;
    char *send = malloc((size_t)n + 1), *recv = malloc((size_t)n + 1);
    int64_t sent = c->stat[CVX_COMM_SENDRECV].bytes_sent;
    bool same = true;
    cvx_comm_pending p;

    memset(send, c->rank + 1, (size_t)n);
    memset(recv, 0, (size_t)n);
    MUST(cvx_comm_start_sendrecv(c, &p, send, n, next, recv, n, before));
    for (int i = 0; i < 4; i++) {
        cvx_comm_poll(c, &p);
    }
    MUST(cvx_comm_wait(c, &p));
    MUST(cvx_comm_wait(c, &p)); /* nothing is left to wait for */
    for (int64_t i = 0; i < n; i++) {
        same = same && recv[i] == before + 1;
    }
    IS(same);
    IS(c->stat[CVX_COMM_SENDRECV].bytes_sent - sent == n);
    MUST(cvx_comm_start_sendrecv(c, &p, send, n, -1, recv, n, -1));
    MUST(cvx_comm_wait(c, &p));
    free(send);
    free(recv);
}

static void broadcast_and_agree(cvx_comm *c)
{
    int last = c->size - 1, v = c->rank;

    MUST(cvx_comm_broadcast(c, &v, sizeof v, last));
    IS(v == last);
    IS(cvx_comm_agree(c, CVX_OK) == CVX_OK);
    cvx_status st = cvx_comm_agree(c, c->rank == last ? CVX_EIO : CVX_OK);
    IS(st == CVX_EIO && cvx_error_is_peer() == (c->rank != last));
}

int main(int argc, char **argv)
{
    cvx_comm *c = NULL;

    MUST(cvx_world_open(&c, &argc, &argv));
    for (int64_t n = 0; n < 12; n++) {
        all_reduce(c, n);
    }
    all_reduce(c, 300001); /* several pieces on few ranks */
    reduce_scatter(c, 1);
    reduce_scatter(c, 70000);
    all_gather(c);
    all_to_all(c);
    if (c->size > 1) {
        ring(c, 0);
        ring(c, 3);
        ring(c, 3000000);
    }
    broadcast_and_agree(c);
    cvx_status all = cvx_comm_agree(c, ok ? CVX_OK : CVX_EINTERNAL);
    cvx_comm_close(c);
    cvx_world_finish(1);
    return all == CVX_OK ? 0 : 1;
}
