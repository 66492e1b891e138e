/* GET /metrics: Prometheus' text. */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include <unistd.h>

#include "coordinator/server.h"

/* Requests since this coordinator began. */
#define BOUNDS 10
static const double bounds[BOUNDS] = {0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30};
static struct {
    atomic_llong by_status[600], bucket[BOUNDS + 1], microseconds;
} requests;

void cvx_metrics_request(unsigned status, double seconds)
{
    int i = 0;

    atomic_fetch_add(&requests.by_status[status < 600 ? status : 500], 1);
    if (seconds >= 0) {
        while (i < BOUNDS && seconds > bounds[i]) {
            i++;
        }
        atomic_fetch_add(&requests.bucket[i], 1);
        atomic_fetch_add(&requests.microseconds, (long long)(seconds * 1e6));
    }
}

/* All fields of a hash: name, value, name ... Caller frees. */
static cvx_status hash(cvx_redis *r, const char *key, redisReply **out)
{
    CVX_RETURN_IF(cvx_redis_command(r, out, "HGETALL %s", key));
    if ((*out)->type != REDIS_REPLY_ARRAY) {
        freeReplyObject(*out);
        return cvx_fail(CVX_EFORMAT, "Redis: %s is no hash", key);
    }
    return CVX_OK;
}

static double field(const redisReply *h, const char *name)
{
    for (size_t i = 0; i + 1 < h->elements; i += 2) {
        if (strcmp(h->element[i]->str, name) == 0) {
            return strtod(h->element[i + 1]->str, NULL);
        }
    }
    return 0;
}

static void head(FILE *f, const char *name, const char *kind, const char *help)
{
    fprintf(f, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind);
}

static cvx_status jobs(FILE *f, cvx_redis *r)
{
    static const char *const ends[] = {"created", "completed", "failed", "cancelled"};
    static const char *const states[] = {"queued", "in_progress", "completed", "failed",
                                         "cancelled"};
    redisReply *h;

    CVX_RETURN_IF(hash(r, "cvx:count", &h));
    head(f, "cvx_jobs_total", "counter", "Jobs since the beginning, by what became of them.");
    for (int i = 0; i < 4; i++) {
        fprintf(f, "cvx_jobs_total{state=\"%s\"} %.0f\n", ends[i], field(h, ends[i]));
    }
    head(f, "cvx_pools_lost_total", "counter", "Times that a pool was lost while it ran a job.");
    fprintf(f, "cvx_pools_lost_total %.0f\n", field(h, "lost"));
    freeReplyObject(h);
    CVX_RETURN_IF(hash(r, "cvx:state", &h));
    head(f, "cvx_jobs", "gauge", "Jobs by state now.");
    for (int i = 0; i < 5; i++) {
        fprintf(f, "cvx_jobs{state=\"%s\"} %.0f\n", states[i], field(h, states[i]));
    }
    freeReplyObject(h);
    return CVX_OK;
}

/* A histogram that store/lua/common.lua keeps. */
static cvx_status histogram(FILE *f, cvx_redis *r, const char *key, const char *name,
                            const char *help)
{
    static const char *const edges[] = {"0.01", "0.03", "0.1", "0.3",  "1",    "3",    "10",
                                        "30",   "100",  "300", "1000", "3000", "10000"};
    redisReply *h;
    double n = 0;

    CVX_RETURN_IF(hash(r, key, &h));
    head(f, name, "histogram", help);
    for (size_t i = 0; i < sizeof edges / sizeof *edges; i++) {
        n += field(h, edges[i]);
        fprintf(f, "%s_bucket{le=\"%s\"} %.0f\n", name, edges[i], n);
    }
    fprintf(f, "%s_bucket{le=\"+Inf\"} %.0f\n%s_sum %.9g\n%s_count %.0f\n", name, field(h, "count"),
            name, field(h, "sum"), name, field(h, "count"));
    freeReplyObject(h);
    return CVX_OK;
}

static cvx_status sent(FILE *f, cvx_redis *r)
{
    redisReply *h;

    CVX_RETURN_IF(hash(r, "cvx:sum", &h));
    head(f, "cvx_sent_bytes_total", "counter",
         "Bytes that the ranks of completed jobs have sent, by collective.");
    for (size_t i = 0; i + 1 < h->elements; i += 2) {
        const char *name = h->element[i]->str;
        if (strncmp(name, "sent:", 5) == 0) {
            fprintf(f, "cvx_sent_bytes_total{collective=\"%s\"} %.0f\n", name + 5,
                    strtod(h->element[i + 1]->str, NULL));
        }
    }
    freeReplyObject(h);
    return CVX_OK;
}

static cvx_status pools(FILE *f, cvx_redis *r)
{
    static const char *const states[] = {"idle", "busy", "draining"};
    Cvx__PoolStatus *p[CVX_MAX_POOLS];
    int n = 0, in[3] = {0}, ranks = 0;
    cvx_status st = cvx_pools_list(r, p, CVX_MAX_POOLS, &n);

    for (int i = 0; i < n; i++) {
        for (int k = 0; k < 3; k++) {
            in[k] += strcmp(p[i]->state, states[k]) == 0;
        }
        ranks += p[i]->size;
    }
    head(f, "cvx_pools", "gauge", "Pools that live.");
    for (int k = 0; k < 3; k++) {
        fprintf(f, "cvx_pools{state=\"%s\"} %d\n", states[k], in[k]);
    }
    head(f, "cvx_ranks", "gauge", "Ranks of all pools.");
    fprintf(f, "cvx_ranks %d\n", ranks);
    head(f, "cvx_pool_heartbeat_age_seconds", "gauge", "Time since a pool was heard of.");
    for (int i = 0; i < n; i++) {
        fprintf(f, "cvx_pool_heartbeat_age_seconds{pool=\"%s\"} %.3f\n", p[i]->name,
                (double)(cvx_now_ms() - p[i]->seen_ms) * 1e-3);
    }
    head(f, "cvx_pool_completed_total", "counter", "Jobs that a pool has completed.");
    for (int i = 0; i < n; i++) {
        fprintf(f, "cvx_pool_completed_total{pool=\"%s\"} %lld\n", p[i]->name,
                (long long)p[i]->completed);
    }
    head(f, "cvx_pool_rank_peak_bytes", "gauge", "Highest resident size of a rank of the pool.");
    for (int i = 0; i < n; i++) {
        fprintf(f, "cvx_pool_rank_peak_bytes{pool=\"%s\"} %lld\n", p[i]->name,
                (long long)p[i]->peak_bytes);
        cvx__pool_status__free_unpacked(p[i], NULL);
    }
    return st;
}

/* What needs no Redis: the coordinator itself. */
static void own(FILE *f, bool redis)
{
    const char *name = "cvx_http_request_seconds";
    long long n = 0, pages = 0;
    FILE *statm = fopen("/proc/self/statm", "re");

    head(f, "cvx_build_info", "gauge", "The version, as a label.");
    fprintf(f, "cvx_build_info{version=\"%s\"} 1\n", CVX_VERSION);
    head(f, "cvx_redis_up", "gauge", "Whether Redis answers.");
    fprintf(f, "cvx_redis_up %d\n", redis);
    head(f, "cvx_http_requests_total", "counter", "Requests to this coordinator, by status.");
    for (int i = 100; i < 600; i++) {
        long long k = atomic_load(&requests.by_status[i]);
        if (k > 0) {
            fprintf(f, "cvx_http_requests_total{code=\"%d\"} %lld\n", i, k);
        }
    }
    head(f, name, "histogram", "Time of requests to this coordinator, without event streams.");
    for (int i = 0; i < BOUNDS; i++) {
        n += atomic_load(&requests.bucket[i]);
        fprintf(f, "%s_bucket{le=\"%g\"} %lld\n", name, bounds[i], n);
    }
    n += atomic_load(&requests.bucket[BOUNDS]);
    fprintf(f, "%s_bucket{le=\"+Inf\"} %lld\n%s_sum %.6f\n%s_count %lld\n", name, n, name,
            (double)atomic_load(&requests.microseconds) * 1e-6, name, n);
    if (statm != NULL && fscanf(statm, "%*d %lld", &pages) == 1) {
        head(f, "process_resident_memory_bytes", "gauge", "Memory of this coordinator.");
        fprintf(f, "process_resident_memory_bytes %lld\n", pages * sysconf(_SC_PAGESIZE));
    }
    if (statm != NULL) {
        fclose(statm);
    }
}

static cvx_status all(FILE *f, cvx_redis *r)
{
    CVX_RETURN_IF(jobs(f, r));
    CVX_RETURN_IF(histogram(f, r, "cvx:hist:wait", "cvx_queue_wait_seconds",
                            "From a job's creation to its first pool."));
    CVX_RETURN_IF(histogram(f, r, "cvx:hist:run", "cvx_run_seconds",
                            "From a completed job's last start to its end."));
    CVX_RETURN_IF(histogram(f, r, "cvx:hist:step", "cvx_step_seconds",
                            "Denoising steps: the mean of each completed job."));
    CVX_RETURN_IF(sent(f, r));
    return pools(f, r);
}

void cvx_metrics(cvx_redis *r, cvx_http_answer *a)
{
    char *text = NULL;
    size_t len = 0;
    FILE *f = open_memstream(&text, &len);
    cvx_status st = CVX_OK;

    if (f == NULL) {
        cvx_answer_error(a, 500, NULL, "no memory for the metrics");
        return;
    }
    own(f, r != NULL);
    if (r != NULL) {
        st = all(f, r);
    }
    fclose(f);
    if (st != CVX_OK) {
        free(text);
        cvx_answer_status(a, st, NULL);
        return;
    }
    a->text = text;
    a->type = "text/plain; version=0.0.4";
}
