/* cvx-coordinator: the HTTP service in front of Redis, and the scheduler behind it. With --local (`cvx serve`) also the Redis and a
 * pool of ranks. */
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "base/opts.h"
#include "base/progress.h"
#include "base/stop.h"
#include "coordinator/auth.h"
#include "coordinator/guard.h"
#include "coordinator/local.h"

#define TICK_US 100000
#define REAP_SECONDS 1.0
#define SWEEP_SECONDS 10.0
#define ORPHAN_SECONDS 600.0
#define PEM_MAX ((size_t)1 << 20)
#define PER_ADDRESS 256

typedef struct options {
    const char *model, *clip_model, *host, *data_dir, *redis, *api_keys;
    const char *lora_dir;
    const char *tls_cert, *tls_key;
    int64_t port, ranks, threads, waiting, per_minute, connections, per_address;
    double retention_days, request_seconds;
    bool local;
    cvx_log_options log;
} options;

static const cvx_opt opts[] = {
    {"model", CVX_OPT_STR, offsetof(options, model), "DIR", "the checkpoint that jobs run on", 0, 0,
     NULL},
    {"clip-model", CVX_OPT_STR, offsetof(options, clip_model), "DIR",
     "a CLIP: every frame is scored against the prompt (--local; a pool has its own)", 0, 0, NULL},
    {"host", CVX_OPT_STR, offsetof(options, host), "ADDRESS",
     "where to listen (default: 127.0.0.1; others need --api-keys)", 0, 0, NULL},
    {"port", CVX_OPT_INT, offsetof(options, port), "N", "default: 8080; 0: a free one", 0, 65535,
     NULL},
    {"data-dir", CVX_OPT_STR, offsetof(options, data_dir), "DIR",
     "videos, uploads and state; pools must see it under the same name (default: cvx-data)", 0, 0,
     NULL},
    {"redis", CVX_OPT_STR, offsetof(options, redis), "URL",
     "redis://[:password@]host:port/db or unix:///socket (default: CVX_REDIS of the environment)",
     0, 0, NULL},
    {"api-keys", CVX_OPT_STR, offsetof(options, api_keys), "FILE",
     "lines of NAME SHA256 of the key (default: no keys, the loopback address only)", 0, 0, NULL},
    {"lora-dir", CVX_OPT_STR, offsetof(options, lora_dir), "DIR",
     "LoRAs that jobs may ask for by their files' names; pools must see it (default: none)", 0, 0,
     NULL},
    {"retention-days", CVX_OPT_DOUBLE, offsetof(options, retention_days), "N",
     "ended jobs are forgotten and their videos deleted after so long (default: 30; 0: never)", 0,
     36500, NULL},
    {"limit-waiting", CVX_OPT_INT, offsetof(options, waiting), "N",
     "jobs of one API key that may wait, where the key's line says nothing else (default: any)", 1,
     1e9, NULL},
    {"limit-per-minute", CVX_OPT_INT, offsetof(options, per_minute), "N",
     "jobs that one API key may make in a minute, likewise (default: any)", 1, 1e9, NULL},
    {"tls-cert", CVX_OPT_STR, offsetof(options, tls_cert), "FILE",
     "PEM certificate, and those that lead to its root: serve https (default: http)", 0, 0, NULL},
    {"tls-key", CVX_OPT_STR, offsetof(options, tls_key), "FILE", "its private key, PEM", 0, 0,
     NULL},
    {"max-connections", CVX_OPT_INT, offsetof(options, connections), "N",
     "connections at once (default: 2000)", 1, 100000, NULL},
    {"max-connections-per-address", CVX_OPT_INT, offsetof(options, per_address), "N",
     "of one address (default: 256; on a loopback --host any number)", 1, 100000, NULL},
    {"request-timeout", CVX_OPT_DOUBLE, offsetof(options, request_seconds), "SECONDS",
     "a request must come in within this time, and a second for every 32 KB of its body (default: 30)",
     0.1, 3600, NULL},
    CVX_LOG_OPTS(options),
    {"local", CVX_OPT_FLAG, offsetof(options, local), NULL,
     "start a pool here, and a Redis where --redis names none: what `cvx serve` does", 0, 0, NULL},
    {"ranks", CVX_OPT_INT, offsetof(options, ranks), "N", "ranks of the local pool (default: 1)", 1,
     1024, NULL},
    {"threads", CVX_OPT_INT, offsetof(options, threads), "N", "of each local rank", 1, 1024, NULL},
    {NULL, 0, 0, NULL, NULL, 0, 0, NULL},
};

/* What pools need to know. */
static cvx_status tell_pools(cvx_server *s)
{
    cvx_redis *r;
    redisReply *reply;

    CVX_RETURN_IF(cvx_server_redis(s, &r));
    cvx_status st = cvx_jobs_queue(r);
    if (st == CVX_OK) {
        st = cvx_redis_command(r, &reply, "HSET cvx:config data_dir %s lora_dir %s", s->data_dir,
                               s->lora_dir != NULL ? s->lora_dir : "");
    }
    if (st == CVX_OK) {
        freeReplyObject(reply);
    }
    cvx_server_release(s, r);
    return st;
}

/* One round of the scheduler: as many jobs in the queue as there are idle pools, and one more so that none waits for us (a pool that
 * is split, or has room for several, asks for more itself). */
static cvx_status schedule(cvx_server *s, bool reap, bool sweep, bool orphans)
{
    Cvx__PoolStatus *p[CVX_MAX_POOLS];
    cvx_redis *r;
    int n = 0, idle = 0;
    int64_t most = 0;

    CVX_RETURN_IF(cvx_server_redis(s, &r));
    cvx_status st = cvx_pools_list(r, p, CVX_MAX_POOLS, &n);
    for (int i = 0; i < n; i++) {
        int64_t bytes = p[i]->rank_bytes > 0 ? p[i]->rank_bytes * p[i]->size : INT64_MAX;
        idle += strcmp(p[i]->state, "idle") == 0;
        most = bytes > most ? bytes : most;
        cvx__pool_status__free_unpacked(p[i], NULL);
    }
    if (st == CVX_OK && reap) {
        st = cvx_jobs_reap(r);
    }
    if (st == CVX_OK) {
        st = cvx_jobs_dispatch(r, idle + 1, most);
    }
    if (st == CVX_OK && sweep) {
        st = cvx_keep_sweep(s, r);
    }
    if (st == CVX_OK && orphans) {
        st = cvx_keep_orphans(s, r);
    }
    cvx_server_release(s, r);
    return st;
}

/* Until a signal. Leases are looked at only once Redis has answered for as long as a lease lasts: pools that it was away for, or that
 * ran while no coordinator did, have renewed theirs then. */
static void run(cvx_server *s, cvx_local *local)
{
    double since = cvx_now(), swept = 0, reaped = 0, looked = 0;
    bool away = false;

    while (!cvx_stop_asked()) {
        if (local != NULL) {
            cvx_local_tend(local);
        }
        bool sweep = cvx_now() - swept > SWEEP_SECONDS;
        bool reap = cvx_now() - reaped > REAP_SECONDS && cvx_now() - since > CVX_LEASE_MS * 1e-3;
        bool orphans = cvx_now() - looked > ORPHAN_SECONDS;
        swept = sweep ? cvx_now() : swept;
        looked = orphans ? cvx_now() : looked;
        reaped = reap ? cvx_now() : reaped;
        cvx_status st = schedule(s, reap, sweep, orphans);
        if (st != CVX_OK) {
            if (!away) {
                cvx_log(CVX_LOG_WARN, NULL, "%s; trying on", cvx_error());
            }
            since = cvx_now();
        } else if (away) {
            cvx_log(CVX_LOG_INFO, NULL, "Redis is back");
            if (tell_pools(s) != CVX_OK) {
                cvx_log(CVX_LOG_WARN, NULL, "%s", cvx_error());
            }
        }
        away = st != CVX_OK;
        cvx_guard_tend();
        usleep(TICK_US);
    }
}

/* A program that lies beside this one. */
static cvx_status sibling(char out[CVX_PATH_MAX], const char *name)
{
    char self[CVX_PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);

    if (n < 0) {
        return cvx_fail(CVX_EIO, "cannot read /proc/self/exe");
    }
    self[n] = 0;
    *strrchr(self, '/') = 0;
    return cvx_path_join(out, self, name);
}

static bool loopback(const char *host)
{
    return strcmp(host, "127.0.0.1") == 0 || strcmp(host, "localhost") == 0 ||
           strcmp(host, "::1") == 0;
}

static cvx_status check(const options *o)
{
    if (o->model == NULL) {
        return cvx_fail(CVX_EINVAL, "--model DIR is needed: the checkpoint's folder");
    }
    if (!cvx_is_dir(o->model)) {
        return cvx_fail(CVX_EIO, "--model %s: no such folder", o->model);
    }
    char index[CVX_PATH_MAX];
    CVX_RETURN_IF(cvx_path_join(index, o->model, "model_index.json"));
    if (!cvx_is_file(index)) {
        return cvx_fail(CVX_EFORMAT,
                        "--model %s: no model_index.json; a checkpoint in diffusers' folder layout "
                        "is needed",
                        o->model);
    }
    if (o->redis == NULL && !o->local) {
        return cvx_fail(CVX_EINVAL, "--redis URL is needed (cvx serve starts one of its own)");
    }
    if (o->api_keys == NULL && !loopback(o->host)) {
        return cvx_fail(CVX_EINVAL,
                        "--host %s: without --api-keys FILE only the loopback address is served",
                        o->host);
    }
    if ((o->tls_cert == NULL) != (o->tls_key == NULL)) {
        return cvx_fail(CVX_EINVAL, "--tls-cert and --tls-key: one needs the other");
    }
    return CVX_OK;
}

/* Both files, as they are. */
static cvx_status read_tls(cvx_server *s, const options *o)
{
    size_t len;

    if (o->tls_cert == NULL) {
        return CVX_OK;
    }
    CVX_RETURN_IF(cvx_file_read(&s->tls_cert, &len, o->tls_cert, PEM_MAX));
    return cvx_file_read(&s->tls_key, &len, o->tls_key, PEM_MAX);
}

typedef struct places {
    char data[CVX_PATH_MAX], model[CVX_PATH_MAX], cvx[CVX_PATH_MAX], rank[CVX_PATH_MAX];
    char lora[CVX_PATH_MAX], url[CVX_URL_MAX];
} places;

static cvx_status find_places(places *p, const options *o)
{
    CVX_RETURN_IF(cvx_mkdirs(o->data_dir));
    if (realpath(o->data_dir, p->data) == NULL || realpath(o->model, p->model) == NULL) {
        return cvx_fail(CVX_EIO, "cannot find %s", o->data_dir);
    }
    if (o->lora_dir != NULL && realpath(o->lora_dir, p->lora) == NULL) {
        return cvx_fail(CVX_EIO, "--lora-dir %s: no such folder", o->lora_dir);
    }
    CVX_RETURN_IF(sibling(p->cvx, "cvx"));
    return sibling(p->rank, "cvx-rank");
}

static cvx_status serve(cvx_server *s, const options *o, places *p)
{
    cvx_local *local = NULL;
    int port = (int)o->port;
    cvx_status st = CVX_OK;

    if (o->local) {
        st = cvx_local_open(&local, p->data);
    }
    if (st == CVX_OK && o->redis == NULL) {
        st = cvx_local_redis(local, p->data, p->url);
        s->redis_url = p->url;
    }
    if (st == CVX_OK) {
        st = tell_pools(s);
    }
    if (st == CVX_OK && o->local) {
        st = cvx_local_pool(local, p->rank, s->redis_url, p->model, o->clip_model, o->ranks,
                            o->threads, &o->log);
    }
    if (st == CVX_OK) {
        st = cvx_http_start(s, o->host, &port);
    }
    if (st == CVX_OK) {
        bool v6 = strchr(o->host, ':') != NULL;
        printf("cvx: %s://%s%s%s:%d serves %s\n", s->tls_cert != NULL ? "https" : "http",
               v6 ? "[" : "", o->host, v6 ? "]" : "", port, s->model_name);
        fflush(stdout);
        cvx_log_open(&o->log);
        cvx_log(CVX_LOG_INFO, NULL, "serving %s at port %d", s->model_name, port);
        run(s, local);
        cvx_log(CVX_LOG_INFO, NULL, "ending");
        cvx_http_stop();
    }
    cvx_local_close(local);
    return st;
}

/* cli/cmd_serve.c starts this program as "cvx serve". */
static cvx_command command_of(const char *self)
{
    static const char serving[] = "cvx serve";

    if (strcmp(self, serving) != 0) {
        return (cvx_command){.name = "cvx-coordinator",
                             .args = "",
                             .summary = "The HTTP service and the scheduler of a cluster.",
                             .opts = opts};
    }
    return (cvx_command){
        .name = serving,
        .args = "",
        .summary =
            "Serves a checkpoint over HTTP: coordinator, Redis and a pool of ranks on this machine.",
        .opts = opts};
}

int main(int argc, char **argv)
{
    static cvx_server s;
    static places p;
    options o = {.host = "127.0.0.1",
                 .port = 8080,
                 .data_dir = "cvx-data",
                 .ranks = 1,
                 .retention_days = 30,
                 .request_seconds = 30,
                 .connections = 2000,
                 .per_address = -1,
                 .redis = getenv("CVX_REDIS")};
    const cvx_command cmd = command_of(argv[0]);
    const char *pos[1];
    bool help = false;
    int n = 0;
    cvx_open_standard();
    cvx_status st = cvx_opts_parse(&cmd, &o, argc, argv, pos, 0, &n, &help);

    if (help) {
        return 0;
    }
    pthread_mutex_init(&s.lock, NULL);
    pthread_cond_init(&s.freed, NULL);
    signal(SIGPIPE, SIG_IGN);
    if (st == CVX_OK) {
        st = check(&o);
    }
    if (st == CVX_OK) {
        st = find_places(&p, &o);
    }
    s.limits = (cvx_limits){o.waiting, o.per_minute};
    if (st == CVX_OK && o.api_keys != NULL) {
        st = cvx_auth_load(&s, o.api_keys);
    }
    if (st == CVX_OK) {
        st = read_tls(&s, &o);
    }
    if (st == CVX_OK) {
        s.redis_url = o.redis;
        s.data_dir = p.data;
        s.model = p.model;
        s.model_name = strrchr(p.model, '/') + 1;
        s.cvx = p.cvx;
        s.retention_ms = (int64_t)(o.retention_days * 86400e3);
        s.lora_dir = o.lora_dir != NULL ? p.lora : NULL;
        s.local = o.local;
        s.started_ms = cvx_now_ms();
        s.connections = (int)o.connections;
        s.connections_per_address = o.per_address >= 0 ? (int)o.per_address
                                    : loopback(o.host) ? 0
                                                       : PER_ADDRESS;
        s.request_seconds = o.request_seconds;
        cvx_stop_install();
        st = serve(&s, &o, &p);
    }
    if (st != CVX_OK) {
        fprintf(stderr, "%s: %s\n", o.local ? "cvx serve" : "cvx-coordinator", cvx_error());
    }
    free(s.tls_cert);
    free(s.tls_key);
    return cvx_status_exit(st);
}
