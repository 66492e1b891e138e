/* Signs of life of a process, for whoever watches it from outside (rankworker/supervise.c).
 *
 * A thread writes a record to the process's own file five times a second: a stopped process no longer
 * does. The record also holds a count of the work done so far, which cvx_beat() moves on: when it stands
 * still everywhere, the processes wait for one another. */
#ifndef CVX_BASE_BEAT_H
#define CVX_BASE_BEAT_H

#include "base/status.h"

typedef struct cvx_beat_record {
    uint64_t ticks; /* of the thread */
    uint64_t work;  /* calls of cvx_beat */
    int64_t rank;   /* -1: not known yet */
    int64_t pid;
} cvx_beat_record;

/* Begins to write "DIR/HOST-PID". Once a process. CVX_EIO. */
cvx_status cvx_beat_start(const char *dir) CVX_CHECK;
/* Ends it and removes the file: the process is about to end well. Nothing without a start. */
void cvx_beat_stop(void);
void cvx_beat_rank(int rank);

/* Some work was done. Cheap; from any thread. */
void cvx_beat(void);

/* Reads one record. CVX_EIO if it is not there or not whole. */
cvx_status cvx_beat_read(cvx_beat_record *out, const char *path) CVX_CHECK;

#endif
