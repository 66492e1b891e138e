#include "parallel/nccl/watch.h"

#ifdef CVX_HAVE_NCCL
#include <cuda_runtime_api.h>
#include <nccl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

#include "kernels/cuda/cuda.h"

/* Seconds until a collective that the device has come to, and that does not end, is given up. */
#define TIMEOUT 120.0
/* Milliseconds between two looks of the thread. */
#define LOOK_MS 100

/* A collective that was queued: the stream has come to it, and has it behind it. */
typedef struct cvx_nccl_span {
    cudaEvent_t reached, ended;
} span;

/* One for all communicators of the process. lost: they were aborted. */
static struct {
    pthread_mutex_t lock;
    pthread_t thread;
    cvx_nccl_watched *first;
    bool running, stop;
    atomic_bool lost;
} watch = {.lock = PTHREAD_MUTEX_INITIALIZER};

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static double patience(void)
{
    const char *v = getenv("CVX_NCCL_TIMEOUT");
    double s = v != NULL ? strtod(v, NULL) : 0;
    return s > 0 ? s : TIMEOUT;
}

static cvx_status cuda_status(cudaError_t e, const char *what)
{
    return cvx_cuda_status((int)e, what);
}

static cvx_status lost_one(void)
{
    return cvx_fail(CVX_EPEER, "another rank's GPU no longer answers; NCCL was aborted");
}

cvx_status cvx_nccl_status(int r, const char *what)
{
    if (r == ncclSuccess || r == ncclInProgress) {
        return CVX_OK;
    }
    return cvx_fail(r == ncclUnhandledCudaError ? CVX_EUNSUPPORTED : CVX_EPEER, "NCCL %s: %s", what,
                    ncclGetErrorString((ncclResult_t)r));
}

cvx_status cvx_nccl_settle(struct ncclComm *comm, int called, const char *what)
{
    const struct timespec nap = {0, 20000};
    double until = now() + patience();
    ncclResult_t r = (ncclResult_t)called;

    while (r == ncclInProgress) {
        ncclResult_t asked = ncclCommGetAsyncError(comm, &r);
        if (asked != ncclSuccess) {
            return cvx_nccl_status(asked, what);
        }
        if (r == ncclInProgress && atomic_load(&watch.lost)) {
            return lost_one();
        }
        if (r == ncclInProgress && now() > until) {
            return cvx_fail(CVX_EPEER, "NCCL %s: no end after %.0f s", what, patience());
        }
        if (r == ncclInProgress) {
            nanosleep(&nap, NULL);
        }
    }
    return cvx_nccl_status(r, what);
}

/* --- the thread --- */

/* Whether the first collective on its way has not come to an end for too long. What the device does before it comes
 * there is no concern of this: a whole step is queued at once. */
static bool overdue(cvx_nccl_watched *w)
{
    while (w->n > 0 && cudaEventQuery(w->spans[w->first].ended) != cudaErrorNotReady) {
        w->first = (w->first + 1) % w->room;
        w->n--;
        w->since = 0;
    }
    if (w->n > 0 && w->since == 0 &&
        cudaEventQuery(w->spans[w->first].reached) != cudaErrorNotReady) {
        w->since = now();
    }
    return w->n > 0 && w->since > 0 && now() - w->since > patience();
}

/* Whether a communicator failed, or does not come to an end. */
static bool look(cvx_nccl_watched *w)
{
    ncclResult_t r = ncclSuccess;
    bool bad = false;

    pthread_mutex_lock(&w->lock);
    if (!w->broken && w->n > 0) {
        ncclCommGetAsyncError(w->nccl, &r);
        bad = (r != ncclSuccess && r != ncclInProgress) || overdue(w);
    }
    pthread_mutex_unlock(&w->lock);
    return bad;
}

/* Their kernels end, and with them the streams. */
static void abort_all(void)
{
    atomic_store(&watch.lost, true);
    for (cvx_nccl_watched *w = watch.first; w != NULL; w = w->next) {
        pthread_mutex_lock(&w->lock);
        if (!w->broken) {
            w->broken = true;
            ncclCommAbort(w->nccl);
        }
        pthread_mutex_unlock(&w->lock);
    }
}

static void *watch_all(void *device)
{
    const struct timespec nap = {0, LOOK_MS * 1000000L};

    cudaSetDevice((int)(intptr_t)device);
    for (bool stop = false; !stop;) {
        nanosleep(&nap, NULL);
        pthread_mutex_lock(&watch.lock);
        bool bad = atomic_load(&watch.lost);
        for (cvx_nccl_watched *w = watch.first; w != NULL && !bad; w = w->next) {
            bad = look(w);
        }
        if (bad) {
            abort_all();
        }
        stop = watch.stop;
        pthread_mutex_unlock(&watch.lock);
    }
    return NULL;
}

cvx_status cvx_nccl_watch(cvx_nccl_watched *w, struct ncclComm *comm, int device)
{
    cvx_status st = CVX_OK;

    pthread_mutex_lock(&watch.lock);
    if (!watch.running) {
        watch.stop = false;
        watch.running =
            pthread_create(&watch.thread, NULL, watch_all, (void *)(intptr_t)device) == 0;
    }
    if (watch.running) {
        pthread_mutex_init(&w->lock, NULL);
        w->nccl = comm;
        w->next = watch.first;
        watch.first = w;
    } else {
        st = cvx_fail(CVX_ENOMEM, "no thread to watch NCCL");
    }
    pthread_mutex_unlock(&watch.lock);
    return st;
}

/* Takes w out of the list; the thread ends with the last one. Whether the process's were aborted. */
static bool leave(const cvx_nccl_watched *w)
{
    bool last, lost;

    pthread_mutex_lock(&watch.lock);
    for (cvx_nccl_watched **at = &watch.first; *at != NULL; at = &(*at)->next) {
        if (*at == w) {
            *at = w->next;
            break;
        }
    }
    last = watch.running && watch.first == NULL;
    watch.stop = last;
    lost = atomic_load(&watch.lost);
    pthread_mutex_unlock(&watch.lock);
    if (last) {
        pthread_join(watch.thread, NULL);
        watch.running = false;
        atomic_store(&watch.lost, false);
    }
    return lost;
}

static void end(struct ncclComm *comm)
{
    if (cvx_nccl_status(ncclCommFinalize(comm), "end") == CVX_OK &&
        cvx_nccl_settle(comm, ncclInProgress, "end") == CVX_OK) {
        ncclCommDestroy(comm);
    } else {
        ncclCommAbort(comm);
    }
}

void cvx_nccl_unwatch(cvx_nccl_watched *w)
{
    if (w->nccl == NULL) {
        return;
    }
    bool lost = leave(w);
    if (!w->broken && lost) {
        ncclCommAbort(w->nccl);
    } else if (!w->broken) {
        end(w->nccl);
    }
    for (int k = 0; k < w->room; k++) {
        cudaEvent_t two[] = {w->spans[k].reached, w->spans[k].ended};
        for (int e = 0; e < 2; e++) {
            if (two[e] != NULL) {
                cudaEventDestroy(two[e]);
            }
        }
    }
    free(w->spans);
    pthread_mutex_destroy(&w->lock);
    w->nccl = NULL;
}

/* --- calls --- */

cvx_status cvx_nccl_hold(cvx_nccl_watched *w)
{
    pthread_mutex_lock(&w->lock);
    if (!w->broken && !atomic_load(&watch.lost)) {
        return CVX_OK;
    }
    pthread_mutex_unlock(&w->lock);
    return lost_one();
}

void cvx_nccl_release(cvx_nccl_watched *w)
{
    pthread_mutex_unlock(&w->lock);
}

cvx_status cvx_nccl_usable(cvx_nccl_watched *w)
{
    if (w->nccl != NULL) {
        CVX_RETURN_IF(cvx_nccl_hold(w));
        cvx_nccl_release(w);
    }
    return CVX_OK;
}

/* Room for more spans: the ring is straightened out and made twice as long. */
static cvx_status more_spans(cvx_nccl_watched *w)
{
    int room = w->room > 0 ? 2 * w->room : 16;
    span *all = calloc((size_t)room, sizeof *all);
    cvx_status st = CVX_OK;

    if (all == NULL) {
        return cvx_fail(CVX_ENOMEM, "no memory for a list of collectives");
    }
    for (int k = 0; k < w->room; k++) {
        all[k] = w->spans[(w->first + k) % w->room];
    }
    free(w->spans);
    w->spans = all;
    w->first = 0;
    for (; st == CVX_OK && w->room < room; w->room++) {
        span *s = &all[w->room];
        st = cuda_status(cudaEventCreateWithFlags(&s->reached, cudaEventDisableTiming), "an event");
        if (st == CVX_OK) {
            st = cuda_status(cudaEventCreateWithFlags(&s->ended, cudaEventDisableTiming),
                             "an event");
        }
    }
    return st;
}

static span *next_span(const cvx_nccl_watched *w)
{
    return &w->spans[(w->first + w->n) % w->room];
}

cvx_status cvx_nccl_enter(cvx_nccl_watched *w, struct CUstream_st *stream)
{
    CVX_RETURN_IF(cvx_nccl_hold(w));
    cvx_status st = w->n == w->room ? more_spans(w) : CVX_OK;

    if (st == CVX_OK) {
        st = cuda_status(cudaEventRecord(next_span(w)->reached, stream), "a collective");
    }
    if (st != CVX_OK) {
        cvx_nccl_release(w);
    }
    return st;
}

cvx_status cvx_nccl_queued(cvx_nccl_watched *w, int r, struct CUstream_st *stream, const char *what)
{
    cvx_status st = cvx_nccl_settle(w->nccl, r, what);

    if (st == CVX_OK) {
        st = cuda_status(cudaEventRecord(next_span(w)->ended, stream), what);
        w->n += st == CVX_OK;
    }
    cvx_nccl_release(w);
    return st;
}
#endif
