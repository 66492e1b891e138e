#include "parallel/mpi/comm_mpi.h"

#include <limits.h>
#include <mpi.h>
#ifdef OPEN_MPI
#include <mpi-ext.h>
#endif
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "parallel/rounds.h"

/* MPI counts are ints: longer messages go in pieces of this many bytes. */
#define PIECE ((int64_t)1 << 30)
#define TAG 77
/* Tests of a transfer in one poll. */
#define POLLS 16
/* Nanoseconds of a sleep of a rank that waits and shares its core: the first, and the longest; that of a rank whose wait is already
 * long may last 1 / NAP_SHARE of it, up to NAP_IDLE. */
#define NAP_LEAST 5000
#define NAP_MOST 50000
#define NAP_SHARE 128
#define NAP_IDLE 10000000
/* Seconds that a rank with a failure of its own waits for the others to come and hear of it. */
#define FAILED_PATIENCE 30.0

typedef struct impl {
    MPI_Comm comm;
} impl;

static MPI_Comm comm_of(const cvx_comm *c)
{
    return ((impl *)c->impl)->comm;
}

/* A call failed, or a rank that failed was left alone: nothing can be said to the others any more. */
static bool broken;

static cvx_status check(int rc, const char *call)
{
    char text[MPI_MAX_ERROR_STRING] = "";
    int n = 0;

    if (rc == MPI_SUCCESS) {
        return CVX_OK;
    }
    broken = true;
    MPI_Error_string(rc, text, &n);
    return cvx_fail(CVX_EPEER, "MPI %s: %s", call, text);
}

/* More ranks than cores. A rank that waits in MPI polls; yielding between polls does not help, since the scheduler
 * gives pollers the same share of a core as the ranks that compute. So it sleeps between polls, for longer
 * the longer it waits: ranks of a pool that has no job hardly wake. */
static bool crowded;

static int64_t next_nap(int64_t nap, double waited)
{
    double share = waited * 1e9 / NAP_SHARE;
    int64_t most = share < NAP_MOST ? NAP_MOST : share < NAP_IDLE ? (int64_t)share : NAP_IDLE;

    return 2 * nap < most ? 2 * nap : most;
}

static cvx_status wait_all(int n, MPI_Request *q)
{
    struct timespec nap = {0, NAP_LEAST};
    double begin = MPI_Wtime();
    int done = 0;

    if (!crowded) {
        return check(MPI_Waitall(n, q, MPI_STATUSES_IGNORE), "waitall");
    }
    for (int polls = 0; !done; polls++) {
        CVX_RETURN_IF(check(MPI_Testall(n, q, &done, MPI_STATUSES_IGNORE), "testall"));
        if (!done && polls >= POLLS) {
            nanosleep(&nap, NULL);
            nap.tv_nsec = next_nap(nap.tv_nsec, MPI_Wtime() - begin);
        }
    }
    return CVX_OK;
}

static int64_t piece(int64_t left)
{
    return left < PIECE ? left : PIECE;
}

/* Point to point by pieces, both directions at once, so that neither side waits for the other's order. */
static cvx_status exchange(const cvx_comm *c, const char *send, int64_t send_bytes, int to,
                           char *recv, int64_t recv_bytes, int from)
{
    while ((to >= 0 && send_bytes > 0) || (from >= 0 && recv_bytes > 0)) {
        MPI_Request q[2];
        int n = 0;
        int64_t s = to >= 0 ? piece(send_bytes) : 0, r = from >= 0 ? piece(recv_bytes) : 0;
        if (r > 0) {
            CVX_RETURN_IF(
                check(MPI_Irecv(recv, (int)r, MPI_BYTE, from, TAG, comm_of(c), &q[n++]), "irecv"));
        }
        if (s > 0) {
            CVX_RETURN_IF(
                check(MPI_Isend(send, (int)s, MPI_BYTE, to, TAG, comm_of(c), &q[n++]), "isend"));
        }
        CVX_RETURN_IF(wait_all(n, q));
        send += s;
        send_bytes -= s;
        recv += r;
        recv_bytes -= r;
    }
    return CVX_OK;
}

/* The pieces of a transfer on its way. */
typedef struct transfer {
    int n;
    MPI_Request q[];
} transfer;

static cvx_status start_sendrecv(cvx_comm *c, cvx_comm_pending *p, const void *send,
                                 int64_t send_bytes, int to, void *recv, int64_t recv_bytes,
                                 int from)
{
    int64_t s = to >= 0 ? send_bytes : 0, r = from >= 0 ? recv_bytes : 0;
    transfer *t = malloc(sizeof *t + (size_t)(s / PIECE + r / PIECE + 2) * sizeof t->q[0]);

    if (t == NULL) { /* the partners still get their data */
        return exchange(c, send, send_bytes, to, recv, recv_bytes, from);
    }
    t->n = 0;
    p->impl = t;
    for (int64_t at = 0; at < r; at += PIECE) {
        CVX_RETURN_IF(check(MPI_Irecv((char *)recv + at, (int)piece(r - at), MPI_BYTE, from, TAG,
                                      comm_of(c), &t->q[t->n++]),
                            "irecv"));
    }
    for (int64_t at = 0; at < s; at += PIECE) {
        CVX_RETURN_IF(check(MPI_Isend((const char *)send + at, (int)piece(s - at), MPI_BYTE, to,
                                      TAG, comm_of(c), &t->q[t->n++]),
                            "isend"));
    }
    return CVX_OK;
}

/* Each test moves a few fragments; a failure is told by the wait. */
static void poll_transfer(cvx_comm *c, cvx_comm_pending *p)
{
    transfer *t = p->impl;
    int done = 0;

    (void)c;
    for (int i = 0; i < POLLS && !done; i++) {
        if (MPI_Testall(t->n, t->q, &done, MPI_STATUSES_IGNORE) != MPI_SUCCESS) {
            return;
        }
    }
}

static cvx_status wait_transfer(cvx_comm *c, cvx_comm_pending *p)
{
    transfer *t = p->impl;
    cvx_status st = wait_all(t->n, t->q);

    (void)c;
    free(t);
    p->impl = NULL;
    return st;
}

static cvx_status sendrecv(cvx_comm *c, const void *send, int64_t send_bytes, int to, void *recv,
                           int64_t recv_bytes, int from)
{
    return exchange(c, send, send_bytes, to, recv, recv_bytes, from);
}

static cvx_status broadcast(cvx_comm *c, void *buf, int64_t bytes, int root)
{
    char *p = buf;

    for (int64_t at = 0; at < bytes; at += PIECE) {
        int64_t n = bytes - at < PIECE ? bytes - at : PIECE;
        MPI_Request q;
        CVX_RETURN_IF(check(MPI_Ibcast(p + at, (int)n, MPI_BYTE, root, comm_of(c), &q), "ibcast"));
        CVX_RETURN_IF(wait_all(1, &q));
    }
    return CVX_OK;
}

/* A rank that failed amid other collectives gets here while its peers wait in those for ever. */
static cvx_status wait_failed(MPI_Request *q)
{
    const struct timespec nap = {0, NAP_MOST};
    double until = MPI_Wtime() + FAILED_PATIENCE;
    int done = 0;

    while (!done) {
        CVX_RETURN_IF(check(MPI_Test(q, &done, MPI_STATUS_IGNORE), "test"));
        if (!done && MPI_Wtime() > until) {
            broken = true;
            return CVX_EPEER; /* beside the rank's own message, which stays */
        }
        nanosleep(&nap, NULL);
    }
    return CVX_OK;
}

static cvx_status agree(cvx_comm *c, int *least)
{
    bool failed = *least < 0;
    MPI_Request q;

    if (broken) {
        return CVX_EPEER;
    }
    CVX_RETURN_IF(check(MPI_Iallreduce(MPI_IN_PLACE, least, 1, MPI_INT, MPI_MIN, comm_of(c), &q),
                        "iallreduce"));
    return failed ? wait_failed(&q) : wait_all(1, &q);
}

static cvx_status wrap(cvx_comm **out, MPI_Comm comm);

static cvx_status split(cvx_comm *c, int colour, int key, cvx_comm **out)
{
    MPI_Comm comm;

    CVX_RETURN_IF(check(MPI_Comm_split(comm_of(c), colour, key, &comm), "comm_split"));
    return wrap(out, comm);
}

static cvx_status first(cvx_comm *c, int n, cvx_comm **out)
{
    MPI_Comm comm;

    *out = NULL;
    CVX_RETURN_IF(check(MPI_Comm_split(comm_of(c), c->rank < n ? 0 : MPI_UNDEFINED, c->rank, &comm),
                        "comm_split"));
    return c->rank < n ? wrap(out, comm) : CVX_OK;
}

static void close_mpi(cvx_comm *c)
{
    impl *i = c->impl;

    if (i->comm != MPI_COMM_WORLD && !broken) { /* to free is collective */
        MPI_Comm_free(&i->comm);
    }
    free(i);
}

/* Whether buffers may be device memory: Open MPI alone says so. */
static bool takes_device_memory(void)
{
#ifdef MPIX_CUDA_AWARE_SUPPORT
    return MPIX_Query_cuda_support() == 1;
#else
    return false;
#endif
}

static cvx_status wrap(cvx_comm **out, MPI_Comm comm)
{
    static const cvx_comm_ops ops = {.name = "mpi",
                                     CVX_ROUNDS_OPS,
                                     .sendrecv = sendrecv,
                                     .start_sendrecv = start_sendrecv,
                                     .poll = poll_transfer,
                                     .wait = wait_transfer,
                                     .broadcast = broadcast,
                                     .agree = agree,
                                     .split = split,
                                     .first = first,
                                     .close = close_mpi};
    impl *i = malloc(sizeof *i);
    int rank, size;

    MPI_Comm_set_errhandler(comm, MPI_ERRORS_RETURN);
    MPI_Comm_rank(comm, &rank);
    MPI_Comm_size(comm, &size);
    if (i == NULL) {
        return cvx_fail(CVX_ENOMEM, "no memory for a communicator");
    }
    i->comm = comm;
    cvx_status st = cvx_comm_new(out, &ops, rank, size, i);
    if (st != CVX_OK) {
        free(i);
        return st;
    }
    (*out)->device = takes_device_memory();
    return CVX_OK;
}

int cvx_comm_mpi_launched(void)
{
    static const char *const names[] = {"OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS",
                                        "SLURM_NTASKS_PER_NODE", "SLURM_NTASKS"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const char *v = getenv(names[i]);
        long n = v != NULL ? strtol(v, NULL, 10) : 0;
        if (n > 0 && n <= CVX_MAX_RANKS) {
            return (int)n;
        }
    }
    return 1;
}

bool cvx_comm_mpi_crowded(bool yes)
{
    bool before = crowded;

    crowded = yes;
    prctl(PR_SET_TIMERSLACK, yes ? 1000UL : 0UL, 0UL, 0UL,
          0UL); /* naps as short as they are meant */
    return before;
}

cvx_status cvx_comm_mpi_open(cvx_comm **world, int *argc, char ***argv)
{
    int level;

    CVX_RETURN_IF(check(MPI_Init_thread(argc, argv, MPI_THREAD_FUNNELED, &level), "init"));
    if (level < MPI_THREAD_FUNNELED) {
        return cvx_fail(CVX_EUNSUPPORTED,
                        "this MPI gives thread level %d; MPI_THREAD_FUNNELED is needed", level);
    }
    (void)cvx_comm_mpi_crowded(cvx_comm_mpi_launched() > sysconf(_SC_NPROCESSORS_ONLN));
    return wrap(world, MPI_COMM_WORLD);
}

void cvx_comm_mpi_finish(int code)
{
    if (broken) { /* the others may wait for this rank for ever */
        MPI_Abort(MPI_COMM_WORLD, code);
    }
    MPI_Finalize();
}

cvx_status cvx_comm_mpi_node(cvx_comm *world, cvx_comm **out)
{
    MPI_Comm node;

    CVX_RETURN_IF(check(MPI_Comm_split_type(comm_of(world), MPI_COMM_TYPE_SHARED, world->rank,
                                            MPI_INFO_NULL, &node),
                        "comm_split_type"));
    return wrap(out, node);
}
