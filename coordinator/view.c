/* What a job looks like from outside. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "coordinator/server.h"

static const char *const priorities[] = {"high", "normal", "low"};

/* A text that came from elsewhere: what is no UTF-8 in it is replaced. */
static json_t *text_json(const char *text)
{
    json_t *j = json_string(text);

    if (j == NULL) {
        char *clean = strdup(text);
        if (clean != NULL) {
            cvx_clean_line(clean);
            j = json_string(clean);
        }
        free(clean);
    }
    return j != NULL ? j : json_string("");
}

/* JSON has no other numbers than finite ones. */
static double sane(double x)
{
    return isfinite(x) ? x : 0;
}

static int share(double percent)
{
    return percent >= 0 && percent <= 100 ? (int)percent : 0;
}

json_t *cvx_scores_json(const Cvx__FrameScores *f)
{
    if (f == NULL) {
        return json_null();
    }
    json_t *frames = json_array(), *drift = json_array();
    for (size_t i = 0; i < f->n_frame; i++) {
        json_array_append_new(frames, json_real(sane(f->frame[i])));
    }
    for (size_t i = 0; i < f->n_drift; i++) {
        json_array_append_new(drift, json_integer(f->drift[i]));
    }
    return json_pack("{s:f, s:o, s:o}", "mean", sane(f->mean), "frames", frames, "drift", drift);
}

json_t *cvx_progress_json(const Cvx__Progress *p)
{
    json_t *j = json_pack("{s:o, s:I, s:I, s:i, s:f, s:o}", "stage", text_json(p->stage), "step",
                          (json_int_t)p->step, "steps", (json_int_t)p->steps, "progress",
                          share(p->percent), "eta_seconds", sane(p->eta_seconds), "mesh",
                          p->mesh[0] != 0 ? text_json(p->mesh) : json_null());
    if (p->preview[0] != 0) {
        json_object_set_new(j, "preview_step", json_integer(p->preview_step));
    }
    return j;
}

static json_t *seconds_or_null(int64_t ms)
{
    return ms > 0 ? json_integer(ms / 1000) : json_null();
}

/* What went wrong so far, one text a try; the last one is also why it waits or has failed. */
static json_t *causes(const cvx_job_view *v)
{
    json_t *list = json_array();

    for (const char *line = v->causes; *line != 0;) {
        size_t n = strcspn(line, "\n");
        char *one = strndup(line, n);
        json_array_append_new(list, text_json(one != NULL ? one : ""));
        free(one);
        line += n + (line[n] != 0);
    }
    return list;
}

/* What is ours in the object. */
static json_t *extension(const cvx_job_view *v, double wait_seconds)
{
    const Cvx__JobSpec *s = v->spec;
    const Cvx__Result *r = v->result;
    json_t *j = v->progress != NULL ? cvx_progress_json(v->progress) : json_object();

    json_object_del(j, "progress");
    json_object_set_new(j, "pool", text_json(v->pool));
    json_object_set_new(j, "attempts", json_integer(v->attempts));
    json_object_set_new(j, "cause", v->cause[0] != 0 ? text_json(v->cause) : json_null());
    json_object_set_new(j, "causes", causes(v));
    json_object_set_new(j, "wait_seconds",
                        wait_seconds < 0 ? json_null() : json_real(wait_seconds));
    json_object_set_new(j, "priority", json_string(priorities[(unsigned)s->priority % 3]));
    json_object_set_new(j, "seed", json_integer(s->seed));
    json_object_set_new(j, "num_frames", json_integer(r != NULL ? r->num_frames : s->num_frames));
    json_object_set_new(j, "fps", json_real(sane(r != NULL ? r->fps : s->fps)));
    json_object_set_new(j, "width", json_integer(r != NULL ? r->width : s->width));
    json_object_set_new(j, "height", json_integer(r != NULL ? r->height : s->height));
    json_object_set_new(j, "num_inference_steps", json_integer(s->num_inference_steps));
    json_object_set_new(j, "guidance_scale", json_real(sane(s->guidance_scale)));
    json_object_set_new(j, "negative_prompt", text_json(s->negative_prompt));
    json_object_set_new(j, "scheduler",
                        s->scheduler[0] != 0 ? text_json(s->scheduler) : json_null());
    json_object_set_new(j, "interpolate", json_integer(s->interpolate > 1 ? s->interpolate : 1));
    json_object_set_new(j, "upscale", json_real(s->upscale > 1 ? sane(s->upscale) : 1));
    json_object_set_new(j, "input_reference", json_boolean(s->image[0] != 0));
    if (r != NULL || v->progress == NULL) {
        json_object_set_new(j, "mesh", r != NULL ? text_json(r->mesh) : json_null());
    }
    if (s->plan != NULL) {
        json_object_set_new(j, "plan",
                            json_pack("{s:f, s:f, s:I}", "tflop", sane(s->plan->tflop), "seconds",
                                      sane(s->plan->seconds), "bytes", (json_int_t)s->plan->bytes));
    }
    json_t *lora = json_array();
    for (size_t i = 0; i < s->n_lora; i++) {
        json_array_append_new(lora, text_json(s->lora[i]));
    }
    json_object_set_new(j, "lora", lora);
    json_object_set_new(j, "options", cvx_spec_options(s));
    json_object_set_new(j, "run_seconds", r != NULL ? json_real(sane(r->seconds)) : json_null());
    json_object_set_new(j, "scores", cvx_scores_json(v->scores));
    return j;
}

json_t *cvx_video_json(const cvx_server *server, const cvx_job_view *v, double wait_seconds)
{
    const Cvx__JobSpec *s = v->spec;
    bool done = strcmp(v->state, "completed") == 0, failed = strcmp(v->state, "failed") == 0;
    int progress = done ? 100 : v->progress != NULL ? share(v->progress->percent) : 0;
    char size[48], seconds[24];
    int64_t expires = v->completed_ms > 0 && server->retention_ms > 0
                          ? v->completed_ms + server->retention_ms
                          : 0;

    snprintf(size, sizeof size, "%lldx%lld", (long long)s->width, (long long)s->height);
    snprintf(seconds, sizeof seconds, "%.6g", s->fps > 0 ? (double)s->num_frames / s->fps : 0);
    json_t *error =
        failed ? json_pack("{s:s, s:o}", "code", "job_failed", "message", text_json(v->cause))
               : json_null();
    return json_pack(
        "{s:s, s:s, s:o, s:s, s:i, s:I, s:o, s:o, s:o, s:s, s:s, s:o, s:o, s:o}", "id", v->id,
        "object", "video", "model", text_json(s->model[0] != 0 ? s->model : server->model_name),
        "status", v->state, "progress", progress, "created_at", (json_int_t)(v->created_ms / 1000),
        "completed_at", seconds_or_null(v->completed_ms), "expires_at", seconds_or_null(expires),
        "prompt", text_json(s->prompt), "seconds", seconds, "size", size, "remixed_from_video_id",
        s->remixed_from[0] != 0 ? text_json(s->remixed_from) : json_null(), "error", error, "cvx",
        extension(v, wait_seconds));
}
