/* Long videos: the transformer sees windows of as many latent frames as it was trained for; where windows overlap,
 * their velocities are blended in every step.
 *
 * Blending as in Bar-Tal et al. 2023 (MultiDiffusion, arXiv 2302.08113), along time, with weights that fall to a
 * window's ends; noise rescheduling as in Qiu et al. 2023 (FreeNoise, arXiv 2310.15169). In the first steps windows may
 * be dilated: they lie on frames far apart and see more of the video, as the levels of a pyramid do in space. */
#ifndef CVX_MODEL_PIPELINE_WINDOWS_H
#define CVX_MODEL_PIPELINE_WINDOWS_H

#include "base/rng.h"
#include "kernels/tensor.h"

typedef struct cvx_windows {
    int64_t n, length, stride, frames; /* in latent frames; n = 1: length = frames */
    int64_t video; /* the video's frames: as many, or more where windows are dilated */
} cvx_windows;

/* `length` frames, `stride` from one to the next, the last one moved back so that it ends with the video. All of
 * them are multiples of `unit` (1.5's patch_size_t; else 1), as the caller made them. */
cvx_windows cvx_windows_make(int64_t frames, int64_t length, int64_t stride);

/* The windows of a step whose latents hold `signal` (sqrt(alphas_cumprod), 0..1) of the noiseless ones: with at most
 * `dilation` (a power of two up to 1024, 1: never) as distance d between a window's frames, while noise is more than d^2/12 of the
 * signal (sqrt(1/alphas_cumprod - 1) > d^2/12, found by trying: docs/long-videos.md) and a window is filled. Such windows, of w's length and stride, lie on d frames of the video apart or less: on a multiple of `unit`
 * frames, spread evenly, the first and the last among them. */
cvx_windows cvx_windows_at(const cvx_windows *w, double signal, int64_t dilation, int64_t unit);

/* Where frame k of those that the windows lie on is in the video. */
int64_t cvx_windows_place(const cvx_windows *w, int64_t k);

/* Where window i begins, among the frames that the windows lie on. */
int64_t cvx_windows_start(const cvx_windows *w, int64_t i);

/* The share of window i in frame f of those that the windows lie on: 0 outside of it; the shares of a frame sum to 1, and a frame
 * that only one window covers is that window's: exactly 1. */
float cvx_windows_share(const cvx_windows *w, int64_t i, int64_t f);

/* FreeNoise: the noise [frames, values] of every frame behind the first window becomes that of an earlier frame, the
 * frames of one stride in shuffled order, so that far windows start from the same noise. Host memory. */
void cvx_windows_reschedule(const cvx_windows *w, float *noise, int64_t values, cvx_rng *rng);

#endif
