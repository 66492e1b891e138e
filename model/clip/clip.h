/* CLIP (transformers' CLIPModel): a caption and pictures to points of one
 * space, whose cosine says how well they fit. One open model keeps its weights
 * mapped and its scratch memory reserved; it is used by one thread at a time.
 */
#ifndef CVX_MODEL_CLIP_CLIP_H
#define CVX_MODEL_CLIP_CLIP_H

#include "model/clip/config.h"

typedef struct cvx_clip cvx_clip;

/* DIR holds config.json, preprocessor_config.json, the weights
 * (model.safetensors, or shards with an index) and a vocabulary
 * (model/text/clip_tokenizer.h). ctx is borrowed. Errors name the file. */
cvx_status cvx_clip_open(cvx_clip **out, cvx_ctx *ctx, const char *dir) CVX_CHECK;
/* Accepts NULL. */
void cvx_clip_close(cvx_clip *clip);

#define CVX_CLIP_BATCH 8

/* Borrowed. */
const cvx_clip_config *cvx_clip_get_config(const cvx_clip *clip);

/* The projected embedding [projection_dim] of a caption, as get_text_features
 * gives it: not normalised. *truncated: the caption has more tokens than the
 * model takes (max_position_embeddings; the end token is kept). CVX_EINVAL: not
 * UTF-8. */
cvx_status cvx_clip_encode_text(cvx_clip *clip, float *out, const char *text,
                                bool *truncated) CVX_CHECK;

/* Frames rgb [n, h, w, 3] of any number -> out [n, projection_dim], not
 * normalised: preprocessed and encoded CVX_CLIP_BATCH at a time. A frame's embedding does not depend on
 * the frames around it. CVX_EINVAL when the preprocessing does not give the
 * size that the model takes. */
cvx_status cvx_clip_encode_frames(cvx_clip *clip, float *out, const uint8_t *rgb, int64_t n,
                                  int64_t h, int64_t w) CVX_CHECK;

/* torchmetrics' CLIPScore of two embeddings of n values: 100 times their
 * cosine, never below 0. An embedding of length zero scores 0. */
double cvx_clip_score(const float *text, const float *image, int64_t n);

#endif
