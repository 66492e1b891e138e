/* Pictures about a clip: the plot of its frame scores and the contact sheet.
 *
 * Text is drawn in the system's sans-serif font (any will do; DejaVu Sans looks as intended; without a
 * single font cairo's own plain strokes are used). Texts are UTF-8; bytes that are not become '?'.
 */
#ifndef CVX_MEDIA_PLOT_H
#define CVX_MEDIA_PLOT_H

#include "base/status.h"
#include "media/image.h"
#include "media/video.h"

typedef struct cvx_plot_opts {
    const double *score; /* [n], one for each frame; one that is not finite leaves a gap */
    int64_t n;
    const bool *drift;   /* [n]: frames to mark; NULL for none */
    const char *title;   /* wrapped to two lines, then cut; NULL for none */
    const char *y_label; /* NULL: "score" */
    int64_t w, h;        /* pixels, at least 320 x 200; 0: 900 x 420 */
} cvx_plot_opts;

/* Writes a PNG: score over frame number (from 0) with its mean, the drifting frames as red dots, and a
 * legend. The vertical axis fits the data but never spans less than 0.02. CVX_EINVAL (n < 1, no finite
 * score, size), CVX_EIO, CVX_ENOMEM. */
cvx_status cvx_plot_scores(const char *path, const cvx_plot_opts *o) CVX_CHECK;

typedef struct cvx_sheet_opts {
    int64_t tiles;   /* how many frames, spread evenly, first and last included; 0: up to 12 */
    int64_t columns; /* 0: chosen so that the sheet is about 3:2 */
    int64_t
        tile_w; /* pixels; 0: 240, more or less for very wide or high frames. The height follows */
    const char *title;   /* as above */
    const double *score; /* [frames]: shown beside the frame number; NULL for none */
    const bool *drift;   /* [frames]: marked by a red border; NULL for none */
    int64_t
        of; /* frames of the clip, of which only those that are shown are given; 0: all are given */
} cvx_sheet_opts;

/* Writes a PNG with frames of the clip in a grid, each with its number and time (if the clip has a
 * rate). CVX_EINVAL (no frames, sizes), CVX_EIO, CVX_ENOMEM. */
cvx_status cvx_sheet_write(const char *path, const cvx_frames *f,
                           const cvx_sheet_opts *o) CVX_CHECK;

/* The same for a video (o->of is found out), of which only the frames that are shown are held. info: what it is, frames counted;
 * first: its first frame, caller frees with cvx_image_free. Both may be NULL. Also the errors of cvx_media_reader_*. */
cvx_status cvx_sheet_of_video(const char *path, const char *video, const cvx_sheet_opts *o,
                              cvx_media_info *info, cvx_image *first) CVX_CHECK;

#endif
