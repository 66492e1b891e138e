#include "rankworker/record.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/pipeline/arrange.h"
#include "rankworker/result.h"

static double number(const json_t *request, const char *name)
{
    return json_number_value(json_object_get(request, name));
}

static char *string(const json_t *request, const char *name)
{
    const char *text = json_string_value(json_object_get(request, name));
    return text != NULL ? (char *)text : "";
}

/* The spec of a job that would have made it; strings stay the request's. */
static void fill_spec(Cvx__JobSpec *s, const json_t *request)
{
    const json_t *prompt = json_object_get(request, "prompt");

    s->version = 1;
    s->prompt = string(request, "prompt");
    if (json_is_array(prompt)) { /* a timeline: its first */
        s->prompt = (char *)json_string_value(json_array_get(prompt, 0));
    }
    s->negative_prompt = string(request, "negative-prompt");
    s->scheduler = string(request, "scheduler");
    s->model = strrchr(string(request, "model"), '/');
    s->model = s->model != NULL ? s->model + 1 : string(request, "model");
    s->num_frames = (int64_t)number(request, "num-frames");
    s->width = (int64_t)number(request, "width");
    s->height = (int64_t)number(request, "height");
    s->fps = number(request, "fps");
    s->num_inference_steps = (int64_t)number(request, "num-inference-steps");
    s->guidance_scale = number(request, "guidance-scale");
    s->seed = json_integer_value(json_object_get(request, "seed"));
    s->interpolate = (int64_t)number(request, "interpolate");
    s->upscale = number(request, "upscale");
    s->priority = 1;
}

static double run_seconds(const json_t *manifest)
{
    const json_t *stage;
    size_t i;
    double sum = 0;

    json_array_foreach(json_object_get(manifest, "stages"), i, stage)
    {
        sum += number(stage, "seconds");
    }
    return sum;
}

/* Where the run was scored, the frames of its file are: as a pool does it. */
static cvx_status score(cvx_record *r, Cvx__Result *result, const cvx_finished *f)
{
    const json_t *request = json_object_get(f->manifest, "request");
    const json_t *prompt = json_object_get(request, "prompt"), *one;
    cvx_opt_list prompts = {.item = {string(request, "prompt")}, .n = 1};
    size_t i;
    const char *clip = string(request, "clip-model");
    cvx_progress quiet = {0};

    if (json_object_get(f->manifest, "scores") == NULL) {
        return CVX_OK;
    }
    if (r->ctx == NULL) {
        CVX_RETURN_IF(cvx_ctx_open(&r->ctx, &r->options));
    }
    json_array_foreach(prompt, i, one)
    { /* a timeline */
        prompts.item[i] = json_string_value(one);
        prompts.n = (int)i + 1;
    }
    return cvx_result_score(result, r->ctx, clip, &prompts, (int64_t)number(request, "interpolate"),
                            f->path, &quiet);
}

static cvx_status record(cvx_record *r, const cvx_finished *f)
{
    char id[CVX_ID_MAX], path[PATH_MAX], mesh[96];
    cvx_degrees degrees = CVX_DEGREES_ONE;
    Cvx__JobSpec spec = CVX__JOB_SPEC__INIT;
    Cvx__Result result = CVX__RESULT__INIT;

    if (r->redis == NULL) {
        CVX_RETURN_IF(cvx_redis_open(&r->redis, r->url));
    }
    fill_spec(&spec, json_object_get(f->manifest, "request"));
    cvx_job_id(id);
    spec.id = id;
    spec.owner = (char *)(r->owner != NULL ? r->owner : "local");
    result.version = 1;
    result.seconds = run_seconds(f->manifest);
    spec.created_ms = cvx_now_ms() - (int64_t)(result.seconds * 1e3);
    for (int i = 0; i < CVX_MESH_DIMS; i++) {
        int64_t n = (int64_t)number(json_object_get(f->manifest, "mesh"), cvx_mesh_names[i]);
        degrees.n[i] = n > 0 ? (int)n : 1;
    }
    cvx_degrees_describe(&degrees, mesh, sizeof mesh);
    CVX_RETURN_IF(score(r, &result, f));
    result.video = realpath(f->path, path) != NULL ? path : (char *)f->path;
    result.mesh = mesh;
    result.num_frames = f->frames;
    result.width = f->w;
    result.height = f->h;
    result.fps = f->fps;
    cvx_status st = cvx_jobs_record(r->redis, &spec, &result);
    result.video = result.mesh = (char *)protobuf_c_empty_string; /* not the result's own */
    cvx_result_free(&result);
    if (st == CVX_OK) {
        fprintf(stderr, "cvx-rank: recorded as %s\n", id);
    }
    return st;
}

cvx_status cvx_record_video(void *payload, const cvx_finished *f)
{
    if (record(payload, f) != CVX_OK) {
        fprintf(stderr, "cvx-rank: %s: not recorded: %s\n", f->path, cvx_error());
    }
    return CVX_OK;
}

void cvx_record_close(cvx_record *r)
{
    cvx_redis_close(r->redis);
    cvx_ctx_close(r->ctx);
    r->redis = NULL;
    r->ctx = NULL;
}
