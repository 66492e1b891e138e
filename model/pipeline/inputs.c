#include "model/pipeline/inputs.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "media/video.h"
#include "model/pipeline/job.h"
#include "model/weights.h"

/* One picture to planes: resize (Pillow's lanczos), then 2·(v / 255) - 1 in f32. */
static cvx_status to_planes(float *out, const uint8_t *rgb, int64_t sw, int64_t sh, int64_t h,
                            int64_t w)
{
    uint8_t *small = malloc((size_t)(h * w * 3));

    if (small == NULL) {
        return cvx_fail(CVX_ENOMEM, "no memory for a %lldx%lld picture", (long long)w,
                        (long long)h);
    }
    cvx_status st = cvx_image_resize(small, w, h, rgb, sw, sh, CVX_FILTER_LANCZOS);
    for (int64_t i = 0; st == CVX_OK && i < h * w; i++) {
        for (int64_t c = 0; c < 3; c++) {
            out[c * h * w + i] = 2.0f * ((float)small[3 * i + c] / 255.0f) - 1.0f;
        }
    }
    free(small);
    return st;
}

cvx_status cvx_load_image(const char *path, float *out, int64_t h, int64_t w)
{
    cvx_image img = {0};

    CVX_RETURN_IF(cvx_image_read(&img, path));
    cvx_status st = to_planes(out, img.rgb, img.w, img.h, h, w);
    cvx_image_free(&img);
    return st;
}

/* Calls fn (may be NULL) with frames `first` .. `first + n` of a clip (n < 0: to its end), i counting from `first`.
 * *seen (may be NULL): the clip, its frames counted up to there. One frame is held. */
typedef cvx_status (*frame_fn)(void *payload, int64_t i, const uint8_t *rgb, int64_t sh,
                               int64_t sw);
static cvx_status each_frame(const char *path, int64_t first, int64_t n, frame_fn fn, void *payload,
                             cvx_source *seen)
{
    cvx_media_reader *r = NULL;
    cvx_status st = CVX_OK;
    int64_t i = 0;

    CVX_RETURN_IF(cvx_media_reader_open(&r, path));
    const cvx_media_info *info = cvx_media_reader_info(r);
    uint8_t *rgb = malloc((size_t)(info->w * info->h * 3));
    if (rgb == NULL) {
        st = cvx_fail(CVX_ENOMEM, "%s: no memory for a frame", path);
        goto done;
    }
    for (bool got = true; n < 0 || i < first + n; i++) {
        CVX_TRY(st, cvx_media_reader_next(r, rgb, &got), done);
        if (!got) {
            break;
        }
        if (i >= first && fn != NULL) {
            CVX_TRY(st, fn(payload, i - first, rgb, info->h, info->w), done);
        }
    }
    if (seen != NULL) {
        *seen =
            (cvx_source){.frames = i,
                         .w = info->w,
                         .h = info->h,
                         .fps =
                             info->fps.num > 0 ? (double)info->fps.num / (double)info->fps.den : 0};
        double shortest, longest;
        if (cvx_media_reader_uneven(r, &shortest, &longest)) {
            seen->shortest = shortest;
            seen->longest = longest;
        }
    }
    if (i < first + n) {
        st = cvx_fail(CVX_EFORMAT, "%s: %lld frames, %lld are needed", path, (long long)i,
                      (long long)(first + n));
    }
done:
    free(rgb);
    cvx_media_reader_close(r);
    return st;
}

cvx_status cvx_source_look(cvx_source *out, const cvx_request *r)
{
    const char *path = r->video != NULL ? r->video : r->extend;

    *out = (cvx_source){0};
    if (path == NULL) {
        return CVX_OK;
    }
    CVX_RETURN_IF(each_frame(path, 0, -1, NULL, NULL, out));
    return out->frames > 0 ? CVX_OK : cvx_fail(CVX_EFORMAT, "%s holds no frame", path);
}

/* Where the frames of a clip go. */
typedef struct target {
    float *planes;
    uint8_t *rgb;
    int64_t h, w;
} target;

static cvx_status put_planes(void *payload, int64_t i, const uint8_t *rgb, int64_t sh, int64_t sw)
{
    const target *t = payload;
    return to_planes(t->planes + i * 3 * t->h * t->w, rgb, sw, sh, t->h, t->w);
}

static cvx_status put_rgb(void *payload, int64_t i, const uint8_t *rgb, int64_t sh, int64_t sw)
{
    const target *t = payload;
    return cvx_image_resize(t->rgb + i * 3 * t->h * t->w, t->w, t->h, rgb, sw, sh,
                            CVX_FILTER_LANCZOS);
}

cvx_status cvx_load_video(const char *path, float *out, int64_t first, int64_t n, int64_t h,
                          int64_t w)
{
    target t = {.planes = out, .h = h, .w = w};
    return each_frame(path, first, n, put_planes, &t, NULL);
}

cvx_status cvx_load_frames(const char *path, uint8_t *out, int64_t n, int64_t h, int64_t w)
{
    target t = {.rgb = out, .h = h, .w = w};
    return each_frame(path, 0, n, put_rgb, &t, NULL);
}

cvx_status cvx_load_latents(const char *path, const cvx_tensor *out)
{
    cvx_weights *w = NULL;
    cvx_tensor t;
    const int64_t *d = out->dim;

    CVX_RETURN_IF(cvx_weights_open(&w, path));
    cvx_status st = CVX_WEIGHT(w, &t, "latents", 1, d[0], d[1], d[2], d[3]);
    if (st == CVX_OK) {
        cvx_to_f32(out->data, t.data, t.dtype, cvx_numel(out));
    }
    cvx_weights_close(w);
    return st;
}

void cvx_posterior_sample(float *out, const float *moments, const float *noise, int64_t c,
                          int64_t f, int64_t hw, float scale)
{
    int64_t half = c * f * hw;

    for (int64_t i = 0; i < c; i++) {
        for (int64_t j = 0; j < f; j++) {
            for (int64_t k = 0; k < hw; k++) {
                int64_t at = (i * f + j) * hw + k;
                float logvar = fminf(fmaxf(moments[half + at], -30.0f), 20.0f);
                float std = expf(0.5f * logvar);
                out[(j * c + i) * hw + k] = scale * (moments[at] + std * noise[at]);
            }
        }
    }
}
