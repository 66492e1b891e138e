/* One video of a request: rendered, scored, written. */
#include <stdlib.h>
#include <string.h>

#include "base/fault.h"
#include "base/memory.h"
#include "base/stop.h"
#include "kernels/memory.h"
#include "media/image.h"
#include "model/clip/score.h"
#include "model/pipeline/extend.h"
#include "model/pipeline/finish.h"
#include "model/pipeline/generator.h"
#include "model/pipeline/manifest.h"

/* Pipeline hook: keeps the latents of the last step seen. */
static void keep_latents(void *payload, int64_t i, const cvx_tensor *latents)
{
    cvx_video *v = payload;
    (void)i;

    if (v->last.data == NULL) {
        v->last = *latents;
        v->last.data = malloc((size_t)cvx_numel(latents) * sizeof(float));
    }
    if (v->last.data != NULL) { /* deliver() reports it */
        memcpy(v->last.data, latents->data, (size_t)cvx_numel(latents) * sizeof(float));
    }
}

/* Pipeline hook: decoded frames. */
static cvx_status keep_frames(void *payload, const float *rgb, int64_t first, int64_t n, int64_t h,
                              int64_t w)
{
    if (first > 0) {
        cvx_fault_at("frames");
    }
    cvx_video *v = payload;
    return cvx_extend_frames(&v->output, v->job, rgb, first, n, h, w);
}

/* Pipeline hook: a preview, which is kept, and written where it is wanted. One that cannot be written is told, and the work goes
 * on. */
static cvx_status keep_preview(void *payload, int64_t done, const float *rgb, int64_t h, int64_t w)
{
    cvx_video *v = payload;
    cvx_generator *g = v->g;
    const char *dir = g->request->preview_dir;
    char name[64], path[CVX_PATH_MAX];

    cvx_output_close(&v->preview);
    CVX_RETURN_IF(cvx_output_open(&v->preview, 1, h, w, false));
    CVX_RETURN_IF(cvx_output_frames(&v->preview, rgb, 0, 1, h, w));
    if (dir == NULL) {
        return CVX_OK;
    }
    snprintf(name, sizeof name, "step-%04lld.png", (long long)done);
    if (v->k > 0) {
        snprintf(name, sizeof name, "video-%lld-step-%04lld.png", (long long)v->k, (long long)done);
    }
    cvx_status st = cvx_path_join(path, dir, name);
    st = st == CVX_OK ? cvx_image_write_png(path, v->preview.rgb, w, h) : st;
    if (st == CVX_OK) {
        cvx_progress_preview(&g->progress, done, path);
    } else {
        cvx_progress_note(&g->progress, "no preview: %s", cvx_error());
    }
    return CVX_OK;
}

/* Pipeline hook: memory may have gone to others since the job was admitted. Only what cannot be had is refused; a
 * close fit is tried. */
static cvx_status admit_decode(void *payload)
{
    const cvx_video *v = payload;
    size_t need = v->plan->stage[CVX_STAGE_DECODE].step, have = cvx_memory_available(), all;

    if (cvx_ctx_has_device(v->g->ctx)) {
        cvx_ctx_memory(v->g->ctx, &have, &all);
    }
    return need <= have ? CVX_OK
                        : cvx_fail(CVX_ENOMEM, "the decoder needs %zu MiB and %zu are available",
                                   need >> 20, have >> 20);
}

static cvx_status save_latents(const cvx_video *v, const char *path)
{
    const int64_t *d = v->last.dim;
    cvx_tensor t = CVX_RESHAPE(&v->last, 1, d[0], d[1], d[2], d[3]);
    static const char *const name = "latents";

    return cvx_safetensors_write(path, &t, &name, 1, NULL, 0);
}

cvx_status cvx_video_score(cvx_generator *g, const cvx_output *o, const cvx_prompts *prompts,
                           json_t **out, double *mean)
{
    const cvx_request *r = g->request;
    cvx_clip_scores scores = {0};
    cvx_status st;

    if (r->clip_model == NULL) {
        return CVX_OK;
    }
    CVX_RETURN_IF(cvx_progress_begin(&g->progress, "score", o->n));
    st = cvx_clip_score_frames(&scores, g->ctx, r->clip_model, prompts, o->rgb, o->n, o->h, o->w,
                               &g->progress);
    if (st == CVX_OK) {
        *out = cvx_clip_scores_json(&scores);
        *mean = scores.mean;
        cvx_progress_end(&g->progress);
    }
    cvx_clip_scores_free(&scores);
    return st;
}

/* Writes the manifest and tells that the video is there. */
static cvx_status write_manifest(const cvx_video *v, const cvx_stages_plan *out, int64_t n)
{
    const cvx_generator *g = v->g;
    const char *path = v->places.output;
    bool wanted = v->places.manifest[0] != 0;

    if (!wanted && g->opt.finished == NULL) {
        return CVX_OK;
    }
    json_t *m = cvx_manifest_make(g->ctx, &g->ckpt, v->job, v->k, path, v->plan, v->cost, g->hashes,
                                  v->scores, v->retiled);
    if (v->candidates != NULL) {
        json_object_set(m, "best_of", v->candidates);
    }
    cvx_status st = wanted ? cvx_manifest_write(v->places.manifest, m) : CVX_OK;
    if (st == CVX_OK && g->opt.finished != NULL) {
        st = g->opt.finished(g->opt.finished_payload, &(cvx_finished){.path = path,
                                                                      .frames = n,
                                                                      .w = out->w,
                                                                      .h = out->h,
                                                                      .fps = out->fps,
                                                                      .manifest = m});
    }
    json_decref(m);
    return st;
}

/* What is made of the frames before they are written: latents, scores. */
static cvx_status before_output(cvx_video *v)
{
    cvx_generator *g = v->g;
    const cvx_request *r = g->request;

    cvx_fault_at("deliver");
    if (v->last.data == NULL) {
        return cvx_fail(CVX_ENOMEM, "%s: no memory to keep the latents", r->output);
    }
    if (r->save_latents != NULL) {
        CVX_RETURN_IF(save_latents(v, v->places.latents));
    }
    return v->scores != NULL
               ? CVX_OK
               : cvx_video_score(g, &v->output, &g->job.prompts, &v->scores, &v->mean);
}

/* The manifest and the line for the user, of an output that is there. */
static cvx_status after_output(cvx_video *v, const cvx_stages_plan *out, int64_t n)
{
    cvx_generator *g = v->g;
    const cvx_request *r = g->request;

    CVX_RETURN_IF(write_manifest(v, out, n));
    cvx_resume_clear(&v->resume);
    if (g->opt.report != NULL) {
        fprintf(g->opt.report, "%s: %lld frames of %lldx%lld at %g fps, seed %lld",
                v->places.output, (long long)n, (long long)out->w, (long long)out->h, out->fps,
                (long long)((uint64_t)r->seed + (uint64_t)v->k));
        fprintf(g->opt.report, v->scores != NULL ? ", CLIP score %.2f\n" : "\n", v->mean);
        fflush(g->opt.report);
    }
    return CVX_OK;
}

/* Everything after the frames exist: latents, scores, output, manifest. */
static cvx_status deliver(cvx_video *v)
{
    cvx_generator *g = v->g;
    const cvx_output *o = &v->output;
    const cvx_stages_plan plain = {.w = o->w, .h = o->h, .fps = v->job->fps};

    CVX_RETURN_IF(before_output(v));
    CVX_RETURN_IF(cvx_progress_begin(&g->progress, "mux", o->n));
    CVX_RETURN_IF(
        cvx_output_write(o, v->places.output, v->job->fps, v->job->title, &v->last, &g->progress));
    cvx_progress_end(&g->progress);
    return after_output(v, &plain, o->n);
}

/* The same with stages in which every rank of the replica has a share. */
static cvx_status deliver_finished(cvx_video *v)
{
    cvx_generator *g = v->g;
    cvx_comm *replica = g->opt.mesh->replica;
    cvx_progress quiet = {0}, *progress = cvx_generator_leads(g) ? &g->progress : &quiet;
    cvx_stages_plan out;
    int64_t n = 0;

    CVX_RETURN_IF(cvx_comm_agree(replica, cvx_generator_leads(g) ? before_output(v) : CVX_OK));
    double start = cvx_now();
    CVX_RETURN_IF(cvx_finish_run(g->ctx, v->job, cvx_generator_leads(g) ? &v->output : NULL,
                                 v->places.output, replica, progress, &n));
    v->cost[CVX_STAGE_FINISH].seconds = cvx_now() - start;
    cvx_status st = CVX_OK;
    if (cvx_generator_leads(g)) {
        st = cvx_finish_measure(&out, g->ctx, v->job->request, v->job->width, v->job->height,
                                v->job->fps);
        st = st == CVX_OK ? after_output(v, &out, n) : st;
    }
    return cvx_comm_agree(replica, st);
}

/* The frames, and the latents beside them. */
static cvx_status render(cvx_video *v)
{
    cvx_generator *g = v->g;
    cvx_pipeline_hooks hooks = {.event = g->progress.fn,
                                .event_payload = g->progress.payload,
                                .frames = keep_frames,
                                .frames_payload = v,
                                .latents = keep_latents,
                                .latents_payload = v,
                                .preview = keep_preview,
                                .preview_payload = v,
                                .admit_decode = admit_decode,
                                .admit_payload = v,
                                .resume = &v->resume};

    return cvx_pipeline_run(g->pipeline, v->job, v->k, &hooks, v->plan->job_bytes,
                            v->plan->step_bytes, v->cost);
}

/* What is made of the frames: scores, output, manifest. */
cvx_status cvx_video_finish(cvx_video *v)
{
    if (cvx_finish_wanted(v->g->request)) {
        return deliver_finished(v);
    }
    return cvx_comm_agree(v->g->opt.mesh->replica, cvx_generator_leads(v->g) ? deliver(v) : CVX_OK);
}

/* Whether the decoder of some rank lacked memory and none failed otherwise: the same answer on every rank. */
static bool lacked_memory(const cvx_video *v, cvx_status st)
{
    bool have_latents = !cvx_generator_leads(v->g) || v->resume.at.step > 0;
    int least = !have_latents ? -2 : st == CVX_ENOMEM ? -1 : st == CVX_EPEER ? 0 : -2;

    return v->resume.decoding && cvx_comm_least(v->g->opt.mesh->replica, &least) == CVX_OK &&
           least == -1;
}

/* Whether tiles of this size (0: the default) meet in this video. */
static bool tiles_meet(const cvx_video *v, int64_t h, int64_t w)
{
    const cvx_job *j = v->job;
    cvx_vae_tiling t = j->tiling;

    t.enabled = true;
    t.sample_min_height = h;
    t.sample_min_width = w;
    return cvx_vae_check_tiling(&v->g->ckpt.vae, &t, j->height, j->width) == CVX_OK;
}

/* Tiles for a job that asked for none: the default ones, or else about half the picture each way. */
static bool choose_tiles(const cvx_video *v, cvx_request *r)
{
    const int64_t size[2] = {v->job->height / 16, v->job->width / 16}; /* in steps of 16 pixels */
    int64_t n = size[0] > size[1] ? size[0] : size[1];

    r->enable_tiling = true;
    if (tiles_meet(v, r->tile_sample_min_height, r->tile_sample_min_width)) {
        return true;
    }
    for (int64_t i = 0; i < n * n; i++) { /* downwards from half; then what is left above */
        int64_t at[2] = {i / n, i % n}, tile[2];
        for (int k = 0; k < 2; k++) {
            int64_t half = size[k] / 2;
            tile[k] = 16 * (at[k] < half ? half - at[k] : at[k] + 1);
        }
        if (tile[0] <= v->job->height && tile[1] <= v->job->width &&
            tiles_meet(v, tile[0], tile[1])) {
            r->tile_sample_min_height = tile[0];
            r->tile_sample_min_width = tile[1];
            return true;
        }
    }
    return false;
}

static cvx_status plan_tiled(cvx_video *v)
{
    const cvx_request *r = &v->tiled_request;

    CVX_RETURN_IF(cvx_job_resolve(&v->tiled_job, &v->g->ckpt, r, &v->job->source));
    CVX_RETURN_IF(cvx_generator_plan(v->g, &v->tiled_job, &v->tiled_plan));
    return cvx_generator_open_pipeline(v->g, &v->tiled_plan);
}

/* The second try: the same latents, decoded in tiles. `st` is why the first one failed. */
static cvx_status render_tiled(cvx_video *v, cvx_status st)
{
    cvx_generator *g = v->g;
    cvx_request *r = &v->tiled_request;
    char why[1024];

    *r = *v->job->request;
    snprintf(why, sizeof why, "%s", cvx_error());
    if (r->enable_tiling || !lacked_memory(v, st) || !choose_tiles(v, r)) {
        return cvx_fail(st, "%s", why);
    }
    cvx_progress_note(&g->progress, "%s; decoding once more from the last latents, in tiles", why);
    r->num_frames = v->job->num_frames;
    CVX_RETURN_IF(cvx_comm_agree(g->opt.mesh->replica, plan_tiled(v)));
    v->job = &v->tiled_job;
    v->plan = &v->tiled_plan;
    v->retiled = true;
    return render(v);
}

/* The leader's buffers and checkpoints; the others need none. */
static cvx_status open_video(cvx_video *v)
{
    cvx_generator *g = v->g;
    const cvx_request *r = g->request;
    const cvx_job *j = v->job;
    const char *path = v->places.output;
    char key[CVX_PATH_MAX + 24];
    json_t *what = NULL;

    CVX_RETURN_IF(cvx_places_of(&v->places, r, v->k));
    if (!cvx_generator_leads(g)) {
        return CVX_OK;
    }
    /* a run that may have been killed before, also while it wrote */
    if (r->checkpoint_dir != NULL) {
        cvx_places_clean(&v->places);
    }
    CVX_RETURN_IF(cvx_output_open(&v->output, j->out_frames, j->height, j->width,
                                  cvx_output_is_tensor(r->output)));
    CVX_RETURN_IF(cvx_extend_fill(&v->output, j));
    if (v->resume.trial) { /* what it leaves is kept in memory */
        return CVX_OK;
    }
    CVX_RETURN_IF(cvx_resume_describe(&what, g->ctx, j, v->k, g->hashes));
    if (r->best_of > 1 && snprintf(key, sizeof key, "%s.%lld", path, (long long)v->k) > 0) {
        return cvx_resume_open(&v->resume, r->checkpoint_dir, r->checkpoint_every, key, what,
                               &g->progress); /* each candidate has its own */
    }
    return cvx_resume_open(&v->resume, r->checkpoint_dir, r->checkpoint_every, path, what,
                           &g->progress);
}

void cvx_video_close(cvx_video *v)
{
    cvx_resume_close(&v->resume);
    cvx_output_close(&v->output);
    cvx_output_close(&v->preview);
    json_decref(v->scores);
    json_decref(v->candidates);
    free(v->last.data);
    *v = (cvx_video){.g = v->g};
}

cvx_status cvx_video_make(cvx_generator *g, cvx_video *v, int64_t k, bool trial, cvx_snapshot *half)
{
    *v = (cvx_video){.g = g, .job = &g->job, .plan = &g->plan, .k = k, .resume = {.trial = trial}};
    CVX_RETURN_IF(cvx_comm_agree(g->opt.mesh->replica, open_video(v)));
    if (half != NULL && half->step > v->resume.at.step) { /* else a checkpoint is further on */
        cvx_snapshot_free(&v->resume.at);
        v->resume.at = *half;
        *half = (cvx_snapshot){0};
    }
    cvx_status st = render(v);
    return st == CVX_OK || trial ? st : render_tiled(v, st);
}

/* Whether video k lies there complete, as its manifest says. */
static bool is_done(const cvx_generator *g, int64_t k)
{
    cvx_places p;
    json_t *doc = NULL;

    if (cvx_places_of(&p, g->request, k) != CVX_OK ||
        !(cvx_is_file(p.output) || cvx_is_dir(p.output)) || !cvx_is_file(p.manifest) ||
        cvx_json_load(&doc, p.manifest) != CVX_OK) {
        return false;
    }
    bool same = cvx_manifest_matches(doc, g->ctx, &g->job, &g->opt.mesh->degrees, k, g->hashes);
    json_decref(doc);
    if (same && g->opt.report != NULL) {
        fprintf(g->opt.report, "%s: done before, left as it is\n", p.output);
        fflush(g->opt.report);
    }
    return same;
}

/* What the group does about video k: a wish to stop that came to any of its ranks goes before all else. */
cvx_status cvx_video_turn(const cvx_generator *g, int64_t k, bool skip_done, cvx_turn *out)
{
    int least = cvx_stop_asked()                                       ? CVX_TURN_STOP
                : skip_done && cvx_generator_leads(g) && is_done(g, k) ? CVX_TURN_SKIP
                                                                       : CVX_TURN_MAKE;

    CVX_RETURN_IF(cvx_comm_least(g->opt.mesh->replica, &least));
    *out = (cvx_turn)least;
    return CVX_OK;
}

/* Whether video k (or candidate k) is this group's. */
bool cvx_video_own(const cvx_generator *g, int64_t k)
{
    const cvx_mesh *m = g->opt.mesh;
    return g->opt.group_alone || k % m->degrees.n[CVX_MESH_DATA] == m->at[CVX_MESH_DATA];
}

cvx_status cvx_video_stopped(const cvx_request *r)
{
    return r->checkpoint_dir != NULL
               ? cvx_fail(CVX_EREQUEUE, "stopped by a signal: the same command does what is left")
               : cvx_fail(CVX_ECANCELLED, "stopped by a signal");
}
