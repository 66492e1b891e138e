/* The watch over a process's NCCL communicators: calls that do not block are followed to their end, a thread looks after what was queued
 * and aborts what does not end. Builds without NCCL lack this. */
#ifndef CVX_PARALLEL_NCCL_WATCH_H
#define CVX_PARALLEL_NCCL_WATCH_H

#include <pthread.h>

#include "base/status.h"

struct CUstream_st;
struct ncclComm;

/* One communicator. Everything but nccl belongs to watch.c. */
typedef struct cvx_nccl_watched {
    struct ncclComm *nccl;       /* NULL: none, all calls below but unwatch do nothing */
    pthread_mutex_t lock;        /* guards what follows, and calls into NCCL */
    struct cvx_nccl_span *spans; /* ring of room: n are on their way, the first queued at `first` */
    int first, n, room;
    double since; /* when the first of them was seen to be reached; 0: not yet */
    bool broken;
    struct cvx_nccl_watched *next;
} cvx_nccl_watched;

/* A result of NCCL's (ncclResult_t) as a status: CVX_OK also where the call is in progress; else CVX_EPEER, or CVX_EUNSUPPORTED where
 * CUDA itself failed, with `what`. */
cvx_status cvx_nccl_status(int r, const char *what) CVX_CHECK;
/* The same, once the call is no longer in progress. CVX_EPEER after CVX_NCCL_TIMEOUT seconds (default 120), or when the process's
 * communicators were aborted. */
cvx_status cvx_nccl_settle(struct ncclComm *comm, int r, const char *what) CVX_CHECK;

/* Watches comm from now on; w is zeros. An error, or a collective that the device has come to and that does not end within
 * CVX_NCCL_TIMEOUT seconds, aborts all watched communicators of the process: the parts of a split share what ends
 * their kernels, so that nothing that any of them brings can be trusted. What is queued before a collective may take as long as it likes. */
cvx_status cvx_nccl_watch(cvx_nccl_watched *w, struct ncclComm *comm, int device) CVX_CHECK;
/* Ends the communicator, by abort where the process's were aborted, and frees what watch made. */
void cvx_nccl_unwatch(cvx_nccl_watched *w);

/* CVX_EPEER once the process's communicators were aborted. */
cvx_status cvx_nccl_usable(cvx_nccl_watched *w) CVX_CHECK;
/* Before calls into NCCL: keeps out the thread, whose abort frees the communicator, until release. CVX_EPEER: nothing is held. */
cvx_status cvx_nccl_hold(cvx_nccl_watched *w) CVX_CHECK;
void cvx_nccl_release(cvx_nccl_watched *w);
/* The same around a collective on `stream`; queued releases and returns the collective's own status (r: its result). */
cvx_status cvx_nccl_enter(cvx_nccl_watched *w, struct CUstream_st *stream) CVX_CHECK;
cvx_status cvx_nccl_queued(cvx_nccl_watched *w, int r, struct CUstream_st *stream,
                           const char *what) CVX_CHECK;

#endif
