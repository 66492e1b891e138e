#include "model/pipeline/generate.h"

#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/fault.h"
#include "base/stop.h"
#include "kernels/memory.h"
#include "model/clip/score.h"
#include "model/pipeline/finish.h"
#include "model/pipeline/manifest.h"
#include "model/pipeline/output.h"

cvx_status cvx_request_ctx(cvx_ctx **out, const cvx_request *r)
{
    CVX_RETURN_IF(cvx_ctx_open(
        out, &(cvx_ctx_options){.backend = r->backend,
                                .isa = r->isa,
                                .threads = (int)r->threads,
                                .compute = strcmp(r->dtype, "bf16") == 0 ? CVX_BF16 : CVX_F32}));
    if (strcmp(r->quantize, "fp8") == 0 && !cvx_ctx_has_device(*out)) {
        cvx_ctx_close(*out);
        *out = NULL;
        return cvx_fail(CVX_EUNSUPPORTED,
                        "--quantize fp8 needs backend \"cuda\" and a GPU from Hopper on");
    }
    if (strcmp(r->attention, "sage") == 0 && !cvx_ctx_has_device(*out)) {
        cvx_ctx_close(*out);
        *out = NULL;
        return cvx_fail(CVX_EUNSUPPORTED,
                        "--attention sage needs backend \"cuda\" and a Hopper GPU");
    }
    return CVX_OK;
}

struct cvx_generator {
    cvx_generator_options opt;
    cvx_progress progress;

    /* while `key` stays the same, these stay open */
    json_t *key;
    cvx_checkpoint ckpt;
    cvx_ctx *ctx;
    cvx_pipeline *pipeline;
    cvx_pipeline_options options; /* of the pipeline */
    cvx_opt_list lora;            /* its LoRAs; the strings are key's */
    size_t base_bytes;            /* resident before the first model was opened */

    /* of the present request */
    const cvx_request *request;
    cvx_job job;
    cvx_plan plan;
    json_t *hashes;
};

/* One video on its way: its job and plan are the request's, or those of the second try in tiles. */
typedef struct video {
    cvx_generator *g;
    const cvx_job *job;
    const cvx_plan *plan;
    bool retiled;
    int64_t k;
    cvx_output output; /* on the rank that writes it */
    cvx_tensor last;   /* latents after the last step, owned copy [F, C, h, w] */
    json_t *scores;    /* of its frames; NULL: none */
    double mean;
    json_t *candidates;        /* the seeds it was chosen from, and their scores; NULL: none */
    cvx_request tiled_request; /* of the second try: job and plan point there then */
    cvx_job tiled_job;
    cvx_plan tiled_plan;
    cvx_resume resume;
    cvx_stage_cost cost[CVX_STAGE_COUNT];
} video;

/* Rank 0 of a data group writes what the group made. */
static bool leads(const cvx_generator *g)
{
    return g->opt.mesh->replica->rank == 0;
}

/* The ranks that work on the same request. */
static cvx_comm *everyone(const cvx_generator *g)
{
    return g->opt.group_alone ? g->opt.mesh->replica : g->opt.mesh->world;
}

cvx_status cvx_generator_open(cvx_generator **out, const cvx_generator_options *opt)
{
    cvx_generator *g = calloc(1, sizeof *g);

    if (g == NULL) {
        return cvx_fail(CVX_ENOMEM, "no memory for a generator");
    }
    g->opt = *opt;
    g->progress = (cvx_progress){.fn = opt->event, .payload = opt->payload};
    *out = g;
    return CVX_OK;
}

static void close_model(cvx_generator *g)
{
    cvx_pipeline_close(g->pipeline);
    cvx_ctx_close(g->ctx);
    json_decref(g->key);
    g->pipeline = NULL;
    g->ctx = NULL;
    g->key = NULL;
}

static void close_request(cvx_generator *g)
{
    json_decref(g->hashes);
    g->hashes = NULL;
}

void cvx_generator_close(cvx_generator *g)
{
    if (g != NULL) {
        close_request(g);
        close_model(g);
        free(g);
    }
}

/* What decides which weights are open, and in which form. */
static json_t *model_key(const cvx_request *r)
{
    json_t *lora = json_array();

    for (int i = 0; i < r->lora.n; i++) {
        json_array_append_new(lora, json_string(r->lora.item[i]));
    }
    return json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:I, s:o}", "model", r->model, "dtype",
                     r->dtype, "backend", r->backend, "isa", r->isa, "offload", r->offload,
                     "quantize", r->quantize, "attention", r->attention, "threads",
                     (json_int_t)r->threads, "lora", lora);
}

static cvx_status open_model(cvx_generator *g)
{
    json_t *key = model_key(g->request);

    if (g->key != NULL && json_equal(key, g->key)) {
        json_decref(key);
        return CVX_OK;
    }
    close_model(g);
    g->key = key;
    const json_t *lora = json_object_get(key, "lora");
    g->lora.n = (int)json_array_size(lora);
    for (int i = 0; i < g->lora.n; i++) {
        g->lora.item[i] = json_string_value(json_array_get(lora, (size_t)i));
    }
    CVX_RETURN_IF(cvx_checkpoint_open(&g->ckpt, g->request->model));
    return cvx_request_ctx(&g->ctx, g->request);
}

/* The plan of a job. What open models hold already is taken off what is needed and added to what is available;
 * where the plan wants weights in another form than they are open in, they are opened anew. */
static cvx_status make_plan(cvx_generator *g, const cvx_job *job, cvx_plan *plan)
{
    bool keep_float = cvx_output_is_tensor(g->request->output);

    CVX_RETURN_IF(cvx_plan_make(plan, g->ctx, &g->ckpt, job, g->opt.mesh, keep_float));
    if (g->pipeline != NULL) {
        size_t held = plan->base_bytes > g->base_bytes ? plan->base_bytes - g->base_bytes : 0;
        plan->base_bytes -= held;
        plan->needed_bytes -= held;
        plan->peak_bytes -= held;
        plan->available_bytes += held;
        if (plan->options.pack == g->options.pack) {
            return CVX_OK;
        }
        cvx_pipeline_close(g->pipeline);
        g->pipeline = NULL;
        CVX_RETURN_IF(cvx_plan_make(plan, g->ctx, &g->ckpt, job, g->opt.mesh, keep_float));
    }
    g->base_bytes = plan->base_bytes;
    return CVX_OK;
}

static cvx_status open_pipeline(cvx_generator *g, const cvx_plan *plan)
{
    if (g->pipeline != NULL) {
        return CVX_OK;
    }
    char what[160]; /* said once the job is known to be sound, so that a refusal is one line */
    if (!g->request->quiet && strcmp(g->request->backend, "auto") == 0 && cvx_cuda_built() &&
        !cvx_cuda_usable(what)) {
        cvx_progress_note(&g->progress, "%s: computing on the CPU", what);
    }
    g->options = plan->options;
    g->options.lora = &g->lora;
    return cvx_pipeline_open(&g->pipeline, g->ctx, &g->ckpt, &g->options);
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

static cvx_status check_places(const cvx_generator *g)
{
    const cvx_request *r = g->request;

    if (!leads(g)) {
        return CVX_OK;
    }
    cvx_stages_plan out = {.w = g->job.width, .h = g->job.height, .fps = g->job.fps};
    if (cvx_finish_wanted(r)) {
        CVX_RETURN_IF(cvx_finish_measure(&out, g->ctx, r, out.w, out.h, out.fps));
    }
    CVX_RETURN_IF(cvx_output_check(r->output, out.w, out.h, out.fps));
    CVX_RETURN_IF(check_side_file(r->save_latents));
    return check_side_file(r->manifest);
}

/* Each rank's own preparations. */
static cvx_status prepare(cvx_generator *g, const json_t *replayed)
{
    const cvx_request *r = g->request;
    int64_t video_frames = 0;

    CVX_RETURN_IF(cvx_request_check(r));
    CVX_RETURN_IF(open_model(g));
    if (r->video != NULL) {
        CVX_RETURN_IF(cvx_count_frames(r->video, &video_frames));
    }
    CVX_RETURN_IF(cvx_job_resolve(&g->job, &g->ckpt, r, video_frames));
    CVX_RETURN_IF(check_places(g));
    if (g->job.note[0] != 0) {
        cvx_progress_note(&g->progress, "%s", g->job.note);
    }
    CVX_RETURN_IF(make_plan(g, &g->job, &g->plan));
    CVX_RETURN_IF(cvx_plan_admit(&g->plan, g->ctx, &g->ckpt, &g->job));
    CVX_RETURN_IF(open_pipeline(g, &g->plan));
    if (!leads(g)) {
        return CVX_OK;
    }
    CVX_RETURN_IF(cvx_manifest_hashes(&g->hashes, &g->ckpt, r));
    return replayed == NULL ? CVX_OK : cvx_manifest_verify(replayed, g->hashes, r->replay);
}

/* Pipeline hook: keeps the latents of the last step seen. */
static void keep_latents(void *payload, int64_t i, const cvx_tensor *latents)
{
    video *v = payload;
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
    return cvx_output_frames(&((video *)payload)->output, rgb, first, n, h, w);
}

/* Pipeline hook: memory may have gone to others since the job was admitted. Only what cannot be had is refused; a
 * close fit is tried. */
static cvx_status admit_decode(void *payload)
{
    const video *v = payload;
    size_t need = v->plan->stage[CVX_STAGE_DECODE].step, have = cvx_memory_available(), all;

    if (cvx_ctx_has_device(v->g->ctx)) {
        cvx_ctx_memory(v->g->ctx, &have, &all);
    }
    return need <= have ? CVX_OK
                        : cvx_fail(CVX_ENOMEM, "the decoder needs %zu MiB and %zu are available",
                                   need >> 20, have >> 20);
}

static cvx_status save_latents(const video *v, const char *path)
{
    const int64_t *d = v->last.dim;
    cvx_tensor t = CVX_RESHAPE(&v->last, 1, d[0], d[1], d[2], d[3]);
    static const char *const name = "latents";

    return cvx_safetensors_write(path, &t, &name, 1, NULL, 0);
}

static cvx_status score(cvx_generator *g, const cvx_output *o, json_t **out, double *mean)
{
    const cvx_request *r = g->request;
    cvx_clip_scores scores = {0};
    cvx_status st;

    if (r->clip_model == NULL) {
        return CVX_OK;
    }
    CVX_RETURN_IF(cvx_progress_begin(&g->progress, "score", o->n));
    st = cvx_clip_score_frames(&scores, g->ctx, r->clip_model, &g->job.prompts, o->rgb, o->n, o->h,
                               o->w, &g->progress);
    if (st == CVX_OK) {
        *out = cvx_clip_scores_json(&scores);
        *mean = scores.mean;
        cvx_progress_end(&g->progress);
    }
    cvx_clip_scores_free(&scores);
    return st;
}

/* Where the manifest of the output at `path` lies; false if none is wanted. */
static bool manifest_path(const cvx_request *r, char out[CVX_PATH_MAX + 8], const char *path)
{
    size_t n = strlen(path);

    if (r->manifest != NULL && strcmp(r->manifest, "none") == 0) {
        return false;
    }
    while (n > 1 && path[n - 1] == '/') {
        n--;
    }
    snprintf(out, CVX_PATH_MAX + 8, "%.*s.json", (int)n, path);
    if (r->manifest != NULL && r->num_videos_per_prompt == 1) {
        snprintf(out, CVX_PATH_MAX + 8, "%s", r->manifest);
    }
    return true;
}

static cvx_status write_manifest(const video *v, const char *path, const json_t *scores)
{
    const cvx_generator *g = v->g;
    char name[CVX_PATH_MAX + 8];

    if (!manifest_path(g->request, name, path)) {
        return CVX_OK;
    }
    json_t *m = cvx_manifest_make(g->ctx, &g->ckpt, v->job, v->k, path, v->plan, v->cost, g->hashes,
                                  scores, v->retiled);
    if (v->candidates != NULL) {
        json_object_set(m, "best_of", v->candidates);
    }
    cvx_status st = cvx_manifest_write(name, m);
    json_decref(m);
    return st;
}

static cvx_status numbered(const cvx_generator *g, char out[CVX_PATH_MAX], const char *path,
                           int64_t k)
{
    if (g->request->num_videos_per_prompt > 1) {
        return cvx_output_numbered(out, path, k);
    }
    if (snprintf(out, CVX_PATH_MAX, "%s", path) >= CVX_PATH_MAX) {
        return cvx_fail(CVX_EINVAL, "path too long: %.200s...", path);
    }
    return CVX_OK;
}

/* What is made of the frames before they are written: latents, scores. */
static cvx_status before_output(video *v)
{
    cvx_generator *g = v->g;
    const cvx_request *r = g->request;
    char latents[CVX_PATH_MAX];

    cvx_fault_at("deliver");
    if (v->last.data == NULL) {
        return cvx_fail(CVX_ENOMEM, "%s: no memory to keep the latents", r->output);
    }
    if (r->save_latents != NULL) {
        CVX_RETURN_IF(numbered(g, latents, r->save_latents, v->k));
        CVX_RETURN_IF(save_latents(v, latents));
    }
    return v->scores != NULL ? CVX_OK : score(g, &v->output, &v->scores, &v->mean);
}

/* The manifest and the line for the user, of an output that is there. */
static cvx_status after_output(video *v, const char *path, const cvx_stages_plan *out, int64_t n)
{
    cvx_generator *g = v->g;
    const cvx_request *r = g->request;

    CVX_RETURN_IF(write_manifest(v, path, v->scores));
    cvx_resume_clear(&v->resume);
    if (g->opt.report != NULL) {
        fprintf(g->opt.report, "%s: %lld frames of %lldx%lld at %g fps, seed %lld", path,
                (long long)n, (long long)out->w, (long long)out->h, out->fps,
                (long long)((uint64_t)r->seed + (uint64_t)v->k));
        fprintf(g->opt.report, v->scores != NULL ? ", CLIP score %.2f\n" : "\n", v->mean);
        fflush(g->opt.report);
    }
    return CVX_OK;
}

/* Everything after the frames exist: latents, scores, output, manifest. */
static cvx_status deliver(video *v)
{
    cvx_generator *g = v->g;
    const cvx_output *o = &v->output;
    const cvx_stages_plan plain = {.w = o->w, .h = o->h, .fps = v->job->fps};
    char path[CVX_PATH_MAX];

    CVX_RETURN_IF(numbered(g, path, g->request->output, v->k));
    CVX_RETURN_IF(before_output(v));
    CVX_RETURN_IF(cvx_progress_begin(&g->progress, "mux", o->n));
    CVX_RETURN_IF(cvx_output_write(o, path, v->job->fps, v->job->title, &v->last, &g->progress));
    cvx_progress_end(&g->progress);
    return after_output(v, path, &plain, o->n);
}

/* The same with stages in which every rank of the replica has a share. */
static cvx_status deliver_finished(video *v)
{
    cvx_generator *g = v->g;
    cvx_comm *replica = g->opt.mesh->replica;
    cvx_progress quiet = {0}, *progress = leads(g) ? &g->progress : &quiet;
    cvx_stages_plan out;
    char path[CVX_PATH_MAX];
    int64_t n = 0;

    CVX_RETURN_IF(numbered(g, path, g->request->output, v->k));
    CVX_RETURN_IF(cvx_comm_agree(replica, leads(g) ? before_output(v) : CVX_OK));
    double start = cvx_now();
    CVX_RETURN_IF(
        cvx_finish_run(g->ctx, v->job, leads(g) ? &v->output : NULL, path, replica, progress, &n));
    v->cost[CVX_STAGE_FINISH].seconds = cvx_now() - start;
    cvx_status st = CVX_OK;
    if (leads(g)) {
        st = cvx_finish_measure(&out, g->ctx, v->job->request, v->job->width, v->job->height,
                                v->job->fps);
        st = st == CVX_OK ? after_output(v, path, &out, n) : st;
    }
    return cvx_comm_agree(replica, st);
}

/* The frames, and the latents beside them. */
static cvx_status render(video *v)
{
    cvx_generator *g = v->g;
    cvx_pipeline_hooks hooks = {.event = g->progress.fn,
                                .event_payload = g->progress.payload,
                                .frames = keep_frames,
                                .frames_payload = v,
                                .latents = keep_latents,
                                .latents_payload = v,
                                .admit_decode = admit_decode,
                                .admit_payload = v,
                                .resume = &v->resume};

    return cvx_pipeline_run(g->pipeline, v->job, v->k, &hooks, v->plan->job_bytes,
                            v->plan->step_bytes, v->cost);
}

/* What is made of the frames: scores, output, manifest. */
static cvx_status finish(video *v)
{
    if (cvx_finish_wanted(v->g->request)) {
        return deliver_finished(v);
    }
    return cvx_comm_agree(v->g->opt.mesh->replica, leads(v->g) ? deliver(v) : CVX_OK);
}

/* Whether the decoder of some rank lacked memory and none failed otherwise: the same answer on every rank. */
static bool lacked_memory(const video *v, cvx_status st)
{
    bool have_latents = !leads(v->g) || v->resume.at.step > 0;
    int least = !have_latents ? -2 : st == CVX_ENOMEM ? -1 : st == CVX_EPEER ? 0 : -2;

    return v->resume.decoding && cvx_comm_least(v->g->opt.mesh->replica, &least) == CVX_OK &&
           least == -1;
}

/* Whether tiles of this size (0: the default) meet in this video. */
static bool tiles_meet(const video *v, int64_t h, int64_t w)
{
    const cvx_job *j = v->job;
    cvx_vae_tiling t = j->tiling;

    t.enabled = true;
    t.sample_min_height = h;
    t.sample_min_width = w;
    return cvx_vae_check_tiling(&v->g->ckpt.vae, &t, j->height, j->width) == CVX_OK;
}

/* Tiles for a job that asked for none: the default ones, or else about half the picture each way. */
static bool choose_tiles(const video *v, cvx_request *r)
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

static cvx_status plan_tiled(video *v)
{
    const cvx_request *r = &v->tiled_request;
    int64_t frames = r->video != NULL ? v->job->num_frames : 0;

    CVX_RETURN_IF(cvx_job_resolve(&v->tiled_job, &v->g->ckpt, r, frames));
    CVX_RETURN_IF(make_plan(v->g, &v->tiled_job, &v->tiled_plan));
    return open_pipeline(v->g, &v->tiled_plan);
}

/* The second try: the same latents, decoded in tiles. `st` is why the first one failed. */
static cvx_status render_tiled(video *v, cvx_status st)
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

/* Removes what a killed run of this job left half-written. */
static void clean_places(const cvx_generator *g, const char *path, int64_t k)
{
    char name[CVX_PATH_MAX + 8], latents[CVX_PATH_MAX];

    cvx_writer_clean(path);
    if (manifest_path(g->request, name, path)) {
        cvx_writer_clean(name);
    }
    if (g->request->save_latents != NULL &&
        numbered(g, latents, g->request->save_latents, k) == CVX_OK) {
        cvx_writer_clean(latents);
    }
}

/* The leader's buffers and checkpoints; the others need none. */
static cvx_status open_video(video *v)
{
    cvx_generator *g = v->g;
    const cvx_request *r = g->request;
    const cvx_job *j = v->job;
    char path[CVX_PATH_MAX], key[CVX_PATH_MAX + 24];
    json_t *what = NULL;

    if (!leads(g)) {
        return CVX_OK;
    }
    CVX_RETURN_IF(numbered(g, path, r->output, v->k));
    if (r->checkpoint_dir !=
        NULL) { /* a run that may have been killed before, also while it wrote */
        clean_places(g, path, v->k);
    }
    CVX_RETURN_IF(cvx_output_open(&v->output, j->out_frames, j->height, j->width,
                                  cvx_output_is_tensor(r->output)));
    CVX_RETURN_IF(cvx_resume_describe(&what, g->ctx, j, v->k, g->hashes));
    if (r->best_of > 1 && snprintf(key, sizeof key, "%s.%lld", path, (long long)v->k) > 0) {
        return cvx_resume_open(&v->resume, r->checkpoint_dir, r->checkpoint_every, key, what,
                               &g->progress); /* each candidate has its own */
    }
    return cvx_resume_open(&v->resume, r->checkpoint_dir, r->checkpoint_every, path, what,
                           &g->progress);
}

static void close_video(video *v)
{
    cvx_resume_close(&v->resume);
    cvx_output_close(&v->output);
    json_decref(v->scores);
    json_decref(v->candidates);
    free(v->last.data);
    *v = (video){.g = v->g};
}

/* Opens and renders video k; the caller closes it in any case. */
static cvx_status make_video(cvx_generator *g, video *v, int64_t k)
{
    *v = (video){.g = g, .job = &g->job, .plan = &g->plan, .k = k};
    CVX_RETURN_IF(cvx_comm_agree(g->opt.mesh->replica, open_video(v)));
    cvx_status st = render(v);
    return st == CVX_OK ? st : render_tiled(v, st);
}

static cvx_status one_video(cvx_generator *g, int64_t k)
{
    video v;
    cvx_status st = make_video(g, &v, k);

    if (st == CVX_OK) {
        st = finish(&v);
    }
    close_video(&v);
    return st;
}

/* Whether video k lies there complete, as its manifest says. */
static bool is_done(const cvx_generator *g, int64_t k)
{
    char path[CVX_PATH_MAX], name[CVX_PATH_MAX + 8];
    json_t *doc = NULL;

    if (numbered(g, path, g->request->output, k) != CVX_OK ||
        !manifest_path(g->request, name, path) || !(cvx_is_file(path) || cvx_is_dir(path)) ||
        !cvx_is_file(name) || cvx_json_load(&doc, name) != CVX_OK) {
        return false;
    }
    bool same = cvx_manifest_matches(doc, g->ctx, &g->job, &g->opt.mesh->degrees, k, g->hashes);
    json_decref(doc);
    if (same && g->opt.report != NULL) {
        fprintf(g->opt.report, "%s: done before, left as it is\n", path);
        fflush(g->opt.report);
    }
    return same;
}

typedef enum turn { MAKE = 0, SKIP = -1, STOP = -2 } turn;

/* What the group does about video k: a wish to stop that came to any of its ranks goes before all else. */
static cvx_status next_turn(const cvx_generator *g, int64_t k, bool skip_done, turn *out)
{
    int least = cvx_stop_asked() ? STOP : skip_done && leads(g) && is_done(g, k) ? SKIP : MAKE;

    CVX_RETURN_IF(cvx_comm_least(g->opt.mesh->replica, &least));
    *out = (turn)least;
    return CVX_OK;
}

/* Whether video k (or candidate k) is this group's. */
static bool own_turn(const cvx_generator *g, int64_t k)
{
    const cvx_mesh *m = g->opt.mesh;
    return g->opt.group_alone || k % m->degrees.n[CVX_MESH_DATA] == m->at[CVX_MESH_DATA];
}

static cvx_status stopped(const cvx_request *r)
{
    return r->checkpoint_dir != NULL
               ? cvx_fail(CVX_EREQUEUE, "stopped by a signal: the same command does what is left")
               : cvx_fail(CVX_ECANCELLED, "stopped by a signal");
}

/* The candidates of --best-of: the best of this group's own so far, and every candidate's score in millionths
 * (INT_MAX: of another group). The checkpoints of all stay until the best one is written. */
typedef struct contest {
    video best; /* k < 0: none yet */
    cvx_resume *resume;
    int *score;
} contest;

static cvx_status try_candidate(cvx_generator *g, contest *c, int64_t k)
{
    turn what = MAKE;
    video v = {.g = g};

    CVX_RETURN_IF(next_turn(g, k, false, &what));
    if (what == STOP) {
        return stopped(g->request);
    }
    cvx_status st = make_video(g, &v, k);
    if (st == CVX_OK) {
        st = cvx_comm_agree(g->opt.mesh->replica,
                            leads(g) ? score(g, &v.output, &v.scores, &v.mean) : CVX_OK);
    }
    if (st == CVX_OK && leads(g)) {
        c->score[k] = -(int)llround(v.mean * 1e6); /* the lowest is the best */
        c->resume[k] = v.resume;
        cvx_snapshot_free(&c->resume[k].at);
        v.resume = (cvx_resume){0};
    }
    if (st == CVX_OK && (c->best.k < 0 || v.mean > c->best.mean)) {
        video worse = c->best;
        c->best = v;
        v = worse;
    }
    close_video(&v);
    return st;
}

/* Which candidate has won, the first of equals; and the list for the manifest. */
static cvx_status judge(cvx_generator *g, contest *c, int64_t *winner, json_t **list)
{
    const cvx_request *r = g->request;

    *winner = 0;
    *list = json_array();
    for (int64_t k = 0; k < r->best_of; k++) {
        CVX_RETURN_IF(cvx_comm_least(everyone(g), &c->score[k]));
        *winner = c->score[k] < c->score[*winner] ? k : *winner;
        json_array_append_new(*list, json_pack("{s:I, s:f}", "seed", (json_int_t)(r->seed + k),
                                               "score", -1e-6 * c->score[k]));
    }
    return CVX_OK;
}

/* The winner's group writes it. */
static cvx_status crown(cvx_generator *g, contest *c)
{
    json_t *list = NULL;
    int64_t winner = 0;
    cvx_status st = judge(g, c, &winner, &list);

    if (st == CVX_OK) {
        cvx_progress quiet = {0};
        cvx_progress_note(everyone(g)->rank == 0 ? &g->progress : &quiet,
                          "the best of %lld: seed %lld, CLIP score %.2f",
                          (long long)g->request->best_of, (long long)(g->request->seed + winner),
                          -1e-6 * c->score[winner]);
        if (own_turn(g, winner)) {
            c->best.candidates = list;
            list = NULL;
            st = finish(&c->best);
        }
        st = cvx_comm_agree(everyone(g), st);
    }
    json_decref(list);
    for (int64_t k = 0; st == CVX_OK && k < g->request->best_of; k++) {
        cvx_resume_clear(&c->resume[k]);
    }
    return st;
}

static cvx_status best_of(cvx_generator *g)
{
    size_t n = (size_t)g->request->best_of;
    contest c = {.best = {.g = g, .k = -1},
                 .resume = calloc(n, sizeof *c.resume),
                 .score = calloc(n, sizeof *c.score)};
    cvx_status st = c.resume == NULL || c.score == NULL
                        ? cvx_fail(CVX_ENOMEM, "no memory for %zu candidates", n)
                        : CVX_OK;

    for (size_t k = 0; st == CVX_OK && k < n; k++) {
        c.score[k] = INT_MAX;
    }
    for (int64_t k = 0; st == CVX_OK && k < (int64_t)n; k++) {
        st = own_turn(g, k) ? try_candidate(g, &c, k) : CVX_OK;
    }
    st = cvx_comm_agree(everyone(g), st);
    st = st == CVX_OK ? crown(g, &c) : st;
    close_video(&c.best);
    for (size_t k = 0; c.resume != NULL && k < n; k++) {
        cvx_resume_close(&c.resume[k]);
    }
    free(c.resume);
    free(c.score);
    return st;
}

static cvx_status run_request(cvx_generator *g, const json_t *replayed, bool skip_done)
{
    const cvx_request *r = g->request;

    CVX_RETURN_IF(cvx_comm_agree(everyone(g), prepare(g, replayed)));
    if (r->best_of > 1) {
        return best_of(g);
    }
    for (int64_t k = 0; k < r->num_videos_per_prompt; k++) {
        turn what = MAKE;
        if (!own_turn(g, k)) {
            continue;
        }
        CVX_RETURN_IF(next_turn(g, k, skip_done, &what));
        if (what == STOP) {
            return stopped(r);
        }
        if (what == MAKE) {
            CVX_RETURN_IF(one_video(g, k));
        }
    }
    return CVX_OK;
}

cvx_status cvx_generator_run(cvx_generator *g, const cvx_request *r, bool skip_done)
{
    cvx_request replay = CVX_REQUEST_INIT;
    json_t *doc = NULL;
    cvx_status st = CVX_OK;

    g->request = r;
    if (r->replay != NULL) {
        CVX_TRY(st, cvx_manifest_load(&doc, &replay, r->replay), done);
        replay.replay = r->replay;
        replay.output = r->output != NULL ? r->output : replay.output;
        replay.model = r->model != NULL ? r->model : replay.model;
        replay.manifest = r->manifest;
        replay.checkpoint_dir = r->checkpoint_dir;
        replay.checkpoint_every = r->checkpoint_every;
        g->request = &replay;
    }
    /* of several videos an earlier run may have made some */
    skip_done |= g->request->checkpoint_dir != NULL && g->request->num_videos_per_prompt > 1;
    st = run_request(g, doc, skip_done);
done:
    close_request(g);
    json_decref(doc);
    return st;
}

cvx_status cvx_generate(const cvx_request *r, const cvx_mesh *mesh, cvx_event_fn event,
                        void *payload, FILE *report)
{
    cvx_generator *g = NULL;

    CVX_RETURN_IF(cvx_generator_open(&g, &(cvx_generator_options){.mesh = mesh,
                                                                  .event = event,
                                                                  .payload = payload,
                                                                  .report = report}));
    cvx_status st = cvx_generator_run(g, r, false);
    cvx_generator_close(g);
    return st;
}
