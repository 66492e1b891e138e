/* Jobs as users see them: made, looked at, listed, cancelled, forgotten. */
#include "store/jobs.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "store/message.h"
#include "store/script.h"

int64_t cvx_now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_REALTIME, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

void cvx_job_id(char out[CVX_ID_MAX])
{
    unsigned char b[16];

    CVX_ASSERT(getrandom(b, sizeof b, 0) == sizeof b);
    int n = snprintf(out, CVX_ID_MAX, "video_");
    for (size_t i = 0; i < sizeof b; i++) {
        n += snprintf(out + n, CVX_ID_MAX - (size_t)n, "%02x", b[i]);
    }
}

bool cvx_job_id_valid(const char *id)
{
    size_t n = strlen(id);

    if (n != 38 || strncmp(id, "video_", 6) != 0) {
        return false;
    }
    return strspn(id + 6, "0123456789abcdef") == 32;
}

/* A number as the scripts take it. */
typedef struct number {
    char text[24];
} number;

static number whole_text(int64_t x)
{
    number n;

    snprintf(n.text, sizeof n.text, "%lld", (long long)x);
    return n;
}

/* What create answered: an id, or the limit that is reached. */
static void created(const redisReply *reply, const cvx_limits *limits, char id[CVX_ID_MAX],
                    int *retry_after)
{
    *retry_after = 0;
    if (reply->type == REDIS_REPLY_STRING) {
        snprintf(id, CVX_ID_MAX, "%s", reply->str);
        return;
    }
    bool waiting = reply->elements == 2 && strcmp(reply->element[0]->str, "waiting") == 0;
    *retry_after = reply->elements == 2 ? (int)reply->element[1]->integer : 1;
    cvx_status told =
        waiting ? cvx_fail(CVX_EINVAL, "%lld jobs of this key wait: no more may",
                           (long long)limits->waiting)
                : cvx_fail(CVX_EINVAL, "this key may make %lld jobs a minute, and has made them",
                           (long long)limits->per_minute);
    (void)told;
}

cvx_status cvx_jobs_create(cvx_redis *r, const Cvx__JobSpec *spec, const char *once,
                           const cvx_limits *limits, char id[CVX_ID_MAX], int *retry_after)
{
    cvx_packed p;
    redisReply *reply;
    number priority = whole_text(spec->priority), at = whole_text(spec->created_ms);
    number deadline = whole_text(spec->deadline_ms), waiting = whole_text(limits->waiting);
    number minute = whole_text(limits->per_minute), bytes = whole_text(0);
    char cost[32] = "1";

    if (spec->plan != NULL) {
        bytes = whole_text(spec->plan->bytes);
        snprintf(cost, sizeof cost, "%.9g", spec->plan->tflop > 1e-3 ? spec->plan->tflop : 1e-3);
    }
    CVX_RETURN_IF(cvx_pack(&p, &spec->base));
    const cvx_script_arg args[] = {CVX_TEXT(spec->id),      {p.data, p.len},
                                   CVX_TEXT(spec->owner),   CVX_TEXT(priority.text),
                                   CVX_TEXT(at.text),       CVX_TEXT(once),
                                   CVX_TEXT(deadline.text), CVX_TEXT(spec->image),
                                   CVX_TEXT(waiting.text),  CVX_TEXT(minute.text),
                                   CVX_TEXT(bytes.text),    CVX_TEXT(cost)};
    cvx_status st = cvx_script_run(r, &reply, "create", args, 12);
    cvx_packed_free(&p);
    CVX_RETURN_IF(st);
    created(reply, limits, id, retry_after);
    freeReplyObject(reply);
    return CVX_OK;
}

cvx_status cvx_jobs_record(cvx_redis *r, const Cvx__JobSpec *spec, const Cvx__Result *result)
{
    cvx_packed p = {0}, done = {0}, scores = {0};
    redisReply *reply;
    number priority = whole_text(spec->priority), at = whole_text(spec->created_ms);
    number now = whole_text(cvx_now_ms());
    cvx_status st = cvx_pack(&p, &spec->base);

    if (st == CVX_OK) {
        st = cvx_pack(&done, &result->base);
    }
    if (st == CVX_OK && result->scores != NULL) {
        st = cvx_pack(&scores, &result->scores->base);
    }
    if (st == CVX_OK) {
        const cvx_script_arg args[] = {
            CVX_TEXT(spec->id),    {p.data, p.len},
            CVX_TEXT(spec->owner), CVX_TEXT(priority.text),
            CVX_TEXT(at.text),     CVX_TEXT(now.text),
            {done.data, done.len}, {scores.data != NULL ? (void *)scores.data : "", scores.len}};
        st = cvx_script_run(r, &reply, "record", args, 8);
    }
    if (st == CVX_OK) {
        freeReplyObject(reply);
    }
    cvx_packed_free(&p);
    cvx_packed_free(&done);
    cvx_packed_free(&scores);
    return st;
}

enum {
    SPEC,
    STATE,
    POOL,
    OWNER,
    CAUSE,
    CAUSES,
    CREATED,
    STARTED,
    COMPLETED,
    ATTEMPTS,
    TOKEN,
    PROGRESS,
    RESULT,
    FIELDS
};

static int64_t whole(const redisReply *e)
{
    return e->type == REDIS_REPLY_STRING ? strtoll(e->str, NULL, 10) : 0;
}

static const char *text(const redisReply *e)
{
    return e->type == REDIS_REPLY_STRING ? e->str : "";
}

static cvx_status view(cvx_job_view *v, redisReply **e)
{
    snprintf(v->state, sizeof v->state, "%s", text(e[STATE]));
    snprintf(v->pool, sizeof v->pool, "%s", text(e[POOL]));
    snprintf(v->owner, sizeof v->owner, "%s", text(e[OWNER]));
    v->cause = strdup(text(e[CAUSE]));
    v->causes = strdup(text(e[CAUSES]));
    v->created_ms = whole(e[CREATED]);
    v->started_ms = whole(e[STARTED]);
    v->completed_ms = whole(e[COMPLETED]);
    v->attempts = whole(e[ATTEMPTS]);
    v->token = whole(e[TOKEN]);
    v->spec = CVX_UNPACK(cvx__job_spec, e[SPEC]);
    v->progress = CVX_UNPACK(cvx__progress, e[PROGRESS]);
    v->result = CVX_UNPACK(cvx__result, e[RESULT]);
    if (v->cause == NULL || v->causes == NULL) {
        return cvx_fail(CVX_ENOMEM, "no memory for job %s", v->id);
    }
    return v->spec != NULL ? CVX_OK
                           : cvx_fail(CVX_EFORMAT, "Redis: cvx:job:%s holds no job", v->id);
}

static cvx_status scores(cvx_redis *r, cvx_job_view *v)
{
    redisReply *reply;

    CVX_RETURN_IF(cvx_redis_command(r, &reply, "GET cvx:scores:%s", v->id));
    v->scores = CVX_UNPACK(cvx__frame_scores, reply);
    freeReplyObject(reply);
    return CVX_OK;
}

cvx_status cvx_jobs_get(cvx_redis *r, const char *id, cvx_job_view *out, bool *found)
{
    redisReply *reply;

    *found = false;
    *out = (cvx_job_view){0};
    snprintf(out->id, sizeof out->id, "%s", id);
    CVX_RETURN_IF(
        cvx_redis_command(r, &reply,
                          "HMGET cvx:job:%s spec state pool owner cause causes created_ms "
                          "started_ms completed_ms attempts token progress result",
                          id));
    if (reply->type != REDIS_REPLY_ARRAY || reply->elements != FIELDS) {
        freeReplyObject(reply);
        return cvx_fail(CVX_EFORMAT, "Redis: cvx:job:%s is no job", id);
    }
    if (reply->element[STATE]->type == REDIS_REPLY_NIL) {
        freeReplyObject(reply);
        return CVX_OK;
    }
    cvx_status st = view(out, reply->element);
    freeReplyObject(reply);
    if (st == CVX_OK) {
        st = scores(r, out);
    }
    if (st != CVX_OK) {
        cvx_job_view_free(out);
        return st;
    }
    *found = true;
    return CVX_OK;
}

void cvx_job_view_free(cvx_job_view *v)
{
    free(v->cause);
    free(v->causes);
    cvx__job_spec__free_unpacked(v->spec, NULL);
    cvx__progress__free_unpacked(v->progress, NULL);
    cvx__result__free_unpacked(v->result, NULL);
    cvx__frame_scores__free_unpacked(v->scores, NULL);
    *v = (cvx_job_view){0};
}

/* An integer reply; *known is false where it is none. */
static cvx_status ask(cvx_redis *r, bool *known, int64_t *out, const char *command, const char *key,
                      const char *arg)
{
    redisReply *reply;

    CVX_RETURN_IF(cvx_redis_command(r, &reply, command, key, arg));
    *known = reply->type == REDIS_REPLY_INTEGER;
    *out = *known ? reply->integer : -1;
    freeReplyObject(reply);
    return CVX_OK;
}

/* The place of a job in a list; -1: the one before the first. A job that has left a state's list is looked for by its time. */
static cvx_status place(cvx_redis *r, const char *key, const char *all, const char *after,
                        bool ascending, int64_t *at)
{
    bool known;
    char bound[40];
    redisReply *reply;

    *at = -1;
    if (after[0] == 0) {
        return CVX_OK;
    }
    CVX_RETURN_IF(ask(r, &known, at, ascending ? "ZRANK %s %s" : "ZREVRANK %s %s", key, after));
    if (known) {
        return CVX_OK;
    }
    CVX_RETURN_IF(cvx_redis_command(r, &reply, "ZSCORE %s %s", all, after));
    known = reply->type == REDIS_REPLY_STRING;
    snprintf(bound, sizeof bound, "(%.30s", text(reply));
    freeReplyObject(reply);
    if (!known) {
        return cvx_fail(CVX_EINVAL, "after: no job %.80s", after);
    }
    CVX_RETURN_IF(
        ask(r, &known, at, ascending ? "ZCOUNT %s -inf %s" : "ZCOUNT %s %s +inf", key, bound));
    *at -= 1;
    return CVX_OK;
}

/* The ids in a reply. */
static int64_t ids_of(const redisReply *reply, int64_t max, char (*ids)[CVX_ID_MAX])
{
    int64_t n = 0;

    for (size_t i = 0; reply->type == REDIS_REPLY_ARRAY && i < reply->elements && n < max; i++) {
        snprintf(ids[n++], CVX_ID_MAX, "%s", text(reply->element[i]));
    }
    return n;
}

cvx_status cvx_jobs_list(cvx_redis *r, const char *owner, const char *state, const char *after,
                         bool ascending, int64_t max, char (*ids)[CVX_ID_MAX], int64_t *n)
{
    char key[128], all[100];
    int64_t at;
    redisReply *reply;

    *n = 0;
    snprintf(all, sizeof all, "cvx:jobs:%.80s", owner);
    snprintf(key, sizeof key, "cvx:jobs:%.80s%s%.20s", owner, state != NULL ? ":" : "",
             state != NULL ? state : "");
    CVX_RETURN_IF(place(r, key, all, after, ascending, &at));
    CVX_RETURN_IF(cvx_redis_command(r, &reply, "%s %s %lld %lld",
                                    ascending ? "ZRANGE" : "ZREVRANGE", key, (long long)at + 1,
                                    (long long)(at + max)));
    *n = ids_of(reply, max, ids);
    freeReplyObject(reply);
    return CVX_OK;
}

cvx_status cvx_jobs_ended(cvx_redis *r, int64_t before_ms, int64_t max, char (*ids)[CVX_ID_MAX],
                          int64_t *n)
{
    redisReply *reply;

    *n = 0;
    CVX_RETURN_IF(cvx_redis_command(r, &reply, "ZRANGE cvx:done -inf (%lld BYSCORE LIMIT 0 %lld",
                                    (long long)before_ms, (long long)max));
    *n = ids_of(reply, max, ids);
    freeReplyObject(reply);
    return CVX_OK;
}

cvx_status cvx_jobs_running(cvx_redis *r, int64_t max, char (*ids)[CVX_ID_MAX], int64_t *n)
{
    redisReply *reply;

    *n = 0;
    CVX_RETURN_IF(cvx_redis_command(r, &reply, "ZRANGE cvx:running 0 %lld", (long long)max - 1));
    *n = ids_of(reply, max, ids);
    freeReplyObject(reply);
    return CVX_OK;
}

cvx_status cvx_jobs_pool(cvx_redis *r, const char *id, char pool[128])
{
    redisReply *reply;

    pool[0] = 0;
    CVX_RETURN_IF(cvx_redis_command(r, &reply, "HGET cvx:job:%s pool", id));
    snprintf(pool, 128, "%s", text(reply));
    freeReplyObject(reply);
    return CVX_OK;
}

cvx_status cvx_jobs_cancel(cvx_redis *r, const char *id, char state[16])
{
    char now[24];
    redisReply *reply;

    snprintf(now, sizeof now, "%lld", (long long)cvx_now_ms());
    const cvx_script_arg args[] = {CVX_TEXT(id), CVX_TEXT(now)};
    CVX_RETURN_IF(cvx_script_run(r, &reply, "cancel", args, 2));
    snprintf(state, 16, "%s", text(reply));
    freeReplyObject(reply);
    return CVX_OK;
}

cvx_status cvx_jobs_remove(cvx_redis *r, const char *id, bool *removed, char image[CVX_PATH_MAX])
{
    redisReply *reply;
    const cvx_script_arg args[] = {CVX_TEXT(id)};

    CVX_RETURN_IF(cvx_script_run(r, &reply, "remove", args, 1));
    *removed = reply->type != REDIS_REPLY_INTEGER || reply->integer == 1;
    snprintf(image, CVX_PATH_MAX, "%s", text(reply));
    freeReplyObject(reply);
    return CVX_OK;
}
