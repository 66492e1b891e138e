#include "model/pipeline/manifest.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/memory.h"
#include "model/lora.h"
#include "model/pipeline/finish.h"

static cvx_status hash_weights(json_t *out, const char *key, const char *path)
{
    cvx_weights *w = NULL;
    char hex[65];

    CVX_RETURN_IF(cvx_weights_open(&w, path));
    cvx_status st = cvx_weights_hash(w, hex);
    cvx_weights_close(w);
    if (st == CVX_OK) {
        json_object_set_new(out, key, json_string(hex));
    }
    return st;
}

static int visible(const struct dirent *e)
{
    return e->d_name[0] != '.';
}

/* Of the names and contents of the files right in a folder, by name. */
static cvx_status hash_folder(const char *path, char hex[65])
{
    struct dirent **list = NULL;
    int n = scandir(path, &list, visible, alphasort);
    cvx_sha256 h;
    cvx_status st = CVX_OK;

    if (n < 0) {
        return cvx_fail(CVX_EIO, "cannot open %s: %s", path, strerror(errno));
    }
    cvx_sha256_init(&h);
    for (int i = 0; i < n; i++) {
        char file[CVX_PATH_MAX], one[65];
        if (st == CVX_OK) {
            st = cvx_path_join(file, path, list[i]->d_name);
        }
        if (st == CVX_OK && cvx_is_file(file)) {
            st = cvx_sha256_file(file, one);
            cvx_sha256_add(&h, list[i]->d_name, strlen(list[i]->d_name) + 1);
            cvx_sha256_add(&h, one, st == CVX_OK ? 64 : 0);
        }
        free(list[i]);
    }
    free(list);
    cvx_sha256_hex(&h, hex);
    return st;
}

static cvx_status hash_input(json_t *out, const char *key, const char *path)
{
    char hex[65];

    if (path == NULL) {
        return CVX_OK;
    }
    CVX_RETURN_IF(cvx_is_dir(path) ? hash_folder(path, hex) : cvx_sha256_file(path, hex));
    json_object_set_new(out, key, json_string(hex));
    return CVX_OK;
}

static cvx_status fill_hashes(json_t *out, const cvx_checkpoint *c, const cvx_request *r)
{
    static const char *const parts[] = {"transformer", "text_encoder", "vae"};
    char path[CVX_PATH_MAX], other[CVX_PATH_MAX], key[32];

    for (int i = 0; i < 3; i++) {
        CVX_RETURN_IF(cvx_checkpoint_part(c, path, parts[i]));
        CVX_RETURN_IF(hash_weights(out, parts[i], path));
    }
    for (int i = 0; i < r->lora.n; i++) {
        double scale;
        snprintf(key, sizeof key, "lora%d", i);
        CVX_RETURN_IF(cvx_lora_parse(r->lora.item[i], path, &scale));
        CVX_RETURN_IF(hash_weights(out, key, path));
    }
    CVX_RETURN_IF(cvx_finish_models(r, path, other));
    if (path[0] != 0) {
        CVX_RETURN_IF(hash_weights(out, "interpolate_model", path));
    }
    if (other[0] != 0) {
        CVX_RETURN_IF(hash_weights(out, "upscale_model", other));
    }
    CVX_RETURN_IF(hash_input(out, "image", r->image));
    CVX_RETURN_IF(hash_input(out, "video", r->video));
    CVX_RETURN_IF(hash_input(out, "extend", r->extend));
    return hash_input(out, "latents", r->latents);
}

cvx_status cvx_manifest_hashes(json_t **out, const cvx_checkpoint *c, const cvx_request *r)
{
    json_t *h = json_object();
    cvx_status st = fill_hashes(h, c, r);

    if (st != CVX_OK) {
        json_decref(h);
        return st;
    }
    *out = h;
    return CVX_OK;
}

/* A replay may run from another folder: paths are kept absolute. */
static void make_absolute(json_t *request)
{
    static const char *const keys[] = {
        "model",        "image", "video", "latents", "extend", "clip-model", "interpolate-model",
        "upscale-model"};
    char full[PATH_MAX];

    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        const char *path = json_string_value(json_object_get(request, keys[i]));
        if (path != NULL && realpath(path, full) != NULL) {
            json_object_set_new(request, keys[i], json_string(full));
        }
    }
    json_t *loras = json_object_get(request, "lora");
    for (size_t i = 0; i < json_array_size(loras); i++) {
        char path[CVX_PATH_MAX], item[PATH_MAX + 32];
        double scale;
        const char *text = json_string_value(json_array_get(loras, i));
        if (cvx_lora_parse(text, path, &scale) == CVX_OK && realpath(path, full) != NULL) {
            snprintf(item, sizeof item, "%s:%.17g", full, scale);
            json_array_set_new(loras, i, json_string(item));
        }
    }
}

/* The request with its defaults filled in: what a replay sets. */
static json_t *resolved_request(const cvx_ctx *ctx, const cvx_job *job, const cvx_degrees *mesh,
                                int64_t k, const char *path)
{
    cvx_request r = *job->request;

    r.num_frames = job->num_frames;
    r.height = job->height;
    r.width = job->width;
    r.fps = job->fps;
    r.extend_overlap = job->extension.overlap;
    r.seed = (int64_t)((uint64_t)r.seed + (uint64_t)k); /* wraps, as the generator's does */
    r.num_videos_per_prompt = 1;
    r.best_of = 0; /* k is the chosen one */
    r.early_stop = 0;
    r.previews = 0;
    r.preview_dir = NULL;
    r.max_sequence_length = job->text_len;
    r.scheduler = cvx_sched_name(job->sched.kind);
    r.output = path;
    r.replay = NULL;
    r.manifest = NULL;
    r.quiet = r.json = r.stats = r.enable_cfg_parallel = false;
    r.ranks = 0;
    r.cluster = NULL;
    for (int i = 0; i < CVX_MESH_DIMS; i++) { /* of the mesh only what changes bits */
        bool keep = mesh->n[i] > 1 && (i == CVX_MESH_RING || i == CVX_MESH_TENSOR);
        r.degree[i] = keep ? mesh->n[i] : 0;
    }
    r.checkpoint_dir = NULL;
    r.checkpoint_every = 0;
    r.batch = NULL;
    r.threads = ctx->threads;
    if (strncmp(ctx->ops->name, "cpu-", 4) == 0) {
        r.backend = "cpu";
        r.isa = ctx->ops->name + 4;
    } else {
        r.backend = ctx->ops->name;
    }
    json_t *out = cvx_request_json(&r);
    make_absolute(out);
    return out;
}

static json_t *stage_json(const char *name, const cvx_stage_cost *c)
{
    double flops = 0;

    for (int i = 0; i < CVX_OP_COUNT; i++) {
        flops += c->flops[i];
    }
    json_t *j = json_pack("{s:s, s:f, s:f, s:I, s:I, s:I, s:I}", "name", name, "seconds",
                          c->seconds, "gflop", flops / 1e9, "weights_bytes", (json_int_t)c->weights,
                          "mapped_bytes", (json_int_t)c->mapped, "job_bytes", (json_int_t)c->job,
                          "step_bytes", (json_int_t)c->step);
    if (c->reused > 0) {
        json_object_set_new(j, "reused_steps", json_integer(c->reused));
    }
    return j;
}

json_t *cvx_manifest_make(const cvx_ctx *ctx, const cvx_checkpoint *c, const cvx_job *job,
                          int64_t video_index, const char *path, const cvx_plan *plan,
                          const cvx_stage_cost *cost, const json_t *hashes, const json_t *scores,
                          bool retiled)
{
    char what[160];
    json_t *stages = json_array();
    json_t *m = json_object();

    for (int i = 0; i < CVX_STAGE_COUNT; i++) {
        if (i != CVX_STAGE_FINISH || cvx_finish_wanted(job->request)) {
            json_array_append_new(stages, stage_json(cvx_stage_names[i], &cost[i]));
        }
    }
    json_object_set_new(m, "cvx_manifest", json_integer(1));
    json_object_set_new(m, "version", json_string(CVX_VERSION));
    json_object_set_new(m, "model", json_string(cvx_checkpoint_describe(c, what, sizeof what)));
    const cvx_degrees *mesh = &plan->options.mesh->degrees;
    json_object_set_new(m, "request", resolved_request(ctx, job, mesh, video_index, path));
    json_t *degrees = json_object();
    for (int i = 0; i < CVX_MESH_DIMS; i++) {
        json_object_set_new(degrees, cvx_mesh_names[i], json_integer(mesh->n[i]));
    }
    json_object_set_new(m, "mesh", degrees);
    json_object_set_new(m, "sha256", json_deep_copy(hashes));
    json_object_set_new(m, "backend", json_string(ctx->ops->name));
    json_object_set_new(m, "packed_weights", json_boolean(plan->options.pack));
    json_object_set_new(m, "frames", json_integer(job->out_frames));
    if (job->extension.kept > 0) {
        json_object_set_new(m, "given_frames", json_integer(job->extension.kept));
    }
    json_object_set_new(m, "stages", stages);
    json_object_set_new(m, "planned_peak_bytes", json_integer((json_int_t)plan->peak_bytes));
    json_object_set_new(m, "peak_bytes", json_integer((json_int_t)cvx_memory_peak()));
    if (retiled) {
        json_object_set_new(m, "retiled", json_true());
    }
    if (scores != NULL) {
        json_object_set_new(m, "scores", json_deep_copy(scores));
    }
    return m;
}

static void forget(json_t *request, bool tiling)
{
    static const char *const keys[] = {"threads", "offload", "output", "enable-slicing"};

    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        json_object_del(request, keys[i]);
    }
    if (tiling) {
        json_object_del(request, "enable-tiling");
        json_object_del(request, "tile-sample-min-height");
        json_object_del(request, "tile-sample-min-width");
    }
}

bool cvx_manifest_matches(const json_t *doc, const cvx_ctx *ctx, const cvx_job *job,
                          const cvx_degrees *mesh, int64_t video_index, const json_t *hashes)
{
    const char *backend = json_string_value(json_object_get(doc, "backend"));
    bool retiled = json_is_true(json_object_get(doc, "retiled"));
    json_t *want = resolved_request(ctx, job, mesh, video_index, "");
    json_t *have = json_deep_copy(json_object_get(doc, "request"));

    forget(want, retiled);
    forget(have, retiled);
    bool same = backend != NULL && strcmp(backend, ctx->ops->name) == 0 && json_equal(want, have) &&
                json_equal(hashes, json_object_get(doc, "sha256"));
    json_decref(want);
    json_decref(have);
    return same;
}

cvx_status cvx_manifest_write(const char *path, const json_t *manifest)
{
    char *text = json_dumps(manifest, JSON_INDENT(2) | JSON_REAL_PRECISION(17));

    if (text == NULL) {
        return cvx_fail(CVX_EINTERNAL, "%s: the manifest cannot be written as JSON", path);
    }
    cvx_status st = cvx_file_write(path, text, strlen(text));
    free(text);
    return st;
}

static cvx_status load(json_t **doc, cvx_request *r, const char *path)
{
    json_t *j = NULL;
    int64_t version = 0;

    CVX_RETURN_IF(cvx_json_load(&j, path));
    cvx_status st = cvx_json_int(j, path, "cvx_manifest", &version);
    const json_t *request = json_object_get(j, "request");
    if (st == CVX_OK && (version != 1 || !json_is_object(request))) {
        st = cvx_fail(CVX_EFORMAT, "%s: not a cvx manifest of version 1 with a \"request\"", path);
    }
    if (st == CVX_OK) {
        st = cvx_request_from_json(r, request, path);
    }
    if (st != CVX_OK) {
        json_decref(j);
        return st;
    }
    *doc = j;
    return CVX_OK;
}

cvx_status cvx_manifest_replay(json_t **doc, cvx_request *out, const cvx_request *r)
{
    CVX_RETURN_IF(load(doc, out, r->replay));
    out->replay = r->replay;
    out->output = r->output != NULL ? r->output : out->output;
    out->model = r->model != NULL ? r->model : out->model;
    out->manifest = r->manifest;
    out->checkpoint_dir = r->checkpoint_dir;
    out->checkpoint_every = r->checkpoint_every;
    out->threads = r->threads;
    out->ranks = r->ranks;
    out->cluster = r->cluster;
    out->enable_cfg_parallel = r->enable_cfg_parallel;
    for (int i = 0; i < CVX_MESH_DIMS; i++) {
        out->degree[i] = r->degree[i] > 0 ? r->degree[i] : out->degree[i];
    }
    return CVX_OK;
}

cvx_status cvx_manifest_verify(const json_t *doc, const json_t *hashes, const char *path)
{
    const json_t *want = json_object_get(doc, "sha256");
    const char *key;
    json_t *v;

    if (json_object_size(want) == 0) {
        return cvx_fail(CVX_EFORMAT, "%s: no \"sha256\" of the files it was made with", path);
    }
    json_object_foreach((json_t *)want, key, v)
    {
        const char *now = json_string_value(json_object_get(hashes, key));
        const char *then = json_string_value(v);
        if (now == NULL || then == NULL || strcmp(now, then) != 0) {
            return cvx_fail(CVX_EFORMAT,
                            "%s: %s is not the file this manifest was made with (sha256 "
                            "%.12s..., now %.12s...)",
                            path, key, then ? then : "-", now ? now : "-");
        }
    }
    return CVX_OK;
}
