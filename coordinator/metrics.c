/* GET /metrics: Prometheus' text. */
#include <stdlib.h>
#include <string.h>

#include "coordinator/server.h"

static cvx_status number(cvx_redis *r, const char *command, const char *key, int64_t *out)
{
    redisReply *reply;

    CVX_RETURN_IF(cvx_redis_command(r, &reply, command, key));
    *out = reply->type == REDIS_REPLY_INTEGER  ? reply->integer
           : reply->type == REDIS_REPLY_STRING ? strtoll(reply->str, NULL, 10)
                                               : 0;
    freeReplyObject(reply);
    return CVX_OK;
}

static cvx_status jobs(FILE *f, cvx_redis *r)
{
    static const char *const counted[] = {"created", "completed", "failed", "cancelled"};
    int64_t n[4], running, all;

    for (int i = 0; i < 4; i++) {
        CVX_RETURN_IF(number(r, "HGET cvx:count %s", counted[i], &n[i]));
    }
    CVX_RETURN_IF(number(r, "ZCARD %s", "cvx:running", &running));
    CVX_RETURN_IF(number(r, "ZCARD %s", "cvx:jobs", &all));
    fprintf(f, "# HELP cvx_jobs_total Jobs since the beginning, by what became of them.\n"
               "# TYPE cvx_jobs_total counter\n");
    for (int i = 0; i < 4; i++) {
        fprintf(f, "cvx_jobs_total{state=\"%s\"} %lld\n", counted[i], (long long)n[i]);
    }
    fprintf(
        f,
        "# HELP cvx_jobs Jobs by state now.\n# TYPE cvx_jobs gauge\n"
        "cvx_jobs{state=\"in_progress\"} %lld\ncvx_jobs{state=\"queued\"} %lld\n"
        "# HELP cvx_jobs_kept Jobs in the history.\n# TYPE cvx_jobs_kept gauge\ncvx_jobs_kept %lld\n",
        (long long)running, (long long)(n[0] - n[1] - n[2] - n[3] - running), (long long)all);
    return CVX_OK;
}

static cvx_status pools(FILE *f, cvx_redis *r)
{
    Cvx__PoolStatus *p[CVX_MAX_POOLS];
    int n = 0, busy = 0, ranks = 0;
    cvx_status st = cvx_pools_list(r, p, CVX_MAX_POOLS, &n);

    for (int i = 0; i < n; i++) {
        busy += strcmp(p[i]->state, "busy") == 0;
        ranks += p[i]->size;
        cvx__pool_status__free_unpacked(p[i], NULL);
    }
    fprintf(f,
            "# HELP cvx_pools Pools that live.\n# TYPE cvx_pools gauge\n"
            "cvx_pools{state=\"busy\"} %d\ncvx_pools{state=\"idle\"} %d\n"
            "# HELP cvx_ranks Ranks of all pools.\n# TYPE cvx_ranks gauge\ncvx_ranks %d\n",
            busy, n - busy, ranks);
    return st;
}

void cvx_metrics(cvx_redis *r, cvx_http_answer *a)
{
    char *text = NULL;
    size_t len = 0;
    FILE *f = open_memstream(&text, &len);
    cvx_status st = f != NULL ? jobs(f, r) : cvx_fail(CVX_ENOMEM, "no memory for the metrics");

    if (st == CVX_OK) {
        st = pools(f, r);
    }
    if (f != NULL) {
        fclose(f);
    }
    if (st != CVX_OK) {
        free(text);
        cvx_answer_status(a, st, NULL);
        return;
    }
    a->text = text;
    a->type = "text/plain; version=0.0.4";
}
