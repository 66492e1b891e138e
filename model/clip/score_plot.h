/* The scores of a video as a picture: a curve over its frames, the drift limit, the drifting
 * frames. */
#ifndef CVX_MODEL_CLIP_SCORE_PLOT_H
#define CVX_MODEL_CLIP_SCORE_PLOT_H

#include "model/clip/score.h"

/* Writes a PNG of 900 x 360 pixels. CVX_EIO, CVX_ENOMEM. */
cvx_status cvx_clip_scores_plot(const cvx_clip_scores *s, const char *path) CVX_CHECK;

#endif
