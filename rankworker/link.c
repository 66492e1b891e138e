#include "rankworker/link.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "base/stop.h"

#define BEAT_SECONDS 2.0
#define LEAST_GAP 0.1 /* between two messages about progress */

struct cvx_link {
    cvx_redis *main, *beats; /* one connection a thread */
    pthread_t thread;
    pthread_mutex_t lock; /* of what follows */
    pthread_cond_t wake;
    Cvx__PoolStatus status;
    Cvx__Progress progress;
    char preview[CVX_PATH_MAX]; /* progress.preview, once there is one */
    char mesh[96];              /* of the job's ranks */
    const Cvx__Assignment *job; /* NULL: idle */
    bool news, quit, away;
    bool first;        /* speaks for the pool, not for one of its groups only */
    int64_t pool_size; /* bytes that the pool's ranks may use; 0: any */
    char holder[33];
    atomic_int lease;
    double first_step,
        last_step; /* when the first and the last denoising step that were told ended; s */
    int64_t steps;
};

static void tell_away(cvx_link *l)
{
    if (!l->away) {
        cvx_log(CVX_LOG_WARN, NULL, "%s; the work goes on, and is reported when Redis is back",
                cvx_error());
    }
    l->away = true;
}

/* One message of the thread, with the lock held on entry and on return; not while it talks. */
static void beat(cvx_link *l)
{
    Cvx__PoolStatus status = l->status;
    Cvx__Progress progress = l->progress;
    char id[CVX_ID_MAX] = "", preview[CVX_PATH_MAX], mesh[sizeof l->mesh];
    int64_t token = 0;
    bool news = l->news;
    cvx_lease lease = CVX_LEASE_HELD;

    if (l->job != NULL) {
        snprintf(id, sizeof id, "%s", l->job->spec->id);
        token = l->job->token;
    }
    if (progress.preview == l->preview) { /* may change while it is told */
        snprintf(preview, sizeof preview, "%s", l->preview);
        progress.preview = preview;
    }
    snprintf(mesh, sizeof mesh, "%s", l->job != NULL ? l->mesh : "");
    l->news = false;
    pthread_mutex_unlock(&l->lock);
    status.job = id;
    status.mesh = progress.mesh = mesh;
    status.state = cvx_stop_asked()                  ? "draining"
                   : status.groups > 0 || id[0] != 0 ? "busy"
                                                     : "idle";
    status.seen_ms = cvx_now_ms();
    cvx_status st = l->first ? cvx_pool_beat(l->beats, &status, false) : CVX_OK;
    if (st == CVX_OK && id[0] != 0) {
        st = cvx_lease_renew(l->beats, id, token, news ? &progress : NULL, &lease);
    }
    pthread_mutex_lock(&l->lock);
    if (st != CVX_OK) {
        tell_away(l);
        return;
    }
    l->away = false;
    if (l->job != NULL && l->job->token == token && lease != CVX_LEASE_HELD) {
        atomic_store(&l->lease, (int)lease);
    }
}

static void *beat_thread(void *payload)
{
    cvx_link *l = payload;
    struct timespec until;

    pthread_mutex_lock(&l->lock);
    while (!l->quit) {
        beat(l);
        double told = cvx_now();
        while (!l->quit && cvx_now() - told < BEAT_SECONDS) {
            double gap = l->news && !l->away ? LEAST_GAP : BEAT_SECONDS,
                   left = gap - (cvx_now() - told);
            if (left <= 0) {
                break;
            }
            clock_gettime(CLOCK_REALTIME, &until);
            int64_t ns = until.tv_nsec + (int64_t)(left * 1e9);
            until.tv_sec += ns / 1000000000;
            until.tv_nsec = ns % 1000000000;
            pthread_cond_timedwait(&l->wake, &l->lock, &until);
        }
    }
    pthread_mutex_unlock(&l->lock);
    return NULL;
}

/* Nobody else's: who claims with it is told the same again. */
static void make_holder(cvx_link *l)
{
    char id[CVX_ID_MAX];

    cvx_job_id(id);
    snprintf(l->holder, sizeof l->holder, "%.32s", id + strlen("video_"));
}

cvx_status cvx_link_open(cvx_link **out, const char *url, const Cvx__PoolStatus *status, bool first)
{
    cvx_link *l = calloc(1, sizeof *l);

    if (l == NULL) {
        return cvx_fail(CVX_ENOMEM, "no memory for the link to Redis");
    }
    l->status = *status;
    l->first = first;
    l->pool_size = status->rank_bytes * status->size;
    make_holder(l);
    cvx__progress__init(&l->progress);
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->wake, NULL);
    cvx_status st = cvx_redis_open(&l->main, url);
    if (st == CVX_OK) {
        st = cvx_redis_open(&l->beats, url);
    }
    if (st == CVX_OK) {
        st = cvx_jobs_queue(l->main);
    }
    if (st == CVX_OK && pthread_create(&l->thread, NULL, beat_thread, l) != 0) {
        st = cvx_fail(CVX_ENOMEM, "cannot start a thread");
    }
    if (st != CVX_OK) {
        cvx_redis_close(l->main);
        cvx_redis_close(l->beats);
        free(l);
        return st;
    }
    *out = l;
    return CVX_OK;
}

void cvx_link_close(cvx_link *l)
{
    if (l == NULL) {
        return;
    }
    pthread_mutex_lock(&l->lock);
    l->quit = true;
    pthread_cond_signal(&l->wake);
    pthread_mutex_unlock(&l->lock);
    pthread_join(l->thread, NULL);
    if (l->first && cvx_pool_beat(l->beats, &l->status, true) != CVX_OK) {
        cvx_log(CVX_LOG_WARN, NULL, "%s; the pool's entry there will run out", cvx_error());
    }
    cvx_redis_close(l->main);
    cvx_redis_close(l->beats);
    pthread_mutex_destroy(&l->lock);
    pthread_cond_destroy(&l->wake);
    free(l);
}

/* Redis is away: told once. */
static void note_away(cvx_link *l)
{
    pthread_mutex_lock(&l->lock);
    tell_away(l);
    pthread_mutex_unlock(&l->lock);
}

cvx_status cvx_link_next(cvx_link *l, int wait_ms, cvx_entry *out, bool *found)
{
    cvx_status st = cvx_jobs_next(l->main, l->status.name, wait_ms, out, found);

    if (st == CVX_EIO) {
        note_away(l);
        usleep((unsigned)wait_ms * 1000);
        return CVX_OK;
    }
    return st;
}

cvx_status cvx_link_more(cvx_link *l, int n, int64_t most)
{
    cvx_status st = cvx_jobs_dispatch(l->main, n, most);

    if (st == CVX_EIO) {
        note_away(l);
        return CVX_OK;
    }
    return st;
}

cvx_status cvx_link_claim(cvx_link *l, const cvx_entry *e, Cvx__Assignment **out)
{
    cvx_status st;

    while ((st = cvx_jobs_claim(l->main, e, l->status.name, l->holder, l->pool_size, out)) ==
               CVX_EIO &&
           !cvx_stop_asked()) {
        note_away(l);
        usleep(500000);
    }
    return st == CVX_EIO ? CVX_OK : st;
}

cvx_status cvx_link_give_back(cvx_link *l, const cvx_entry *e)
{
    cvx_status st = cvx_jobs_give_back(l->main, e);

    return st == CVX_EIO ? CVX_OK : st; /* it goes back by itself */
}

void cvx_link_mesh(cvx_link *l, const char *mesh)
{
    pthread_mutex_lock(&l->lock);
    snprintf(l->mesh, sizeof l->mesh, "%s", mesh);
    pthread_mutex_unlock(&l->lock);
}

void cvx_link_begin(cvx_link *l, const Cvx__Assignment *a)
{
    pthread_mutex_lock(&l->lock);
    l->job = a;
    l->mesh[0] = 0;
    cvx__progress__init(&l->progress);
    l->progress.version = 1;
    l->progress.stage = "load";
    l->progress.eta_seconds = a->plan != NULL ? a->plan->seconds : 0;
    l->steps = 0;
    l->news = true;
    atomic_store(&l->lease, CVX_LEASE_HELD);
    pthread_cond_signal(&l->wake);
    pthread_mutex_unlock(&l->lock);
}

/* The share of a job's time that lies before a stage, and in it: of long jobs nearly all is denoising. */
static void stage_share(const char *stage, double *before, double *share)
{
    static const struct {
        const char *name;
        double before, share;
    } table[] = {
        {"load", 0, 1}, {"encode", 1, 2}, {"denoise", 3, 85}, {"decode", 88, 8}, {"score", 96, 2}};

    *before = 98;
    *share = 2;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        if (strcmp(table[i].name, stage) == 0) {
            *before = table[i].before;
            *share = table[i].share;
        }
    }
}

/* What an event says of how far the job is; with the lock held. */
static void note_progress(cvx_link *l, const cvx_event *e)
{
    double before, share;
    double done = e->kind == CVX_EVENT_STAGE_END ? 1
                  : e->total > 0                 ? (double)e->done / (double)e->total
                                                 : 0;

    if (e->kind == CVX_EVENT_STEP && strcmp(e->stage, "denoise") == 0) {
        l->last_step = e->seconds;
        l->first_step = l->steps++ == 0 ? e->seconds : l->first_step;
    }
    stage_share(e->stage, &before, &share);
    l->progress.stage = (char *)e->stage; /* a literal, as all stages' names are */
    l->progress.step = e->done;
    l->progress.steps = e->total;
    l->progress.percent = before + share * done;
    l->progress.eta_seconds = done > 0 ? e->seconds / done * (1 - done) : 0;
}

cvx_status cvx_link_event(void *payload, const cvx_event *e)
{
    cvx_link *l = payload;

    if (e->kind != CVX_EVENT_NOTE) {
        pthread_mutex_lock(&l->lock);
        if (e->kind == CVX_EVENT_PREVIEW) {
            snprintf(l->preview, sizeof l->preview, "%s", e->text);
            l->progress.preview = l->preview;
            l->progress.preview_step = e->done;
        } else {
            note_progress(l, e);
        }
        l->news = true;
        pthread_cond_signal(&l->wake);
        pthread_mutex_unlock(&l->lock);
    }
    /* other ranks hear of an end only behind a step that all of them take; at a stage's begin, and while the prompt is encoded, they
     * would be left waiting */
    if (e->kind != CVX_EVENT_STEP || strcmp(e->stage, "encode") == 0) {
        return CVX_OK;
    }
    if (cvx_link_late(l)) {
        return cvx_fail(CVX_ECANCELLED, "the deadline has passed");
    }
    switch ((cvx_lease)atomic_load(&l->lease)) {
    case CVX_LEASE_CANCEL: return cvx_fail(CVX_ECANCELLED, "cancelled");
    case CVX_LEASE_LOST: return cvx_fail(CVX_ECANCELLED, "the job was given to somebody else");
    default: return CVX_OK;
    }
}

bool cvx_link_late(const cvx_link *l)
{
    int64_t deadline = l->job != NULL ? l->job->spec->deadline_ms : 0;

    return deadline > 0 && cvx_now_ms() > deadline;
}

double cvx_link_step_seconds(const cvx_link *l)
{
    return l->steps > 1 ? (l->last_step - l->first_step) / (double)(l->steps - 1) : 0;
}

void cvx_link_round(cvx_link *l, int groups)
{
    pthread_mutex_lock(&l->lock);
    l->status.groups = groups;
    l->news = true;
    pthread_cond_signal(&l->wake);
    pthread_mutex_unlock(&l->lock);
}

void cvx_link_learn(cvx_link *l, int64_t completed, int64_t peak, double tflops)
{
    pthread_mutex_lock(&l->lock);
    l->status.completed += completed;
    l->status.peak_bytes = peak > l->status.peak_bytes ? peak : l->status.peak_bytes;
    l->status.tflops = tflops;
    pthread_mutex_unlock(&l->lock);
}

cvx_status cvx_link_finish(cvx_link *l, const char *state, const char *cause,
                           const Cvx__Result *result, char now[16])
{
    cvx_status st;

    while ((st = cvx_lease_finish(l->main, l->job->spec->id, l->job->token, state, cause, result,
                                  now)) == CVX_EIO &&
           !cvx_stop_asked()) {
        usleep(500000);
    }
    pthread_mutex_lock(&l->lock);
    l->job = NULL;
    l->news = true;
    pthread_cond_signal(&l->wake);
    pthread_mutex_unlock(&l->lock);
    return st;
}

cvx_status cvx_link_config(cvx_link *l, const char *name, char *out, size_t size)
{
    redisReply *reply;

    CVX_RETURN_IF(cvx_redis_command(l->main, &reply, "HGET cvx:config %s", name));
    snprintf(out, size, "%s", reply->type == REDIS_REPLY_STRING ? reply->str : "");
    freeReplyObject(reply);
    return CVX_OK;
}
