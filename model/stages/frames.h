/* The frames between two frames, by the rules of CogVideo's demo (inference/gradio_composite_demo/rife_model.py):
 * bisection at t = 1/2, still frames and cuts seen by their likeness (SSIM) at 32 x 32. */
#ifndef CVX_MODEL_STAGES_FRAMES_H
#define CVX_MODEL_STAGES_FRAMES_H

#include "model/rife/rife.h"

/* Two frames as host arrays [ph, pw, 4], RGB in 0..1 with zeros below and right of their h x w pixels. */
typedef struct cvx_pair {
    const float *a, *b;
    int64_t h, w, ph, pw;
} cvx_pair;

/* A finished frame [h, w, 3] (rows one after another). */
typedef cvx_status (*cvx_frame_fn)(void *payload, const float *rgb, int64_t h, int64_t w);

/* Frame a and the factor - 1 frames after it, factor 2, 4 or 8, to fn. The last frame of a clip is its own b.
 * Likeness above 0.996: a still picture, b and the first frame become the frame between a and a. Below 0.2: a
 * cut, a is repeated. step: memory for the work, given back. */
cvx_status cvx_pair_frames(cvx_rife *m, cvx_arena *step, const cvx_pair *p, int64_t factor,
                           cvx_frame_fn fn, void *payload) CVX_CHECK;

/* The frame at time t in 0 .. 1 between a and b; a itself at 0 and on both sides of a cut. */
cvx_status cvx_pair_frame_at(cvx_rife *m, cvx_arena *step, const cvx_pair *p, double t,
                             cvx_frame_fn fn, void *payload) CVX_CHECK;

/* Structural similarity of two frames [ph, pw, 4] at 32 x 32, channels as a third axis: an 11-tap gaussian of sigma
 * 1.5 along all three, range 1 (the demo's ssim_matlab). */
double cvx_frame_ssim(const float *a, const float *b, int64_t ph, int64_t pw);

#endif
