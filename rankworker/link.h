/* A pool's talk with Redis, on its first rank: a thread of its own tells that the pool lives, keeps the lease of the job that runs
 * and hears whether it is wanted no more, also while a step takes long or Redis is away. */
#ifndef CVX_RANKWORKER_LINK_H
#define CVX_RANKWORKER_LINK_H

#include "base/progress.h"
#include "store/jobs.h"

typedef struct cvx_link cvx_link;

/* Connects and starts the thread. name: the pool's. status: what is told of it (copied strings stay the caller's until the
 * link closes). Caller closes. */
cvx_status cvx_link_open(cvx_link **out, const char *url, const Cvx__PoolStatus *status) CVX_CHECK;
void cvx_link_close(cvx_link *l); /* tells that the pool is gone; accepts NULL */

/* Waits up to wait_ms for a job. *out NULL: none, also while Redis is away (told once on stderr). */
cvx_status cvx_link_take(cvx_link *l, int wait_ms, Cvx__Assignment **out) CVX_CHECK;
/* From now on the job's lease is kept; mesh describes its ranks (borrowed until cvx_link_finish). */
void cvx_link_begin(cvx_link *l, const Cvx__Assignment *a, const char *mesh);
/* A sink of events (payload: the link) that tells how far the job is. CVX_ECANCELLED when it is wanted no more, or
 * too late. */
cvx_status cvx_link_event(void *payload, const cvx_event *e);
/* Whether the job's deadline has passed. By the thread that runs the job. */
bool cvx_link_late(const cvx_link *l);
/* Mean seconds of the job's denoising steps; 0: not two were told yet. By the thread that runs the job. */
double cvx_link_step_seconds(const cvx_link *l);
/* The highest resident size of a rank, for the pool's state. */
void cvx_link_peak(cvx_link *l, int64_t bytes);
/* Ends the job, as cvx_lease_finish; waits for Redis as long as it takes, until a signal asks the pool to stop. */
cvx_status cvx_link_finish(cvx_link *l, const char *state, const char *cause,
                           const Cvx__Result *result, char now[16]) CVX_CHECK;
/* What the coordinator told: "data_dir", where jobs put their files; "lora_dir". out has `size` bytes; "" if it has not. */
cvx_status cvx_link_config(cvx_link *l, const char *name, char *out, size_t size) CVX_CHECK;

#endif
