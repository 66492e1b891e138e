#include "media/video.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "media/writer.h"

cvx_status cvx_fps_from_double(cvx_fps *out, double fps)
{
    static const int broadcast[] = {24, 30, 48, 60, 120};

    if (!(fps >= 0.01 && fps <= 1000.0)) {
        return cvx_fail(CVX_EINVAL, "frame rate %g; it goes from 0.01 to 1000", fps);
    }
    for (size_t i = 0; i < sizeof broadcast / sizeof broadcast[0]; i++) {
        if (fabs(fps - broadcast[i] * 1000.0 / 1001.0) < 0.005) {
            *out = (cvx_fps){broadcast[i] * 1000, 1001};
            return CVX_OK;
        }
    }
    AVRational q = av_d2q(fps, 1001);
    if (fps < 1.0) { /* keep slow rates exact too: the fraction of the period */
        q = av_inv_q(av_d2q(1.0 / fps, 1001));
    }
    *out = (cvx_fps){q.num, q.den};
    return CVX_OK;
}

/* The extension with its dot; NULL without one. A leading dot makes a hidden name, not an extension. */
static const char *extension_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    const char *name = slash != NULL ? slash + 1 : path;
    const char *dot = strrchr(name, '.');

    return dot == NULL || dot == name || strcmp(name, "..") == 0 ? NULL : dot;
}

static cvx_status find_kind(const cvx_media_kind **out, const char *path)
{
    static const cvx_media_kind *const files[] = {&cvx_media_mp4, &cvx_media_webm, &cvx_media_gif};
    size_t n = strlen(path);
    const char *ext = extension_of(path);

    if (n == 0 || strcmp(path, "-") == 0) {
        return cvx_fail(CVX_EINVAL, "output '%s': the name of a file or a folder is needed", path);
    }
    if (path[n - 1] == '/' || cvx_is_dir(path)) {
        *out = &cvx_media_folder;
        return CVX_OK;
    }
    for (size_t i = 0; ext != NULL && i < sizeof files / sizeof files[0]; i++) {
        if (strcasecmp(ext, files[i]->extension) == 0) {
            *out = files[i];
            return CVX_OK;
        }
    }
    if (ext != NULL) {
        return cvx_fail(
            CVX_EINVAL,
            "output %s: unknown kind '%s'; known are .mp4, .webm, .gif, and a folder of "
            "PNG frames (a name ending with '/')",
            path, ext);
    }
    *out = &cvx_media_folder;
    return CVX_OK;
}

static cvx_status check_opts(cvx_fps *fps, const char *path, const cvx_media_kind *kind,
                             const cvx_media_writer_opts *o)
{
    if (o->w < 1 || o->h < 1 || o->w > CVX_MEDIA_MAX_SIDE || o->h > CVX_MEDIA_MAX_SIDE) {
        return cvx_fail(CVX_EINVAL, "output %s: size %lldx%lld; sides go from 1 to %d", path,
                        (long long)o->w, (long long)o->h, CVX_MEDIA_MAX_SIDE);
    }
    if (!(o->crf >= 0.0 && o->crf <= 63.0)) {
        return cvx_fail(CVX_EINVAL, "output %s: quality (crf) %g; it goes from 0 to 63", path,
                        o->crf);
    }
    CVX_RETURN_IF(cvx_fps_from_double(fps, o->fps));
    /* Browsers slow down GIFs whose delays are below 2/100 s. */
    if (kind == &cvx_media_gif && fps->num > 50 * fps->den) {
        return cvx_fail(CVX_EINVAL, "output %s: %g frames per second; a GIF can show at most 50",
                        path, o->fps);
    }
    if (kind == &cvx_media_folder) {
        return cvx_media_folder_check(path);
    }
    return CVX_OK;
}

cvx_status cvx_media_writer_check(const char *path, const cvx_media_writer_opts *opts)
{
    const cvx_media_kind *kind;
    cvx_fps fps;

    CVX_RETURN_IF(find_kind(&kind, path));
    return check_opts(&fps, path, kind, opts);
}

bool cvx_media_writer_keeps_shape(const char *path)
{
    return cvx_has_extension(path, cvx_media_mp4.extension) ||
           cvx_has_extension(path, cvx_media_webm.extension);
}

cvx_status cvx_media_writer_open(cvx_media_writer **out, const char *path,
                                 const cvx_media_writer_opts *opts)
{
    cvx_media_writer *w = calloc(1, sizeof *w);
    cvx_status st;
    size_t n = strlen(path);

    if (w == NULL) {
        return cvx_fail(CVX_ENOMEM, "output %s: out of memory", path);
    }
    CVX_TRY(st, find_kind(&w->kind, path), done);
    CVX_TRY(st, check_opts(&w->fps, path, w->kind, opts), done);
    while (n > 1 && path[n - 1] == '/') {
        n--;
    }
    if (n >= sizeof w->path - 64) {
        st = cvx_fail(CVX_EINVAL, "path too long: %.200s...", path);
        goto done;
    }
    memcpy(w->path, path, n);
    w->opts = *opts;
    CVX_TRY(st, w->kind->open(w), done);
    *out = w;
    w = NULL;
done:
    cvx_media_writer_abort(w);
    return st;
}

cvx_status cvx_media_writer_frame(cvx_media_writer *w, const uint8_t *rgb)
{
    CVX_RETURN_IF(w->kind->frame(w, rgb));
    w->n++;
    return CVX_OK;
}

cvx_status cvx_media_writer_commit(cvx_media_writer **w)
{
    cvx_status st;

    if ((*w)->n == 0) {
        st = cvx_fail(CVX_EINVAL, "output %s: no frames", (*w)->path);
    } else {
        st = (*w)->kind->commit(*w);
    }
    cvx_media_writer_abort(*w);
    *w = NULL;
    return st;
}

void cvx_media_writer_abort(cvx_media_writer *w)
{
    if (w == NULL) {
        return;
    }
    if (w->self != NULL) {
        w->kind->close(w);
    }
    free(w);
}
