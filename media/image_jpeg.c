/* JPEG through libjpeg(-turbo): Pillow uses it too, so the pixels are the same to the last bit. libav's
 * decoder agrees in the transform but spreads chroma differently. */
#include "media/image_codec.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>

#include <jerror.h>
#include <setjmp.h>

#define SCANS_MAX 100

typedef struct jpeg_in {
    struct jpeg_decompress_struct d;
    struct jpeg_error_mgr errors;
    struct jpeg_progress_mgr progress;
    jmp_buf jump;
    cvx_image img;
    int orientation;
    bool other; /* CMYK: not for libjpeg */
    char message[JMSG_LENGTH_MAX];
} jpeg_in;

static void on_error(j_common_ptr c)
{
    jpeg_in *in = c->client_data;

    c->err->format_message(c, in->message);
    longjmp(in->jump, 1);
}

/* libjpeg pads missing data with gray and only warns; a picture that is cut short is an error here. */
static void on_message(j_common_ptr c, int level)
{
    if (level < 0 && (c->err->msg_code == JWRN_JPEG_EOF || c->err->msg_code == JWRN_HIT_MARKER)) {
        on_error(c);
    }
}

static void on_output(j_common_ptr c)
{
    (void)c;
}

/* A progressive picture is decoded once for each of its scans, of which a small file may hold very many. */
static void on_progress(j_common_ptr c)
{
    jpeg_in *in = c->client_data;

    if (in->d.input_scan_number > SCANS_MAX) {
        snprintf(in->message, sizeof in->message, "more than %d scans", SCANS_MAX);
        longjmp(in->jump, 1);
    }
}

/* Everything that may leave by longjmp. */
static void decode(jpeg_in *in, FILE *f)
{
    struct jpeg_decompress_struct *d = &in->d;

    jpeg_create_decompress(d);
    d->progress = &in->progress;
    jpeg_stdio_src(d, f);
    jpeg_save_markers(d, JPEG_APP0 + 1, 0xffff);
    (void)jpeg_read_header(d, TRUE);
    if (d->image_width > CVX_MEDIA_MAX_SIDE || d->image_height > CVX_MEDIA_MAX_SIDE) {
        snprintf(in->message, sizeof in->message, "%ux%u; sides go from 1 to %d", d->image_width,
                 d->image_height, CVX_MEDIA_MAX_SIDE);
        longjmp(in->jump, 1);
    }
    if ((int64_t)d->image_width * d->image_height > CVX_MEDIA_MAX_PIXELS) {
        snprintf(in->message, sizeof in->message, "%ux%u: more than %d pixels", d->image_width,
                 d->image_height, CVX_MEDIA_MAX_PIXELS);
        longjmp(in->jump, 1);
    }
    if (d->jpeg_color_space == JCS_CMYK || d->jpeg_color_space == JCS_YCCK) {
        in->other = true;
        return;
    }
    d->out_color_space = JCS_RGB;
    (void)jpeg_start_decompress(d);
    in->img.w = d->output_width;
    in->img.h = d->output_height;
    in->img.rgb = malloc((size_t)(in->img.w * in->img.h * 3));
    if (in->img.rgb == NULL) {
        snprintf(in->message, sizeof in->message, "out of memory");
        longjmp(in->jump, 1);
    }
    while (d->output_scanline < d->output_height) {
        JSAMPROW row = in->img.rgb + (int64_t)d->output_scanline * in->img.w * 3;
        (void)jpeg_read_scanlines(d, &row, 1);
    }
    for (jpeg_saved_marker_ptr m = d->marker_list; m != NULL; m = m->next) {
        if (m->data_length > 6 && memcmp(m->data, "Exif\0", 6) == 0) {
            in->orientation = cvx_exif_orientation(m->data + 6, m->data_length - 6);
            break;
        }
    }
    (void)jpeg_finish_decompress(d); /* frees the markers */
}

/* Alone with its setjmp, so that no local variable of the caller is at stake. */
static bool try_decode(jpeg_in *in, FILE *f)
{
    if (setjmp(in->jump) != 0) {
        return false;
    }
    decode(in, f);
    return true;
}

cvx_status cvx_jpeg_read(cvx_image *out, const char *path, FILE *f, bool *other)
{
    jpeg_in *in = calloc(1, sizeof *in); /* on the heap: its fields survive the longjmp */
    cvx_status st = CVX_OK;

    if (in == NULL) {
        return cvx_fail(CVX_ENOMEM, "%s: out of memory", path);
    }
    in->orientation = 1;
    in->d.err = jpeg_std_error(&in->errors);
    in->d.client_data = in;
    in->errors.error_exit = on_error;
    in->errors.emit_message = on_message;
    in->errors.output_message = on_output;
    in->progress.progress_monitor = on_progress;
    if (!try_decode(in, f)) {
        st = cvx_fail(CVX_EFORMAT, "cannot read the JPEG %s: %s", path, in->message);
    }
    jpeg_destroy_decompress(&in->d);
    *other = in->other;
    if (st == CVX_OK && !in->other) {
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
