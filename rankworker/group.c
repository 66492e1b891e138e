#include "rankworker/group.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "base/progress.h"
#include "model/pipeline/arrange.h"
#include "rankworker/result.h"

#define LORAS 8 /* as the coordinator allows */

/* One job on its way. */
typedef struct work {
    Cvx__Assignment *a;
    cvx_request r;
    json_t *options; /* further ones of the request */
    char lora[LORAS][CVX_PATH_MAX];
    char folder[CVX_PATH_MAX], video[CVX_PATH_MAX], checkpoint[CVX_PATH_MAX], mesh[96];
} work;

void cvx_group_close(cvx_group *g)
{
    cvx_generator_close(g->generator);
    cvx_mesh_close(g->mesh);
    g->generator = NULL;
    g->mesh = NULL;
    g->told = (cvx_stats_sum){0};
}

/* Only what the user gave replaces what the pool was started with. */
static cvx_status fill_request(work *w, const cvx_group *g)
{
    const Cvx__JobSpec *s = w->a->spec;
    cvx_request *r = &w->r;

    *r = *g->defaults;
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
        snprintf(w->lora[i], sizeof w->lora[i], "%.3800s/%.280s", g->lora_dir, s->lora[i]);
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
    r->clip_model = r->best_of > 1 ? g->defaults->clip_model : NULL;
    return CVX_OK;
}

/* The job's folder: a token's own, so that a pool thought dead writes where nobody looks; checkpoints, which are the same whoever
 * writes them, lie beside it. */
static cvx_status prepare(work *w, const cvx_group *g)
{
    int n = snprintf(w->folder, sizeof w->folder, "%.4000s/jobs/%.38s/%lld", g->data_dir,
                     w->a->spec->id, (long long)w->a->token);

    if (n >= CVX_PATH_MAX - 20) {
        return cvx_fail(CVX_EINVAL, "--data-dir: path too long: %.200s...", g->data_dir);
    }
    snprintf(w->video, sizeof w->video, "%.4080s/video.mp4", w->folder);
    snprintf(w->checkpoint, sizeof w->checkpoint, "%.4000s/jobs/%.38s/checkpoint", g->data_dir,
             w->a->spec->id);
    CVX_RETURN_IF(fill_request(w, g));
    if (g->host->rank == 0) {
        CVX_RETURN_IF(cvx_mkdirs(w->folder));
        return cvx_mkdirs(w->checkpoint);
    }
    return CVX_OK;
}

/* The mesh and the generator for a request: the ones at hand if they are the right ones. */
static cvx_status open_models(cvx_group *g, work *w)
{
    cvx_mesh *mesh = NULL;

    CVX_RETURN_IF(cvx_arrange_world(&mesh, &w->r, g->world, g->node_ranks, NULL));
    cvx_degrees_describe(&mesh->degrees, w->mesh, sizeof w->mesh);
    if (g->link != NULL) {
        cvx_link_mesh(g->link, w->mesh);
    }
    if (g->mesh != NULL && memcmp(&g->mesh->degrees, &mesh->degrees, sizeof mesh->degrees) == 0) {
        cvx_mesh_close(mesh);
        return CVX_OK;
    }
    cvx_group_close(g);
    g->mesh = mesh;
    return cvx_generator_open(
        &g->generator, &(cvx_generator_options){.mesh = mesh,
                                                .event = g->link != NULL ? cvx_link_event : NULL,
                                                .payload = g->link});
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
    default: /* memory, files: another try, perhaps elsewhere */ return "queued";
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

static cvx_status score(cvx_group *g, work *w, Cvx__Result *result)
{
    cvx_progress progress = {.fn = cvx_link_event, .payload = g->link};

    return g->defaults->clip_model == NULL
               ? CVX_OK
               : cvx_result_score(result, cvx_generator_ctx(g->generator), g->defaults->clip_model,
                                  &w->r.prompt, w->r.interpolate, w->video, &progress);
}

static void learn(cvx_group *g, const work *w, bool completed, double seconds, int64_t peak)
{
    const Cvx__Plan *plan = w->a->spec->plan;

    g->news.jobs++;
    g->news.completed += completed;
    g->news.peak = peak > g->news.peak ? peak : g->news.peak;
    if (completed && plan != NULL && plan->tflop > 0 && seconds > 0) {
        g->news.tflops = plan->tflop / (seconds * g->host->size);
    }
}

/* Tells how the job ended; on the first rank. */
static cvx_status report(cvx_group *g, work *w, cvx_status st, double seconds,
                         const cvx_stats_sum *sum)
{
    Cvx__Result result = CVX__RESULT__INIT;
    metrics m;
    char now[16], cause[512] = "";

    if (st == CVX_OK) {
        st = cvx_result_make(&result, w->folder, w->video, w->mesh, seconds);
        st = st == CVX_OK ? score(g, w, &result) : st;
        fill_metrics(&result, &m, sum, &g->told, cvx_link_step_seconds(g->link));
    }
    if (st != CVX_OK) {
        snprintf(cause, sizeof cause, "%s", cvx_error());
    }
    const char *state = st == CVX_ECANCELLED && cvx_link_late(g->link) ? "failed" : verdict(st);
    cvx_status told = cvx_link_finish(g->link, state, cause, st == CVX_OK ? &result : NULL, now);
    result.n_metrics = 0; /* they are m's */
    cvx_result_free(&result);
    CVX_RETURN_IF(told);
    learn(g, w, strcmp(now, "completed") == 0, seconds, sum->peak);
    cvx_log(strcmp(now, "failed") == 0 ? CVX_LOG_WARN : CVX_LOG_INFO, w->a->spec->id, "%s%s%s", now,
            cause[0] != 0 ? ": " : "", cause);
    return CVX_OK;
}

static cvx_status run_work(cvx_group *g, work *w)
{
    double begin = cvx_now();
    cvx_status st = cvx_comm_agree(g->host, prepare(w, g));
    if (g->link != NULL) {
        cvx_link_begin(g->link, w->a);
    }
    if (st == CVX_OK) {
        st = open_models(g, w);
    }
    if (st == CVX_OK) {
        st = cvx_generator_run(g->generator, &w->r, false);
    }
    cvx_stats_sum sum = {0};
    int worst =
        st; /* where the ranks cannot talk any more, the pool ends, and its supervisor starts another */
    CVX_RETURN_IF(cvx_comm_least(g->host, &worst));
    if (worst == CVX_OK) {
        CVX_RETURN_IF(cvx_stats_add_up(&sum, g->mesh, g->host));
    } else {
        cvx_group_close(g);
    }
    cvx_status told = CVX_OK;
    if (g->link != NULL) {
        told = report(g, w, st != CVX_OK ? st : (cvx_status)worst, cvx_now() - begin, &sum);
    }
    g->told = sum;
    return cvx_comm_agree(g->host, told);
}

cvx_status cvx_group_run(cvx_group *g, Cvx__Assignment *a)
{
    work w = {.a = a};
    cvx_status st = run_work(g, &w);

    json_decref(w.options);
    return st;
}
