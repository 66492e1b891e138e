/* The requests of docs/api.md. */
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "coordinator/server.h"

extern const unsigned char cvx_page[];

#define LIST_MAX 100
#define POLL_MS 1000

static const char *const priorities[] = {"high", "normal", "low"};

json_t *cvx_scores_json(const Cvx__FrameScores *f)
{
    if (f == NULL) {
        return json_null();
    }
    json_t *frames = json_array(), *drift = json_array();
    for (size_t i = 0; i < f->n_frame; i++) {
        json_array_append_new(frames, json_real(f->frame[i]));
    }
    for (size_t i = 0; i < f->n_drift; i++) {
        json_array_append_new(drift, json_integer(f->drift[i]));
    }
    return json_pack("{s:f, s:o, s:o}", "mean", f->mean, "frames", frames, "drift", drift);
}

json_t *cvx_progress_json(const Cvx__Progress *p)
{
    json_t *j =
        json_pack("{s:s, s:I, s:I, s:i, s:f, s:s?}", "stage", p->stage, "step", (json_int_t)p->step,
                  "steps", (json_int_t)p->steps, "progress", (int)p->percent, "eta_seconds",
                  p->eta_seconds, "mesh", p->mesh[0] != 0 ? p->mesh : NULL);
    if (p->preview[0] != 0) {
        json_object_set_new(j, "preview_step", json_integer(p->preview_step));
    }
    return j;
}

static json_t *seconds_or_null(int64_t ms)
{
    return ms > 0 ? json_integer(ms / 1000) : json_null();
}

/* What is ours in the object. */
static json_t *extension(const cvx_job_view *v)
{
    const Cvx__JobSpec *s = v->spec;
    const Cvx__Result *r = v->result;
    json_t *j = v->progress != NULL ? cvx_progress_json(v->progress) : json_object();

    json_object_del(j, "progress");
    json_object_set_new(j, "pool", json_string(v->pool));
    json_object_set_new(j, "attempts", json_integer(v->attempts));
    json_object_set_new(j, "priority", json_string(priorities[s->priority % 3]));
    json_object_set_new(j, "seed", json_integer(s->seed));
    json_object_set_new(j, "num_frames", json_integer(r != NULL ? r->num_frames : s->num_frames));
    json_object_set_new(j, "fps", json_real(r != NULL ? r->fps : s->fps));
    json_object_set_new(j, "width", json_integer(r != NULL ? r->width : s->width));
    json_object_set_new(j, "height", json_integer(r != NULL ? r->height : s->height));
    json_object_set_new(j, "num_inference_steps", json_integer(s->num_inference_steps));
    json_object_set_new(j, "guidance_scale", json_real(s->guidance_scale));
    json_object_set_new(j, "negative_prompt", json_string(s->negative_prompt));
    if (r != NULL || v->progress == NULL) {
        json_object_set_new(j, "mesh", r != NULL ? json_string(r->mesh) : json_null());
    }
    if (s->plan != NULL) {
        json_object_set_new(j, "plan",
                            json_pack("{s:f, s:f, s:I}", "tflop", s->plan->tflop, "seconds",
                                      s->plan->seconds, "bytes", (json_int_t)s->plan->bytes));
    }
    json_t *lora = json_array();
    for (size_t i = 0; i < s->n_lora; i++) {
        json_array_append_new(lora, json_string(s->lora[i]));
    }
    json_object_set_new(j, "lora", lora);
    json_object_set_new(j, "run_seconds", r != NULL ? json_real(r->seconds) : json_null());
    json_object_set_new(j, "scores", cvx_scores_json(v->scores));
    return j;
}

json_t *cvx_video_json(const cvx_server *server, const cvx_job_view *v)
{
    const Cvx__JobSpec *s = v->spec;
    bool done = strcmp(v->state, "completed") == 0, failed = strcmp(v->state, "failed") == 0;
    int progress = done ? 100 : v->progress != NULL ? (int)v->progress->percent : 0;
    char size[48], seconds[24];
    int64_t expires = v->completed_ms > 0 && server->retention_ms > 0
                          ? v->completed_ms + server->retention_ms
                          : 0;

    snprintf(size, sizeof size, "%lldx%lld", (long long)s->width, (long long)s->height);
    snprintf(seconds, sizeof seconds, "%.6g", s->fps > 0 ? (double)s->num_frames / s->fps : 0);
    json_t *error =
        failed ? json_pack("{s:s, s:s}", "code", "job_failed", "message", v->cause) : json_null();
    return json_pack(
        "{s:s, s:s, s:s, s:s, s:i, s:I, s:o, s:o, s:s, s:s, s:s, s:s?, s:o, s:o}", "id", v->id,
        "object", "video", "model", s->model[0] != 0 ? s->model : server->model_name, "status",
        v->state, "progress", progress, "created_at", (json_int_t)(v->created_ms / 1000),
        "completed_at", seconds_or_null(v->completed_ms), "expires_at", seconds_or_null(expires),
        "prompt", s->prompt, "seconds", seconds, "size", size, "remixed_from_video_id",
        s->remixed_from[0] != 0 ? s->remixed_from : NULL, "error", error, "cvx", extension(v));
}

/* The job of a request's path, if it is the asker's; else the answer is set. */
static bool find_job(cvx_redis *r, const cvx_http_request *q, const char *id, cvx_job_view *v,
                     cvx_http_answer *a)
{
    bool found = false;
    cvx_status st = CVX_OK;

    if (cvx_job_id_valid(id)) {
        st = cvx_jobs_get(r, id, v, &found);
    }
    if (st != CVX_OK) {
        cvx_answer_status(a, st, NULL);
        return false;
    }
    if (found && strcmp(v->owner, q->owner) != 0) { /* others' jobs are as if they were not */
        cvx_job_view_free(v);
        found = false;
    }
    if (!found) {
        cvx_answer_error(a, 404, "id", "no video '%.60s'", id);
    }
    return found;
}

static void show(cvx_server *s, cvx_redis *r, const char *id, const cvx_http_request *q,
                 cvx_http_answer *a)
{
    cvx_job_view v;

    if (find_job(r, q, id, &v, a)) {
        bool over = v.completed_ms > 0;
        a->json = cvx_video_json(s, &v);
        a->poll_after_ms = over ? 0 : POLL_MS;
        cvx_job_view_free(&v);
    }
}

static const cvx_limits *limits_of(const cvx_server *s, const char *owner)
{
    for (int i = 0; i < s->keys; i++) {
        if (strcmp(s->key[i].name, owner) == 0) {
            return &s->key[i].limits;
        }
    }
    return &s->limits;
}

/* Puts a filled-in spec among the jobs and shows it. */
static void enqueue(cvx_server *s, cvx_redis *r, const cvx_http_request *q, Cvx__JobSpec *spec,
                    cvx_http_answer *a)
{
    char id[CVX_ID_MAX], made[CVX_ID_MAX];
    const char *once = q->idempotency_key != NULL ? q->idempotency_key : "";
    int later = 0;

    if (spec->model[0] != 0 && strcmp(spec->model, s->model_name) != 0) {
        cvx_answer_error(a, 400, "model", "model '%.60s' is not here; '%s' is", spec->model,
                         s->model_name);
        return;
    }
    if (strlen(once) > 200) {
        cvx_answer_error(a, 400, NULL, "Idempotency-Key: more than 200 bytes");
        return;
    }
    Cvx__Plan plan = CVX__PLAN__INIT;
    spec->plan = &plan;
    cvx_status st = cvx_spec_plan(s, spec, NULL);
    if (st == CVX_OK) {
        cvx_job_id(id);
        spec->version = 1;
        spec->id = id;
        spec->owner = (char *)q->owner;
        spec->created_ms = cvx_now_ms();
        st = cvx_jobs_create(r, spec, once, limits_of(s, q->owner), made, &later);
    }
    if (st != CVX_OK) {
        cvx_answer_status(a, st, NULL);
    } else if (later > 0) {
        cvx_answer_error(a, 429, NULL, "%s", cvx_error());
        a->retry_after = later;
    } else {
        show(s, r, made, q, a);
    }
    if (q->image != NULL && (st != CVX_OK || later > 0 || strcmp(made, id) != 0)) {
        (void)remove(q->image); /* the job that it came for is not new */
    }
}

static void create(cvx_server *s, cvx_redis *r, const cvx_http_request *q, cvx_http_answer *a)
{
    Cvx__JobSpec spec = CVX__JOB_SPEC__INIT;
    const char *param;
    cvx_status st = cvx_spec_fill(s, &spec, q->fields, &param);

    if (st != CVX_OK) {
        cvx_answer_status(a, st, param);
    } else {
        spec.image = q->image != NULL ? (char *)q->image : spec.image;
        enqueue(s, r, q, &spec, a);
    }
    cvx_spec_free(&spec);
}

static void remix(cvx_server *s, cvx_redis *r, const char *id, const cvx_http_request *q,
                  cvx_http_answer *a)
{
    const char *prompt = json_string_value(json_object_get(q->fields, "prompt"));
    cvx_job_view v;

    if (!find_job(r, q, id, &v, a)) {
        return;
    }
    if (prompt == NULL || prompt[0] == 0) {
        cvx_answer_error(a, 400, "prompt", "prompt: what the new video shows is needed");
    } else {
        Cvx__JobSpec spec = *v.spec; /* its strings stay the view's */
        spec.prompt = (char *)prompt;
        spec.remixed_from = v.id;
        spec.deadline_ms = 0;
        enqueue(s, r, q, &spec, a);
    }
    cvx_job_view_free(&v);
}

static void plan(cvx_server *s, const cvx_http_request *q, cvx_http_answer *a)
{
    Cvx__JobSpec spec = CVX__JOB_SPEC__INIT;
    const char *param;
    cvx_status st = cvx_spec_fill(s, &spec, q->fields, &param);

    if (st == CVX_OK) {
        param = NULL;
        st = cvx_spec_plan(s, &spec, &a->json);
    }
    if (st != CVX_OK) {
        cvx_answer_status(a, st, param);
    }
    cvx_spec_free(&spec);
}

static bool is_state(const char *text)
{
    static const char *const states[] = {"queued", "in_progress", "completed", "failed",
                                         "cancelled"};
    for (size_t i = 0; i < sizeof states / sizeof *states; i++) {
        if (strcmp(text, states[i]) == 0) {
            return true;
        }
    }
    return false;
}

static bool list_bounds(const cvx_http_request *q, int64_t *limit, bool *ascending,
                        cvx_http_answer *a)
{
    char *end;

    *limit = q->limit != NULL ? strtol(q->limit, &end, 10) : 20;
    if (q->limit != NULL && (*end != 0 || *limit < 1 || *limit > LIST_MAX)) {
        cvx_answer_error(a, 400, "limit", "limit: a number from 1 to %d is meant", LIST_MAX);
        return false;
    }
    *ascending = q->order != NULL && strcmp(q->order, "asc") == 0;
    if (q->order != NULL && !*ascending && strcmp(q->order, "desc") != 0) {
        cvx_answer_error(a, 400, "order", "order: asc or desc is meant");
        return false;
    }
    if (q->status != NULL && !is_state(q->status)) {
        cvx_answer_error(a, 400, "status",
                         "status: queued, in_progress, completed, failed or cancelled is meant");
        return false;
    }
    if (q->after != NULL && !cvx_job_id_valid(q->after)) {
        cvx_answer_error(a, 400, "after", "after: not a video's id");
        return false;
    }
    return true;
}

static void list(cvx_server *s, cvx_redis *r, const cvx_http_request *q, cvx_http_answer *a)
{
    char ids[LIST_MAX + 1][CVX_ID_MAX];
    int64_t limit, n = 0;
    bool ascending, found;
    cvx_job_view v;

    if (!list_bounds(q, &limit, &ascending, a)) {
        return;
    }
    cvx_status st = cvx_jobs_list(r, q->owner, q->status, q->after != NULL ? q->after : "",
                                  ascending, limit + 1, ids, &n);
    json_t *data = json_array();
    for (int64_t i = 0; st == CVX_OK && i < n && i < limit; i++) {
        st = cvx_jobs_get(r, ids[i], &v, &found);
        if (st == CVX_OK && found) {
            json_array_append_new(data, cvx_video_json(s, &v));
            cvx_job_view_free(&v);
        }
    }
    if (st != CVX_OK) {
        json_decref(data);
        cvx_answer_status(a, st, "after");
        return;
    }
    a->json = json_pack("{s:s, s:o, s:s?, s:s?, s:b}", "object", "list", "data", data, "first_id",
                        n > 0 ? ids[0] : NULL, "last_id",
                        n > 0 ? ids[(n < limit ? n : limit) - 1] : NULL, "has_more", n > limit);
}

/* The file of a variant; NULL: there is none yet. */
static const char *variant_file(const cvx_job_view *v, const char *variant)
{
    if (strcmp(variant, "preview") == 0) {
        return v->progress != NULL && v->progress->preview[0] != 0 ? v->progress->preview : NULL;
    }
    if (strcmp(v->state, "completed") != 0 || v->result == NULL) {
        return NULL;
    }
    const char *file = strcmp(variant, "video") == 0       ? v->result->video
                       : strcmp(variant, "thumbnail") == 0 ? v->result->thumbnail
                                                           : v->result->spritesheet;
    return file[0] != 0 ? file : NULL;
}

static void content(cvx_redis *r, const char *id, const cvx_http_request *q, cvx_http_answer *a)
{
    static const char *const variants[] = {"video", "thumbnail", "spritesheet", "preview"};
    const char *variant = q->variant != NULL ? q->variant : "video";
    cvx_job_view v;

    if (!find_job(r, q, id, &v, a)) {
        return;
    }
    const char *file = variant_file(&v, variant);
    bool known = false;
    for (size_t i = 0; i < sizeof variants / sizeof *variants; i++) {
        known |= strcmp(variant, variants[i]) == 0;
    }
    if (!known) {
        cvx_answer_error(a, 400, "variant",
                         "variant: video, thumbnail, spritesheet or preview is meant");
    } else if (file == NULL) {
        cvx_answer_error(a, 409, NULL, "video %s is %s and has no %s", id, v.state, variant);
    } else {
        a->file = strdup(file);
        a->type = strcmp(variant, "video") == 0 ? "video/mp4" : "image/png";
    }
    cvx_job_view_free(&v);
}

static void cancel(cvx_server *s, cvx_redis *r, const char *id, const cvx_http_request *q,
                   cvx_http_answer *a)
{
    cvx_job_view v;
    char state[16];

    if (find_job(r, q, id, &v, a)) {
        cvx_job_view_free(&v);
        cvx_status st = cvx_jobs_cancel(r, id, state);
        if (st != CVX_OK) {
            cvx_answer_status(a, st, NULL);
        } else {
            show(s, r, id, q, a);
        }
    }
}

static void erase(const cvx_server *s, cvx_redis *r, const char *id, const cvx_http_request *q,
                  cvx_http_answer *a)
{
    cvx_job_view v;
    char state[16];
    bool removed = false;

    if (!find_job(r, q, id, &v, a)) {
        return;
    }
    cvx_job_view_free(&v);
    cvx_status st = cvx_jobs_cancel(r, id, state);
    if (st == CVX_OK) {
        st = cvx_keep_remove(s, r, id, &removed);
    }
    if (st != CVX_OK) {
        cvx_answer_status(a, st, NULL);
    } else if (!removed) { /* it runs: it is gone once its pool has heard */
        cvx_answer_error(a, 409, NULL, "video %s is being cancelled; delete it again in a moment",
                         id);
        a->retry_after = 1;
    } else {
        a->json = json_pack("{s:s, s:s, s:b}", "id", id, "object", "video.deleted", "deleted", 1);
    }
}

static void events(cvx_redis *r, const char *id, const cvx_http_request *q, cvx_http_answer *a)
{
    cvx_job_view v;

    if (find_job(r, q, id, &v, a)) {
        a->events = strdup(v.id);
        cvx_job_view_free(&v);
    }
}

static void pools(cvx_redis *r, cvx_http_answer *a)
{
    Cvx__PoolStatus *p[CVX_MAX_POOLS];
    int n;
    cvx_status st = cvx_pools_list(r, p, CVX_MAX_POOLS, &n);
    json_t *data = json_array();

    for (int i = 0; i < n; i++) {
        json_array_append_new(
            data, json_pack("{s:s, s:s, s:i, s:s, s:s, s:s?, s:s, s:I, s:f}", "id", p[i]->name,
                            "state", p[i]->state, "ranks", (int)p[i]->size, "host", p[i]->host,
                            "device", p[i]->device, "job", p[i]->job[0] != 0 ? p[i]->job : NULL,
                            "mesh", p[i]->mesh, "completed", (json_int_t)p[i]->completed,
                            "age_seconds", (double)(cvx_now_ms() - p[i]->seen_ms) * 1e-3));
        cvx__pool_status__free_unpacked(p[i], NULL);
    }
    if (st != CVX_OK) {
        json_decref(data);
        cvx_answer_status(a, st, NULL);
        return;
    }
    a->json = json_pack("{s:s, s:o}", "object", "list", "data", data);
}

static void models(const cvx_server *s, cvx_http_answer *a)
{
    a->json = json_pack("{s:s, s:[{s:s, s:s, s:i, s:s}]}", "object", "list", "data", "id",
                        s->model_name, "object", "model", "created", 0, "owned_by", "cvx");
}

/* Ready: Redis answers, and a pool is there. */
static void ready(cvx_redis *r, cvx_http_answer *a)
{
    Cvx__PoolStatus *p[1];
    int n = 0;
    cvx_status st = cvx_pools_list(r, p, 1, &n);

    if (st != CVX_OK) {
        cvx_answer_status(a, st, NULL);
    } else if (n == 0) {
        cvx_answer_error(a, 503, NULL, "no pool of ranks is there");
    } else {
        cvx__pool_status__free_unpacked(p[0], NULL);
        a->json = json_pack("{s:s}", "status", "ready");
    }
}

/* "/v1/videos/ID/rest": ID into id, rest (or ""); false: not below the prefix. */
static bool below(const char *path, const char *prefix, char id[CVX_ID_MAX], const char **rest)
{
    size_t n = strlen(prefix), len;

    if (strncmp(path, prefix, n) != 0) {
        return false;
    }
    len = strcspn(path + n, "/");
    snprintf(id, CVX_ID_MAX, "%.*s", (int)(len < 60 ? len : 60), path + n);
    *rest = path[n + len] == '/' ? path + n + len + 1 : "";
    return len > 0;
}

/* A video's own paths; false: none of them. */
static bool route_video(cvx_server *s, cvx_redis *r, const cvx_http_request *q, cvx_http_answer *a)
{
    bool get = strcmp(q->method, "GET") == 0, post = strcmp(q->method, "POST") == 0;
    char id[CVX_ID_MAX];
    const char *rest;

    if (below(q->path, "/v1/videos/", id, &rest)) {
        if (rest[0] == 0 && get) {
            show(s, r, id, q, a);
        } else if (rest[0] == 0 && strcmp(q->method, "DELETE") == 0) {
            erase(s, r, id, q, a);
        } else if (strcmp(rest, "content") == 0 && get) {
            content(r, id, q, a);
        } else if (strcmp(rest, "remix") == 0 && post) {
            remix(s, r, id, q, a);
        } else {
            return false;
        }
        return true;
    }
    if (below(q->path, "/v1/jobs/", id, &rest)) {
        if (strcmp(rest, "events") == 0 && get) {
            events(r, id, q, a);
        } else if (strcmp(rest, "cancel") == 0 && post) {
            cancel(s, r, id, q, a);
        } else {
            return false;
        }
        return true;
    }
    return false;
}

void cvx_api(cvx_server *s, const cvx_http_request *q, cvx_http_answer *a)
{
    char route[80];
    cvx_redis *r;

    snprintf(route, sizeof route, "%s %.60s", q->method, q->path);
    if (strcmp(route, "GET /healthz") == 0) {
        a->json = json_pack("{s:s}", "status", "ok");
        return;
    }
    if (strcmp(route, "GET /") == 0) {
        a->text = strdup((const char *)cvx_page);
        a->type = "text/html; charset=utf-8";
        return;
    }
    cvx_status st = cvx_server_redis(s, &r);
    if (st != CVX_OK) {
        cvx_answer_status(a, st, NULL);
        return;
    }
    if (strcmp(route, "POST /v1/videos") == 0) {
        create(s, r, q, a);
    } else if (strcmp(route, "GET /v1/videos") == 0) {
        list(s, r, q, a);
    } else if (strcmp(route, "POST /v1/plan") == 0) {
        plan(s, q, a);
    } else if (strcmp(route, "GET /v1/models") == 0) {
        models(s, a);
    } else if (strcmp(route, "GET /v1/pools") == 0) {
        pools(r, a);
    } else if (strcmp(route, "GET /metrics") == 0) {
        cvx_metrics(r, a);
    } else if (strcmp(route, "GET /readyz") == 0) {
        ready(r, a);
    } else if (!route_video(s, r, q, a)) {
        cvx_answer_error(a, 404, NULL, "nothing at %s; docs/api.md names what there is", route);
    }
    cvx_server_release(s, r);
}
