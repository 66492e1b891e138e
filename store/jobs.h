/* The cluster's state in Redis: jobs, queue, leases, events, pools. docs/redis.md names every key. What changes several
 * keys is one Lua script (store/lua), so that it happens whole or not at all.
 *
 * A job goes queued -> in_progress -> completed | failed | cancelled, or back to queued when its pool was lost or asks for another
 * try. Whoever runs it holds a lease with a token that grows with every assignment; what comes with an old token changes nothing.
 * Times are Unix milliseconds. All functions: CVX_EIO where Redis cannot be reached. */
#ifndef CVX_STORE_JOBS_H
#define CVX_STORE_JOBS_H

#include "base/file.h"
#include "proto/cvx.pb-c.h"
#include "store/redis.h"

#define CVX_ID_MAX 64
#define CVX_LEASE_MS 15000 /* a pool unheard of for so long is lost */
#define CVX_MOST_DEATHS 2  /* pools that a job may take with it */
#define CVX_MOST_ATTEMPTS 3

int64_t cvx_now_ms(void);
/* "video_" and 128 random bits in hex. */
void cvx_job_id(char out[CVX_ID_MAX]);
/* Whether a text has the form of an id: what comes from outside is looked up only if it has. */
bool cvx_job_id_valid(const char *id);

/* What one owner may do; 0: no limit. */
typedef struct cvx_limits {
    int64_t waiting, per_minute;
} cvx_limits;

/* Puts a job (spec->id, owner, priority, created_ms filled in) among those that wait. once: idempotency key, or "". id: the
 * job's, or that of the job the same key made before. *retry_after > 0: a limit is reached, which cvx_error() tells; no job was
 * made; seconds. */
cvx_status cvx_jobs_create(cvx_redis *r, const Cvx__JobSpec *spec, const char *once,
                           const cvx_limits *limits, char id[CVX_ID_MAX],
                           int *retry_after) CVX_CHECK;
/* Puts a run that was no job of the queue among the completed ones. */
cvx_status cvx_jobs_record(cvx_redis *r, const Cvx__JobSpec *spec,
                           const Cvx__Result *result) CVX_CHECK;

typedef struct cvx_job_view {
    char id[CVX_ID_MAX];
    char state[16], pool[128], owner[64];
    char *cause;  /* why it failed, was tried again or cannot begin; "" */
    char *causes; /* of all its tries, a line each; "" */
    int64_t created_ms, started_ms, completed_ms, attempts, token;
    Cvx__JobSpec *spec;
    Cvx__Progress *progress;  /* NULL: none yet */
    Cvx__Result *result;      /* NULL: not completed */
    Cvx__FrameScores *scores; /* NULL: none */
} cvx_job_view;

/* *found: whether there is such a job; then the caller frees it with cvx_job_view_free. */
cvx_status cvx_jobs_get(cvx_redis *r, const char *id, cvx_job_view *out, bool *found) CVX_CHECK;
void cvx_job_view_free(cvx_job_view *v);

/* Ids of an owner's jobs, of one state (NULL: of all), newest first or (ascending) oldest first, behind `after` ("": from the
 * first), at most `max`. *n of them are written. */
cvx_status cvx_jobs_list(cvx_redis *r, const char *owner, const char *state, const char *after,
                         bool ascending, int64_t max, char (*ids)[CVX_ID_MAX],
                         int64_t *n) CVX_CHECK;
/* Ids of the jobs that run, those that began first first, at most `max`. */
cvx_status cvx_jobs_running(cvx_redis *r, int64_t max, char (*ids)[CVX_ID_MAX],
                            int64_t *n) CVX_CHECK;
/* The name of the pool that a job runs or ran on last; "" if none. */
cvx_status cvx_jobs_pool(cvx_redis *r, const char *id, char pool[128]) CVX_CHECK;
/* state: of 16 bytes, the job's state then; "" where there is none. */
cvx_status cvx_jobs_cancel(cvx_redis *r, const char *id, char state[16]) CVX_CHECK;
/* Forgets a job that has ended (else *removed is false). image: the file it began with, where no other job does and it may go too;
 * else "". */
cvx_status cvx_jobs_remove(cvx_redis *r, const char *id, bool *removed,
                           char image[CVX_PATH_MAX]) CVX_CHECK;
/* Ids of jobs that ended before a time, oldest first, at most `max`. */
cvx_status cvx_jobs_ended(cvx_redis *r, int64_t before_ms, int64_t max, char (*ids)[CVX_ID_MAX],
                          int64_t *n) CVX_CHECK;

/* For pools. */

/* Makes the queue where there is none. */
cvx_status cvx_jobs_queue(cvx_redis *r) CVX_CHECK;

/* An entry of the queue, and what its reader must know of the job before it takes it. */
typedef struct cvx_entry {
    char id[CVX_ID_MAX], at[40];
    double tflop, seconds; /* of the spec's plan; 0: it has none */
    int64_t bytes, deaths;
} cvx_entry;

/* Reads the next entry, waiting up to wait_ms (0: not at all); *found: whether there was one. It is then the caller's to claim or to
 * give back; what is neither, as after a crash, goes back by itself after CVX_LEASE_MS. */
cvx_status cvx_jobs_next(cvx_redis *r, const char *pool, int wait_ms, cvx_entry *out,
                         bool *found) CVX_CHECK;
/* Takes the job: *out is NULL where it is no longer to be done, needs more than `bytes` (0: any), or cannot be read, and then fails. holder: a random text of the
 * caller's; the same call again, after an answer was lost, gives the same assignment. Caller frees with
 * cvx__assignment__free_unpacked. */
cvx_status cvx_jobs_claim(cvx_redis *r, const cvx_entry *e, const char *pool, const char *holder,
                          int64_t bytes, Cvx__Assignment **out) CVX_CHECK;
cvx_status cvx_jobs_give_back(cvx_redis *r, const cvx_entry *e) CVX_CHECK;
typedef enum cvx_lease { CVX_LEASE_HELD, CVX_LEASE_CANCEL, CVX_LEASE_LOST } cvx_lease;
/* Keeps the lease; progress may be NULL. */
cvx_status cvx_lease_renew(cvx_redis *r, const char *id, int64_t token,
                           const Cvx__Progress *progress, cvx_lease *out) CVX_CHECK;
/* Ends the job: state "completed", "failed", "cancelled", or "queued" for another try ("returned": by a pool that ends; one
 * that is not counted). result, scores may be NULL. now: the state it has then, "lost" where the token was an old one. */
cvx_status cvx_lease_finish(cvx_redis *r, const char *id, int64_t token, const char *state,
                            const char *cause, const Cvx__Result *result, char now[16]) CVX_CHECK;
/* Tells that the pool lives; forgotten after CVX_LEASE_MS. gone: forgotten now. */
cvx_status cvx_pool_beat(cvx_redis *r, const Cvx__PoolStatus *status, bool gone) CVX_CHECK;

/* For the coordinator. */

#define CVX_MAX_POOLS 256
/* The pools that live, at most `max`; each is freed with cvx__pool_status__free_unpacked. */
cvx_status cvx_pools_list(cvx_redis *r, Cvx__PoolStatus **out, int max, int *n) CVX_CHECK;
/* What runs and what waits, as far as that matters to those who wait. */
typedef struct cvx_running_job {
    char pool[128];
    int64_t started_ms;
    double tflop; /* of the spec's plan */
} cvx_running_job;

typedef struct cvx_waiting_job {
    char id[CVX_ID_MAX];
    double tflop;
    int64_t bytes;
} cvx_waiting_job;

/* At most `max` of each; waiting: in the order in which they would be dispatched if no other came, without those that no pool has
 * the memory for. */
cvx_status cvx_jobs_waits(cvx_redis *r, int max, cvx_running_job *running, int *n_running,
                          cvx_waiting_job *waiting, int *n_waiting) CVX_CHECK;
/* One round: leases that have run out, jobs read but never claimed, names of pools that are long gone. */
cvx_status cvx_jobs_reap(cvx_redis *r) CVX_CHECK;
/* What waits into the queue, which may hold `depth` more than run. most: bytes of the largest pool; jobs that need more are put
 * aside until there is one (0: no pool is there, all wait). Also by pools that have room for more. */
cvx_status cvx_jobs_dispatch(cvx_redis *r, int depth, int64_t most) CVX_CHECK;

#endif
