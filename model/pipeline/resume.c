#include "model/pipeline/resume.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/hash.h"
#include "model/lora.h"

#define SUFFIX ".cvxckpt"
/* Far more than the largest job's latents, twice, with their head. */
#define FILE_MAX_BYTES ((size_t)1 << 36)

/* --- what decides the latents --- */

static void add_tiles(json_t *j, const cvx_vae_tiling *t)
{
    json_object_set_new(j, "enable-tiling", json_boolean(t->enabled));
    if (t->enabled) {
        json_object_set_new(j, "tile-sample-min-height", json_integer(t->sample_min_height));
        json_object_set_new(j, "tile-sample-min-width", json_integer(t->sample_min_width));
        json_object_set_new(j, "tile-overlap-factor-height", json_real(t->overlap_factor_height));
        json_object_set_new(j, "tile-overlap-factor-width", json_real(t->overlap_factor_width));
    }
}

static cvx_status add_files(json_t *j, const cvx_request *q, const json_t *hashes)
{
    char key[64], path[CVX_PATH_MAX];
    const char *part;
    double scale;
    json_t *v;

    for (int i = 0; i < q->lora.n; i++) {
        CVX_RETURN_IF(cvx_lora_parse(q->lora.item[i], path, &scale));
        snprintf(key, sizeof key, "scale of lora%d", i);
        json_object_set_new(j, key, json_real(scale));
    }
    json_object_foreach((json_t *)hashes, part, v)
    {
        snprintf(key, sizeof key, "sha256 of %s", part);
        json_object_set(j, key, v);
    }
    return CVX_OK;
}

static json_t *prompts_json(const cvx_opt_list *prompts)
{
    json_t *list = json_array();

    if (prompts->n == 1) {
        json_decref(list);
        return json_string(prompts->item[0]);
    }
    for (int i = 0; i < prompts->n; i++) {
        json_array_append_new(list, json_string(prompts->item[i]));
    }
    return list;
}

cvx_status cvx_resume_describe(json_t **out, const cvx_ctx *ctx, const cvx_job *job,
                               int64_t video_index, const json_t *hashes)
{
    const cvx_request *q = job->request;
    json_t *j = json_object();
    cvx_status st = add_files(j, q, hashes); /* another model first: its defaults differ too */

    if (st != CVX_OK) {
        json_decref(j);
        return st;
    }
    json_object_set_new(j, "prompt", prompts_json(&q->prompt));
    json_object_set_new(j, "window-frames", json_integer(job->windows.length));
    json_object_set_new(j, "window-stride", json_integer(job->windows.stride));
    if (job->windows.n > 1) {
        json_object_set_new(j, "window-dilation", json_integer(job->dilation));
    }
    json_object_set_new(j, "free-noise", json_boolean(q->free_noise));
    if (job->guided) {
        json_object_set_new(j, "negative-prompt", json_string(q->negative_prompt));
    }
    json_object_set_new(j, "num-frames", json_integer(job->num_frames));
    json_object_set_new(j, "height", json_integer(job->height));
    json_object_set_new(j, "width", json_integer(job->width));
    json_object_set_new(j, "num-inference-steps", json_integer(q->num_inference_steps));
    json_object_set_new(j, "seed",
                        json_integer((json_int_t)((uint64_t)q->seed + (uint64_t)video_index)));
    json_object_set_new(j, "guidance-scale", json_real(q->guidance_scale));
    json_object_set_new(j, "use-dynamic-cfg", json_boolean(q->use_dynamic_cfg));
    if (q->first_block_cache > 0) {
        json_object_set_new(j, "first-block-cache", json_real(q->first_block_cache));
    }
    json_object_set_new(j, "scheduler", json_string(cvx_sched_name(job->sched.kind)));
    json_object_set_new(j, "max-sequence-length", json_integer(job->text_len));
    json_object_set_new(j, "dtype", json_string(cvx_dtype_name(job->dtype)));
    json_object_set_new(j, "quantize", json_string(q->quantize));
    json_object_set_new(j, "attention", json_string(q->attention));
    json_object_set_new(j, "backend", json_string(ctx->ops->name));
    json_object_set_new(j, "image", json_boolean(q->image != NULL));
    json_object_set_new(j, "video", json_boolean(q->video != NULL));
    json_object_set_new(j, "latents", json_boolean(q->latents != NULL));
    json_object_set_new(j, "extend", json_boolean(q->extend != NULL));
    if (q->video != NULL) {
        json_object_set_new(j, "strength", json_real(q->strength));
    }
    if (q->extend != NULL) {
        json_object_set_new(j, "extend-overlap", json_integer(job->extension.overlap));
    }
    if (q->image != NULL || q->video != NULL || q->extend != NULL) {
        /* the encoder's tiles are in the latents */
        add_tiles(j, &job->tiling);
    }
    json_object_set_new(j, "version of cvx", json_string(CVX_VERSION));
    *out = j;
    return CVX_OK;
}

static cvx_status check_job(const char *path, const json_t *there, const json_t *here)
{
    const char *key = cvx_json_difference(here, there);
    char a[100], b[100];

    if (key == NULL) {
        return CVX_OK;
    }
    cvx_json_text(a, json_object_get(there, key));
    cvx_json_text(b, json_object_get(here, key));
    return cvx_fail(CVX_EINVAL,
                    "%s is of another job: %s is %s there, %s here (give another "
                    "--checkpoint-dir, or remove it)",
                    path, key, a, b);
}

/* --- the folder --- */

/* "NAME-HASH": the output's last component for people, a hash of its absolute path for uniqueness. */
static cvx_status make_name(cvx_resume *r, const char *output)
{
    char path[CVX_PATH_MAX], dir[PATH_MAX], hex[65];
    cvx_sha256 h;

    if (snprintf(path, sizeof path, "%s", output) >= (int)sizeof path) {
        return cvx_fail(CVX_EINVAL, "path too long: %.200s...", output);
    }
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/') {
        path[--n] = 0;
    }
    char *slash = strrchr(path, '/');
    const char *base = slash != NULL ? slash + 1 : path, *folder = slash != NULL ? path : ".";
    if (slash != NULL) {
        *slash = 0;
    }
    if (realpath(folder[0] != 0 ? folder : "/", dir) == NULL) {
        return cvx_fail(CVX_EIO, "cannot write %s: %s: %s", output, folder, strerror(errno));
    }
    cvx_sha256_init(&h);
    cvx_sha256_add(&h, dir, strlen(dir) + 1);
    cvx_sha256_add(&h, base, strlen(base));
    cvx_sha256_hex(&h, hex);
    snprintf(r->name, sizeof r->name, "%.100s-%.12s", base, hex);
    return CVX_OK;
}

static cvx_status file_path(const cvx_resume *r, char out[CVX_PATH_MAX], int64_t step)
{
    char name[256];

    snprintf(name, sizeof name, "%s.step-%06lld" SUFFIX, r->name, (long long)step);
    return cvx_path_join(out, r->dir, name);
}

/* Calls fn for each file of this video: its step, or 0 for the temporary of an interrupted write. */
static void each_file(const cvx_resume *r, void (*fn)(void *, int64_t, const char *), void *payload)
{
    DIR *d = opendir(r->dir);
    size_t n = strlen(r->name);

    for (struct dirent *e; d != NULL && (e = readdir(d)) != NULL;) {
        char *end;
        if (strncmp(e->d_name, r->name, n) != 0 || strncmp(e->d_name + n, ".step-", 6) != 0) {
            continue;
        }
        int64_t step = strtoll(e->d_name + n + 6, &end, 10);
        if (strcmp(end, SUFFIX) == 0) {
            fn(payload, step, e->d_name);
        } else if (strncmp(end, SUFFIX ".part-", strlen(SUFFIX ".part-")) == 0) {
            fn(payload, 0, e->d_name);
        }
    }
    if (d != NULL) {
        closedir(d);
    }
}

typedef struct search {
    const cvx_resume *r;
    int64_t below, above, found;
} search;

static void greatest(void *payload, int64_t step, const char *name)
{
    search *s = payload;
    (void)name;

    if (step < s->below && step > s->found) {
        s->found = step;
    }
}

/* The newest checkpoint before step `below`; 0 if there is none. */
static int64_t newest(const cvx_resume *r, int64_t below)
{
    search s = {.r = r, .below = below};

    each_file(r, greatest, &s);
    return s.found;
}

static void remove_one(void *payload, int64_t step, const char *name)
{
    const search *s = payload;
    char path[CVX_PATH_MAX];

    if ((step < s->below || step > s->above) && cvx_path_join(path, s->r->dir, name) == CVX_OK) {
        unlink(path);
    }
}

/* Removes the checkpoints before step `below` or after step `above`, and temporaries. */
static void remove_outside(const cvx_resume *r, int64_t below, int64_t above)
{
    search s = {.r = r, .below = below, .above = above};

    if (r->dir[0] != 0) {
        each_file(r, remove_one, &s);
    }
}

static cvx_status load_one(cvx_resume *r, const char *path)
{
    char *data = NULL;
    size_t len = 0;

    CVX_RETURN_IF(cvx_file_read(&data, &len, path, FILE_MAX_BYTES));
    cvx_status st = cvx_snapshot_parse(&r->at, data, len, path);
    free(data);
    return st;
}

static cvx_status load(cvx_resume *r, cvx_progress *notes)
{
    char path[CVX_PATH_MAX];

    for (int64_t step = newest(r, INT64_MAX); step > 0; step = newest(r, step)) {
        CVX_RETURN_IF(file_path(r, path, step));
        if (load_one(r, path) != CVX_OK) {
            cvx_progress_note(notes, "%s; going back to the checkpoint before it", cvx_error());
            continue;
        }
        CVX_RETURN_IF(check_job(path, r->at.job, r->job));
        cvx_progress_note(notes, "going on after step %lld of %lld from %s", (long long)r->at.step,
                          (long long)r->at.steps, path);
        return CVX_OK;
    }
    return CVX_OK;
}

cvx_status cvx_resume_open(cvx_resume *r, const char *dir, int64_t every, const char *output,
                           json_t *job, cvx_progress *notes)
{
    *r = (cvx_resume){.every = every > 0 ? every : CVX_CHECKPOINT_EVERY, .job = job};
    if (dir == NULL) {
        return CVX_OK;
    }
    if (snprintf(r->dir, sizeof r->dir, "%s", dir) >= (int)sizeof r->dir) {
        r->dir[0] = 0;
        return cvx_fail(CVX_EINVAL, "path too long: %.200s...", dir);
    }
    CVX_RETURN_IF(cvx_mkdirs(dir));
    CVX_RETURN_IF(make_name(r, output));
    remove_outside(r, 1, INT64_MAX);
    return load(r, notes);
}

void cvx_resume_close(cvx_resume *r)
{
    json_decref(r->job);
    cvx_snapshot_free(&r->at);
    *r = (cvx_resume){0};
}

bool cvx_resume_due(const cvx_resume *r, int64_t done, int64_t steps)
{
    return r->dir[0] != 0 && (done % r->every == 0 || done == steps);
}

/* The file's bytes into its temporary. */
static bool write_bytes(const char *tmp, const unsigned char *data, size_t len)
{
    FILE *f = fopen(tmp, "wb");
    size_t half = len / 2;
    bool ok = f != NULL && fwrite(data, 1, half, f) == half && fflush(f) == 0;

    cvx_fault_at("checkpoint");
    ok = ok && fwrite(data + half, 1, len - half, f) == len - half && fflush(f) == 0;
    int why = errno;
    if (f != NULL && fclose(f) != 0 && ok) {
        return false;
    }
    errno = why;
    return ok;
}

static cvx_status save(const cvx_resume *r, const cvx_snapshot *s)
{
    char path[CVX_PATH_MAX];
    unsigned char *data = NULL;
    size_t len = 0;
    cvx_writer w = {0};
    cvx_status st = CVX_OK;

    CVX_RETURN_IF(file_path(r, path, s->step));
    CVX_RETURN_IF(cvx_snapshot_pack(&data, &len, s));
    CVX_TRY(st, cvx_writer_open(&w, path), done);
    if (!write_bytes(w.tmp, data, len)) {
        st = cvx_fail(CVX_EIO, "cannot write %s: %s", path, strerror(errno));
        cvx_writer_abort(&w);
        goto done;
    }
    CVX_TRY(st, cvx_writer_commit(&w), done);
    int fd = open(r->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >=
        0) { /* the new name must survive a power cut too; not every file system can promise it */
        fsync(fd);
        close(fd);
    }
done:
    free(data);
    return st;
}

bool cvx_resume_save(const cvx_resume *r, const cvx_snapshot *s, cvx_progress *notes)
{
    cvx_snapshot whole = *s;

    whole.job = r->job;
    if (save(r, &whole) != CVX_OK) {
        cvx_progress_note(notes, "no checkpoint after step %lld: %s; going on without",
                          (long long)s->step, cvx_error());
        return false;
    }
    /* this one and the one before; those of later steps are damaged ones that were passed over */
    remove_outside(r, newest(r, s->step), s->step);
    return true;
}

void cvx_resume_clear(const cvx_resume *r)
{
    remove_outside(r, INT64_MAX, INT64_MAX);
}
