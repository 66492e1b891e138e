/* Jobs as pools and the coordinator see them: taken, kept, ended, looked after. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "store/jobs.h"
#include "store/message.h"
#include "store/script.h"

cvx_status cvx_jobs_queue(cvx_redis *r)
{
    redisReply *reply = NULL;
    cvx_status st = cvx_redis_command(r, &reply, "XGROUP CREATE cvx:queue pools 0 MKSTREAM");

    if (st == CVX_OK) {
        freeReplyObject(reply);
    }
    return st != CVX_OK && strstr(cvx_error(), "BUSYGROUP") != NULL ? CVX_OK : st;
}

/* The one entry of a reply to XREADGROUP: [[stream, [[entry, [field, value]]]]]; false where there is none. */
static bool entry_of(const redisReply *reply, const char **entry, const char **job)
{
    if (reply->type != REDIS_REPLY_ARRAY || reply->elements != 1 ||
        reply->element[0]->elements != 2 || reply->element[0]->element[1]->elements != 1) {
        return false;
    }
    const redisReply *e = reply->element[0]->element[1]->element[0];
    if (e->elements != 2 || e->element[1]->type != REDIS_REPLY_ARRAY ||
        e->element[1]->elements != 2) {
        return false;
    }
    *entry = e->element[0]->str;
    *job = e->element[1]->element[1]->str;
    return true;
}

/* What the entry's job needs. */
static cvx_status peek(cvx_redis *r, cvx_entry *e)
{
    redisReply *reply;

    CVX_RETURN_IF(cvx_redis_command(r, &reply, "HMGET cvx:job:%s spec deaths", e->id));
    if (reply->type == REDIS_REPLY_ARRAY && reply->elements == 2) {
        Cvx__JobSpec *spec = CVX_UNPACK(cvx__job_spec, reply->element[0]);
        if (spec != NULL && spec->plan != NULL) {
            e->tflop = spec->plan->tflop;
            e->seconds = spec->plan->seconds;
            e->bytes = spec->plan->bytes;
        }
        if (reply->element[1]->type == REDIS_REPLY_STRING) {
            e->deaths = strtoll(reply->element[1]->str, NULL, 10);
        }
        cvx__job_spec__free_unpacked(spec, NULL);
    }
    freeReplyObject(reply);
    return CVX_OK;
}

cvx_status cvx_jobs_next(cvx_redis *r, const char *pool, int wait_ms, cvx_entry *out, bool *found)
{
    redisReply *reply;
    const char *entry, *job;

    *found = false;
    cvx_redis_timeout(r, 5 + wait_ms * 1e-3);
    cvx_status st =
        wait_ms > 0
            ? cvx_redis_command(r, &reply,
                                "XREADGROUP GROUP pools %s COUNT 1 BLOCK %d STREAMS cvx:queue >",
                                pool, wait_ms)
            : cvx_redis_command(r, &reply, "XREADGROUP GROUP pools %s COUNT 1 STREAMS cvx:queue >",
                                pool);
    if (st != CVX_OK) {
        /* Redis has lost its files: the queue is made anew */
        return strstr(cvx_error(), "NOGROUP") != NULL ? cvx_jobs_queue(r) : st;
    }
    if (entry_of(reply, &entry, &job)) {
        *out = (cvx_entry){0};
        snprintf(out->at, sizeof out->at, "%s", entry);
        snprintf(out->id, sizeof out->id, "%s", job);
        st = peek(r, out);
        *found = st == CVX_OK;
    }
    freeReplyObject(reply);
    return st;
}

/* NULL: the spec is none. */
static Cvx__Assignment *assignment(int64_t token, const redisReply *spec, const char *pool)
{
    Cvx__Assignment *a = malloc(sizeof *a);

    CVX_ASSERT(a != NULL); /* whoever has no room for that runs no job */
    cvx__assignment__init(a);
    a->version = 1;
    a->token = token;
    a->spec = CVX_UNPACK(cvx__job_spec, spec);
    if (a->spec == NULL) {
        free(a);
        return NULL;
    }
    a->pool = strdup(pool);
    CVX_ASSERT(a->pool != NULL);
    return a;
}

/* A job that nobody can read ends, and nothing else does. */
static cvx_status fail_unreadable(cvx_redis *r, const char *id, int64_t token)
{
    char cause[160], now[16];

    snprintf(cause, sizeof cause, "Redis: cvx:job:%.60s holds no job", id);
    return cvx_lease_finish(r, id, token, "failed", cause, NULL, now);
}

cvx_status cvx_jobs_claim(cvx_redis *r, const cvx_entry *e, const char *pool, const char *holder,
                          int64_t bytes, Cvx__Assignment **out)
{
    char lease[16], now[24], room[24];
    redisReply *reply;

    *out = NULL;
    snprintf(lease, sizeof lease, "%d", CVX_LEASE_MS);
    snprintf(now, sizeof now, "%lld", (long long)cvx_now_ms());
    snprintf(room, sizeof room, "%lld", (long long)bytes);
    const cvx_script_arg args[] = {CVX_TEXT(e->id),  CVX_TEXT(e->at), CVX_TEXT(pool),
                                   CVX_TEXT(holder), CVX_TEXT(lease), CVX_TEXT(now),
                                   CVX_TEXT(room)};
    CVX_RETURN_IF(cvx_script_run(r, &reply, "claim", args, 7));
    Cvx__Assignment *a = NULL;
    int64_t token = 0;
    if (reply->type == REDIS_REPLY_ARRAY && reply->elements == 3) {
        token = reply->element[0]->integer;
        a = assignment(token, reply->element[1], pool);
    }
    freeReplyObject(reply);
    *out = a;
    return token > 0 && a == NULL ? fail_unreadable(r, e->id, token) : CVX_OK;
}

/* A job of the queue that nobody claims goes back to those that wait. */
static cvx_status unread(cvx_redis *r, const char *at, const char *id)
{
    redisReply *reply;
    const cvx_script_arg args[] = {CVX_TEXT(at), CVX_TEXT(id)};

    CVX_RETURN_IF(cvx_script_run(r, &reply, "unread", args, 2));
    freeReplyObject(reply);
    return CVX_OK;
}

cvx_status cvx_jobs_give_back(cvx_redis *r, const cvx_entry *e)
{
    return unread(r, e->at, e->id);
}

cvx_status cvx_lease_renew(cvx_redis *r, const char *id, int64_t token,
                           const Cvx__Progress *progress, cvx_lease *out)
{
    char tok[24], lease[16];
    cvx_packed p = {0};
    redisReply *reply;

    if (progress != NULL) {
        CVX_RETURN_IF(cvx_pack(&p, &progress->base));
    }
    snprintf(tok, sizeof tok, "%lld", (long long)token);
    snprintf(lease, sizeof lease, "%d", CVX_LEASE_MS);
    const cvx_script_arg args[] = {CVX_TEXT(id),
                                   CVX_TEXT(tok),
                                   CVX_TEXT(lease),
                                   {p.data != NULL ? (void *)p.data : "", p.len}};
    cvx_status st = cvx_script_run(r, &reply, "renew", args, 4);
    cvx_packed_free(&p);
    CVX_RETURN_IF(st);
    const char *word = reply->type == REDIS_REPLY_STRING ? reply->str : "";
    *out = strcmp(word, "ok") == 0       ? CVX_LEASE_HELD
           : strcmp(word, "cancel") == 0 ? CVX_LEASE_CANCEL
                                         : CVX_LEASE_LOST;
    freeReplyObject(reply);
    return CVX_OK;
}

#define METRICS 16

/* Pairs of name and value for the script; how many. */
static int metrics(const Cvx__Result *result, cvx_script_arg *args, char (*values)[32])
{
    int n = 0;

    for (; n < METRICS && (size_t)n < result->n_metrics; n++) {
        const Cvx__Metric *m = result->metrics[n];
        snprintf(values[n], sizeof values[n], "%.17g", m->value);
        args[2 * n] = (cvx_script_arg)CVX_TEXT(m->name);
        args[2 * n + 1] = (cvx_script_arg)CVX_TEXT(values[n]);
    }
    return n;
}

cvx_status cvx_lease_finish(cvx_redis *r, const char *id, int64_t token, const char *state,
                            const char *cause, const Cvx__Result *result, char now[16])
{
    char tok[24], at[24], most[12];
    cvx_packed p = {0}, scores = {0};
    redisReply *reply;

    if (result != NULL) {
        CVX_RETURN_IF(cvx_pack(&p, &result->base));
    }
    if (result != NULL && result->scores != NULL) {
        cvx_status packed = cvx_pack(&scores, &result->scores->base);
        if (packed != CVX_OK) {
            cvx_packed_free(&p);
            return packed;
        }
    }
    snprintf(tok, sizeof tok, "%lld", (long long)token);
    snprintf(at, sizeof at, "%lld", (long long)cvx_now_ms());
    snprintf(most, sizeof most, "%d", CVX_MOST_ATTEMPTS);
    cvx_script_arg args[8 + 2 * METRICS] = {CVX_TEXT(id),
                                            CVX_TEXT(tok),
                                            CVX_TEXT(state),
                                            {p.data != NULL ? (void *)p.data : "", p.len},
                                            CVX_TEXT(cause),
                                            CVX_TEXT(at),
                                            {scores.data != NULL ? (void *)scores.data : "",
                                             scores.len},
                                            CVX_TEXT(most)};
    char values[METRICS][32];
    int n = result != NULL ? metrics(result, &args[8], values) : 0;
    cvx_status st = cvx_script_run(r, &reply, "finish", args, 8 + 2 * n);
    cvx_packed_free(&p);
    cvx_packed_free(&scores);
    CVX_RETURN_IF(st);
    snprintf(now, 16, "%s", reply->type == REDIS_REPLY_STRING ? reply->str : "lost");
    freeReplyObject(reply);
    return CVX_OK;
}

cvx_status cvx_pool_beat(cvx_redis *r, const Cvx__PoolStatus *s, bool gone)
{
    cvx_packed p;
    redisReply *reply;

    CVX_RETURN_IF(cvx_pack(&p, &s->base));
    cvx_status st = gone ? cvx_redis_command(r, &reply, "DEL cvx:pool:%s", s->name)
                         : cvx_redis_command(r, &reply, "SET cvx:pool:%s %b PX %d", s->name, p.data,
                                             p.len, CVX_LEASE_MS);
    cvx_packed_free(&p);
    CVX_RETURN_IF(st);
    freeReplyObject(reply);
    CVX_RETURN_IF(cvx_redis_command(r, &reply, "%s cvx:pools %s", gone ? "SREM" : "SADD", s->name));
    freeReplyObject(reply);
    return CVX_OK;
}

cvx_status cvx_pools_list(cvx_redis *r, Cvx__PoolStatus **out, int max, int *n)
{
    redisReply *names, *reply;

    *n = 0;
    CVX_RETURN_IF(cvx_redis_command(r, &names, "SMEMBERS cvx:pools"));
    cvx_status st = CVX_OK;
    for (size_t i = 0; st == CVX_OK && i < names->elements && *n < max; i++) {
        st = cvx_redis_command(r, &reply, "GET cvx:pool:%s", names->element[i]->str);
        if (st != CVX_OK) {
            break;
        }
        out[*n] = CVX_UNPACK(cvx__pool_status, reply);
        freeReplyObject(reply);
        if (out[*n] != NULL) {
            (*n)++;
        } else if ((st = cvx_redis_command(r, &reply, "SREM cvx:pools %s",
                                           names->element[i]->str)) == CVX_OK) {
            freeReplyObject(reply);
        }
    }
    freeReplyObject(names);
    return st;
}

static cvx_status reap(cvx_redis *r)
{
    redisReply *ids, *reply;
    char now[24], most[12];

    snprintf(now, sizeof now, "%lld", (long long)cvx_now_ms());
    snprintf(most, sizeof most, "%d", CVX_MOST_DEATHS);
    CVX_RETURN_IF(cvx_redis_command(r, &ids, "ZRANGE cvx:running 0 -1"));
    cvx_status st = CVX_OK;
    for (size_t i = 0; st == CVX_OK && i < ids->elements; i++) {
        const cvx_script_arg args[] = {CVX_TEXT(ids->element[i]->str), CVX_TEXT(now),
                                       CVX_TEXT(most)};
        st = cvx_script_run(r, &reply, "reap", args, 3);
        if (st == CVX_OK) {
            freeReplyObject(reply);
        }
    }
    freeReplyObject(ids);
    return st;
}

/* Entries that a pool has read and not claimed for as long as a lease lasts. */
static cvx_status reap_unread(cvx_redis *r)
{
    redisReply *list, *entry;

    CVX_RETURN_IF(
        cvx_redis_command(r, &list, "XPENDING cvx:queue pools IDLE %d - + 1000", CVX_LEASE_MS));
    cvx_status st = CVX_OK;
    for (size_t i = 0; st == CVX_OK && i < list->elements; i++) {
        const char *at = list->element[i]->element[0]->str;
        st = cvx_redis_command(r, &entry, "XRANGE cvx:queue %s %s", at, at);
        if (st == CVX_OK) {
            bool there = entry->elements == 1;
            st = unread(r, at, there ? entry->element[0]->element[1]->element[1]->str : "");
            freeReplyObject(entry);
        }
    }
    freeReplyObject(list);
    return st;
}

#define CONSUMER_IDLE_MS 3600000

/* Names of readers that hold nothing and have not read for an hour: their pools are gone. */
static cvx_status reap_readers(cvx_redis *r)
{
    redisReply *list, *reply;

    CVX_RETURN_IF(cvx_redis_command(r, &list, "XINFO CONSUMERS cvx:queue pools"));
    cvx_status st = CVX_OK;
    for (size_t i = 0; st == CVX_OK && i < list->elements; i++) {
        redisReply **f = list->element[i]->element; /* name, its value, pending, idle */
        if (list->element[i]->elements >= 6 && f[3]->integer == 0 &&
            f[5]->integer > CONSUMER_IDLE_MS) {
            st = cvx_redis_command(r, &reply, "XGROUP DELCONSUMER cvx:queue pools %s", f[1]->str);
            if (st == CVX_OK) {
                freeReplyObject(reply);
            }
        }
    }
    freeReplyObject(list);
    return st;
}

cvx_status cvx_jobs_reap(cvx_redis *r)
{
    CVX_RETURN_IF(reap(r));
    CVX_RETURN_IF(reap_unread(r));
    return reap_readers(r);
}

cvx_status cvx_jobs_dispatch(cvx_redis *r, int depth, int64_t most)
{
    char deep[12], now[24], bytes[24];
    redisReply *reply;

    snprintf(deep, sizeof deep, "%d", depth);
    snprintf(now, sizeof now, "%lld", (long long)cvx_now_ms());
    snprintf(bytes, sizeof bytes, "%lld", (long long)most);
    const cvx_script_arg args[] = {CVX_TEXT(deep), CVX_TEXT(now), CVX_TEXT(bytes)};
    CVX_RETURN_IF(cvx_script_run(r, &reply, "dispatch", args, 3));
    freeReplyObject(reply);
    return CVX_OK;
}

/* The i-th of three texts of a job in a reply; "": there is none. */
static const char *text_of(const redisReply *job, size_t i)
{
    return job->type == REDIS_REPLY_ARRAY && job->elements == 3 &&
                   job->element[i]->type == REDIS_REPLY_STRING
               ? job->element[i]->str
               : "";
}

cvx_status cvx_jobs_waits(cvx_redis *r, int max, cvx_running_job *running, int *n_running,
                          cvx_waiting_job *waiting, int *n_waiting)
{
    char most[12];
    redisReply *reply;

    *n_running = *n_waiting = 0;
    snprintf(most, sizeof most, "%d", max);
    const cvx_script_arg args[] = {CVX_TEXT(most)};
    CVX_RETURN_IF(cvx_script_run(r, &reply, "waits", args, 1));
    bool good = reply->type == REDIS_REPLY_ARRAY && reply->elements == 2;
    const redisReply *one = good ? reply->element[0] : NULL, *two = good ? reply->element[1] : NULL;
    for (size_t i = 0; good && i < one->elements && *n_running < max; i++) {
        cvx_running_job *j = &running[(*n_running)++];
        snprintf(j->pool, sizeof j->pool, "%s", text_of(one->element[i], 0));
        j->started_ms = strtoll(text_of(one->element[i], 1), NULL, 10);
        j->tflop = strtod(text_of(one->element[i], 2), NULL);
    }
    for (size_t i = 0; good && i < two->elements && *n_waiting < max; i++) {
        cvx_waiting_job *j = &waiting[(*n_waiting)++];
        snprintf(j->id, sizeof j->id, "%s", text_of(two->element[i], 0));
        j->tflop = strtod(text_of(two->element[i], 1), NULL);
        j->bytes = strtoll(text_of(two->element[i], 2), NULL, 10);
    }
    freeReplyObject(reply);
    return CVX_OK;
}
