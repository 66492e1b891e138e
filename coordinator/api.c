/* The requests of docs/api.md. */
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "coordinator/server.h"

extern const unsigned char cvx_page[], cvx_openapi[];

#define LIST_MAX 100
#define POLL_MS 1000
#define RUNNING_MAX 4096
#define PART_MAX 256 /* of a path, with its end: as long as a folder's name can be */

/* A request being answered. */
typedef struct call {
    cvx_server *s;
    cvx_redis *r; /* NULL where the route needs none */
    const cvx_http_request *q;
    cvx_http_answer *a;
    char id[PART_MAX]; /* what stands in the path's {id} */
} call;

/* The job of a request's path, if it is the asker's; else the answer is set. */
static bool find_job(call *c, cvx_redis *r, cvx_job_view *v)
{
    bool found = false;
    cvx_status st = CVX_OK;

    if (cvx_job_id_valid(c->id)) {
        st = cvx_jobs_get(r, c->id, v, &found);
    }
    if (st != CVX_OK) {
        cvx_answer_status(c->a, st, NULL);
        return false;
    }
    if (found && strcmp(v->owner, c->q->owner) != 0) { /* others' jobs are as if they were not */
        cvx_job_view_free(v);
        found = false;
    }
    if (!found) {
        cvx_answer_error(c->a, 404, "id", "no video '%.60s'", c->id);
    }
    return found;
}

/* A connection for a route that holds one only for a while; NULL: the answer is set. */
static cvx_redis *borrow(call *c)
{
    cvx_redis *r = NULL;
    cvx_status st = cvx_server_redis(c->s, &r);

    if (st != CVX_OK) {
        cvx_answer_status(c->a, st, NULL);
        return NULL;
    }
    return r;
}

/* The job as its asker sees it. */
static json_t *video(const call *c, cvx_redis *r, const cvx_job_view *v)
{
    return cvx_video_json(c->s, v,
                          strcmp(v->state, "queued") == 0 ? cvx_wait_seconds(r, v->id) : -1);
}

static void show_with(call *c, cvx_redis *r)
{
    cvx_job_view v;

    if (find_job(c, r, &v)) {
        bool over = v.completed_ms > 0;
        c->a->json = video(c, r, &v);
        c->a->poll_after_ms = over ? 0 : POLL_MS;
        cvx_job_view_free(&v);
    }
}

static void show(call *c)
{
    show_with(c, c->r);
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

/* Puts a planned spec among the jobs and shows it. */
static void enqueue(call *c, Cvx__JobSpec *spec)
{
    const char *once = c->q->idempotency_key != NULL ? c->q->idempotency_key : "";
    char id[CVX_ID_MAX];
    int later = 0;
    cvx_redis *r = borrow(c);

    if (r == NULL) {
        return;
    }
    cvx_job_id(id);
    spec->version = 1;
    spec->id = id;
    spec->owner = (char *)c->q->owner;
    spec->created_ms = cvx_now_ms();
    cvx_status st = cvx_jobs_create(r, spec, once, limits_of(c->s, c->q->owner), c->id, &later);
    if (st != CVX_OK) {
        cvx_answer_status(c->a, st, NULL);
    } else if (later > 0) {
        cvx_answer_error(c->a, 429, NULL, "%s", cvx_error());
        c->a->retry_after = later;
    } else {
        c->a->keeps_image = strcmp(c->id, id) == 0; /* else the job is none that is new */
        snprintf(c->a->job, sizeof c->a->job, "%.38s", c->id);
        if (strcmp(c->id, id) == 0) {
            cvx_log(CVX_LOG_INFO, id, "queued for %s", c->q->owner);
        }
        show_with(c, r);
    }
    cvx_server_release(c->s, r);
}

/* What the whole of a spec lacks; it is planned without a connection to Redis, which others need meanwhile. */
static void submit(call *c, Cvx__JobSpec *spec)
{
    Cvx__Plan plan = CVX__PLAN__INIT;
    const char *param = NULL;

    if (c->q->idempotency_key != NULL && strlen(c->q->idempotency_key) > 200) {
        cvx_answer_error(c->a, 400, NULL, "Idempotency-Key: more than 200 bytes");
        return;
    }
    spec->image = c->q->image != NULL ? (char *)c->q->image : spec->image;
    spec->plan = &plan;
    cvx_status st = cvx_spec_plan(c->s, spec, NULL, &param);
    if (st != CVX_OK) {
        cvx_answer_status(c->a, st, param);
    } else {
        enqueue(c, spec);
    }
}

static bool fill(call *c, Cvx__JobSpec *spec)
{
    const char *param;
    cvx_status st = cvx_spec_fill(c->s, spec, c->q->fields, c->q->form, &param);

    if (st == CVX_OK && spec->model[0] != 0 && strcmp(spec->model, c->s->model_name) != 0) {
        param = "model";
        st = cvx_fail(CVX_EINVAL, "model '%.60s' is not here; '%s' is", spec->model,
                      c->s->model_name);
    }
    if (st != CVX_OK) {
        cvx_answer_status(c->a, st, param);
    }
    return st == CVX_OK;
}

/* The file of the video that the body's `extend` names, a completed one of the asker's: into path, and into the spec. False:
 * there is none, and that is the answer. */
static bool find_clip(call *c, Cvx__JobSpec *spec, char path[CVX_PATH_MAX])
{
    const json_t *field = json_object_get(c->q->fields, "extend");
    const char *id = json_string_value(field);
    cvx_job_view v;
    bool found = false;

    if (field == NULL || json_is_null(field) || (c->q->form && id != NULL && id[0] == 0)) {
        return true;
    }
    cvx_redis *r = borrow(c);
    if (r == NULL) {
        return false;
    }
    cvx_status st = id != NULL && cvx_job_id_valid(id) ? cvx_jobs_get(r, id, &v, &found) : CVX_OK;
    cvx_server_release(c->s, r);
    if (st != CVX_OK) {
        cvx_answer_status(c->a, st, "extend");
        return false;
    }
    path[0] = 0;
    if (found && strcmp(v.owner, c->q->owner) == 0 && v.result != NULL) {
        snprintf(path, CVX_PATH_MAX, "%s", v.result->video);
    }
    if (found) {
        cvx_job_view_free(&v);
    }
    if (path[0] == 0) {
        cvx_answer_error(c->a, 400, "extend", "extend: no completed video '%.60s'",
                         id != NULL ? id : "");
        return false;
    }
    spec->extend = path;
    return true;
}

static void create(call *c)
{
    Cvx__JobSpec spec = CVX__JOB_SPEC__INIT;
    char clip[CVX_PATH_MAX];

    cvx_spec_defaults(&spec);
    if (fill(c, &spec) && find_clip(c, &spec, clip)) {
        submit(c, &spec);
    }
    cvx_spec_free(&spec, NULL);
}

/* The same job with another prompt, and with what else the body names. */
static void remix(call *c)
{
    cvx_redis *r = borrow(c);
    cvx_job_view v;

    if (r == NULL) {
        return;
    }
    bool found = find_job(c, r, &v);
    cvx_server_release(c->s, r);
    if (!found) {
        return;
    }
    Cvx__JobSpec spec = *v.spec; /* its strings stay the view's */
    spec.prompt = (char *)protobuf_c_empty_string;
    spec.remixed_from = v.id;
    spec.deadline_ms = 0;
    char clip[CVX_PATH_MAX];
    if (fill(c, &spec) && find_clip(c, &spec, clip)) {
        submit(c, &spec);
    }
    cvx_spec_free(&spec, v.spec);
    cvx_job_view_free(&v);
}

static void plan(call *c)
{
    Cvx__JobSpec spec = CVX__JOB_SPEC__INIT;
    const char *param = NULL;

    char clip[CVX_PATH_MAX];

    cvx_spec_defaults(&spec);
    if (fill(c, &spec) && find_clip(c, &spec, clip)) {
        spec.image = c->q->image != NULL ? (char *)c->q->image : spec.image;
        cvx_status st = cvx_spec_plan(c->s, &spec, &c->a->json, &param);
        if (st != CVX_OK) {
            cvx_answer_status(c->a, st, param);
        }
    }
    cvx_spec_free(&spec, NULL);
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
    size_t digits = q->limit != NULL ? strspn(q->limit, "0123456789") : 0;

    *limit = q->limit != NULL ? strtol(q->limit, NULL, 10) : 20;
    if (q->limit != NULL && (q->limit[digits] != 0 || *limit < 1 || *limit > LIST_MAX)) {
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

static void list(call *c)
{
    const cvx_http_request *q = c->q;
    cvx_http_answer *a = c->a;
    char ids[LIST_MAX + 1][CVX_ID_MAX];
    int64_t limit, n = 0;
    bool ascending, found;
    cvx_job_view v;

    if (!list_bounds(q, &limit, &ascending, a)) {
        return;
    }
    cvx_status st = cvx_jobs_list(c->r, q->owner, q->status, q->after != NULL ? q->after : "",
                                  ascending, limit + 1, ids, &n);
    json_t *data = json_array();
    for (int64_t i = 0; st == CVX_OK && i < n && i < limit; i++) {
        st = cvx_jobs_get(c->r, ids[i], &v, &found);
        if (st == CVX_OK && found) {
            json_array_append_new(data, video(c, c->r, &v));
            cvx_job_view_free(&v);
        } else if (st == CVX_EFORMAT) { /* it keeps nobody from the others */
            cvx_log(CVX_LOG_WARN, ids[i], "left out of a list: %s", cvx_error());
            st = CVX_OK;
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

static void content(call *c)
{
    static const char *const variants[] = {"video", "thumbnail", "spritesheet", "preview"};
    const char *variant = c->q->variant != NULL ? c->q->variant : "video";
    cvx_http_answer *a = c->a;
    cvx_job_view v;

    if (!find_job(c, c->r, &v)) {
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
        cvx_answer_error(a, 409, NULL, "video %s is %s and has no %s", c->id, v.state, variant);
    } else {
        a->file = strdup(file);
        a->type = strcmp(variant, "video") == 0 ? "video/mp4" : "image/png";
    }
    cvx_job_view_free(&v);
}

static void cancel(call *c)
{
    cvx_job_view v;
    char state[16];

    if (find_job(c, c->r, &v)) {
        cvx_job_view_free(&v);
        cvx_status st = cvx_jobs_cancel(c->r, c->id, state);
        if (st != CVX_OK) {
            cvx_answer_status(c->a, st, NULL);
        } else {
            cvx_log(CVX_LOG_INFO, c->id, "to be cancelled: %s asks", c->q->owner);
            show(c);
        }
    }
}

static void erase(call *c)
{
    cvx_job_view v;
    char state[16];
    bool removed = false;

    if (!find_job(c, c->r, &v)) {
        return;
    }
    cvx_job_view_free(&v);
    cvx_status st = cvx_jobs_cancel(c->r, c->id, state);
    if (st == CVX_OK) {
        st = cvx_keep_remove(c->s, c->r, c->id, &removed);
    }
    if (st != CVX_OK) {
        cvx_answer_status(c->a, st, NULL);
    } else if (!removed) { /* it runs: it is gone once its pool has heard */
        cvx_answer_error(c->a, 409, NULL,
                         "video %s is being cancelled; delete it again in a moment", c->id);
        c->a->retry_after = 1;
    } else {
        cvx_log(CVX_LOG_INFO, c->id, "deleted: %s asks", c->q->owner);
        c->a->json =
            json_pack("{s:s, s:s, s:b}", "id", c->id, "object", "video.deleted", "deleted", 1);
    }
}

static void events(call *c)
{
    cvx_job_view v;

    if (find_job(c, c->r, &v)) {
        c->a->events = strdup(v.id);
        cvx_job_view_free(&v);
    }
}

/* The jobs that run, by the name of their pool: a pool that is split has several. */
static cvx_status running(cvx_redis *r, json_t *by_pool)
{
    char(*id)[CVX_ID_MAX] = calloc(RUNNING_MAX, sizeof *id), pool[128];
    int64_t n = 0;
    cvx_status st = id != NULL ? cvx_jobs_running(r, RUNNING_MAX, id, &n)
                               : cvx_fail(CVX_ENOMEM, "no memory for the running jobs");

    for (int64_t i = 0; i < n && st == CVX_OK; i++) {
        st = cvx_jobs_pool(r, id[i], pool);
        json_t *list = json_object_get(by_pool, pool);
        if (list == NULL) {
            json_object_set_new(by_pool, pool, list = json_array());
        }
        json_array_append_new(list, json_string(id[i]));
    }
    free(id);
    return st;
}

static json_t *members_json(const Cvx__PoolStatus *p)
{
    json_t *list = json_array();

    for (size_t i = 0; i < p->n_ranks; i++) {
        const Cvx__RankStatus *r = p->ranks[i];
        json_array_append_new(list,
                              json_pack("{s:i, s:s, s:s, s:i}", "rank", (int)r->rank, "host",
                                        r->host, "device", r->device, "threads", (int)r->threads));
    }
    return list;
}

static json_t *pool_json(const Cvx__PoolStatus *p, json_t *jobs)
{
    return json_pack("{s:s, s:s, s:i, s:s, s:s, s:s?, s:s, s:I, s:f, s:i, s:I, s:f, s:O, s:o}",
                     "id", p->name, "state", p->state, "ranks", (int)p->size, "host", p->host,
                     "device", p->device, "job", p->job[0] != 0 ? p->job : NULL, "mesh", p->mesh,
                     "completed", (json_int_t)p->completed, "age_seconds",
                     (double)(cvx_now_ms() - p->seen_ms) * 1e-3, "groups", (int)p->groups,
                     "memory_bytes", (json_int_t)p->rank_bytes * p->size, "rank_tflops", p->tflops,
                     "jobs", jobs, "members", members_json(p));
}

static void pools(call *c)
{
    Cvx__PoolStatus *p[CVX_MAX_POOLS];
    int n;
    cvx_status st = cvx_pools_list(c->r, p, CVX_MAX_POOLS, &n);
    json_t *data = json_array(), *by_pool = json_object(), *none = json_array();

    st = st == CVX_OK ? running(c->r, by_pool) : st;
    for (int i = 0; i < n; i++) {
        json_t *jobs = json_object_get(by_pool, p[i]->name);
        json_array_append_new(data, pool_json(p[i], jobs != NULL ? jobs : none));
        cvx__pool_status__free_unpacked(p[i], NULL);
    }
    json_decref(by_pool);
    json_decref(none);
    if (st != CVX_OK) {
        json_decref(data);
        cvx_answer_status(c->a, st, NULL);
        return;
    }
    c->a->json = json_pack("{s:s, s:o}", "object", "list", "data", data);
}

static json_t *model_json(const cvx_server *s)
{
    return json_pack("{s:s, s:s, s:I, s:s}", "id", s->model_name, "object", "model", "created",
                     (json_int_t)(s->started_ms / 1000), "owned_by", "cvx");
}

static void models(call *c)
{
    c->a->json = json_pack("{s:s, s:[o]}", "object", "list", "data", model_json(c->s));
}

static void model(call *c)
{
    if (strcmp(c->id, c->s->model_name) == 0) {
        c->a->json = model_json(c->s);
    } else {
        cvx_answer_error(c->a, 404, "model", "no model '%.100s'; '%s' is here", c->id,
                         c->s->model_name);
    }
}

/* Ready: Redis answers, and a pool is there. */
static void ready(call *c)
{
    Cvx__PoolStatus *p[1];
    int n = 0;
    cvx_status st = cvx_pools_list(c->r, p, 1, &n);

    if (st != CVX_OK) {
        cvx_answer_status(c->a, st, NULL);
    } else if (n == 0) {
        cvx_answer_error(c->a, 503, NULL, "no pool of ranks is there");
    } else {
        cvx__pool_status__free_unpacked(p[0], NULL);
        c->a->json = json_pack("{s:s}", "status", "ready");
    }
}

static void health(call *c)
{
    c->a->json = json_pack("{s:s}", "status", "ok");
}

static void page(call *c)
{
    c->a->text = strdup((const char *)cvx_page);
    c->a->type = "text/html; charset=utf-8";
}

static void openapi(call *c)
{
    c->a->text = strdup((const char *)cvx_openapi);
    c->a->type = "application/json";
}

/* Also without Redis: that it is away is what a metric tells. */
static void metrics(call *c)
{
    cvx_redis *r = NULL;

    if (cvx_server_redis(c->s, &r) != CVX_OK) {
        r = NULL;
    }
    cvx_metrics(r, c->a);
    if (r != NULL) {
        cvx_server_release(c->s, r);
    }
}

/* {id} is any part of a path. */
static const struct {
    const char *method, *path;
    bool redis; /* a connection to it, from beginning to end */
    void (*answer)(call *c);
} routes[] = {{"GET", "/", false, page},
              {"GET", "/openapi.json", false, openapi},
              {"GET", "/healthz", false, health},
              {"GET", "/readyz", true, ready},
              {"GET", "/metrics", false, metrics},
              {"GET", "/v1/models", false, models},
              {"GET", "/v1/models/{id}", false, model},
              {"GET", "/v1/pools", true, pools},
              {"POST", "/v1/plan", false, plan},
              {"POST", "/v1/videos", false, create},
              {"GET", "/v1/videos", true, list},
              {"GET", "/v1/videos/{id}", true, show},
              {"DELETE", "/v1/videos/{id}", true, erase},
              {"GET", "/v1/videos/{id}/content", true, content},
              {"POST", "/v1/videos/{id}/remix", false, remix},
              {"POST", "/v1/jobs/{id}/cancel", true, cancel},
              {"GET", "/v1/jobs/{id}/events", true, events}};
#define ROUTES (sizeof routes / sizeof *routes)

/* Whether a path is of a route; id: what stands in its {id}. */
static bool matches(const char *route, const char *path, char id[PART_MAX])
{
    const char *mark = strstr(route, "{id}");
    size_t n = mark != NULL ? (size_t)(mark - route) : 0;

    if (mark == NULL) {
        return strcmp(route, path) == 0;
    }
    size_t len = strncmp(route, path, n) == 0 ? strcspn(path + n, "/") : 0;
    if (len == 0 || strcmp(mark + 4, path + n + len) != 0) {
        return false;
    }
    snprintf(id, PART_MAX, "%.*s", (int)(len < PART_MAX ? len : PART_MAX - 1), path + n);
    return true;
}

/* Nothing answers this method here, or nothing at all. */
static void refuse(call *c)
{
    static const char *const methods[] = {"GET", "POST", "DELETE"};
    static const char *const allow[] = {NULL,     "GET, HEAD",        "POST", "GET, HEAD, POST",
                                        "DELETE", "GET, HEAD, DELETE"};
    unsigned found = 0;

    for (size_t i = 0; i < ROUTES; i++) {
        for (unsigned k = 0; matches(routes[i].path, c->q->path, c->id) && k < 3; k++) {
            found |= strcmp(routes[i].method, methods[k]) == 0 ? 1u << k : 0;
        }
    }
    if (found == 0) {
        cvx_answer_error(c->a, 404, NULL, "nothing at %.60s; /openapi.json names what there is",
                         c->q->path);
    } else {
        cvx_answer_error(c->a, 405, NULL, "%.12s: not for %.60s", c->q->method, c->q->path);
        c->a->allow = allow[found];
    }
}

void cvx_api(cvx_server *s, const cvx_http_request *q, cvx_http_answer *a)
{
    call c = {.s = s, .q = q, .a = a};
    size_t i = 0;

    while (i < ROUTES &&
           (strcmp(routes[i].method, q->method) != 0 || !matches(routes[i].path, q->path, c.id))) {
        i++;
    }
    if (i == ROUTES) {
        refuse(&c);
    } else if (!routes[i].redis) {
        routes[i].answer(&c);
    } else if ((c.r = borrow(&c)) != NULL) {
        routes[i].answer(&c);
        cvx_server_release(s, c.r);
    }
}
