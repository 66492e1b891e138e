/* `cvx-rank --pool --redis URL`: ranks that stay, take jobs from the queue and keep their models open from one to the next. A job
 * that waits alone, or is a large one, has all ranks; when several small ones wait, the pool splits into groups of ranks with a
 * job each (docs/service.md). */
#ifndef CVX_RANKWORKER_POOL_H
#define CVX_RANKWORKER_POOL_H

#include "base/log.h"
#include "model/pipeline/request.h"
#include "parallel/comm.h"

typedef struct cvx_pool_options {
    bool pool;
    const char *redis, *name,
        *data_dir;        /* NULL: CVX_REDIS, host and process id, what the coordinator says */
    const char *owner;    /* without --pool; NULL: "local" */
    int64_t max_jobs;     /* 0: until it is stopped */
    double memory;        /* GiB of all ranks; 0: what there is */
    double group_seconds; /* of one rank's work that a rank is given to a job for; 0: 60 */
    cvx_log_options log;
} cvx_pool_options;

extern const cvx_opt cvx_pool_opts[];

/* Runs jobs until a signal asks to stop: then the running one is put back with its checkpoint, and the pool signs off. `defaults`
 * holds the model and what else every job has. host: the communicator that waits politely; world: the one that jobs run on
 * (host itself, or the devices'). Collective over both. */
cvx_status cvx_pool_run(const cvx_pool_options *o, const cvx_request *defaults, cvx_comm *host,
                        cvx_comm *world, int node_ranks) CVX_CHECK;

#endif
