/* Still pictures: reading, writing PNG, resizing.
 *
 * A picture is RGB, 8 bits a channel, rows from top to bottom without padding: [h, w, 3]. Reading and
 * resizing follow Pillow, because diffusers and transformers prepare their inputs with it: the same
 * file gives the same numbers.
 */
#ifndef CVX_MEDIA_IMAGE_H
#define CVX_MEDIA_IMAGE_H

#include "base/status.h"

/* The longest side, in pixels, of any picture or video that is read or written. */
#define CVX_MEDIA_MAX_SIDE 16384
/* The most pixels of a still picture that is read: a small file may claim any number. */
#define CVX_MEDIA_MAX_PIXELS (1 << 26)

typedef struct cvx_image {
    int64_t w, h;
    uint8_t *rgb; /* [h, w, 3], owned: cvx_image_free */
} cvx_image;

/* Reads a picture: PNG through libpng, JPEG through libjpeg (the pixels are then Pillow's), anything
 * else (WebP, BMP, PPM, TIFF, CMYK JPEG, the first frame of a GIF ...) through libav. As Pillow's exif_transpose and convert("RGB") do: the EXIF orientation is
 * applied, the colours of transparent pixels are kept and alpha is dropped, gray becomes three equal
 * channels, gamma and colour profiles are ignored. Unlike Pillow, which turns 16-bit gray white, 16
 * bits are cut to their high byte. CVX_EIO, CVX_EFORMAT (corrupt, truncated, not a picture, a side
 * beyond CVX_MEDIA_MAX_SIDE, more than CVX_MEDIA_MAX_PIXELS; both known before anything is decoded), CVX_ENOMEM. *out is set on success only. */
cvx_status cvx_image_read(cvx_image *out, const char *path) CVX_CHECK;

/* Frees the pixels and zeroes the struct; a zeroed one is accepted. */
void cvx_image_free(cvx_image *img);

/* Writes rgb [h, w, 3] as an 8-bit PNG: the same pixels always give the same bytes. Either the whole
 * file appears under its name or nothing. CVX_EINVAL (sides), CVX_EIO. */
cvx_status cvx_image_write_png(const char *path, const uint8_t *rgb, int64_t w,
                               int64_t h) CVX_CHECK;

/* Whether a picture that the user named can be written, before the work: CVX_EINVAL unless the name ends with ".png", CVX_EIO. */
cvx_status cvx_image_check_png(const char *path) CVX_CHECK;

/* Turns [h, w, 3] by an EXIF orientation 1..8 (1: as it is; 6: a quarter turn clockwise ...) into a
 * new buffer; w and h are exchanged for 5..8. Other numbers count as 1. CVX_ENOMEM. */
cvx_status cvx_image_orient(cvx_image *img, int orientation) CVX_CHECK;

typedef enum cvx_filter {
    CVX_FILTER_BILINEAR,
    CVX_FILTER_BICUBIC, /* a = -0.5 */
    CVX_FILTER_LANCZOS, /* three lobes */
} cvx_filter;

/* Resizes src [sh, sw, 3] to dst [dh, dw, 3] (caller's, not overlapping) with the bits of Pillow
 * 13's Image.resize: the filter widened by the ratio when shrinking, a horizontal then a vertical pass
 * (the other way round where the height loses more than twice as many pixels as the width), 22-bit
 * fixed-point weights, rounded to 8 bits between the passes. CVX_EINVAL for a side outside
 * 1..CVX_MEDIA_MAX_SIDE, CVX_ENOMEM. */
cvx_status cvx_image_resize(uint8_t *dst, int64_t dw, int64_t dh, const uint8_t *src, int64_t sw,
                            int64_t sh, cvx_filter filter) CVX_CHECK;

#endif
