/* When the jobs that wait will begin: the pools do what is before them, one job after another, as fast as their last jobs showed. A
 * pool that splits itself for small jobs, or takes one of them before a large one, is not foreseen. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/progress.h"
#include "coordinator/server.h"

#define MOST 500          /* jobs that are looked at; for later ones nothing is known */
#define KEPT_SECONDS 1.0  /* so long an answer serves all who ask */
#define AGAIN_SECONDS 0.1 /* also those who ask for a job that came since */

#define PLACES 1024

/* Where one job after another runs: a pool, or each of the groups that it is split into now. */
typedef struct place {
    char pool[128];
    double speed; /* TFLOP/s of its ranks */
    double free;  /* seconds from now */
    int64_t bytes;
    bool taken; /* by a job that runs */
} place;

static struct {
    pthread_mutex_t lock;
    double made;
    int n;
    struct {
        char id[CVX_ID_MAX];
        double seconds;
    } of[MOST];
} known = {.lock = PTHREAD_MUTEX_INITIALIZER, .made = -1e9};

/* The places of a pool whose ranks have such a speed. */
static void add_places(const Cvx__PoolStatus *p, double rank, place *at, int *n)
{
    int groups = p->groups > 1 ? p->groups : 1;

    for (int i = 0; i < groups && *n < PLACES; i++) {
        place *a = &at[(*n)++];
        *a = (place){.speed = rank * (p->size > 0 ? p->size : 1) / groups,
                     .bytes = p->rank_bytes * p->size};
        snprintf(a->pool, sizeof a->pool, "%s", p->name);
    }
}

/* Those of the pools that take jobs; one that has not shown its speed yet counts as the others' ranks. *n is 0 where none has. */
static cvx_status find_places(cvx_redis *r, place *at, int *n)
{
    Cvx__PoolStatus *p[CVX_MAX_POOLS];
    double sum = 0;
    int all = 0, measured = 0;
    cvx_status st = cvx_pools_list(r, p, CVX_MAX_POOLS, &all);

    *n = 0;
    for (int i = 0; i < all; i++) {
        sum += p[i]->tflops > 0 ? p[i]->tflops : 0;
        measured += p[i]->tflops > 0;
    }
    for (int i = 0; i < all; i++) {
        if (st == CVX_OK && measured > 0 && strcmp(p[i]->state, "draining") != 0) {
            add_places(p[i], p[i]->tflops > 0 ? p[i]->tflops : sum / measured, at, n);
        }
        cvx__pool_status__free_unpacked(p[i], NULL);
    }
    return st;
}

/* What the jobs that run leave to do. */
static void run(place *at, int n, const cvx_running_job *job, int jobs)
{
    for (int k = 0; k < jobs; k++) {
        double since = (double)(cvx_now_ms() - job[k].started_ms) / 1000;
        for (int i = 0; i < n; i++) {
            if (!at[i].taken && strcmp(job[k].pool, at[i].pool) == 0) {
                at[i].taken = true;
                at[i].free = fmax(0, job[k].tflop / at[i].speed - fmax(0, since));
                break;
            }
        }
    }
}

/* The place that is free first, of those that have the memory; NULL: none has. */
static place *first_free(place *at, int n, int64_t bytes)
{
    place *best = NULL;

    for (int i = 0; i < n; i++) {
        if ((at[i].bytes == 0 || at[i].bytes >= bytes) &&
            (best == NULL || at[i].free < best->free)) {
            best = &at[i];
        }
    }
    return best;
}

/* With the lock held. */
static cvx_status look(cvx_redis *r)
{
    static cvx_running_job running[MOST];
    static cvx_waiting_job waiting[MOST];
    static place at[PLACES];
    int n, jobs, ahead;

    CVX_RETURN_IF(find_places(r, at, &n));
    if (n == 0) {
        return CVX_OK;
    }
    CVX_RETURN_IF(cvx_jobs_waits(r, MOST, running, &jobs, waiting, &ahead));
    run(at, n, running, jobs);
    for (int i = 0; i < ahead; i++) {
        place *p = first_free(at, n, waiting[i].bytes);
        if (p != NULL) {
            memcpy(known.of[known.n].id, waiting[i].id, CVX_ID_MAX);
            known.of[known.n++].seconds = p->free;
            p->free += waiting[i].tflop / p->speed;
        }
    }
    return CVX_OK;
}

/* With the lock held; -1: it is not among what is known. */
static double find(const char *id)
{
    for (int i = 0; i < known.n; i++) {
        if (strcmp(known.of[i].id, id) == 0) {
            return known.of[i].seconds;
        }
    }
    return -1;
}

double cvx_wait_seconds(cvx_redis *r, const char *id)
{
    pthread_mutex_lock(&known.lock);
    double seconds = find(id), age = cvx_now() - known.made;
    if (age > KEPT_SECONDS || (seconds < 0 && age > AGAIN_SECONDS)) {
        known.n = 0;
        if (look(r) != CVX_OK) {
            cvx_log(CVX_LOG_DEBUG, id, "no estimate of its wait: %s", cvx_error());
        }
        known.made = cvx_now();
        seconds = find(id);
    }
    pthread_mutex_unlock(&known.lock);
    return seconds;
}
