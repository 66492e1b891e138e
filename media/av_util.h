/* What the libav files of this folder share. Not for other folders. */
#ifndef CVX_MEDIA_AV_UTIL_H
#define CVX_MEDIA_AV_UTIL_H

#include <libavutil/frame.h>
#include <libswscale/swscale.h>

#include "base/status.h"
#include "media/image.h"

/* Makes libav silent: its error lines are kept, per thread, for cvx_av_fail instead of going to
 * stderr. To be called before any other use of libav; forgets the thread's present line. */
void cvx_av_quiet(void);

/* The kept line where a demuxer wrote it (not a decoder), else NULL. */
const char *cvx_av_demuxer_line(void);

/* cvx_fail with "<verb> <path>: <what libav says>"; `err` is a libav code. Out-of-memory and errors
 * of the operating system keep their own status; everything else becomes `code`. */
cvx_status cvx_av_fail(cvx_status code, int err, const char *verb, const char *path);

/* Frame (any pixel format libav has) -> rgb [h, w, 3], using the frame's own colour matrix and range
 * (BT.601 when the file does not say, as ffmpeg does). *sws caches the converter; free it with
 * sws_freeContext. With `on_black`, transparent pixels are blended on black, otherwise alpha is
 * dropped. */
cvx_status cvx_av_to_rgb(uint8_t *rgb, const AVFrame *f, struct SwsContext **sws, bool on_black,
                         const char *path) CVX_CHECK;

/* *out: a frame for cvx_av_from_rgb's `scratch`, the caller's to free (av_frame_free). CVX_ENOMEM. */
cvx_status cvx_av_scratch(AVFrame **out, const AVFrame *frame) CVX_CHECK;

/* rgb [h, w, 3] -> out, an allocated frame of yuv420p, BT.709, limited range. out may be one pixel
 * wider and higher than the source: the last column and row are repeated. `scratch`: of
 * cvx_av_scratch for out. */
cvx_status cvx_av_from_rgb(AVFrame *out, const uint8_t *rgb, int64_t w, int64_t h, AVFrame *scratch,
                           struct SwsContext **sws) CVX_CHECK;

/* The EXIF orientation (1..8) that a 3x3 display matrix of libav asks for; 1 for NULL and for
 * anything that is not made of quarter turns and mirrors. */
int cvx_av_orientation(const int32_t *matrix);

/* Decodes the first frame of a picture file (libav's part of cvx_image_read). */
cvx_status cvx_av_image_read(cvx_image *out, const char *path) CVX_CHECK;

#endif
