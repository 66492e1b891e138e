/* libav's messages and conversions between its frames and packed RGB.
 *
 * libswscale is used with its exact, SIMD-independent paths (accurate rounding, bit-exact), so that
 * the same frames give the same bytes on every CPU. */
#include "media/av_util.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <libavutil/error.h>
#include <libavutil/imgutils.h>
#include <libavutil/log.h>
#include <libavutil/mem.h>
#include <libavutil/pixdesc.h>

/* sws reads and writes whole vectors of pixels: rows of packed ones need room for so many more. */
#define BEYOND 64

#define SWS_EXACT                                                                                  \
    (SWS_BICUBIC | SWS_ACCURATE_RND | SWS_BITEXACT | SWS_FULL_CHR_H_INT | SWS_FULL_CHR_H_INP)

static _Thread_local char last_line[256];
static _Thread_local bool of_demuxer; /* who wrote it */

/* The first error line after cvx_av_quiet is usually the cause; the ones after it are echoes. */
static void keep_line(void *ctx, int level, const char *fmt, va_list args)
{
    const AVClass *class = ctx != NULL ? *(const AVClass *const *)ctx : NULL;

    if (level > AV_LOG_ERROR || last_line[0] != 0) {
        return;
    }
    of_demuxer = class != NULL && class->get_category != NULL &&
                 class->get_category(ctx) == AV_CLASS_CATEGORY_DEMUXER;
    vsnprintf(last_line, sizeof last_line, fmt, args);
    last_line[strcspn(last_line, "\r\n")] = 0;
}

static void install(void)
{
    av_log_set_callback(keep_line);
}

void cvx_av_quiet(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    pthread_once(&once, install);
    last_line[0] = 0;
}

const char *cvx_av_demuxer_line(void)
{
    return last_line[0] != 0 && of_demuxer ? last_line : NULL;
}

cvx_status cvx_av_fail(cvx_status code, int err, const char *verb, const char *path)
{
    char text[AV_ERROR_MAX_STRING_SIZE];

    if (err == AVERROR(ENOMEM)) {
        return cvx_fail(CVX_ENOMEM, "%s %s: out of memory", verb, path);
    }
    /* libav's own codes are beyond any errno. */
    if (err > -4096 && err != AVERROR(EINVAL)) {
        return cvx_fail(CVX_EIO, "%s %s: %s", verb, path, strerror(AVUNERROR(err)));
    }
    av_strerror(err, text, sizeof text);
    return cvx_fail(code, "%s %s: %s%s%s%s", verb, path, text, last_line[0] != 0 ? " (" : "",
                    last_line, last_line[0] != 0 ? ")" : "");
}

static cvx_status no_scaler(const char *path)
{
    return cvx_fail(CVX_EUNSUPPORTED, "%s: libswscale cannot convert its pixel format", path);
}

/* Blends [h, w, 4] with bytes per row `stride` on black, or drops alpha. */
static void drop_alpha(uint8_t *rgb, const uint8_t *rgba, int stride, int w, int h, bool on_black)
{
    for (int y = 0; y < h; y++) {
        const uint8_t *p = rgba + (size_t)y * (size_t)stride;
        for (int x = 0; x < w; x++, p += 4, rgb += 3) {
            int a = on_black ? p[3] : 255;
            for (int c = 0; c < 3; c++) {
                rgb[c] = (uint8_t)((p[c] * a + 127) / 255);
            }
        }
    }
}

static void copy_rows(uint8_t *dst, size_t row, const uint8_t *src, int stride, int h)
{
    for (int y = 0; y < h; y++) {
        memcpy(dst + (size_t)y * row, src + (size_t)y * (size_t)stride, row);
    }
}

static bool set_colours(struct SwsContext *sws, int from, bool from_full, int to, bool to_full)
{
    return sws_setColorspaceDetails(sws, sws_getCoefficients(from), from_full,
                                    sws_getCoefficients(to), to_full, 0, 1 << 16, 1 << 16) >= 0;
}

static bool is_full_range(const AVFrame *f)
{
    switch (f->format) {
    case AV_PIX_FMT_YUVJ420P:
    case AV_PIX_FMT_YUVJ411P:
    case AV_PIX_FMT_YUVJ422P:
    case AV_PIX_FMT_YUVJ440P:
    case AV_PIX_FMT_YUVJ444P: return true;
    default: break;
    }
    if (f->color_range == AVCOL_RANGE_UNSPECIFIED) { /* gray, with alpha or without */
        const AVPixFmtDescriptor *d = av_pix_fmt_desc_get(f->format);
        return d != NULL && d->nb_components <= 2;
    }
    return f->color_range == AVCOL_RANGE_JPEG;
}

cvx_status cvx_av_to_rgb(uint8_t *rgb, const AVFrame *f, struct SwsContext **sws, bool on_black,
                         const char *path)
{
    const AVPixFmtDescriptor *desc = av_pix_fmt_desc_get(f->format);
    bool alpha, rgb_in;
    uint8_t *data[4] = {0};
    int stride[4] = {0};

    if (desc == NULL) {
        return no_scaler(path);
    }
    rgb_in = (desc->flags & AV_PIX_FMT_FLAG_RGB) != 0;
    if (!rgb_in && (f->colorspace == AVCOL_SPC_YCGCO || f->colorspace == AVCOL_SPC_ICTCP)) {
        return cvx_fail(CVX_EUNSUPPORTED, "%s: its colours are coded as %s, which is not converted",
                        path, av_color_space_name(f->colorspace));
    }
    alpha = (desc->flags & AV_PIX_FMT_FLAG_ALPHA) != 0 || f->format == AV_PIX_FMT_PAL8;
    *sws = sws_getCachedContext(*sws, f->width, f->height, f->format, f->width, f->height,
                                alpha ? AV_PIX_FMT_RGBA : AV_PIX_FMT_RGB24, SWS_EXACT, NULL, NULL,
                                NULL);
    if (*sws == NULL ||
        (!rgb_in && !set_colours(*sws, f->colorspace, is_full_range(f), SWS_CS_DEFAULT, true))) {
        return no_scaler(path);
    }
    if (av_image_alloc(data, stride, f->width + BEYOND, f->height,
                       alpha ? AV_PIX_FMT_RGBA : AV_PIX_FMT_RGB24, 64) < 0) {
        return cvx_fail(CVX_ENOMEM, "%s: no memory for a %dx%d frame", path, f->width, f->height);
    }
    if (sws_scale(*sws, (const uint8_t *const *)f->data, f->linesize, 0, f->height, data, stride) <
        0) {
        av_freep(&data[0]);
        return no_scaler(path);
    }
    if (alpha) {
        drop_alpha(rgb, data[0], stride[0], f->width, f->height, on_black);
    } else {
        copy_rows(rgb, (size_t)f->width * 3, data[0], stride[0], f->height);
    }
    av_freep(&data[0]);
    return CVX_OK;
}

/* [h, w, 3] -> rows `stride` bytes apart, out_w x out_h of them, repeating the last column and row. */
static void pad_edges(uint8_t *dst, size_t stride, int out_w, int out_h, const uint8_t *src,
                      int64_t w, int64_t h)
{
    for (int64_t y = 0; y < out_h; y++) {
        uint8_t *to = dst + (size_t)y * stride;
        const uint8_t *row = src + (y < h ? y : h - 1) * w * 3;
        memcpy(to, row, (size_t)w * 3);
        for (int64_t x = w; x < out_w; x++) {
            memcpy(to + x * 3, row + (w - 1) * 3, 3);
        }
    }
}

cvx_status cvx_av_scratch(AVFrame **out, const AVFrame *frame)
{
    AVFrame *f = av_frame_alloc();

    *out = f;
    if (f == NULL) {
        return cvx_fail(CVX_ENOMEM, "no memory for a frame");
    }
    f->format = AV_PIX_FMT_RGB24;
    f->width = frame->width + BEYOND;
    f->height = frame->height;
    if (av_frame_get_buffer(f, 0) < 0) {
        av_frame_free(out);
        return cvx_fail(CVX_ENOMEM, "no memory for a %dx%d frame", frame->width, frame->height);
    }
    return CVX_OK;
}

cvx_status cvx_av_from_rgb(AVFrame *out, const uint8_t *rgb, int64_t w, int64_t h, AVFrame *scratch,
                           struct SwsContext **sws)
{
    pad_edges(scratch->data[0], (size_t)scratch->linesize[0], out->width, out->height, rgb, w, h);
    if (*sws == NULL) {
        *sws = sws_getContext(out->width, out->height, AV_PIX_FMT_RGB24, out->width, out->height,
                              out->format, SWS_EXACT, NULL, NULL, NULL);
        if (*sws == NULL || !set_colours(*sws, SWS_CS_ITU709, true, SWS_CS_ITU709, false)) {
            return no_scaler("output");
        }
    }
    if (sws_scale(*sws, (const uint8_t *const *)scratch->data, scratch->linesize, 0, out->height,
                  out->data, out->linesize) < 0) {
        return no_scaler("output");
    }
    return CVX_OK;
}

int cvx_av_orientation(const int32_t *m)
{
    if (m == NULL) {
        return 1;
    }
    /* (x, y) goes to (m0 x + m3 y, m1 x + m4 y). */
    if (m[1] == 0 && m[3] == 0) {
        return m[0] >= 0 ? (m[4] >= 0 ? 1 : 4) : (m[4] >= 0 ? 2 : 3);
    }
    if (m[0] == 0 && m[4] == 0) {
        return m[1] > 0 ? (m[3] > 0 ? 5 : 6) : (m[3] > 0 ? 8 : 7);
    }
    return 1;
}
