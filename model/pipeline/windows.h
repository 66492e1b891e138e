/* Long videos: the transformer sees windows of as many latent frames as it was trained for; where windows overlap,
 * their velocities are blended in every step.
 *
 * Blending as in Bar-Tal et al. 2023 (MultiDiffusion, arXiv 2302.08113), along time, with weights that fall to a
 * window's ends; noise rescheduling as in Qiu et al. 2023 (FreeNoise, arXiv 2310.15169). */
#ifndef CVX_MODEL_PIPELINE_WINDOWS_H
#define CVX_MODEL_PIPELINE_WINDOWS_H

#include "base/rng.h"
#include "kernels/tensor.h"

typedef struct cvx_windows {
    int64_t n, length, stride, frames; /* in latent frames; n = 1: length = frames */
} cvx_windows;

/* `length` frames, `stride` from one to the next, the last one moved back so that it ends with the video. All of
 * them are multiples of `unit` (1.5's patch_size_t; else 1), as the caller made them. */
cvx_windows cvx_windows_make(int64_t frames, int64_t length, int64_t stride);

/* Where window i begins. */
int64_t cvx_windows_start(const cvx_windows *w, int64_t i);

/* The share of window i in latent frame f of the video: 0 outside of it; the shares of a frame sum to 1, and a frame
 * that only one window covers is that window's: exactly 1. */
float cvx_windows_share(const cvx_windows *w, int64_t i, int64_t f);

/* FreeNoise: the noise [frames, values] of every frame behind the first window becomes that of an earlier frame, the
 * frames of one stride in shuffled order, so that far windows start from the same noise. Host memory. */
void cvx_windows_reschedule(const cvx_windows *w, float *noise, int64_t values, cvx_rng *rng);

#endif
