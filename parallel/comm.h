/* Communicator: one group of ranks, one table of functions. `self` is the group of one, so callers
 * have no special case; MPI and NCCL fill the same table.
 *
 * Every call is collective over the communicator unless it says otherwise: all ranks call it, in the
 * same order, with matching counts. Buffers are host memory for `self`, `mpi` and `tcp`, device memory
 * for `nccl` and what takes its place. Counts and displacements are in bytes. A failure inside a collective leaves the communicator
 * unusable (the caller ends the job); a failure of a rank's own work is told to the others by
 * cvx_comm_agree at the step boundary, never by leaving a collective alone. */
#ifndef CVX_PARALLEL_COMM_H
#define CVX_PARALLEL_COMM_H

#include <limits.h>

#include "base/status.h"

typedef enum cvx_comm_kind {
    CVX_COMM_ALLGATHER = 0,
    CVX_COMM_ALLTOALL,
    CVX_COMM_REDUCE_SCATTER,
    CVX_COMM_ALLREDUCE,
    CVX_COMM_SENDRECV,
    CVX_COMM_BROADCAST,
    CVX_COMM_AGREE,
    CVX_COMM_KINDS
} cvx_comm_kind;

typedef struct cvx_comm_stat {
    int64_t calls, bytes_sent; /* bytes that left this rank for another one: docs/parallelism.md */
    double seconds;
} cvx_comm_stat;

typedef struct cvx_comm cvx_comm;

/* A transfer on its way (cvx_comm_start_sendrecv). */
typedef struct cvx_comm_pending {
    void *impl; /* the communicator's own; NULL when nothing is left to wait for */
} cvx_comm_pending;

/* The most ranks of one job: lists of byte counts stand on the stack. */
#define CVX_MAX_RANKS 1024
/* Numbers below it are no numbers that ranks agree on: cvx_comm_ops.agree. */
#define CVX_COMM_BROKEN (INT_MIN / 2)

typedef struct cvx_comm_ops {
    const char *name; /* "self", "mpi", "tcp", "nccl" */
    cvx_status (*allgatherv)(cvx_comm *c, const void *send, int64_t send_bytes, void *recv,
                             const int64_t *recv_bytes, const int64_t *recv_at);
    cvx_status (*alltoallv)(cvx_comm *c, const void *send, const int64_t *send_bytes,
                            const int64_t *send_at, void *recv, const int64_t *recv_bytes,
                            const int64_t *recv_at);
    cvx_status (*reduce_scatterv_f32)(cvx_comm *c, const float *send, float *recv,
                                      const int64_t *counts);
    cvx_status (*allreduce_f32)(cvx_comm *c, float *buf, int64_t n);
    cvx_status (*sendrecv)(cvx_comm *c, const void *send, int64_t send_bytes, int to, void *recv,
                           int64_t recv_bytes, int from);
    cvx_status (*start_sendrecv)(cvx_comm *c, cvx_comm_pending *p, const void *send,
                                 int64_t send_bytes, int to, void *recv, int64_t recv_bytes,
                                 int from);
    void (*poll)(cvx_comm *c, cvx_comm_pending *p); /* NULL: it moves on by itself */
    cvx_status (*wait)(cvx_comm *c, cvx_comm_pending *p);
    cvx_status (*broadcast)(cvx_comm *c, void *buf, int64_t bytes, int root);
    /* in: own, out: the least of all ranks'. A rank that finds in here that its device or its connections failed brings
     * CVX_COMM_BROKEN + status·CVX_MAX_RANKS + rank and returns the status: the others get the number. */
    cvx_status (*agree)(cvx_comm *c, int *least);
    cvx_status (*split)(cvx_comm *c, int colour, int key, cvx_comm **out);
    cvx_status (*first)(cvx_comm *c, int n, cvx_comm **out);
    void (*close)(cvx_comm *c);
} cvx_comm_ops;

struct cvx_comm {
    const cvx_comm_ops *ops;
    int rank, size;
    bool dry; /* counts only */
    bool
        device; /* sendrecv, start_sendrecv and broadcast take device memory, too (MPI built with CUDA) */
    void *impl;
    cvx_comm_stat stat[CVX_COMM_KINDS];
};

/* For those who make communicators: rank `rank` of `size`, by the table `ops`, which lives on. impl becomes the communicator's
 * on success only. */
cvx_status cvx_comm_new(cvx_comm **out, const cvx_comm_ops *ops, int rank, int size,
                        void *impl) CVX_CHECK;

/* The group of one. */
cvx_status cvx_comm_self(cvx_comm **out) CVX_CHECK;
/* Rank `rank` of a group of `size` that does not exist: every call counts and moves nothing. This is how a job
 * is measured on a mesh without its ranks. It cannot be split. */
cvx_status cvx_comm_dry(cvx_comm **out, int rank, int size) CVX_CHECK;
/* Not collective for `self`. Accepts NULL. */
void cvx_comm_close(cvx_comm *c);

/* recv gets every rank's bytes: rank r's recv_bytes[r] at recv_at[r]; send may be its own place in recv. */
cvx_status cvx_comm_allgatherv(cvx_comm *c, const void *send, int64_t send_bytes, void *recv,
                               const int64_t *recv_bytes, const int64_t *recv_at) CVX_CHECK;
/* The same with `bytes` from every rank: all [size x bytes], in the order of the ranks. */
cvx_status cvx_comm_gather_each(cvx_comm *c, const void *own, int64_t bytes, void *all) CVX_CHECK;
/* Rank s gets send[send_at[s]] .. of every rank. send and recv do not overlap. */
cvx_status cvx_comm_alltoallv(cvx_comm *c, const void *send, const int64_t *send_bytes,
                              const int64_t *send_at, void *recv, const int64_t *recv_bytes,
                              const int64_t *recv_at) CVX_CHECK;
/* recv = this rank's counts[rank] elements of the sum over ranks, added in rank order 0, 1, 2 ... */
cvx_status cvx_comm_reduce_scatterv_f32(cvx_comm *c, const float *send, float *recv,
                                        const int64_t *counts) CVX_CHECK;
/* In place sum over ranks, added in rank order, the same bits on every rank: a reduce-scatter of the shards
 * cvx_shard_of(n, size, rank), then their all-gather. With m elements in its own shard a rank sends
 * 4·(n - m) + 4·m·(size - 1) bytes. */
cvx_status cvx_comm_allreduce_f32(cvx_comm *c, float *buf, int64_t n) CVX_CHECK;
/* Sends to `to` and receives from `from` at once; a negative rank skips that half. Only the two
 * partners of each message need to call. */
cvx_status cvx_comm_sendrecv(cvx_comm *c, const void *send, int64_t send_bytes, int to, void *recv,
                             int64_t recv_bytes, int from) CVX_CHECK;
/* The same without waiting: neither buffer may be touched until cvx_comm_wait, which every successful start
 * needs, also when what is computed meanwhile fails. Counted as send/recv; seconds are those inside the calls. */
cvx_status cvx_comm_start_sendrecv(cvx_comm *c, cvx_comm_pending *p, const void *send,
                                   int64_t send_bytes, int to, void *recv, int64_t recv_bytes,
                                   int from) CVX_CHECK;
/* Lets a transport that has no thread of its own move data: called now and then between pieces of work. Not
 * collective. */
void cvx_comm_poll(cvx_comm *c, cvx_comm_pending *p);
cvx_status cvx_comm_wait(cvx_comm *c, cvx_comm_pending *p) CVX_CHECK;
cvx_status cvx_comm_broadcast(cvx_comm *c, void *buf, int64_t bytes, int root) CVX_CHECK;
/* A new communicator of the ranks that give the same colour (0 or more), ordered by key, then rank. The
 * caller closes it, before c. */
cvx_status cvx_comm_split(cvx_comm *c, int colour, int key, cvx_comm **out) CVX_CHECK;
/* The communicator of the first n ranks (1 to size), in the same order; NULL on the others. Collective over c; ended by
 * cvx_comm_end_first, which adds its counters to c's. */
cvx_status cvx_comm_first(cvx_comm *c, int n, cvx_comm **out) CVX_CHECK;
void cvx_comm_end_first(cvx_comm *c, cvx_comm *first); /* accepts first = NULL */

/* The step boundary: every rank brings its status. CVX_OK if all are; else every rank gets the same code, and all
 * but the one whose it is (the lowest of those that have it) get its message by cvx_fail_peer. */
cvx_status cvx_comm_agree(cvx_comm *c, cvx_status own) CVX_CHECK;
/* The same; if none failed, *wish becomes true on every rank if it was on any. */
cvx_status cvx_comm_agree_wish(cvx_comm *c, cvx_status own, bool *wish) CVX_CHECK;
/* *value (not below half of INT_MIN) becomes the least that any rank brings; a rank whose device failed is an error on
 * every rank. Counted as an agreement, which it costs as much as; in measure mode the rank's own value stays. */
cvx_status cvx_comm_least(cvx_comm *c, int *value) CVX_CHECK;

/* The `rank`-th of `size` even contiguous shards of 0 .. total: no shard is more than one longer than
 * another, and any total goes (also less than size: then some are empty). */
typedef struct cvx_shard {
    int64_t start, len;
} cvx_shard;
static inline cvx_shard cvx_shard_of(int64_t total, int size, int rank)
{
    int64_t a = total * rank / size, b = total * (rank + 1) / size;
    return (cvx_shard){a, b - a};
}

#endif
