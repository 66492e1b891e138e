#include "model/pipeline/output.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "media/video.h"
#include "model/weights.h"

cvx_status cvx_output_open(cvx_output *o, int64_t n, int64_t h, int64_t w, bool keep_float)
{
    size_t values = (size_t)(n * h * w * 3);

    *o = (cvx_output){.n = n, .h = h, .w = w, .rgb = malloc(values)};
    if (keep_float) {
        o->planes = malloc(values * sizeof *o->planes);
    }
    if (o->rgb == NULL || (keep_float && o->planes == NULL)) {
        cvx_output_close(o);
        return cvx_fail(CVX_ENOMEM, "no memory for %lld frames of %lldx%lld", (long long)n,
                        (long long)w, (long long)h);
    }
    return CVX_OK;
}

void cvx_output_close(cvx_output *o)
{
    free(o->rgb);
    free(o->planes);
    *o = (cvx_output){0};
}

cvx_status cvx_output_frames(void *payload, const float *rgb, int64_t first, int64_t n, int64_t h,
                             int64_t w)
{
    cvx_output *o = payload;
    int64_t hw = h * w;

    CVX_ASSERT(first + n <= o->n && h == o->h && w == o->w);
    for (int64_t f = 0; f < n; f++) {
        for (int64_t c = 0; c < 3; c++) {
            const float *src = rgb + (f * 3 + c) * hw;
            uint8_t *dst = o->rgb + (first + f) * hw * 3 + c;
            for (int64_t i = 0; i < hw; i++) {
                float v = src[i] / 2.0f + 0.5f;
                v = v < 0 ? 0 : v > 1 ? 1 : v;
                dst[3 * i] = (uint8_t)rintf(v * 255.0f);
                if (o->planes != NULL) {
                    o->planes[((first + f) * 3 + c) * hw + i] = v;
                }
            }
        }
    }
    return CVX_OK;
}

bool cvx_output_is_tensor(const char *path)
{
    return cvx_has_extension(path, ".safetensors");
}

cvx_status cvx_output_check_place(const char *path)
{
    char file[CVX_PATH_MAX], dir[CVX_PATH_MAX];

    if (snprintf(file, sizeof file, "%s", path) >= (int)sizeof file) {
        return cvx_fail(CVX_EINVAL, "path too long: %.200s...", path);
    }
    for (size_t n = strlen(file); n > 1 && file[n - 1] == '/'; n--) {
        file[n - 1] = 0;
    }
    snprintf(dir, sizeof dir, "%s", file);
    char *slash = strrchr(dir, '/');
    if (slash == NULL) {
        snprintf(dir, sizeof dir, ".");
    } else {
        slash[slash == dir] = 0;
    }
    bool inside = cvx_is_dir(file); /* frames for a folder that is there gather in it */
    if (!cvx_is_dir(dir)) {
        return cvx_fail(CVX_EIO, "cannot write %s: %s is not a folder", path, dir);
    }
    if (access(inside ? file : dir, W_OK | X_OK) != 0) {
        return cvx_fail(CVX_EIO, "cannot write %s: no permission in %s", path, inside ? file : dir);
    }
    return inside ? CVX_OK : cvx_writer_check(file);
}

cvx_status cvx_output_check(const char *path, int64_t w, int64_t h, double fps)
{
    if (!cvx_output_is_tensor(path)) {
        CVX_RETURN_IF(
            cvx_media_writer_check(path, &(cvx_media_writer_opts){.w = w, .h = h, .fps = fps}));
    }
    return cvx_output_check_place(path);
}

static cvx_status write_tensors(const cvx_output *o, const char *path, const cvx_tensor *latents)
{
    cvx_tensor t[2] = {CVX_VIEW(o->planes, CVX_F32, o->n, 3, o->h, o->w)};
    static const char *const names[] = {"frames", "latents"};

    if (latents != NULL) {
        const int64_t *d = latents->dim;
        t[1] = CVX_RESHAPE(latents, 1, d[0], d[1], d[2], d[3]);
    }
    return cvx_safetensors_write(path, t, names, latents != NULL ? 2 : 1, NULL, 0);
}

cvx_status cvx_output_write(const cvx_output *o, const char *path, double fps, const char *title,
                            const cvx_tensor *latents, cvx_progress *progress)
{
    cvx_media_writer *w = NULL;
    cvx_media_writer_opts opts = {.w = o->w, .h = o->h, .fps = fps, .title = title};
    cvx_status st = CVX_OK;

    if (cvx_output_is_tensor(path)) {
        return write_tensors(o, path, latents);
    }
    CVX_TRY(st, cvx_media_writer_open(&w, path, &opts), done);
    for (int64_t i = 0; i < o->n; i++) {
        CVX_TRY(st, cvx_media_writer_frame(w, o->rgb + i * o->h * o->w * 3), done);
        CVX_TRY(st, cvx_progress_step(progress, i + 1), done);
    }
    st = cvx_media_writer_commit(&w);
done:
    cvx_media_writer_abort(w);
    return st;
}

cvx_status cvx_output_numbered(char *out, const char *path, int64_t k)
{
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/') {
        n--;
    }
    size_t dot = n;
    while (dot > 0 && path[dot - 1] != '.' && path[dot - 1] != '/') {
        dot--;
    }
    size_t stem = dot > 1 && path[dot - 1] == '.' && path[dot - 2] != '/' ? dot - 1 : n;

    if (snprintf(out, CVX_PATH_MAX, "%.*s-%lld%s", (int)stem, path, (long long)k, path + stem) >=
        CVX_PATH_MAX) {
        return cvx_fail(CVX_EINVAL, "path too long: %.200s...", path);
    }
    return CVX_OK;
}
