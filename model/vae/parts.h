/* What the files of model/vae share: the model's parts and the run of one chunk of frames. */
#ifndef CVX_MODEL_VAE_PARTS_H
#define CVX_MODEL_VAE_PARTS_H

#include "model/vae/vae.h"

typedef struct conv {
    cvx_tensor src, w, b; /* in the map; packed; bias [cout] */
    cvx_layout layout;    /* of w */
    int cache;            /* of causal ones: index of what is carried to the next chunk, else -1 */
    struct conv *next;    /* list of all of a coder */
} conv;

typedef struct norm {
    cvx_tensor gamma, beta;
    conv y, b; /* spatial norm only */
    bool spatial;
    double eps;
} norm;

typedef struct resnet {
    norm n1, n2;
    conv c1, c2, shortcut;
    int64_t cin, cout; /* a shortcut where they differ */
} resnet;

typedef struct block {
    resnet *res;
    int64_t n_res, channels;
    conv sampler;
    bool sampled, time; /* a sampler at the end; it also halves or doubles frames */
} block;

/* Encoder or decoder. */
typedef struct coder {
    bool decoder, packed;
    conv in, out,
        quant; /* quant: quant_conv after the encoder, post_quant_conv before the decoder */
    bool has_quant;
    resnet mid[2];
    block blocks[CVX_VAE_MAX_BLOCKS];
    norm norm_out;
    conv *convs; /* list */
    int n_caches;
    int64_t cin, cout; /* in, out of the whole */
} coder;

struct cvx_vae {
    cvx_load load;
    cvx_vae_config cfg;
    coder enc, dec;
    cvx_vae_tap tap;
    void *tap_payload;
};

/* Reads the names and shapes of a coder (no weight is packed yet). */
cvx_status cvx_vae_load_coder(cvx_vae *v, coder *m, bool decoder) CVX_CHECK;
/* Packs its convolutions, once. */
cvx_status cvx_vae_pack_coder(cvx_vae *v, coder *m) CVX_CHECK;
void cvx_vae_free_coder(coder *m);

/* Frames after one level, and of a whole video through all levels. */
int64_t cvx_vae_time_up(int64_t t);
int64_t cvx_vae_time_down(int64_t t);

/* Chunks of a video: n of them; chunk i has frames *first .. + *len. */
int64_t cvx_vae_chunks(int64_t frames, int64_t batch);
void cvx_vae_chunk(int64_t frames, int64_t batch, int64_t i, int64_t *first, int64_t *len);
#define CVX_VAE_LATENT_BATCH 2
#define CVX_VAE_SAMPLE_BATCH 8
/* No chunk has more frames than this on any level: 15 video frames, or 3 latent ones with the
 * highest compression that the config may ask for. */
#define CVX_VAE_MAX_CHUNK 384

/* Sends x [F, C, h, w] (any strides) through a coder, chunk by chunk. The ranks of `comm` each take a band of rows, as
 * many as there are latent rows to take; every one has the whole of x. The result goes on rank 0 into `out`
 * [F', C', h', w'] (any strides) if it is given, else to the sink as planes. Collective over comm. */
typedef struct coding {
    cvx_vae *vae;
    coder *model;
    cvx_comm *comm;
    cvx_arena *step;
    const cvx_tensor *x, *out;
    cvx_vae_sink sink;
    void *payload;
} coding;
cvx_status cvx_vae_code(const coding *c) CVX_CHECK;

/* Gives frames rgb [n, 3, H, W] to the sink, from wherever they lie; not in measure mode. */
cvx_status cvx_vae_tell_sink(cvx_ctx *ctx, cvx_vae_sink sink, void *payload, const cvx_tensor *rgb,
                             int64_t first) CVX_CHECK;

#endif
