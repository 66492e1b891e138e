#include "model/pipeline/generate.h"

#include <stdlib.h>
#include <string.h>

#include "model/clip/score.h"
#include "model/pipeline/manifest.h"
#include "model/pipeline/output.h"

cvx_status cvx_request_ctx(cvx_ctx **out, const cvx_request *r)
{
    return cvx_ctx_open(
        out, &(cvx_ctx_options){.backend = r->backend,
                                .isa = r->isa,
                                .threads = (int)r->threads,
                                .compute = strcmp(r->dtype, "bf16") == 0 ? CVX_BF16 : CVX_F32});
}

/* What stays the same over the videos of a request. */
typedef struct session {
    const cvx_request *request;
    const cvx_mesh *mesh;
    cvx_checkpoint ckpt;
    cvx_ctx *ctx;
    cvx_job job;
    cvx_plan plan;
    cvx_pipeline *pipeline;
    json_t *hashes;
    cvx_progress progress;
    FILE *report;
    cvx_tensor last; /* latents after the last step, owned copy [F, C, h, w] */
} session;

/* Rank 0 of a data group writes what the group made. */
static bool leads(const session *s)
{
    return s->mesh->replica->rank == 0;
}

/* The manifest and the saved latents: a place that cannot be written is known before the work. */
static cvx_status check_side_file(const char *path)
{
    if (path == NULL || strcmp(path, "none") == 0) {
        return CVX_OK;
    }
    if (cvx_is_dir(path)) {
        return cvx_fail(CVX_EIO, "cannot write %s: it is a folder", path);
    }
    return cvx_output_check_folder(path);
}

static cvx_status session_open(session *s)
{
    const cvx_request *r = s->request;
    int64_t video_frames = 0;

    CVX_RETURN_IF(cvx_request_check(r));
    CVX_RETURN_IF(cvx_checkpoint_open(&s->ckpt, r->model));
    if (r->video != NULL) {
        CVX_RETURN_IF(cvx_count_frames(r->video, &video_frames));
    }
    CVX_RETURN_IF(cvx_job_resolve(&s->job, &s->ckpt, r, video_frames));
    if (s->mesh->world->rank == 0) {
        CVX_RETURN_IF(cvx_output_check(r->output, s->job.width, s->job.height, s->job.fps));
        CVX_RETURN_IF(check_side_file(r->save_latents));
        CVX_RETURN_IF(check_side_file(r->manifest));
    }
    if (s->job.note[0] != 0) {
        cvx_progress_note(&s->progress, "%s", s->job.note);
    }
    CVX_RETURN_IF(cvx_request_ctx(&s->ctx, r));
    CVX_RETURN_IF(cvx_plan_make(&s->plan, s->ctx, &s->ckpt, &s->job, s->mesh,
                                cvx_output_is_tensor(r->output)));
    CVX_RETURN_IF(cvx_plan_admit(&s->plan, s->ctx, &s->ckpt, &s->job));
    CVX_RETURN_IF(!leads(s) ? CVX_OK : cvx_manifest_hashes(&s->hashes, &s->ckpt, r));
    return cvx_pipeline_open(&s->pipeline, s->ctx, &s->ckpt, &s->plan.options);
}

static void session_close(session *s)
{
    cvx_pipeline_close(s->pipeline);
    cvx_ctx_close(s->ctx);
    json_decref(s->hashes);
    free(s->last.data);
}

/* Pipeline hook: keeps the latents of the last step seen. */
static void keep_latents(void *payload, int64_t i, const cvx_tensor *latents)
{
    session *s = payload;
    (void)i;

    if (s->last.data == NULL) {
        s->last = *latents;
        s->last.data = malloc((size_t)cvx_numel(latents) * sizeof(float));
    }
    if (s->last.data != NULL) { /* deliver() reports it */
        memcpy(s->last.data, latents->data, (size_t)cvx_numel(latents) * sizeof(float));
    }
}

static cvx_status save_latents(session *s, const char *path)
{
    const int64_t *d = s->last.dim;
    cvx_tensor t = CVX_RESHAPE(&s->last, 1, d[0], d[1], d[2], d[3]);
    static const char *const name = "latents";

    return cvx_safetensors_write(path, &t, &name, 1, NULL, 0);
}

static cvx_status score(session *s, const cvx_output *o, json_t **out, double *mean)
{
    const cvx_request *r = s->request;
    cvx_clip_scores scores = {0};
    cvx_status st;

    if (r->clip_model == NULL) {
        return CVX_OK;
    }
    CVX_RETURN_IF(cvx_progress_begin(&s->progress, "score", o->n));
    st = cvx_clip_score_frames(&scores, s->ctx, r->clip_model, r->prompt, o->rgb, o->n, o->h, o->w,
                               &s->progress);
    if (st == CVX_OK) {
        *out = cvx_clip_scores_json(&scores);
        *mean = scores.mean;
        cvx_progress_end(&s->progress);
    }
    cvx_clip_scores_free(&scores);
    return st;
}

static cvx_status write_manifest(session *s, int64_t k, const char *path,
                                 const cvx_stage_cost *cost, const json_t *scores)
{
    const cvx_request *r = s->request;
    char name[CVX_PATH_MAX + 8];

    if (r->manifest != NULL && strcmp(r->manifest, "none") == 0) {
        return CVX_OK;
    }
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/') {
        n--;
    }
    snprintf(name, sizeof name, "%.*s.json", (int)n, path);
    if (r->manifest != NULL && r->num_videos_per_prompt == 1) {
        snprintf(name, sizeof name, "%s", r->manifest);
    }
    json_t *m =
        cvx_manifest_make(s->ctx, &s->ckpt, &s->job, k, path, &s->plan, cost, s->hashes, scores);
    cvx_status st = cvx_manifest_write(name, m);
    json_decref(m);
    return st;
}

static cvx_status numbered(const session *s, char out[CVX_PATH_MAX], const char *path, int64_t k)
{
    if (s->request->num_videos_per_prompt > 1) {
        return cvx_output_numbered(out, path, k);
    }
    if (snprintf(out, CVX_PATH_MAX, "%s", path) >= CVX_PATH_MAX) {
        return cvx_fail(CVX_EINVAL, "path too long: %.200s...", path);
    }
    return CVX_OK;
}

/* Everything after the frames exist: latents, scores, output, manifest. */
static cvx_status deliver(session *s, const cvx_output *o, int64_t k, const cvx_stage_cost *cost)
{
    const cvx_request *r = s->request;
    char path[CVX_PATH_MAX], latents[CVX_PATH_MAX];
    json_t *scores = NULL;
    double mean = 0;
    cvx_status st = CVX_OK;

    if (s->last.data == NULL) {
        return cvx_fail(CVX_ENOMEM, "%s: no memory to keep the latents", r->output);
    }
    CVX_TRY(st, numbered(s, path, r->output, k), done);
    if (r->save_latents != NULL) {
        CVX_TRY(st, numbered(s, latents, r->save_latents, k), done);
        CVX_TRY(st, save_latents(s, latents), done);
    }
    CVX_TRY(st, score(s, o, &scores, &mean), done);
    CVX_TRY(st, cvx_progress_begin(&s->progress, "mux", o->n), done);
    CVX_TRY(st, cvx_output_write(o, path, s->job.fps, r->prompt, &s->last, &s->progress), done);
    cvx_progress_end(&s->progress);
    CVX_TRY(st, write_manifest(s, k, path, cost, scores), done);
    if (s->report != NULL) {
        fprintf(s->report, "%s: %lld frames of %lldx%lld at %g fps, seed %lld", path,
                (long long)o->n, (long long)o->w, (long long)o->h, s->job.fps,
                (long long)((uint64_t)r->seed + (uint64_t)k));
        fprintf(s->report, scores != NULL ? ", CLIP score %.2f\n" : "\n", mean);
    }
done:
    json_decref(scores);
    return st;
}

static cvx_status one_video(session *s, int64_t k)
{
    const cvx_job *j = &s->job;
    cvx_stage_cost cost[CVX_STAGE_COUNT];
    cvx_output o = {0};
    cvx_status st = CVX_OK;

    CVX_RETURN_IF(cvx_output_open(&o, j->out_frames, j->height, j->width,
                                  cvx_output_is_tensor(s->request->output)));
    cvx_pipeline_hooks hooks = {.event = s->progress.fn,
                                .event_payload = s->progress.payload,
                                .frames = cvx_output_frames,
                                .frames_payload = &o,
                                .latents = keep_latents,
                                .latents_payload = s};
    CVX_TRY(st,
            cvx_pipeline_run(s->pipeline, j, k, &hooks, s->plan.job_bytes, s->plan.step_bytes,
                             cost),
            done);
    st = cvx_comm_agree(s->mesh->replica, leads(s) ? deliver(s, &o, k, cost) : CVX_OK);
done:
    cvx_output_close(&o);
    return st;
}

static cvx_status run_session(session *s, const json_t *replayed)
{
    CVX_RETURN_IF(cvx_comm_agree(s->mesh->world, session_open(s)));
    if (replayed != NULL && leads(s)) {
        CVX_RETURN_IF(cvx_manifest_verify(replayed, s->hashes, s->request->replay));
    }
    for (int64_t k = 0; k < s->request->num_videos_per_prompt; k++) {
        if (k % s->mesh->degrees.n[CVX_MESH_DATA] != s->mesh->at[CVX_MESH_DATA]) {
            continue;
        }
        CVX_RETURN_IF(one_video(s, k));
    }
    return CVX_OK;
}

cvx_status cvx_generate(const cvx_request *r, const cvx_mesh *mesh, cvx_event_fn event,
                        void *payload, FILE *report)
{
    cvx_request replay = CVX_REQUEST_INIT;
    json_t *doc = NULL;
    session s = {.request = r,
                 .mesh = mesh,
                 .progress = {.fn = event, .payload = payload},
                 .report = report};
    cvx_status st = CVX_OK;

    if (r->replay != NULL) {
        CVX_TRY(st, cvx_manifest_load(&doc, &replay, r->replay), done);
        replay.replay = r->replay;
        replay.output = r->output != NULL ? r->output : replay.output;
        replay.model = r->model != NULL ? r->model : replay.model;
        replay.manifest = r->manifest;
        s.request = &replay;
    }
    st = run_session(&s, doc);
done:
    session_close(&s);
    json_decref(doc);
    return st;
}
