/* The three kinds of source behind one reader: a video file, one picture, a folder of pictures. */
#include "media/video.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/file.h"
#include "media/av_source.h"
#include "media/av_util.h"

struct cvx_media_reader {
    char path[CVX_PATH_MAX];
    cvx_media_info info;
    int64_t next;
    bool is_video;
    /* video */
    cvx_av_source src;
    struct SwsContext *sws;
    int orientation;
    int64_t time, shortest,
        longest; /* the last frame's; between two, 0: none yet; in the stream's time base */
    /* pictures: paths, owned */
    char **file;
    int64_t n_files;
};

/* ---- folders --------------------------------------------------------------------------------- */

static bool is_picture_name(const char *name)
{
    static const char *const ext[] = {".png", ".jpg", ".jpeg", ".webp", ".bmp"};
    const char *dot = strrchr(name, '.');

    for (size_t i = 0; dot != NULL && dot != name && i < sizeof ext / sizeof ext[0]; i++) {
        if (strcasecmp(dot, ext[i]) == 0) {
            return true;
        }
    }
    return false;
}

/* Runs of digits compare as numbers; ties (leading zeros) are broken byte by byte. */
static int natural(const void *x, const void *y)
{
    const char *a = *(char *const *)x, *b = *(char *const *)y;

    for (const char *p = a, *q = b; *p != 0 || *q != 0;) {
        if (isdigit((unsigned char)*p) && isdigit((unsigned char)*q)) {
            p += strspn(p, "0");
            q += strspn(q, "0");
            size_t np = strspn(p, "0123456789"), nq = strspn(q, "0123456789");
            int c = np != nq ? (np < nq ? -1 : 1) : memcmp(p, q, np);
            if (c != 0) {
                return c;
            }
            p += np;
            q += nq;
        } else if (*p != *q) {
            return (unsigned char)*p < (unsigned char)*q ? -1 : 1;
        } else {
            p++;
            q++;
        }
    }
    return strcmp(a, b);
}

static cvx_status add_file(cvx_media_reader *r, const char *path)
{
    if ((r->n_files & (r->n_files - 1)) == 0) { /* full at every power of two */
        size_t room = r->n_files == 0 ? 1 : (size_t)r->n_files * 2;
        char **bigger = realloc(r->file, room * sizeof *bigger);
        if (bigger == NULL) {
            return cvx_fail(CVX_ENOMEM, "%s: out of memory", r->path);
        }
        r->file = bigger;
    }
    r->file[r->n_files] = strdup(path);
    if (r->file[r->n_files] == NULL) {
        return cvx_fail(CVX_ENOMEM, "%s: out of memory", r->path);
    }
    r->n_files++;
    return CVX_OK;
}

static cvx_status list_folder(cvx_media_reader *r)
{
    char path[CVX_PATH_MAX];
    cvx_status st = CVX_OK;
    DIR *dir = opendir(r->path);
    struct dirent *e;

    if (dir == NULL) {
        return cvx_fail(CVX_EIO, "cannot read the folder %s: %s", r->path, strerror(errno));
    }
    while (st == CVX_OK && (e = readdir(dir)) != NULL) {
        if (e->d_name[0] != '.' && is_picture_name(e->d_name)) {
            st = cvx_path_join(path, r->path, e->d_name);
            if (st == CVX_OK) {
                st = add_file(r, path);
            }
        }
    }
    closedir(dir);
    CVX_RETURN_IF(st);
    if (r->n_files == 0) {
        return cvx_fail(CVX_EFORMAT, "the folder %s holds no .png, .jpg, .webp or .bmp picture",
                        r->path);
    }
    qsort(r->file, (size_t)r->n_files, sizeof *r->file, natural);
    return CVX_OK;
}

/* The first picture fixes the size; it is read again when its turn comes. */
static cvx_status open_pictures(cvx_media_reader *r)
{
    cvx_image img = {0};

    CVX_RETURN_IF(cvx_image_read(&img, r->file[0]));
    r->info = (cvx_media_info){img.w, img.h, {0, 1}, r->n_files, 1, 1};
    cvx_image_free(&img);
    return CVX_OK;
}

static cvx_status next_picture(cvx_media_reader *r, uint8_t *rgb, bool *got)
{
    cvx_image img = {0};
    cvx_status st = CVX_OK;

    if (r->next == r->n_files) {
        *got = false;
        return CVX_OK;
    }
    CVX_RETURN_IF(cvx_image_read(&img, r->file[r->next]));
    if (img.w != r->info.w || img.h != r->info.h) {
        st = cvx_fail(CVX_EFORMAT, "%s is %lldx%lld, but the first picture there is %lldx%lld",
                      r->file[r->next], (long long)img.w, (long long)img.h, (long long)r->info.w,
                      (long long)r->info.h);
    } else {
        memcpy(rgb, img.rgb, (size_t)(img.w * img.h * 3));
        r->next++;
        *got = true;
    }
    cvx_image_free(&img);
    return st;
}

/* ---- video files ----------------------------------------------------------------------------- */

static bool is_single_picture(const char *format)
{
    size_t n = strlen(format);

    /* "mjpeg": a JPEG with others behind it, such as a telephone's depth map */
    return strcmp(format, "mjpeg") == 0 || (n > 5 && strcmp(format + n - 5, "_pipe") == 0);
}

static cvx_status open_video(cvx_media_reader *r)
{
    CVX_RETURN_IF(cvx_av_source_open(&r->src, r->path));
    if (is_single_picture(r->src.format->iformat->name)) {
        CVX_RETURN_IF(add_file(r, r->path));
        return open_pictures(r);
    }
    r->is_video = true;
    r->orientation = cvx_av_source_orientation(&r->src);
    bool swap = r->orientation >= 5;
    int64_t w = r->src.decoder->width, h = r->src.decoder->height;
    int64_t frames = r->src.stream->nb_frames;
    AVRational sar = av_guess_sample_aspect_ratio(r->src.format, r->src.stream, NULL);
    if (sar.num < 1 || sar.den < 1) {
        sar = (AVRational){1, 1};
    }
    av_reduce(&sar.num, &sar.den, sar.num, sar.den, 255);
    r->info = (cvx_media_info){.w = swap ? h : w,
                               .h = swap ? w : h,
                               .fps = cvx_av_source_rate(&r->src),
                               .frames = frames > 0 ? frames : -1,
                               .sar_w = swap ? sar.den : sar.num,
                               .sar_h = swap ? sar.num : sar.den};
    return CVX_OK;
}

static cvx_status turned_frame(cvx_media_reader *r, uint8_t *rgb, const AVFrame *f)
{
    size_t bytes = (size_t)(r->info.w * r->info.h * 3);
    cvx_image img = {f->width, f->height, malloc(bytes)};
    cvx_status st;

    if (img.rgb == NULL) {
        return cvx_fail(CVX_ENOMEM, "%s: no memory for a frame", r->path);
    }
    CVX_TRY(st, cvx_av_to_rgb(img.rgb, f, &r->sws, true, r->path), done);
    CVX_TRY(st, cvx_image_orient(&img, r->orientation), done);
    memcpy(rgb, img.rgb, bytes);
done:
    cvx_image_free(&img);
    return st;
}

static void take_time(cvx_media_reader *r, int64_t now)
{
    if (now == AV_NOPTS_VALUE) {
        return;
    }
    int64_t since = av_sat_sub64(now, r->time); /* a file may say any time */
    if (r->next > 0 && since > 0) {
        r->shortest = r->shortest == 0 || since < r->shortest ? since : r->shortest;
        r->longest = since > r->longest ? since : r->longest;
    }
    r->time = now;
}

bool cvx_media_reader_uneven(const cvx_media_reader *r, double *shortest, double *longest)
{
    double unit = r->is_video ? av_q2d(r->src.stream->time_base) : 0;

    *shortest = (double)r->shortest * unit;
    *longest = (double)r->longest * unit;
    return *longest > 1.5 * *shortest;
}

static cvx_status next_video(cvx_media_reader *r, uint8_t *rgb, bool *got)
{
    AVFrame *f = NULL;

    CVX_RETURN_IF(cvx_av_source_next(&r->src, &f));
    if (f == NULL) {
        *got = false;
        return CVX_OK;
    }
    bool swap = r->orientation >= 5;
    if (f->width != (swap ? r->info.h : r->info.w) || f->height != (swap ? r->info.w : r->info.h)) {
        return cvx_fail(CVX_EFORMAT,
                        "%s changes its size to %dx%d at frame %lld; one size is needed", r->path,
                        f->width, f->height, (long long)r->next);
    }
    if (r->orientation == 1) {
        CVX_RETURN_IF(cvx_av_to_rgb(rgb, f, &r->sws, true, r->path));
    } else {
        CVX_RETURN_IF(turned_frame(r, rgb, f));
    }
    take_time(r, f->best_effort_timestamp);
    r->next++;
    *got = true;
    return CVX_OK;
}

/* ---- the reader ------------------------------------------------------------------------------ */

cvx_status cvx_media_reader_open(cvx_media_reader **out, const char *path)
{
    cvx_media_reader *r = calloc(1, sizeof *r);
    cvx_status st;

    if (r == NULL) {
        return cvx_fail(CVX_ENOMEM, "%s: out of memory", path);
    }
    if (snprintf(r->path, sizeof r->path, "%s", path) >= (int)sizeof r->path) {
        st = cvx_fail(CVX_EINVAL, "path too long: %.200s...", path);
        goto done;
    }
    if (cvx_is_dir(path)) {
        CVX_TRY(st, list_folder(r), done);
        CVX_TRY(st, open_pictures(r), done);
    } else {
        CVX_TRY(st, cvx_check_file(path), done);
        CVX_TRY(st, open_video(r), done);
    }
    *out = r;
    r = NULL;
done:
    cvx_media_reader_close(r);
    return st;
}

int64_t cvx_media_shown_height(const cvx_media_info *info, int64_t w)
{
    int64_t across = info->w * info->sar_w,
            h = (2 * w * info->h * info->sar_h + across) / (2 * across);

    return h > 0 ? h : 1;
}

const cvx_media_info *cvx_media_reader_info(const cvx_media_reader *r)
{
    return &r->info;
}

cvx_status cvx_media_reader_next(cvx_media_reader *r, uint8_t *rgb, bool *got)
{
    return r->is_video ? next_video(r, rgb, got) : next_picture(r, rgb, got);
}

void cvx_media_reader_close(cvx_media_reader *r)
{
    if (r == NULL) {
        return;
    }
    cvx_av_source_close(&r->src);
    sws_freeContext(r->sws);
    for (int64_t i = 0; i < r->n_files; i++) {
        free(r->file[i]);
    }
    free(r->file);
    free(r);
}

/* ---- whole clips ----------------------------------------------------------------------------- */

static cvx_status read_all(cvx_frames *f, cvx_media_reader *r, const char *path, int64_t max)
{
    size_t frame = (size_t)(f->w * f->h * 3);
    int64_t room = 0;
    bool got = true;

    while (max <= 0 || f->n < max) {
        if (f->n == room) {
            /* One more than the file promises, so that its end is seen without growing; but a
             * promise alone does not make us ask for more than 256 MiB. */
            int64_t known = cvx_media_reader_info(r)->frames, modest = (256 << 20) / (int64_t)frame;
            known = known > 0 ? known + 1 : 64;
            room = room > 0 ? room * 2 : known < modest ? known : modest + 1;
            room = max > 0 && room > max ? max : room;
            uint8_t *bigger = realloc(f->rgb, (size_t)room * frame);
            if (bigger == NULL) {
                return cvx_fail(CVX_ENOMEM, "%s: no memory for %lld frames of %lldx%lld", path,
                                (long long)room, (long long)f->w, (long long)f->h);
            }
            f->rgb = bigger;
        }
        CVX_RETURN_IF(cvx_media_reader_next(r, f->rgb + (size_t)f->n * frame, &got));
        if (!got) {
            break;
        }
        f->n++;
    }
    return f->n > 0 ? CVX_OK : cvx_fail(CVX_EFORMAT, "%s holds no frame", path);
}

cvx_status cvx_frames_read(cvx_frames *out, const char *path, int64_t max)
{
    cvx_media_reader *r = NULL;
    cvx_frames f = {0};
    cvx_status st;

    CVX_TRY(st, cvx_media_reader_open(&r, path), done);
    const cvx_media_info *info = cvx_media_reader_info(r);
    f = (cvx_frames){.w = info->w, .h = info->h, .fps = info->fps};
    CVX_TRY(st, read_all(&f, r, path, max), done);
    *out = f;
    f.rgb = NULL;
done:
    free(f.rgb);
    cvx_media_reader_close(r);
    return st;
}

void cvx_frames_free(cvx_frames *f)
{
    free(f->rgb);
    *f = (cvx_frames){0};
}
