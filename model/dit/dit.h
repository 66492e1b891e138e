/* CogVideoXTransformer3DModel (diffusers models/transformers/cogvideox_transformer_3d.py), all
 * variants: 1.0 (sincos or rotary positions, I2V with learned ones beside) and 1.5 (patches in time, ofs
 * embedding). One forward pass serves one or two batch items (classifier-free guidance). */
#ifndef CVX_MODEL_DIT_DIT_H
#define CVX_MODEL_DIT_DIT_H

#include "model/linear.h"

typedef struct cvx_dit_config {
    int64_t num_attention_heads, attention_head_dim, num_layers;
    int64_t in_channels, out_channels, text_embed_dim, time_embed_dim, ofs_embed_dim;
    int64_t patch_size, patch_size_t; /* patch_size_t 0: none (1.0) */
    int64_t sample_width, sample_height,
        sample_frames; /* latents' width and height, video frames */
    int64_t max_text_seq_length, temporal_compression_ratio, freq_shift;
    double norm_eps, spatial_interpolation_scale, temporal_interpolation_scale;
    bool use_rotary, use_learned, patch_bias, flip_sin_to_cos, norm_affine, attention_bias;
} cvx_dit_config;

/* Reads DIR/config.json; names key and value of what it cannot do. */
cvx_status cvx_dit_config_load(cvx_dit_config *out, const char *dir) CVX_CHECK;

typedef struct cvx_dit cvx_dit;

/* The tensors are borrowed from l->weights and l->arena, which must outlive the model. */
cvx_status cvx_dit_open(cvx_dit **out, const cvx_load *l, const cvx_dit_config *cfg) CVX_CHECK;
void cvx_dit_close(cvx_dit *d); /* accepts NULL */

/* The size of a job: latents [frames, .., height, width] (1.5: frames with padding, a multiple of
 * patch_size_t), text tokens, batch 1 or 2. */
typedef struct cvx_dit_shape {
    int64_t batch, frames, height, width, text_len;
} cvx_dit_shape;

/* CVX_EINVAL, naming what would be right, for sizes that this checkpoint cannot run: odd patches, a
 * text length other than max_text_seq_length where the position table needs it, another size
 * where positions are learned, sizes beyond the sample size on 1.5. `scale` is the pixels per latent (8). */
cvx_status cvx_dit_check(const cvx_dit_config *cfg, const cvx_dit_shape *shape,
                         int64_t scale) CVX_CHECK;

/* Tables of a job: positions, projected text. */
typedef struct cvx_dit_job {
    cvx_dit_shape shape;
    int64_t video_rows;  /* tokens of the video */
    cvx_tensor cos, sin; /* [video_rows, head_dim], data NULL without rotary positions */
    cvx_tensor pos;      /* [video_rows, c], data NULL without a position table */
    cvx_tensor text;     /* [batch, text_len, c]: text_proj (+ positions) */
    cvx_tensor ofs;      /* [1, time_embed_dim], data NULL without */
} cvx_dit_job;

/* Fills *job with tensors of `arena` (job lifetime). prompt_embeds [batch, text_len, text_embed_dim] in
 * the order [negative, positive]. */
cvx_status cvx_dit_prepare(cvx_dit *d, cvx_dit_job *job, cvx_arena *arena, cvx_arena *step,
                           const cvx_dit_shape *shape, const cvx_tensor *prompt_embeds) CVX_CHECK;

/* Called after each named part with the part's tensor (tests, dumps). */
typedef void (*cvx_dit_tap)(void *payload, const char *name, const cvx_tensor *t);

/* out [batch, frames, out_channels, h, w] = the model's output for latents [frames, in_channels, h, w] (the
 * same for every batch item) at timestep t. tap may be NULL. */
cvx_status cvx_dit_forward(cvx_dit *d, const cvx_dit_job *job, cvx_arena *step,
                           const cvx_tensor *out, const cvx_tensor *latents, double timestep,
                           cvx_dit_tap tap, void *payload) CVX_CHECK;

#endif
