/* The threads behind the HTTP daemon's own few: a request that talks to Redis or plans a job waits suspended, and costs no thread. */
#ifndef CVX_COORDINATOR_WORKERS_H
#define CVX_COORDINATOR_WORKERS_H

#include <microhttpd.h>

#include "base/status.h"

/* A piece of work; lies in what the caller owns until it is done. */
typedef struct cvx_task {
    void (*run)(void *payload);
    void *payload;
    struct MHD_Connection *connection;
    struct cvx_task *next;
} cvx_task;

/* Work that may take seconds has threads of its own, so that the quick never waits behind it. */
typedef enum cvx_lane { CVX_LANE_QUICK, CVX_LANE_SLOW, CVX_LANES } cvx_lane;

cvx_status cvx_workers_start(void) CVX_CHECK;
/* Suspends the task's connection, runs the task on a thread and resumes the connection. False: cvx_workers_stop has been called, and
 * nothing happens. By the daemon's threads. */
bool cvx_workers_add(cvx_task *t, cvx_lane lane);
/* Ends when all that was added is done. */
void cvx_workers_stop(void);

#endif
