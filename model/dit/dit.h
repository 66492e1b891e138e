/* CogVideoXTransformer3DModel (diffusers models/transformers/cogvideox_transformer_3d.py), all
 * variants: 1.0 (sincos or rotary positions, I2V with learned ones beside) and 1.5 (patches in time, ofs
 * embedding). One forward pass serves one or two batch items (classifier-free guidance).
 *
 * Ranks: see cvx_dit_open for what a tensor rank holds and cvx_dit_forward for what it exchanges. */
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

/* Columns of the hidden layer (of 4·c) that tensor rank `rank` of `size` has: even out what uneven heads leave, so
 * that attention's 4·c weights a column and the feed-forward's 2·c come to the same on every rank (as far
 * as heads allow it). */
cvx_shard cvx_dit_ff_shard(const cvx_dit_config *cfg, int size, int rank);

/* The tensors are borrowed from l->weights and l->arena, which must outlive the model.
 *
 * A tensor rank t of T holds, of the L blocks: the rows of to_q, to_k, to_v of its heads (cvx_shard_of(heads, T,
 * t)) and the columns of to_out that read them; its rows of ff.net.0 and columns of ff.net.2
 * (cvx_dit_ff_shard); its shard of the 12·L modulation projections [c, time_embed_dim]
 * (cvx_shard_of(12·L, T, t)). Whole on every rank are patch_embed (with its learned positions), time_embedding,
 * ofs_embedding, norm_out, proj_out, norms and the biases of to_out and ff.net.2 (on one rank). */
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

/* What passes of one job leave for the next (diffusers hooks/first_block_cache.py): a pass whose first block adds to
 * the video's rows what it added in the last full pass, but for at most `threshold` of its mean size, takes what
 * the other blocks added then and does not run them. */
typedef struct cvx_dit_cache {
    double threshold;
    cvx_tensor head
        [2]; /* [b, video, c]: what the first block added in the last full pass (at `at`), and in this */
    cvx_tensor rest; /* [b, video, c]: what the others added in the last full pass */
    int at;
    bool filled; /* there was a full pass */
    bool reused; /* the pass before took the others' sum */
} cvx_dit_cache;

/* Tables of a job: positions, projected text. The shape is the whole job's; a rank of the mesh works on its own
 * rows of [text; video] and, with a cfg degree of 2, on its own batch item. */
typedef struct cvx_dit_job {
    cvx_dit_shape shape;
    int64_t video_rows;   /* tokens of the video */
    cvx_tensor cos, sin;  /* [video_rows, head_dim], data NULL without rotary positions */
    cvx_tensor pos;       /* [video_rows, c], data NULL without a position table */
    cvx_tensor text;      /* [batch, text_len, c]: text_proj (+ positions) */
    cvx_tensor ofs;       /* [1, time_embed_dim], data NULL without */
    cvx_dit_cache *cache; /* NULL: every pass runs every block; borrowed */
} cvx_dit_job;

/* Fills *job with tensors of `arena` (job lifetime). prompt_embeds [batch, text_len, text_embed_dim] in
 * the order [negative, positive]. */
cvx_status cvx_dit_prepare(cvx_dit *d, cvx_dit_job *job, cvx_arena *arena, cvx_arena *step,
                           const cvx_dit_shape *shape, const cvx_tensor *prompt_embeds) CVX_CHECK;

/* An empty cache for the rows of this rank, with tensors of `arena`; job->cache = c puts it to use. Its passes are as
 * collective as others; one that compares adds an all-gather over cfg x sequence of 8 bytes a video row. */
cvx_status cvx_dit_cache_open(cvx_dit_cache *c, const cvx_dit *d, const cvx_dit_job *job,
                              double threshold, cvx_arena *arena) CVX_CHECK;

/* Called after each named part with the part's tensor (tests, dumps). */
typedef void (*cvx_dit_tap)(void *payload, const char *name, const cvx_tensor *t);

/* out [batch, frames, out_channels, h, w] = the model's output for latents [frames, in_channels, h, w] (the
 * same for every batch item) at timestep t, the same bits on every rank of the mesh's replica; those of one rank
 * unless the ring or tensor degree is above 1. tap may be NULL; it sees this rank's rows. Collective over the
 * mesh's replica.
 *
 * A rank with b items (batch / cfg degree) of s rows, h of its tensor group's hl heads of d (all: c = heads·d),
 * among S rows, U ulysses, R ring and T tensor ranks exchanges in a pass:
 *     each block   within the sequence  all-gather or ulysses (parallel/gather.h says which: q, k, v as
 *                                       n = 1 and n = 2 to heads, o as n = 1 to rows), ring between its places;
 *                                       the formulas are in gather.h, ulysses.h, ring.h, with heads = hl;
 *                  tensor               two all-reduces of n = b·s·c values (parallel/comm.h);
 *     once         tensor               all-gather of modulations: 4·c·(own of 12·L)·(T - 1) bytes sent;
 *                  cfg x sequence       all-gather of the velocity: 4·b·(own video rows)·(columns of
 *                                       proj_out)·(ranks - 1) bytes sent. */
cvx_status cvx_dit_forward(cvx_dit *d, const cvx_dit_job *job, cvx_arena *step,
                           const cvx_tensor *out, const cvx_tensor *latents, double timestep,
                           cvx_dit_tap tap, void *payload) CVX_CHECK;

#endif
