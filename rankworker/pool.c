#include "rankworker/pool.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "base/progress.h"
#include "base/stop.h"
#include "model/pipeline/arrange.h"
#include "parallel/world/world.h"
#include "rankworker/group.h"

const cvx_opt cvx_pool_opts[] = {
    {"", CVX_OPT_FLAG, 0, NULL, "Pool", 0, 0, NULL},
    {"pool", CVX_OPT_FLAG, offsetof(cvx_pool_options, pool), NULL,
     "take jobs from the queue in Redis until SIGTERM", 0, 0, NULL},
    {"redis", CVX_OPT_STR, offsetof(cvx_pool_options, redis), "URL",
     "redis://[:password@]host:port/db or unix:///socket (default with --pool: CVX_REDIS of the environment); without "
     "--pool every video is recorded there",
     0, 0, NULL},
    {"owner", CVX_OPT_STR, offsetof(cvx_pool_options, owner), "NAME",
     "without --pool: the API key's name that recorded videos are listed under (default: local)", 0,
     0, NULL},
    {"pool-name", CVX_OPT_STR, offsetof(cvx_pool_options, name), "NAME",
     "default: the host's name and the process id", 0, 0, NULL},
    {"data-dir", CVX_OPT_STR, offsetof(cvx_pool_options, data_dir), "DIR",
     "where jobs put their files, seen by coordinator and pools (default: what the coordinator says)",
     0, 0, NULL},
    {"max-jobs", CVX_OPT_INT, offsetof(cvx_pool_options, max_jobs), "N",
     "end after so many jobs (default: stay)", 1, 1e9, NULL},
    {"pool-memory", CVX_OPT_DOUBLE, offsetof(cvx_pool_options, memory), "GIB",
     "what jobs on this pool may need together (default: what its machines or GPUs have)", 0, 1e9,
     NULL},
    {"group-seconds", CVX_OPT_DOUBLE, offsetof(cvx_pool_options, group_seconds), "S",
     "when several jobs wait, one gets a rank for every S seconds that it would take a single rank (default: 60)",
     1e-3, 1e9, NULL},
    CVX_LOG_OPTS(cvx_pool_options),
    {NULL, 0, 0, NULL, NULL, 0, 0, NULL},
};

#define GROUP_SECONDS 60.0
/* So long a split pool goes on before its groups meet again; then what was learnt and asked for counts for all. */
#define ROUND_SECONDS 60.0
#define MOST_GROUPS 64

/* What the pool does next: one job on all its ranks, or one for each of several groups. */
typedef struct round_plan {
    int groups;    /* 0: the pool ends */
    double tflops; /* of a rank; 0: not known */
    int64_t rank_bytes;
    cvx_entry entry[MOST_GROUPS]; /* of the groups, in their order */
} round_plan;

/* What a rank tells of itself. */
typedef struct introduction {
    char host[64], device[32];
    int32_t threads;
} introduction;

typedef struct pool {
    const cvx_pool_options *o;
    const cvx_request *defaults;
    cvx_comm *host, *world;
    int node_ranks;
    cvx_link *link; /* on the first rank: the pool's */
    char name[128], url[600], data_dir[CVX_PATH_MAX], lora_dir[CVX_PATH_MAX];
    introduction *told; /* of all ranks */
    Cvx__RankStatus *ranks, **rank_list;
    int64_t rank_bytes; /* 0: any */
    double tflops;      /* of a rank; 0: no job has shown it yet */
    int groups;         /* that it is split into */
    cvx_link *own;      /* on the first rank of a group that is not the pool's first */
    cvx_group group;    /* this rank's; its communicators are the pool's where there is one group */
} pool;

/* What the ranks may use, of a plan as the coordinator makes it (f32, nothing offloaded); 0: any, the pool will see. */
static int64_t rank_bytes(const pool *p)
{
    const cvx_request *r = p->defaults;
    cvx_cluster c;
    cvx_ctx *ctx = NULL;

    if (p->o->memory > 0) {
        return (int64_t)(p->o->memory * (double)(1 << 30) / p->host->size);
    }
    if (strcmp(r->offload, "none") != 0 || strcmp(r->quantize, "none") != 0 ||
        cvx_request_ctx(&ctx, r) != CVX_OK) {
        return 0;
    }
    cvx_status st = cvx_cluster_here(&c, ctx, p->host->size, p->node_ranks, 0);
    cvx_ctx_close(ctx);
    return st == CVX_OK ? (int64_t)(c.memory * (strcmp(r->dtype, "bf16") == 0 ? 2 : 1)) : 0;
}

static cvx_status open_link(pool *p, cvx_link **out, bool first)
{
    Cvx__PoolStatus s = CVX__POOL_STATUS__INIT;

    s.version = 1;
    s.name = p->name;
    s.host = p->told[0].host;
    s.device = p->told[0].device;
    s.size = p->host->size;
    s.ranks = p->rank_list;
    s.n_ranks = (size_t)p->host->size;
    s.rank_bytes = p->rank_bytes;
    return cvx_link_open(out, p->url, &s, first);
}

/* How many ranks a job is worth when others wait: it shall fit, and a long one gets more. One that took a pool with it has the
 * whole pool, so that nobody else's job is lost with it again. */
static int worth(const pool *p, const cvx_entry *e, double tflops, int64_t bytes)
{
    double grain = p->o->group_seconds > 0 ? p->o->group_seconds : GROUP_SECONDS;
    int size = p->host->size;
    double rate = tflops > 0 ? tflops : e->seconds > 0 ? e->tflop / e->seconds : 0;
    if (e->deaths > 0 || !(rate > 0) || !(e->tflop > 0)) {
        return size;
    }
    double time = ceil(e->tflop / rate / grain);
    double room = bytes > 0 ? ceil((double)e->bytes / (double)bytes) : 1;
    double n = fmax(1, fmax(time, room));
    return n < size ? (int)n : size;
}

/* Whether jobs may run on fewer ranks than all: not where the user has said how the ranks are arranged. */
static bool may_split(const pool *p)
{
    cvx_degrees d = cvx_request_degrees(p->defaults);
    bool free_degrees = p->defaults->ranks == 0 && p->host->size > 1;

    for (int i = 0; i < CVX_MESH_DIMS; i++) {
        free_degrees = free_degrees && d.n[i] <= 1;
    }
    return free_degrees;
}

/* The most groups of equal size, at most n, of `least` ranks or more. */
static int groups_for(int size, int n, int least)
{
    int g = n < MOST_GROUPS ? n : MOST_GROUPS;

    while (g > 1 && (size % g != 0 || size / g < least)) {
        g--;
    }
    return g;
}

/* Reads further small jobs beside the first one, and decides how many groups there will be. What no group is for goes back. */
static cvx_status fill_round(pool *p, round_plan *r, int64_t left)
{
    int size = p->host->size, n = 1, most = (int)(left < size ? left : size);
    int ranks = worth(p, &r->entry[0], p->tflops, p->rank_bytes);
    bool found = true;

    most = most < MOST_GROUPS ? most : MOST_GROUPS;
    r->groups = 1;
    if (!may_split(p) || ranks > size / 2 || most < 2) {
        return CVX_OK;
    }
    /* the first one is still in the queue, and counts; so do those that other groups have read just now */
    CVX_RETURN_IF(
        cvx_link_more(p->link, most, p->rank_bytes > 0 ? p->rank_bytes * size : INT64_MAX));
    while (n < most) {
        CVX_RETURN_IF(cvx_link_next(p->link, 0, &r->entry[n], &found));
        if (!found) {
            break;
        }
        int w = worth(p, &r->entry[n], p->tflops, p->rank_bytes);
        if (w > size / 2) {
            CVX_RETURN_IF(cvx_link_give_back(p->link, &r->entry[n]));
            break;
        }
        ranks = w > ranks ? w : ranks;
        n++;
    }
    r->groups = groups_for(size, n, ranks);
    for (int i = n - 1; i >= r->groups; i--) {
        CVX_RETURN_IF(cvx_link_give_back(p->link, &r->entry[i]));
    }
    return CVX_OK;
}

/* Waits for a job and plans the round; on the first rank. left: jobs that it may still run. */
static cvx_status plan_round(pool *p, round_plan *r, int64_t left)
{
    bool found = false;

    r->groups = 0;
    while (!found && left > 0 && !cvx_stop_asked()) {
        CVX_RETURN_IF(cvx_link_next(p->link, 500, &r->entry[0], &found));
    }
    r->tflops = p->tflops;
    r->rank_bytes = p->rank_bytes;
    return found ? fill_round(p, r, left) : CVX_OK;
}

/* Gives the first rank's plan to all; the others sleep between their looks. */
static cvx_status share(const pool *p, round_plan *r)
{
    bool before = cvx_world_crowded(true);
    cvx_status st = cvx_comm_broadcast(p->host, r, sizeof *r, 0);

    (void)cvx_world_crowded(before);
    return st;
}

/* Closes the groups that there are. */
static void join(pool *p)
{
    cvx_group_close(&p->group);
    if (p->group.world != p->group.host && p->group.world != p->world) {
        cvx_comm_close(p->group.world);
    }
    if (p->group.host != p->host) {
        cvx_comm_close(p->group.host);
    }
    p->group.host = p->host;
    p->group.world = p->world;
    p->group.link = p->link;
    p->groups = 1;
}

/* Makes n groups of consecutive ranks, unless there are that many. Collective. */
static cvx_status split(pool *p, int n)
{
    int colour = p->host->rank / (p->host->size / n);

    if (n == p->groups) {
        return CVX_OK;
    }
    join(p);
    if (n == 1) {
        return CVX_OK;
    }
    CVX_RETURN_IF(cvx_comm_split(p->host, colour, 0, &p->group.host));
    p->group.world = p->group.host;
    p->groups = n;
    if (p->world != p->host) {
        CVX_RETURN_IF(cvx_comm_split(p->world, colour, 0, &p->group.world));
    }
    cvx_status st = CVX_OK;
    if (p->group.host->rank == 0 && p->host->rank > 0 && p->own == NULL) {
        st = open_link(p, &p->own, false);
    }
    p->group.link = p->group.host->rank > 0 ? NULL : p->host->rank == 0 ? p->link : p->own;
    return cvx_comm_agree(p->host, st);
}

/* What the job takes on these ranks, as far as it is known before. */
static void plan_assignment(Cvx__Assignment *a, const round_plan *r, int ranks)
{
    const Cvx__Plan *whole = a->spec->plan;
    Cvx__Plan *plan = whole != NULL ? malloc(sizeof *plan) : NULL;

    if (plan != NULL) {
        cvx__plan__init(plan);
        plan->version = 1;
        plan->ranks = ranks;
        plan->tflop = whole->tflop;
        plan->bytes = whole->bytes;
        plan->seconds = r->tflops > 0 ? whole->tflop / (r->tflops * ranks) : whole->seconds / ranks;
        a->plan = plan;
    }
}

/* The next job of this group, on its first rank: its own of the round, then further ones that wait and are no larger, until it is
 * time to meet the other groups again. */
static cvx_status choose(const pool *p, const round_plan *r, const cvx_entry *own, double until,
                         Cvx__Assignment **out)
{
    const cvx_group *g = &p->group;
    cvx_entry e;
    bool found = own != NULL;

    *out = NULL;
    if (own != NULL) {
        e = *own;
        CVX_RETURN_IF(cvx_link_claim(g->link, &e, out));
    }
    while (*out == NULL && r->groups > 1 && p->o->max_jobs == 0 && !cvx_stop_asked() &&
           cvx_now() < until) {
        CVX_RETURN_IF(cvx_link_more(g->link, r->groups,
                                    r->rank_bytes > 0 ? r->rank_bytes * p->host->size : INT64_MAX));
        CVX_RETURN_IF(cvx_link_next(g->link, 0, &e, &found));
        if (!found) {
            break;
        }
        if (worth(p, &e, r->tflops, r->rank_bytes) > g->host->size) {
            return cvx_link_give_back(g->link, &e);
        }
        CVX_RETURN_IF(cvx_link_claim(g->link, &e, out));
    }
    if (*out != NULL) {
        plan_assignment(*out, r, g->host->size);
    }
    return CVX_OK;
}

/* The first rank's assignment for all of the group; NULL: there is none. Caller frees. */
static cvx_status hand_out(cvx_comm *c, Cvx__Assignment **a)
{
    int64_t len = -1;
    uint8_t *data = NULL;

    if (*a != NULL) {
        len = (int64_t)cvx__assignment__get_packed_size(*a);
        data = malloc((size_t)len + 1);
        CVX_ASSERT(data != NULL); /* a rank without a few hundred bytes cannot go on */
        cvx__assignment__pack(*a, data);
    }
    cvx_status st = cvx_comm_broadcast(c, &len, sizeof len, 0);
    if (st == CVX_OK && len >= 0) {
        if (data == NULL) {
            data = malloc((size_t)len + 1);
            CVX_ASSERT(data != NULL);
        }
        st = cvx_comm_broadcast(c, data, len, 0);
    }
    if (st == CVX_OK && len >= 0 && *a == NULL) {
        *a = cvx__assignment__unpack(NULL, (size_t)len, data);
        CVX_ASSERT(*a != NULL);
    }
    free(data);
    return st;
}

/* The group's jobs of this round. */
static cvx_status run_group(pool *p, const round_plan *r)
{
    cvx_group *g = &p->group;
    const cvx_entry *own = &r->entry[p->host->rank / (p->host->size / r->groups)];
    double until = cvx_now() + ROUND_SECONDS;

    for (;;) {
        Cvx__Assignment *a = NULL;
        cvx_status st = g->link != NULL ? choose(p, r, own, until, &a) : CVX_OK;
        CVX_RETURN_IF(cvx_comm_agree(g->host, st));
        CVX_RETURN_IF(hand_out(g->host, &a));
        if (a == NULL) {
            return CVX_OK;
        }
        st = cvx_group_run(g, a);
        cvx__assignment__free_unpacked(a, NULL);
        CVX_RETURN_IF(st);
        own = NULL;
    }
}

/* What the groups have seen, to the first rank. */
static cvx_status gather(pool *p, int64_t *jobs)
{
    cvx_group_news own = p->group.news, *all = calloc((size_t)p->host->size, sizeof *all);
    int64_t completed = 0, peak = 0;
    double sum = 0;
    int n = 0;

    CVX_ASSERT(all != NULL);
    cvx_status st = cvx_comm_gather_each(p->host, &own, sizeof own, all);
    for (int i = 0; i < p->host->size && st == CVX_OK; i++) {
        *jobs += all[i].jobs;
        completed += all[i].completed;
        peak = all[i].peak > peak ? all[i].peak : peak;
        sum += all[i].tflops;
        n += all[i].tflops > 0;
    }
    free(all);
    if (n > 0) { /* a first job opens models: the next ones count more */
        p->tflops = p->tflops > 0 ? 0.5 * p->tflops + 0.5 * sum / n : sum / n;
    }
    p->group.news = (cvx_group_news){0};
    if (p->link != NULL) {
        cvx_link_learn(p->link, completed, peak, p->tflops);
    }
    return st;
}

/* One round: planned by the first rank, run by all. *more: whether another one follows. */
static cvx_status run_round(pool *p, int64_t *jobs, bool *more)
{
    round_plan r = {0};
    int64_t left = p->o->max_jobs > 0 ? p->o->max_jobs - *jobs : INT64_MAX;
    cvx_status planned = p->link != NULL ? plan_round(p, &r, left) : CVX_OK;

    if (planned != CVX_OK) {
        cvx_log(CVX_LOG_ERROR, NULL, "%s", cvx_error());
        r.groups = 0;
    }
    CVX_RETURN_IF(share(p, &r));
    *more = r.groups > 0;
    if (!*more) {
        return cvx_comm_agree(p->host, planned);
    }
    if (p->link != NULL) {
        cvx_link_round(p->link, r.groups);
    }
    CVX_RETURN_IF(split(p, r.groups));
    cvx_status st = run_group(p, &r);
    bool stop = cvx_stop_asked(), before = cvx_world_crowded(true);
    st = cvx_comm_agree_wish(p->host, st, &stop); /* whoever is done first sleeps */
    (void)cvx_world_crowded(before);
    CVX_RETURN_IF(st);
    *more = !stop;
    CVX_RETURN_IF(gather(p, jobs));
    if (p->link != NULL) {
        cvx_link_round(p->link, 0);
    }
    return CVX_OK;
}

/* Every rank's host and device, on all ranks. Collective. */
static cvx_status introduce(pool *p)
{
    const cvx_request *r = p->defaults;
    int n = p->host->size;
    bool cpu = strcmp(r->backend, "auto") == 0 || strcmp(r->backend, "cpu") == 0;
    introduction own = {.threads = (int32_t)r->threads};

    gethostname(own.host, sizeof own.host - 1);
    snprintf(own.device, sizeof own.device, "%.15s%s%.15s", cpu ? "cpu" : r->backend,
             cpu ? " " : "", cpu ? r->isa : "");
    p->told = calloc((size_t)n, sizeof *p->told);
    p->ranks = calloc((size_t)n, sizeof *p->ranks);
    p->rank_list = calloc((size_t)n, sizeof *p->rank_list);
    CVX_ASSERT(p->told != NULL && p->ranks != NULL && p->rank_list != NULL);
    CVX_RETURN_IF(cvx_comm_gather_each(p->host, &own, sizeof own, p->told));
    for (int i = 0; i < n; i++) {
        cvx__rank_status__init(&p->ranks[i]);
        p->ranks[i].rank = i;
        p->ranks[i].host = p->told[i].host;
        p->ranks[i].device = p->told[i].device;
        p->ranks[i].threads = p->told[i].threads;
        p->rank_list[i] = &p->ranks[i];
    }
    return CVX_OK;
}

/* The first rank's link, and the data folder for all. */
static cvx_status sign_on(pool *p)
{
    const char *url = p->o->redis != NULL ? p->o->redis : getenv("CVX_REDIS");

    if (p->host->rank != 0) {
        return CVX_OK;
    }
    snprintf(p->name, sizeof p->name, "%.60s-%ld", p->told[0].host, (long)getpid());
    if (p->o->name != NULL) {
        snprintf(p->name, sizeof p->name, "%s", p->o->name);
    }
    if (url == NULL) {
        return cvx_fail(CVX_EINVAL, "--pool needs --redis URL");
    }
    if (p->name[0] == 0 ||
        strspn(p->name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") !=
            strlen(p->name)) {
        return cvx_fail(CVX_EINVAL, "--pool-name '%.60s': letters, digits and ._- are meant",
                        p->name);
    }
    if (strlen(url) >= sizeof p->url) {
        return cvx_fail(CVX_EINVAL, "--redis: more than %zu bytes", sizeof p->url - 1);
    }
    snprintf(p->url, sizeof p->url, "%s", url);
    p->rank_bytes = rank_bytes(p);
    CVX_RETURN_IF(open_link(p, &p->link, true));
    snprintf(p->data_dir, sizeof p->data_dir, "%s", p->o->data_dir != NULL ? p->o->data_dir : "");
    if (p->data_dir[0] == 0) {
        CVX_RETURN_IF(cvx_link_config(p->link, "data_dir", p->data_dir, sizeof p->data_dir));
    }
    CVX_RETURN_IF(cvx_link_config(p->link, "lora_dir", p->lora_dir, sizeof p->lora_dir));
    return p->data_dir[0] != 0
               ? CVX_OK
               : cvx_fail(CVX_EIO, "--pool: no coordinator has told the data folder yet; start it "
                                   "first, or give --data-dir DIR");
}

cvx_status cvx_pool_run(const cvx_pool_options *o, const cvx_request *defaults, cvx_comm *host,
                        cvx_comm *world, int node_ranks)
{
    pool *p = calloc(1, sizeof *p);
    int64_t jobs = 0;
    bool more = true;

    if (p == NULL) {
        return cvx_fail(CVX_ENOMEM, "no memory for a pool");
    }
    *p = (pool){.o = o,
                .defaults = defaults,
                .host = host,
                .world = world,
                .node_ranks = node_ranks,
                .groups = 1};
    cvx_status st = introduce(p);
    if (st == CVX_OK) {
        st = cvx_comm_agree(host, sign_on(p));
    }
    if (st ==
        CVX_OK) { /* what the first rank knows of itself, the groups' first ones need for their links */
        st = cvx_comm_broadcast(host, p->name, sizeof p->name, 0);
    }
    if (st == CVX_OK) { /* on another machine the environment may not have it */
        st = cvx_comm_broadcast(host, p->url, sizeof p->url, 0);
    }
    if (st == CVX_OK) {
        st = cvx_comm_broadcast(host, p->data_dir, sizeof p->data_dir, 0);
    }
    if (st == CVX_OK) {
        st = cvx_comm_broadcast(host, p->lora_dir, sizeof p->lora_dir, 0);
    }
    if (st == CVX_OK) {
        st = cvx_comm_broadcast(host, &p->rank_bytes, sizeof p->rank_bytes, 0);
    }
    if (st == CVX_OK && p->link != NULL) {
        cvx_log(CVX_LOG_INFO, NULL, "pool %s of %d ranks waits for jobs", p->name, host->size);
    }
    p->group = (cvx_group){.defaults = defaults,
                           .data_dir = p->data_dir,
                           .lora_dir = p->lora_dir,
                           .host = host,
                           .world = world,
                           .node_ranks = node_ranks,
                           .link = p->link};
    while (st == CVX_OK && more) {
        st = run_round(p, &jobs, &more);
    }
    join(p);
    cvx_link_close(p->own);
    cvx_link_close(p->link);
    free(p->told);
    free(p->ranks);
    free(p->rank_list);
    free(p);
    return st;
}
