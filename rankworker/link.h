/* A pool's talk with Redis, on its first rank: a thread of its own tells that the pool lives, keeps the lease of the job that runs
 * and hears whether it is wanted no more, also while a step takes long or Redis is away. */
#ifndef CVX_RANKWORKER_LINK_H
#define CVX_RANKWORKER_LINK_H

#include "base/progress.h"
#include "store/jobs.h"

typedef struct cvx_link cvx_link;

/* Connects and starts the thread. status: what is told of the pool (its strings stay the caller's until the link closes). first:
 * this link speaks for the pool; others keep only the leases of their groups' jobs. Caller closes. */
cvx_status cvx_link_open(cvx_link **out, const char *url, const Cvx__PoolStatus *status,
                         bool first) CVX_CHECK;
void cvx_link_close(cvx_link *l); /* the first tells that the pool is gone; accepts NULL */

/* While Redis is away (told once on stderr) there is nothing to do, and the following say so instead of failing. */

/* As cvx_jobs_next. */
cvx_status cvx_link_next(cvx_link *l, int wait_ms, cvx_entry *out, bool *found) CVX_CHECK;
/* Has n of the jobs that wait put into the queue. most: as cvx_jobs_dispatch. */
cvx_status cvx_link_more(cvx_link *l, int n, int64_t most) CVX_CHECK;
/* As cvx_jobs_claim, with the pool's size; waits for Redis until a signal asks the pool to stop. *out NULL: it is not ours. */
cvx_status cvx_link_claim(cvx_link *l, const cvx_entry *e, Cvx__Assignment **out) CVX_CHECK;
cvx_status cvx_link_give_back(cvx_link *l, const cvx_entry *e) CVX_CHECK;
/* From now on the job's lease is kept (a: borrowed until cvx_link_finish). */
void cvx_link_begin(cvx_link *l, const Cvx__Assignment *a);
/* How its ranks are arranged. */
void cvx_link_mesh(cvx_link *l, const char *mesh);
/* A sink of events (payload: the link) that tells how far the job is. CVX_ECANCELLED when it is wanted no more, or
 * too late. */
cvx_status cvx_link_event(void *payload, const cvx_event *e);
/* Whether the job's deadline has passed. By the thread that runs the job. */
bool cvx_link_late(const cvx_link *l);
/* Mean seconds of the job's denoising steps; 0: not two were told yet. By the thread that runs the job. */
double cvx_link_step_seconds(const cvx_link *l);
/* Of how many groups the pool is now, each with a job; 0: it waits. By the first link. */
void cvx_link_round(cvx_link *l, int groups);
/* What a round has shown: jobs completed, the highest resident size of a rank, TFLOP/s of a rank. Likewise. */
void cvx_link_learn(cvx_link *l, int64_t completed, int64_t peak, double tflops);
/* Ends the job, as cvx_lease_finish; waits for Redis as long as it takes, until a signal asks the pool to stop. */
cvx_status cvx_link_finish(cvx_link *l, const char *state, const char *cause,
                           const Cvx__Result *result, char now[16]) CVX_CHECK;
/* What the coordinator told: "data_dir", where jobs put their files; "lora_dir". out has `size` bytes; "" if it has not. */
cvx_status cvx_link_config(cvx_link *l, const char *name, char *out, size_t size) CVX_CHECK;

#endif
