/* What the files of model/dit share. */
#ifndef CVX_MODEL_DIT_PARTS_H
#define CVX_MODEL_DIT_PARTS_H

#include "model/dit/dit.h"

/* The modulation vectors of CogVideoXLayerNormZero in a flat list over all blocks, 12 to a block: for norm1,
 * then norm2, shift, scale, gate, each for text, then for video. */
#define CVX_DIT_MODS 12

typedef struct cvx_dit_block {
    cvx_tensor gamma[2], beta[2]; /* norm1, norm2 */
    cvx_linear q, k, v, o, ff0, ff2;
    cvx_tensor q_gamma, q_beta, k_gamma, k_beta;
} cvx_dit_block;

/* A tensor rank holds of each block the rows of q, k, v of its heads and its rows of ff0, the columns of o and
 * ff2 that belong to them, and of the flat list of modulations its shard. */
struct cvx_dit {
    cvx_ctx *ctx;
    const cvx_mesh *mesh;
    cvx_exchange exchange;
    bool sage; /* attention in 8 bits */
    cvx_dit_config cfg;
    cvx_dtype act;       /* of normed rows, projections, attention, the hidden layer */
    int64_t c;           /* inner width: heads · head_dim */
    cvx_shard heads, ff; /* of this tensor rank: heads, columns of the hidden layer (of 4·c) */
    cvx_linear time1, time2, ofs1, ofs2, text_proj, patch, proj_out, out_shift, out_scale;
    cvx_tensor final_gamma, final_beta, out_gamma, out_beta;
    cvx_tensor pos; /* learned table [text + rows, c], data NULL without */
    cvx_dit_block *blocks;
    cvx_linear *mods; /* CVX_DIT_MODS · layers of [c, time_dim]; those of other ranks are empty */
};

/* One pass's state. This rank has b batch items from `item0` on, and of each item s rows of the joint sequence
 * [text; video] from row0 on: `text` text rows (the first of them row0 if there are any), then `video` video
 * rows, the first of them video row v0. */
typedef struct cvx_dit_pass {
    cvx_dit *d;
    const cvx_dit_job *job;
    cvx_arena *step;
    int64_t b, s, text, video, row0, v0, item0;
    cvx_tensor x, h; /* [b·s, c]: the stream, and its normed form */
    cvx_tensor emb;  /* [1, time_dim]: silu of the time embedding */
    cvx_tensor mods; /* [CVX_DIT_MODS · layers, c] */
    cvx_dit_tap tap;
    void *payload;
} cvx_dit_pass;

/* This rank's part of the sum over tensor ranks that becomes x: x + gate · (bias + w·h). The first rank that
 * has anything to add brings x and the bias, so that each comes in once; a rank without a part
 * brings zeros. */
bool cvx_dit_leads(const cvx_shard *part);
/* x <- the sum of x over the tensor ranks. */
cvx_status cvx_dit_reduce(cvx_dit_pass *p) CVX_CHECK;

/* *p <- where this rank stands in a pass of the job: d, job, b, s, text, video, row0, v0, item0; the rest 0. */
void cvx_dit_place(cvx_dit_pass *p, const cvx_dit *d, const cvx_dit_job *job);

/* Every rank's rows [b, video, n] of all batch items -> *all [batch, video_rows, n], in p->step or `rows` itself. Collective
 * over cfg x sequence. */
cvx_status cvx_dit_gather_rows(cvx_dit_pass *p, const cvx_tensor *rows, cvx_tensor *all) CVX_CHECK;

/* The job's cache (nothing where there is none): before the first block; after it, where *reuse says that the stream is
 * complete; after the last. Collective over cfg x sequence. */
cvx_status cvx_dit_cache_before(cvx_dit_pass *p) CVX_CHECK;
cvx_status cvx_dit_cache_first(cvx_dit_pass *p, bool *reuse) CVX_CHECK;
cvx_status cvx_dit_cache_after(cvx_dit_pass *p) CVX_CHECK;

/* x += gate · to_out(attention(h)), h spent. gate [2, c]. */
cvx_status cvx_dit_self_attention(cvx_dit_pass *p, const cvx_dit_block *b,
                                  const cvx_tensor *gate) CVX_CHECK;

#endif
