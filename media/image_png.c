#include "media/image_codec.h"

#include <errno.h>
#include <png.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"

#define CHUNK_MAX ((png_alloc_size_t)8 << 20) /* of a compressed text or profile, unpacked */

/* ---- in ---------------------------------------------------------------------------------- */

typedef struct png_in {
    const char *path;
    png_structp png;
    png_infop info;
    cvx_image img;
    png_bytep *rows;
    int orientation;
    char message[128];
} png_in;

static void on_error(png_structp png, png_const_charp message)
{
    png_in *in = png_get_error_ptr(png);

    snprintf(in->message, sizeof in->message, "%s", message);
    png_longjmp(png, 1);
}

static void on_warning(png_structp png, png_const_charp message)
{
    (void)png;
    (void)message;
}

/* Everything that may leave by longjmp: nothing here is owned by a local variable. */
static void decode_png(png_in *in, FILE *f)
{
    png_structp png = in->png;
    png_bytep exif = NULL;
    png_uint_32 exif_len = 0;

    png_init_io(png, f);
    png_set_user_limits(png, CVX_MEDIA_MAX_SIDE, CVX_MEDIA_MAX_SIDE);
    png_set_chunk_malloc_max(png, CHUNK_MAX);
    png_read_info(png, in->info);
    if ((int64_t)png_get_image_width(png, in->info) * png_get_image_height(png, in->info) >
        CVX_MEDIA_MAX_PIXELS) {
        png_error(png, "more than 67108864 pixels");
    }
    png_set_strip_16(png);
    png_set_strip_alpha(png);
    png_set_packing(png);
    if (png_get_color_type(png, in->info) == PNG_COLOR_TYPE_PALETTE) {
        png_set_palette_to_rgb(png);
    }
    if ((png_get_color_type(png, in->info) & PNG_COLOR_MASK_COLOR) == 0) {
        png_set_expand_gray_1_2_4_to_8(png);
        png_set_gray_to_rgb(png);
    }
    png_set_interlace_handling(png);
    png_read_update_info(png, in->info);
    in->img.w = png_get_image_width(png, in->info);
    in->img.h = png_get_image_height(png, in->info);
    if (png_get_rowbytes(png, in->info) != (size_t)in->img.w * 3) {
        png_error(png, "unexpected pixel layout");
    }
    in->img.rgb = malloc((size_t)(in->img.w * in->img.h * 3));
    in->rows = malloc((size_t)in->img.h * sizeof *in->rows);
    if (in->img.rgb == NULL || in->rows == NULL) {
        png_error(png, "out of memory");
    }
    for (int64_t y = 0; y < in->img.h; y++) {
        in->rows[y] = in->img.rgb + y * in->img.w * 3;
    }
    png_read_image(png, in->rows);
    png_read_end(png, in->info);
    if (png_get_eXIf_1(png, in->info, &exif_len, &exif) != 0) {
        in->orientation = cvx_exif_orientation(exif, exif_len);
    }
}

/* Alone with its setjmp, so that no local variable of the caller is at stake. */
static bool try_decode(png_in *in, FILE *f)
{
    if (setjmp(png_jmpbuf(in->png)) != 0) {
        return false;
    }
    decode_png(in, f);
    return true;
}

cvx_status cvx_png_read(cvx_image *out, const char *path, FILE *f)
{
    png_in *in = calloc(1, sizeof *in); /* on the heap: its fields survive the longjmp */
    cvx_status st = CVX_OK;

    if (in == NULL) {
        return cvx_fail(CVX_ENOMEM, "%s: out of memory", path);
    }
    in->path = path;
    in->orientation = 1;
    in->png = png_create_read_struct(PNG_LIBPNG_VER_STRING, in, on_error, on_warning);
    in->info = in->png != NULL ? png_create_info_struct(in->png) : NULL;
    if (in->info == NULL) {
        st = cvx_fail(CVX_ENOMEM, "%s: out of memory", path);
    } else if (!try_decode(in, f)) {
        st = cvx_fail(CVX_EFORMAT, "cannot read the PNG %s: %s", path, in->message);
    }
    png_destroy_read_struct(&in->png, &in->info, NULL);
    free(in->rows);
    if (st == CVX_OK) {
        st = cvx_image_orient(&in->img, in->orientation);
    }
    if (st == CVX_OK) {
        *out = in->img;
    } else {
        free(in->img.rgb);
    }
    free(in);
    return st;
}

/* ---- out --------------------------------------------------------------------------------- */

cvx_status cvx_image_check_png(const char *path)
{
    if (!cvx_has_extension(path, ".png")) {
        return cvx_fail(CVX_EINVAL, "output %s: a PNG is written; its name must end with .png",
                        path);
    }
    return cvx_writer_check(path);
}

cvx_status cvx_image_write_png(const char *path, const uint8_t *rgb, int64_t w, int64_t h)
{
    png_image image = {.version = PNG_IMAGE_VERSION, .format = PNG_FORMAT_RGB};
    cvx_writer out;

    if (w < 1 || h < 1 || w > CVX_MEDIA_MAX_SIDE || h > CVX_MEDIA_MAX_SIDE) {
        return cvx_fail(CVX_EINVAL, "%s: size %lldx%lld; sides go from 1 to %d", path, (long long)w,
                        (long long)h, CVX_MEDIA_MAX_SIDE);
    }
    image.width = (png_uint_32)w;
    image.height = (png_uint_32)h;
    CVX_RETURN_IF(cvx_writer_open(&out, path));
    FILE *f = fopen(out.tmp, "wb");
    bool ok = f != NULL && png_image_write_to_stdio(&image, f, 0, rgb, 0, NULL) != 0;
    int err = errno;
    if (f != NULL && fclose(f) != 0) {
        ok = false;
        err = errno;
    }
    if (!ok) {
        cvx_writer_abort(&out);
        return cvx_fail(CVX_EIO, "cannot write %s: %s", path, strerror(err));
    }
    return cvx_writer_commit(&out);
}
