/* Frames to CLIP's pixel values, with the numbers of transformers'
 * CLIPImageProcessor on Pillow: resize on 8 bits, centre crop (zeros where the
 * picture is smaller), times rescale_factor, minus mean, over std. */
#ifndef CVX_MODEL_CLIP_PREPROCESS_H
#define CVX_MODEL_CLIP_PREPROCESS_H

#include "model/clip/config.h"

/* Height and width of the pixel values of a w x h frame. */
void cvx_clip_pixels_size(const cvx_clip_image_config *c, int64_t w, int64_t h, int64_t *out_w,
                          int64_t *out_h);

/* rgb [h, w, 3] -> out [3, out_h, out_w] (caller's). CVX_EINVAL (sides
 * outside 1..CVX_MEDIA_MAX_SIDE), CVX_ENOMEM. */
cvx_status cvx_clip_preprocess(const cvx_clip_image_config *c, float *out, const uint8_t *rgb,
                               int64_t w, int64_t h) CVX_CHECK;

#endif
