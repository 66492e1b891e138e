/* What a CLIP folder says of itself: config.json and preprocessor_config.json.
 */
#ifndef CVX_MODEL_CLIP_CONFIG_H
#define CVX_MODEL_CLIP_CONFIG_H

#include "kernels/ops.h"
#include "media/image.h"

typedef struct cvx_clip_tower {
    int64_t hidden_size, intermediate_size, num_hidden_layers, num_attention_heads;
    double layer_norm_eps;
    cvx_act act;
} cvx_clip_tower;

/* How a frame becomes pixel values (CLIPImageProcessor); the steps in the order
 * of the fields. */
typedef struct cvx_clip_image_config {
    bool do_resize;
    int64_t shortest_edge; /* 0: to size_h x size_w whatever the aspect */
    int64_t size_h, size_w;
    cvx_filter filter;
    bool do_center_crop;
    int64_t crop_h, crop_w;
    bool do_rescale;
    double rescale_factor;
    bool do_normalize;
    double mean[3], std[3];
} cvx_clip_image_config;

typedef struct cvx_clip_config {
    cvx_clip_tower text, vision;
    int64_t vocab_size, max_position_embeddings, eos_token_id;
    int64_t image_size, patch_size;
    int64_t projection_dim;
    cvx_clip_image_config image;
} cvx_clip_config;

/* Reads DIR/config.json and DIR/preprocessor_config.json (or
 * processor_config.json's "image_processor"); absent keys have transformers'
 * defaults. CVX_EIO, CVX_EFORMAT naming file and key, CVX_EUNSUPPORTED (another
 * model_type, an unknown hidden_act or resample). */
cvx_status cvx_clip_config_load(cvx_clip_config *out, const char *dir) CVX_CHECK;

#endif
