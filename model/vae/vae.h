/* AutoencoderKLCogVideoX (diffusers models/autoencoders/autoencoder_kl_cogvideox.py): the causal
 * 3-D VAE between video and latents.
 *
 * As in diffusers, frames go through in chunks (2 latent frames, or 8 video frames; the first chunk
 * takes the rest) with the last two inputs of every causal convolution carried over; a group norm's
 * statistics are those of a chunk. Within a chunk, what a convolution reads exists for a few frames
 * only: they are normalized into a small ring with their borders in place, and convolved from
 * there. */
#ifndef CVX_MODEL_VAE_VAE_H
#define CVX_MODEL_VAE_VAE_H

#include "model/linear.h"

#define CVX_VAE_MAX_BLOCKS 8

typedef struct cvx_vae_config {
    int64_t in_channels, out_channels, latent_channels;
    int64_t block_out_channels[CVX_VAE_MAX_BLOCKS];
    int n_blocks;
    int64_t layers_per_block, norm_num_groups, temporal_compression_ratio;
    int64_t sample_height, sample_width; /* pixels; default tiles are half of it */
    double norm_eps, scaling_factor;
    bool use_quant_conv, use_post_quant_conv, invert_scale_latents;
} cvx_vae_config;

/* Reads DIR/config.json; names key and value of what it cannot do. */
cvx_status cvx_vae_config_load(cvx_vae_config *out, const char *dir) CVX_CHECK;

/* Pixels per latent in height and width. */
int64_t cvx_vae_spatial(const cvx_vae_config *cfg);
/* Frames that decode makes of `latent_frames` (4L - 3 for odd L, 4L for even), and that encode
 * makes latents of `frames`. */
int64_t cvx_vae_video_frames(const cvx_vae_config *cfg, int64_t latent_frames);
int64_t cvx_vae_latent_frames(const cvx_vae_config *cfg, int64_t frames);

/* diffusers' enable_tiling; zeros stand for its defaults (half the sample size, 1/6, 1/5). */
typedef struct cvx_vae_tiling {
    bool enabled;
    int64_t sample_min_height, sample_min_width;
    double overlap_factor_height, overlap_factor_width;
} cvx_vae_tiling;

/* CVX_EINVAL, naming the nearest tile that works, if tiles of a video of h x w pixels would not
 * meet: where the tiles' stride is not the length that is kept of each, diffusers gives a picture
 * of another size. */
cvx_status cvx_vae_check_tiling(const cvx_vae_config *cfg, const cvx_vae_tiling *tiling, int64_t h,
                                int64_t w) CVX_CHECK;

typedef struct cvx_vae cvx_vae;

/* The tensors are borrowed from l->weights and l->arena, which must outlive the model. The
 * convolutions of the decoder and of the encoder are packed into l->arena when each is first used.
 */
cvx_status cvx_vae_open(cvx_vae **out, const cvx_load *l, const cvx_vae_config *cfg) CVX_CHECK;
void cvx_vae_close(cvx_vae *v); /* accepts NULL */

/* Takes n frames from `first` on: rgb f32 [n, 3, H, W], valid during the call. */
typedef cvx_status (*cvx_vae_sink)(void *payload, const float *rgb, int64_t first, int64_t n);

/* Called after each named part of the first chunk with its tensor [t, h, w, c] (tests). */
typedef void (*cvx_vae_tap)(void *payload, const char *name, const cvx_tensor *t);
void cvx_vae_set_tap(cvx_vae *v, cvx_vae_tap tap, void *payload);

/* Decode and encode are collective over the replica of the mesh that the model was opened with: every rank gives
 * the same latents or video, rank 0 gets the result. Whole pictures are split into bands of latent rows (ranks
 * beyond these idle), tiles are dealt to the ranks; the bits do not depend on how many there are.
 *
 * Bytes that rank r of n sends, with h(r) rows of its band, w columns, c channels at a level, t frames of a chunk: each
 * causal convolution s·t·(w + 2)·c to each neighbour (s: 4 bytes, 6 for values split into bf16 parts, 2 in
 * bf16), each upsampler 4·t·(w + 2)·c to each, each downsampler 4·t·(w + 1)·c to the one above, each group norm
 * 16·t·h(r)·groups·(n - 1), the result of a chunk 4·t·channels·h(r)·w to rank 0; in tiles: each tile that is not
 * rank 0's own, 4 bytes a value, to rank 0. */

/* Decodes latents [F, latent_channels, h, w] f32, already divided by the scaling factor; frames go
 * to the sink in order, chunk by chunk (tiled: after the last tile). tiling may be NULL. In measure
 * mode the sink is not called. */
cvx_status cvx_vae_decode(cvx_vae *v, cvx_arena *step, const cvx_tensor *latents,
                          const cvx_vae_tiling *tiling, cvx_vae_sink sink, void *payload) CVX_CHECK;

/* Encodes video [F, 3, H, W] f32 in -1..1 into the posterior's moments [2·latent_channels, F', h,
 * w] f32: first the means, then the log variances. tiling may be NULL. CVX_EINVAL if H or W is no
 * multiple of cvx_vae_spatial(). */
cvx_status cvx_vae_encode(cvx_vae *v, cvx_arena *step, const cvx_tensor *moments,
                          const cvx_tensor *video, const cvx_vae_tiling *tiling) CVX_CHECK;

#endif
