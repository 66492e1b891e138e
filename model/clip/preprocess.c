#include "model/clip/preprocess.h"

#include <stdlib.h>

static void resized(const cvx_clip_image_config *c, int64_t w, int64_t h, int64_t *out_w,
                    int64_t *out_h)
{
    *out_w = w;
    *out_h = h;
    if (c->do_resize && c->shortest_edge == 0) {
        *out_w = c->size_w;
        *out_h = c->size_h;
    } else if (c->do_resize) {
        int64_t edge = c->shortest_edge;
        *out_w = w <= h ? edge : edge * w / h;
        *out_h = w <= h ? edge * h / w : edge;
    }
}

void cvx_clip_pixels_size(const cvx_clip_image_config *c, int64_t w, int64_t h, int64_t *out_w,
                          int64_t *out_h)
{
    resized(c, w, h, out_w, out_h);
    if (c->do_center_crop) {
        *out_w = c->crop_w;
        *out_h = c->crop_h;
    }
}

/* The value of each byte in channel ch: scaled in double and rounded, then in
 * single precision. */
static void make_table(const cvx_clip_image_config *c, int ch, float table[256])
{
    for (int v = 0; v < 256; v++) {
        float x = c->do_rescale ? (float)((double)v * c->rescale_factor) : (float)v;
        if (c->do_normalize) {
            x = (x - (float)c->mean[ch]) / (float)c->std[ch];
        }
        table[v] = x;
    }
}

/* floor(a / 2), also of negative numbers. */
static int64_t half(int64_t a)
{
    return a >= 0 ? a / 2 : -((1 - a) / 2);
}

cvx_status cvx_clip_preprocess(const cvx_clip_image_config *c, float *out, const uint8_t *rgb,
                               int64_t w, int64_t h)
{
    int64_t rw, rh, ow, oh;
    uint8_t *small = NULL;
    float table[256];

    if (w < 1 || h < 1 || w > CVX_MEDIA_MAX_SIDE || h > CVX_MEDIA_MAX_SIDE) {
        return cvx_fail(CVX_EINVAL, "a frame of %lldx%lld; sides go from 1 to %d", (long long)w,
                        (long long)h, CVX_MEDIA_MAX_SIDE);
    }
    resized(c, w, h, &rw, &rh);
    cvx_clip_pixels_size(c, w, h, &ow, &oh);
    if (rw != w || rh != h) {
        small = rw > CVX_MEDIA_MAX_SIDE || rh > CVX_MEDIA_MAX_SIDE ? NULL
                                                                   : malloc((size_t)(rw * rh * 3));
        if (small == NULL) {
            return cvx_fail(CVX_ENOMEM, "no memory to resize a frame to %lldx%lld", (long long)rw,
                            (long long)rh);
        }
        cvx_status st = cvx_image_resize(small, rw, rh, rgb, w, h, c->filter);
        if (st != CVX_OK) {
            free(small);
            return st;
        }
        rgb = small;
    }
    int64_t top = half(rh - oh), left = half(rw - ow);
    for (int ch = 0; ch < 3; ch++) {
        make_table(c, ch, table);
        for (int64_t y = top; y < top + oh; y++) {
            for (int64_t x = left; x < left + ow; x++) {
                bool inside = y >= 0 && y < rh && x >= 0 && x < rw;
                *out++ = table[inside ? rgb[(y * rw + x) * 3 + ch] : 0];
            }
        }
    }
    free(small);
    return CVX_OK;
}
