/* Position tables of CogVideoX, on the host in f32 (diffusers models/embeddings.py). */
#ifndef CVX_MODEL_DIT_POSITIONS_H
#define CVX_MODEL_DIT_POSITIONS_H

#include "model/dit/dit.h"

/* get_3d_sincos_pos_embed: out [frames·gh·gw, dim]. */
void cvx_sincos_3d(float *out, int64_t dim, int64_t frames, int64_t gh, int64_t gw,
                   double spatial_scale, double temporal_scale);

/* get_3d_rotary_pos_embed as the pipelines call it for this config: cos, sin [rows, head_dim] for
 * `frames` latent frames (divided by patch_size_t on 1.5) and a gh x gw grid of patches. */
void cvx_rotary_3d(float *cos_out, float *sin_out, const cvx_dit_config *cfg, int64_t frames,
                   int64_t gh, int64_t gw);

/* get_timestep_embedding(t): out [dim]. */
void cvx_timestep_embedding(float *out, int64_t dim, double t, bool flip_sin_to_cos,
                            int64_t freq_shift);

#endif
