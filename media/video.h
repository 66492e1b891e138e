/* Moving pictures in and out: MP4, WebM, GIF and folders of PNG frames.
 *
 * Frames are RGB, 8 bits a channel, [h, w, 3] without padding. Writing is deterministic: the same
 * frames and options give the same bytes, whatever the number of cores or threads. A writer's file or
 * folder appears under its name only when it is complete; until then nothing of that name is touched.
 * Nothing here prints: libav's own messages end up in cvx_error().
 */
#ifndef CVX_MEDIA_VIDEO_H
#define CVX_MEDIA_VIDEO_H

#include "base/status.h"
#include "media/image.h"

typedef struct cvx_fps {
    int64_t num, den; /* frames per second = num / den, lowest terms */
} cvx_fps;

/* The fraction meant by a decimal: 8 is 8/1, 7.5 is 15/2, and 23.976, 23.98, 29.97, 59.94, 119.88 are
 * the broadcast rates 24000/1001, 30000/1001 ... Others: the nearest fraction with a denominator of at
 * most 1001. CVX_EINVAL outside 0.01 .. 1000. */
cvx_status cvx_fps_from_double(cvx_fps *out, double fps) CVX_CHECK;

/* ---- writing --------------------------------------------------------------------------------- */

typedef struct cvx_media_writer cvx_media_writer;

typedef struct cvx_media_writer_opts {
    int64_t w, h;         /* pixels */
    double fps;           /* see cvx_fps_from_double */
    double crf;           /* MP4 and WebM: constant quality; 0 takes the default (17 and 24) */
    const char *title;    /* MP4 and WebM: metadata; NULL for none. Borrowed during open */
    const char *comment;  /* the same */
    int64_t sar_w, sar_h; /* MP4 and WebM: a pixel's shape; 0: square */
} cvx_media_writer_opts;

/* Begins an output. Its kind follows from the name:
 *   .mp4   H.264 (x264, CRF), yuv420p, BT.709 limited range and tagged so, index at the front
 *   .webm  VP9, yuv420p, BT.709 limited range
 *   .gif   one palette for all frames, looping; delays are whole 1/100 s chosen per frame so that every
 *          frame begins within 1/200 s of its time. All frames are held in memory until commit. At most 50 fps
 *   a name that ends with '/', an existing folder, or a name without extension: a folder of PNGs
 *          0000.png, 0001.png ... An existing folder must be empty or hold such frames only, which
 *          are then replaced at commit (names that begin with a dot do not count)
 * yuv420p needs even sides: for odd ones the last column or row is repeated once, so the video is a
 * pixel wider or higher than the frames. CVX_EINVAL (size, rate, unknown extension: the known ones are
 * named), CVX_EIO, CVX_EUNSUPPORTED (libav was built without the encoder). */
cvx_status cvx_media_writer_open(cvx_media_writer **out, const char *path,
                                 const cvx_media_writer_opts *opts) CVX_CHECK;

/* Checks what open would refuse by name, size or rate, without touching the file system beyond
 * looking: for jobs that want to fail before an hour of denoising. */
cvx_status cvx_media_writer_check(const char *path, const cvx_media_writer_opts *opts) CVX_CHECK;

/* Whether an output of this name can say that its pixels are not square. */
bool cvx_media_writer_keeps_shape(const char *path);

/* Appends one frame [h, w, 3]. After a failure only abort is useful. */
cvx_status cvx_media_writer_frame(cvx_media_writer *w, const uint8_t *rgb) CVX_CHECK;

/* Finishes the output and gives it its name; *w is freed and set to NULL, also on failure, when
 * nothing is left behind. CVX_EINVAL without any frame. */
cvx_status cvx_media_writer_commit(cvx_media_writer **w) CVX_CHECK;

/* Drops the output and frees the writer; NULL is accepted. */
void cvx_media_writer_abort(cvx_media_writer *w);

/* ---- reading --------------------------------------------------------------------------------- */

typedef struct cvx_media_reader cvx_media_reader;

typedef struct cvx_media_info {
    int64_t w, h;   /* as shown: after rotation */
    cvx_fps fps;    /* mean rate; 0/1 when there is none (folders, pictures) */
    int64_t frames; /* -1 when the file does not say */
    int64_t sar_w,
        sar_h; /* a pixel's shape, after rotation, at most 255; 1, 1: square, or not said */
} cvx_media_info;

/* Opens a video file libav can read, a GIF, one picture (a single frame), or a folder of pictures
 * (.png .jpg .jpeg .webp .bmp, in natural order: 2 before 10; all of one size). Only local files are
 * read, never what a playlist names. CVX_EIO, CVX_EFORMAT (no video in it, corrupt, a side beyond
 * CVX_MEDIA_MAX_SIDE), CVX_EUNSUPPORTED (no decoder). */
cvx_status cvx_media_reader_open(cvx_media_reader **out, const char *path) CVX_CHECK;

/* The height of a picture of square pixels, w wide, that looks as the video does; 1 or more. */
int64_t cvx_media_shown_height(const cvx_media_info *info, int64_t w);

/* Borrowed from the reader. */
const cvx_media_info *cvx_media_reader_info(const cvx_media_reader *r);

/* Decodes the next frame into rgb [info.h, info.w, 3]; *got is false after the last. The display
 * rotation is applied, deep colour is cut to 8 bits, transparency is blended on black (in folders and
 * pictures dropped: cvx_image_read), timestamps and the pixels' shape are ignored. CVX_EFORMAT when the
 * data is damaged or cut short. */
cvx_status cvx_media_reader_next(cvx_media_reader *r, uint8_t *rgb, bool *got) CVX_CHECK;

/* The shortest and the longest time between two of the frames so far, in seconds, and whether they differ by more than
 * half: the mean rate then says little about any of them. False without timestamps. */
bool cvx_media_reader_uneven(const cvx_media_reader *r, double *shortest, double *longest);

void cvx_media_reader_close(cvx_media_reader *r);

/* ---- whole clips ----------------------------------------------------------------------------- */

typedef struct cvx_frames {
    int64_t n, w, h;
    cvx_fps fps;
    uint8_t *rgb; /* [n, h, w, 3], owned: cvx_frames_free */
} cvx_frames;

/* Reads the first `max` frames (all of them for max <= 0). CVX_EFORMAT if there is none. */
cvx_status cvx_frames_read(cvx_frames *out, const char *path, int64_t max) CVX_CHECK;

/* Frees the pixels and zeroes the struct; a zeroed one is accepted. */
void cvx_frames_free(cvx_frames *f);

/* Converts a video to a GIF (or to any kind the writer knows): `fps` 0 keeps the rate (at most 50 for
 * a GIF), otherwise frames are dropped or repeated to reach it with the duration kept; `width` 0 keeps
 * the width, and the height follows the aspect (Lanczos): pixels become square. A source without a rate counts as 8
 * fps. The input may not be the output. CVX_ECANCELLED where a stop is asked (base/stop.h). */
cvx_status cvx_media_gif_convert(const char *in, const char *out, double fps,
                                 int64_t width) CVX_CHECK;

#endif
