#include "rankworker/pool.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "base/stop.h"
#include "model/pipeline/arrange.h"
#include "model/pipeline/generate.h"
#include "parallel/mpi/comm_mpi.h"
#include "rankworker/link.h"
#include "rankworker/result.h"
#include "rankworker/stats.h"

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
    CVX_LOG_OPTS(cvx_pool_options),
    {NULL, 0, 0, NULL, NULL, 0, 0, NULL},
};

#define LORAS 8 /* as the coordinator allows */

typedef struct pool {
    const cvx_pool_options *o;
    const cvx_request *defaults;
    cvx_comm *host, *world;
    int node_ranks;
    cvx_link *link; /* on the first rank */
    char name[128], data_dir[CVX_PATH_MAX], lora_dir[CVX_PATH_MAX];
    cvx_mesh *mesh; /* kept, with the generator on it, while jobs want the same */
    cvx_generator *generator;
    cvx_stats_sum told; /* what the mesh had sent when the last job ended */
} pool;

/* One job on its way. */
typedef struct work {
    Cvx__Assignment *a;
    cvx_request r;
    json_t *options; /* further ones of the request */
    char lora[LORAS][CVX_PATH_MAX];
    char folder[CVX_PATH_MAX], video[CVX_PATH_MAX], checkpoint[CVX_PATH_MAX], mesh[96];
} work;

static void close_models(pool *p)
{
    cvx_generator_close(p->generator);
    cvx_mesh_close(p->mesh);
    p->generator = NULL;
    p->mesh = NULL;
    p->told = (cvx_stats_sum){0};
}

/* Only what the user gave replaces what the pool was started with. */
static cvx_status fill_request(work *w, const pool *p)
{
    const Cvx__JobSpec *s = w->a->spec;
    cvx_request *r = &w->r;

    *r = *p->defaults;
    r->prompt = (cvx_opt_list){.item = {s->prompt}, .n = 1};
    r->output = w->video;
    r->checkpoint_dir = w->checkpoint;
    r->clip_model = NULL; /* the delivered file is scored */
    r->preview_dir = strcmp(r->offload, "none") == 0 ? w->folder : NULL;
    r->negative_prompt = s->negative_prompt;
    r->seed = s->seed;
    r->num_frames = s->num_frames > 0 ? s->num_frames : r->num_frames;
    r->width = s->width > 0 ? s->width : r->width;
    r->height = s->height > 0 ? s->height : r->height;
    r->fps = s->fps > 0 ? s->fps : r->fps;
    r->num_inference_steps =
        s->num_inference_steps > 0 ? s->num_inference_steps : r->num_inference_steps;
    r->guidance_scale = s->guidance_scale > 0 ? s->guidance_scale : r->guidance_scale;
    r->scheduler = s->scheduler[0] != 0 ? s->scheduler : r->scheduler;
    r->image = s->image[0] != 0 ? s->image : NULL;
    r->extend = s->extend[0] != 0 ? s->extend : NULL;
    r->interpolate = s->interpolate > 0 ? s->interpolate : r->interpolate;
    r->upscale = s->upscale > 0 ? s->upscale : r->upscale;
    for (size_t i = 0; i < s->n_lora && i < LORAS && r->lora.n < CVX_OPT_LIST_MAX; i++) {
        snprintf(w->lora[i], sizeof w->lora[i], "%.3800s/%.280s", p->lora_dir, s->lora[i]);
        r->lora.item[r->lora.n++] = w->lora[i];
    }
    if (s->options[0] == 0) {
        return CVX_OK;
    }
    CVX_RETURN_IF(cvx_json_parse(&w->options, s->options, strlen(s->options), "options"));
    if (json_object_get(w->options, "prompt") != NULL) { /* a timeline */
        r->prompt = (cvx_opt_list){0};
    }
    CVX_RETURN_IF(cvx_request_from_json(r, w->options, "options"));
    r->clip_model = r->best_of > 1 ? p->defaults->clip_model : NULL;
    return CVX_OK;
}

/* The job's folder: a token's own, so that a pool thought dead writes where nobody looks; checkpoints, which are the same whoever
 * writes them, lie beside it. */
static cvx_status prepare(work *w, const pool *p)
{
    int n = snprintf(w->folder, sizeof w->folder, "%.4000s/jobs/%.38s/%lld", p->data_dir,
                     w->a->spec->id, (long long)w->a->token);

    if (n >= CVX_PATH_MAX - 20) {
        return cvx_fail(CVX_EINVAL, "--data-dir: path too long: %.200s...", p->data_dir);
    }
    snprintf(w->video, sizeof w->video, "%.4080s/video.mp4", w->folder);
    snprintf(w->checkpoint, sizeof w->checkpoint, "%.4000s/jobs/%.38s/checkpoint", p->data_dir,
             w->a->spec->id);
    CVX_RETURN_IF(fill_request(w, p));
    if (p->host->rank == 0) {
        CVX_RETURN_IF(cvx_mkdirs(w->folder));
        return cvx_mkdirs(w->checkpoint);
    }
    return CVX_OK;
}

/* The mesh and the generator for a request: the ones at hand if they are the right ones. */
static cvx_status open_models(pool *p, work *w)
{
    cvx_mesh *mesh = NULL;

    CVX_RETURN_IF(cvx_arrange_world(&mesh, &w->r, p->world, p->node_ranks, NULL));
    cvx_degrees_describe(&mesh->degrees, w->mesh, sizeof w->mesh);
    if (p->mesh != NULL && memcmp(&p->mesh->degrees, &mesh->degrees, sizeof mesh->degrees) == 0) {
        cvx_mesh_close(mesh);
        return CVX_OK;
    }
    close_models(p);
    p->mesh = mesh;
    return cvx_generator_open(
        &p->generator, &(cvx_generator_options){.mesh = mesh,
                                                .event = p->link != NULL ? cvx_link_event : NULL,
                                                .payload = p->link});
}

/* What the end of a job means: whether it is tried again is decided by what went wrong. */
static const char *verdict(cvx_status st)
{
    switch (st) {
    case CVX_OK: return "completed";
    case CVX_ECANCELLED: return "cancelled";
    case CVX_EINVAL:
    case CVX_EFORMAT:
    case CVX_EUNSUPPORTED: return "failed";
    case CVX_EREQUEUE: return "returned"; /* this pool is asked to end */
    default: return "queued";             /* memory, files: another try, perhaps elsewhere */
    }
}

/* What the counters of /metrics grow by. */
typedef struct metrics {
    Cvx__Metric of[CVX_COMM_KINDS + 1], *list[CVX_COMM_KINDS + 1];
    char name[CVX_COMM_KINDS][40];
} metrics;

static void fill_metrics(Cvx__Result *r, metrics *m, const cvx_stats_sum *now,
                         const cvx_stats_sum *before, double step)
{
    size_t n = 0;

    for (int k = 0; k < CVX_COMM_KINDS; k++) {
        snprintf(m->name[k], sizeof m->name[k], "sent:%s", cvx_stats_kinds[k]);
        m->of[n] = (Cvx__Metric)CVX__METRIC__INIT;
        m->of[n].name = m->name[k];
        m->of[n++].value = (double)(now->sent[k] - before->sent[k]);
    }
    if (step > 0) {
        m->of[n] = (Cvx__Metric)CVX__METRIC__INIT;
        m->of[n].name = "step";
        m->of[n++].value = step;
    }
    for (size_t i = 0; i < n; i++) {
        m->list[i] = &m->of[i];
    }
    r->metrics = m->list;
    r->n_metrics = n;
}

static cvx_status score(pool *p, work *w, Cvx__Result *result)
{
    cvx_progress progress = {.fn = cvx_link_event, .payload = p->link};

    return p->defaults->clip_model == NULL
               ? CVX_OK
               : cvx_result_score(result, cvx_generator_ctx(p->generator), p->defaults->clip_model,
                                  &w->r.prompt, w->r.interpolate, w->video, &progress);
}

/* Tells how the job ended; on the first rank. */
static cvx_status report(pool *p, work *w, cvx_status st, double seconds, const cvx_stats_sum *sum)
{
    Cvx__Result result = CVX__RESULT__INIT;
    metrics m;
    char now[16], cause[512] = "";

    if (st == CVX_OK) {
        st = cvx_result_make(&result, w->folder, w->video, w->mesh, seconds);
        st = st == CVX_OK ? score(p, w, &result) : st;
        fill_metrics(&result, &m, sum, &p->told, cvx_link_step_seconds(p->link));
        cvx_link_peak(p->link, sum->peak);
    }
    if (st != CVX_OK) {
        snprintf(cause, sizeof cause, "%s", cvx_error());
        cvx_clean_line(cause); /* the cut may go through a character */
    }
    const char *state = st == CVX_ECANCELLED && cvx_link_late(p->link) ? "failed" : verdict(st);
    cvx_status told = cvx_link_finish(p->link, state, cause, st == CVX_OK ? &result : NULL, now);
    result.n_metrics = 0; /* they are m's */
    cvx_result_free(&result);
    CVX_RETURN_IF(told);
    cvx_log(strcmp(now, "failed") == 0 ? CVX_LOG_WARN : CVX_LOG_INFO, w->a->spec->id, "%s%s%s", now,
            cause[0] != 0 ? ": " : "", cause);
    return CVX_OK;
}

static cvx_status run_work(pool *p, work *w)
{
    double begin = cvx_now();
    cvx_status st = cvx_comm_agree(p->host, prepare(w, p));
    if (p->link != NULL) {
        cvx_link_begin(p->link, w->a, w->mesh);
    }
    if (st == CVX_OK) {
        st = open_models(p, w);
    }
    if (st == CVX_OK) {
        st = cvx_generator_run(p->generator, &w->r, false);
    }
    cvx_stats_sum sum = {0};
    int worst =
        st; /* where the ranks cannot talk any more, the pool ends, and its supervisor starts another */
    CVX_RETURN_IF(cvx_comm_least(p->host, &worst));
    if (worst == CVX_OK) {
        CVX_RETURN_IF(cvx_stats_add_up(&sum, p->mesh, p->host));
    } else {
        close_models(p);
    }
    cvx_status told = CVX_OK;
    if (p->link != NULL) {
        told = report(p, w, st != CVX_OK ? st : (cvx_status)worst, cvx_now() - begin, &sum);
    }
    p->told = sum;
    return cvx_comm_agree(p->host, told);
}

/* A job, on every rank. A failure of the job is reported and is none of the pool; what is returned is. */
static cvx_status run_job(pool *p, Cvx__Assignment *a)
{
    work w = {.a = a};
    cvx_status st = run_work(p, &w);

    json_decref(w.options);
    return st;
}

/* Gives the first rank's message to all; the others sleep between their looks. len < 0: the pool ends. */
static cvx_status share(pool *p, int64_t *len, uint8_t **data)
{
    cvx_comm_mpi_crowded(true);
    cvx_status st = cvx_comm_broadcast(p->host, len, sizeof *len, 0);
    cvx_comm_mpi_crowded(false);
    CVX_RETURN_IF(st);
    if (*len < 0) {
        return CVX_OK;
    }
    if (p->host->rank != 0) {
        *data = malloc((size_t)*len + 1);
        CVX_ASSERT(*data != NULL); /* a rank without a few hundred bytes cannot go on */
    }
    return cvx_comm_broadcast(p->host, *data, *len, 0);
}

/* The next job, the same on every rank; NULL: the pool ends. Caller frees. */
static cvx_status next_job(pool *p, Cvx__Assignment **out)
{
    int64_t len = -1;
    uint8_t *data = NULL;
    Cvx__Assignment *a = NULL;
    cvx_status st = CVX_OK;

    while (p->link != NULL && a == NULL && st == CVX_OK && !cvx_stop_asked()) {
        st = cvx_link_take(p->link, 500, &a);
    }
    if (a != NULL) {
        len = (int64_t)cvx__assignment__get_packed_size(a);
        data = malloc((size_t)len + 1);
        CVX_ASSERT(data != NULL);
        cvx__assignment__pack(a, data);
        cvx__assignment__free_unpacked(a, NULL);
    }
    if (st != CVX_OK) {
        cvx_log(CVX_LOG_ERROR, NULL, "%s", cvx_error());
    }
    cvx_status shared = share(p, &len, &data);
    *out = shared == CVX_OK && len >= 0 ? cvx__assignment__unpack(NULL, (size_t)len, data) : NULL;
    free(data);
    return st != CVX_OK ? st : shared;
}

/* The first rank's link, and the data folder for all. */
static cvx_status sign_on(pool *p)
{
    char host[64] = "";
    const char *url = p->o->redis != NULL ? p->o->redis : getenv("CVX_REDIS");

    if (p->host->rank != 0) {
        return CVX_OK;
    }
    gethostname(host, sizeof host - 1);
    snprintf(p->name, sizeof p->name, "%.60s-%ld", host, (long)getpid());
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
    Cvx__PoolStatus s = CVX__POOL_STATUS__INIT;
    s.version = 1;
    s.name = p->name;
    s.host = strdup(host); /* for as long as the program runs */
    s.device = (char *)p->defaults->backend;
    s.size = p->host->size;
    CVX_RETURN_IF(cvx_link_open(&p->link, url, &s));
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
    Cvx__Assignment *a = NULL;
    int64_t jobs = 0;

    cvx_log_open(&o->log);
    if (p == NULL) {
        return cvx_fail(CVX_ENOMEM, "no memory for a pool");
    }
    *p = (pool){
        .o = o, .defaults = defaults, .host = host, .world = world, .node_ranks = node_ranks};
    cvx_status st = cvx_comm_agree(host, sign_on(p));
    if (st == CVX_OK) {
        st = cvx_comm_broadcast(host, p->data_dir, sizeof p->data_dir, 0);
    }
    if (st == CVX_OK) {
        st = cvx_comm_broadcast(host, p->lora_dir, sizeof p->lora_dir, 0);
    }
    if (st == CVX_OK && p->link != NULL) {
        cvx_log(CVX_LOG_INFO, NULL, "pool %s of %d ranks waits for jobs", p->name, host->size);
    }
    while (st == CVX_OK && (o->max_jobs == 0 || jobs < o->max_jobs) &&
           (st = next_job(p, &a)) == CVX_OK && a != NULL) {
        st = run_job(p, a);
        cvx__assignment__free_unpacked(a, NULL);
        a = NULL;
        jobs++;
    }
    close_models(p);
    cvx_link_close(p->link);
    free(p);
    return st;
}
