/* What a job reads besides its checkpoint: an image, a video, latents; and the posterior sample. */
#ifndef CVX_MODEL_PIPELINE_INPUTS_H
#define CVX_MODEL_PIPELINE_INPUTS_H

#include "kernels/tensor.h"

/* RGB planes f32 [1, 3, h, w] in -1..1, resized as diffusers' VideoProcessor does (Pillow's lanczos). */
cvx_status cvx_load_image(const char *path, float *out, int64_t h, int64_t w) CVX_CHECK;

/* Frames `first` .. `first + n` of a video file or folder of images, likewise: [n, 3, h, w]. CVX_EFORMAT if there are
 * fewer. */
cvx_status cvx_load_video(const char *path, float *out, int64_t first, int64_t n, int64_t h,
                          int64_t w) CVX_CHECK;

/* Its first n frames as bytes [n, h, w, 3], resized likewise; those of this size are copied. */
cvx_status cvx_load_frames(const char *path, uint8_t *out, int64_t n, int64_t h,
                           int64_t w) CVX_CHECK;

/* The tensor "latents" [1, F, C, h, w] (or [F, C, h, w]) of a safetensors file, into out [F, C, h, w]. */
cvx_status cvx_load_latents(const char *path, const cvx_tensor *out) CVX_CHECK;

/* DiagonalGaussianDistribution.sample: moments [2c, f, hw] (mean, logvar), noise [c, f, hw] ->
 * out [f, c, hw] = scale·(mean + exp(0.5·clamp(logvar, -30, 20))·noise). */
void cvx_posterior_sample(float *out, const float *moments, const float *noise, int64_t c,
                          int64_t f, int64_t hw, float scale);

#endif
