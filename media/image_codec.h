/* The picture decoders behind cvx_image_read. Not for other folders. */
#ifndef CVX_MEDIA_IMAGE_CODEC_H
#define CVX_MEDIA_IMAGE_CODEC_H

#include <stdio.h>

#include "media/image.h"

/* Each reads from the start of f and names `path` in messages. *other is set, with CVX_OK and without
 * a picture, where the file is a JPEG that libjpeg does not turn into RGB (CMYK). */
cvx_status cvx_png_read(cvx_image *out, const char *path, FILE *f) CVX_CHECK;
cvx_status cvx_jpeg_read(cvx_image *out, const char *path, FILE *f, bool *other) CVX_CHECK;

/* A 16-bit tag of the first directory of a TIFF-structured block of n bytes; `otherwise` where it is missing or the block
 * is broken. */
int cvx_exif_number(const uint8_t *exif, size_t n, unsigned tag, int otherwise);

/* The orientation tag (0x0112) of a TIFF-structured EXIF block of n bytes; 1 where it is missing or
 * the block is broken. */
int cvx_exif_orientation(const uint8_t *exif, size_t n);

#endif
