#include "model/pipeline/inputs.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "media/video.h"
#include "model/pipeline/pipeline.h"
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

cvx_status cvx_load_video(const char *path, float *out, int64_t n, int64_t h, int64_t w)
{
    cvx_frames f = {0};
    cvx_status st = CVX_OK;

    CVX_RETURN_IF(cvx_frames_read(&f, path, n));
    if (f.n < n) {
        st = cvx_fail(CVX_EFORMAT, "%s: %lld frames, %lld are needed", path, (long long)f.n,
                      (long long)n);
    }
    for (int64_t i = 0; st == CVX_OK && i < n; i++) {
        st = to_planes(out + i * 3 * h * w, f.rgb + i * f.h * f.w * 3, f.w, f.h, h, w);
    }
    cvx_frames_free(&f);
    return st;
}

cvx_status cvx_count_frames(const char *path, int64_t *out)
{
    cvx_media_reader *r = NULL;
    cvx_status st = CVX_OK;
    int64_t n = 0;
    bool got = true;

    CVX_RETURN_IF(cvx_media_reader_open(&r, path));
    const cvx_media_info *info = cvx_media_reader_info(r);
    uint8_t *rgb = malloc((size_t)(info->w * info->h * 3));
    if (rgb == NULL) {
        st = cvx_fail(CVX_ENOMEM, "%s: no memory for a frame", path);
        goto done;
    }
    for (;;) {
        CVX_TRY(st, cvx_media_reader_next(r, rgb, &got), done);
        if (!got) {
            break;
        }
        n++;
    }
    *out = n;
done:
    free(rgb);
    cvx_media_reader_close(r);
    return st;
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
