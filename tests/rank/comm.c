/* Every collective of a communicator with uneven and empty counts, against values each rank can work out for itself; sums
 * bit for bit in rank order; bytes by the formulas of parallel/comm.h; parts of it likewise. Host memory; with
 * CVX_TEST_EXCHANGE=nccl or staged device memory that the host sees. CVX_TEST_LOST=R: rank R ends, or with
 * CVX_TEST_LATE=R does not come, before the last of them, which the others must get to know (exit code 7); with
 * CVX_TEST_FAULT=R rank R's device (the stand-in's) fails, which every rank must get to know. CVX_TEST_SLOW=R: rank R comes to a
 * large exchange later than a machine that is gone is noticed, and all goes well. CVX_TEST_AWAY=R: rank R does not come to a
 * collective of a part of the ranks for 8 seconds, and goes on then, after the others gave up. CVX_TEST_BUSY=S: the devices
 * are at something else for S seconds before a collective, which is no failure. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "parallel/mesh.h"
#include "parallel/world/world.h"
#ifdef CVX_HAVE_CUDA
#include <cuda_runtime_api.h>

#include "kernels/cuda/cuda.h"
#include "parallel/nccl/comm_nccl.h"
#endif

#include "../shared_memory.h"

#ifdef CVX_TEST_CUDA_AWARE
/* Device memory of the stand-in is the host's: any MPI is one that takes it. */
int MPIX_Query_cuda_support(void);
int MPIX_Query_cuda_support(void)
{
    return getenv("CVX_TEST_EXCHANGE") != NULL && strcmp(getenv("CVX_TEST_EXCHANGE"), "mpi") == 0;
}
#endif
#include "must.h"

#define IS(cond)                                                                                   \
    do {                                                                                           \
        if (!(cond)) {                                                                             \
            fprintf(stderr, "rank %d, line %d: %s is wrong\n", c->rank, __LINE__, #cond);          \
            ok = false;                                                                            \
        }                                                                                          \
    } while (0)

static bool ok = true;

/* What was queued has come. */
static void settle(cvx_comm *c)
{
    int unused = 0;
    MUST(cvx_comm_least(c, &unused));
}

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
    settle(c);
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
    settle(c);
    for (int64_t i = 0; i < counts[c->rank]; i++) {
        float want = sum_of(c, at + i);
        same = same && memcmp(&own[i], &want, sizeof want) == 0;
    }
    IS(same);
    free(own);
    free(f);
}

/* Rank r has 3·r bytes, or as many as the others, of the value r. */
static void all_gather(cvx_comm *c, bool even)
{
    int64_t bytes[CVX_MAX_RANKS], at[CVX_MAX_RANKS], total = 0;

    for (int r = 0; r < c->size; r++) {
        bytes[r] = even ? 16 : 3 * r;
        at[r] = total;
        total += bytes[r];
    }
    char *own = malloc((size_t)bytes[c->rank] + 1), *all = malloc((size_t)total + 1);
    memset(own, c->rank, (size_t)bytes[c->rank]);
    memset(all, 127, (size_t)total + 1);
    MUST(cvx_comm_allgatherv(c, own, bytes[c->rank], all, bytes, at));
    settle(c);
    for (int r = 0; r < c->size; r++) {
        for (int64_t i = 0; i < bytes[r]; i++) {
            IS(all[at[r] + i] == r);
        }
    }
    IS(all[total] == 127);
    free(own);
    free(all);
}

/* r sends (r + s) % 3 bytes of the value 16·r + s to s. */
static void all_to_all(cvx_comm *c)
{
    int64_t out[CVX_MAX_RANKS], out_at[CVX_MAX_RANKS], in[CVX_MAX_RANKS], in_at[CVX_MAX_RANKS];
    char *send = malloc((size_t)(4 * c->size)), *recv = malloc((size_t)(4 * c->size));

    memset(recv, 127, (size_t)(4 * c->size));
    for (int r = 0; r < c->size; r++) {
        out[r] = in[r] = (r + c->rank) % 3;
        out_at[r] = in_at[r] = 4 * r;
        memset(send + out_at[r], 16 * c->rank + r, 4);
    }
    MUST(cvx_comm_alltoallv(c, send, out, out_at, recv, in, in_at));
    settle(c);
    for (int r = 0; r < c->size; r++) {
        for (int64_t i = 0; i < in[r]; i++) {
            IS(recv[in_at[r] + i] == (char)(16 * r + c->rank));
        }
        IS(recv[in_at[r] + in[r]] == 127);
    }
    free(send);
    free(recv);
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
    settle(c);
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
    int last = c->size - 1, *v = malloc(sizeof *v);

    *v = c->rank;
    MUST(cvx_comm_broadcast(c, v, sizeof *v, last));
    settle(c);
    IS(*v == last);
    free(v);
    IS(cvx_comm_agree(c, CVX_OK) == CVX_OK);
    cvx_status own = c->rank == last ? cvx_fail(CVX_EIO, "this rank's own failure") : CVX_OK;
    cvx_status st = cvx_comm_agree(c, own);
    IS(st == CVX_EIO && cvx_error_is_peer() == (c->rank != last));
}

static void all_of(cvx_comm *c)
{
    for (int64_t n = 0; n < 12; n++) {
        all_reduce(c, n);
    }
    reduce_scatter(c, 1);
    all_gather(c, false);
    all_gather(c, true);
    all_to_all(c);
    if (c->size > 1) {
        ring(c, 0);
        ring(c, 3);
    }
    broadcast_and_agree(c);
}

/* Odd and even ranks apart, in the opposite order; then the first two thirds. */
static void parts(cvx_comm *c)
{
    cvx_comm *part = NULL, *some = NULL;
    int n = (2 * c->size + 2) / 3;

    MUST(cvx_comm_split(c, c->rank % 2, -c->rank, &part));
    IS(part->size == (c->size + 1 - c->rank % 2) / 2);
    IS(part->rank == part->size - 1 - c->rank / 2);
    all_of(part);
    cvx_comm_close(part);
    MUST(cvx_comm_first(c, n, &some));
    IS((some != NULL) == (c->rank < n));
    if (some != NULL) {
        IS(some->size == n && some->rank == c->rank);
        all_of(some);
    }
    cvx_comm_end_first(c, some);
    all_gather(c, false);
}

/* The communicator of device memory that the test is asked for, or the host's itself. */
static cvx_comm *open_asked(cvx_comm *host)
{
#ifdef CVX_HAVE_CUDA
    const char *how = getenv("CVX_TEST_EXCHANGE");
    cvx_comm *c = NULL;
    char note[200];

    if (how != NULL) {
        MUST(cvx_comm_device_open(&c, host,
                                  strcmp(how, "nccl") == 0  ? CVX_DEVICE_NCCL
                                  : strcmp(how, "mpi") == 0 ? CVX_DEVICE_MPI
                                                            : CVX_DEVICE_STAGED,
                                  note));
        return c;
    }
#endif
    return host;
}

/* Ends or stays away where the test wants it; the others' exit code. */
static int lose_one(cvx_comm *c)
{
    const char *lost = getenv("CVX_TEST_LOST"), *late = getenv("CVX_TEST_LATE"),
               *fault = getenv("CVX_TEST_FAULT"), *away = getenv("CVX_TEST_AWAY");

    if (lost != NULL && strtol(lost, NULL, 10) == c->rank) {
        _exit(9);
    }
    if (late != NULL && strtol(late, NULL, 10) == c->rank) {
        sleep(20);
        _exit(9);
    }
    float *f = make(c, 100000);
    cvx_comm *part = c;
    if (away != NULL) {
        MUST(cvx_comm_split(c, 0, c->rank, &part));
        sleep(strtol(away, NULL, 10) == c->rank ? 8 : 0);
    }
    cvx_status st = cvx_comm_allreduce_f32(part, f, 100000);
    if (fault != NULL && strtol(fault, NULL, 10) == c->rank) {
        setenv("CVX_EMULATED_FAULT", "1", 1);
    }
    st = st == CVX_OK ? cvx_comm_agree(c, CVX_OK) : st;
    unsetenv("CVX_EMULATED_FAULT");
    fprintf(stderr, "rank %d: %s\n", c->rank, st == CVX_OK ? "nothing happened" : cvx_error());
    free(f);
    if (part != c) {
        cvx_comm_close(part);
    }
    return st == CVX_OK ? 1 : cvx_status_exit(st);
}

#ifdef CVX_HAVE_CUDA
static void nap(void *seconds)
{
    sleep((unsigned)(intptr_t)seconds);
}
#endif

/* The compute stream is busy for as long as the test wants it. */
static void be_busy(const cvx_comm *c)
{
#ifdef CVX_HAVE_CUDA
    const char *busy = getenv("CVX_TEST_BUSY");
    const cvx_cuda_process *p = NULL;

    if (busy != NULL) {
        MUST(cvx_cuda_process_open(&p));
        IS(cudaLaunchHostFunc(p->compute, nap, (void *)(intptr_t)strtol(busy, NULL, 10)) ==
           cudaSuccess);
        cvx_cuda_process_close();
    }
#else
    (void)c;
#endif
}

int main(int argc, char **argv)
{
    cvx_comm *host = NULL;
    int code = 0;

    MUST(cvx_world_open(&host, &argc, &argv));
    cvx_comm *c = open_asked(host);
    be_busy(c);
    all_of(c);
    all_reduce(c, 300001); /* several pieces on few ranks */
    reduce_scatter(c, 70000);
    if (c->size > 1) {
        ring(c, 3000000);
    }
    parts(c);
    const char *slow = getenv("CVX_TEST_SLOW");
    if (slow != NULL) {
        sleep(strtol(slow, NULL, 10) == c->rank ? 35 : 0);
        ring(c, 3000000);
    }
    cvx_status all = cvx_comm_agree(c, ok ? CVX_OK : CVX_EINTERNAL);
    if (getenv("CVX_TEST_LOST") != NULL || getenv("CVX_TEST_LATE") != NULL ||
        getenv("CVX_TEST_FAULT") != NULL || getenv("CVX_TEST_AWAY") != NULL) {
        code = lose_one(c);
    }
    if (c != host) {
        cvx_comm_close(c);
    }
    cvx_comm_close(host);
    cvx_world_finish(code != 0 ? code : 1);
    return all == CVX_OK ? code : 1;
}
