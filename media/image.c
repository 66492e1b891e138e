#include "media/image.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "media/av_util.h"
#include "media/image_codec.h"

/* libav decodes TIFF but leaves it as it lies, and makes a black picture of a JPEG within. */
static cvx_status read_tiff(cvx_image *out, const char *path)
{
    cvx_map map;

    CVX_RETURN_IF(cvx_map_open(&map, path));
    int compression = cvx_exif_number(map.data, map.size, 0x0103, 1);
    int orientation = cvx_exif_orientation(map.data, map.size);
    cvx_map_close(&map);
    if (compression == 6 || compression == 7) {
        return cvx_fail(CVX_EUNSUPPORTED, "cannot read %s: a TIFF with JPEG compression", path);
    }
    CVX_RETURN_IF(cvx_av_image_read(out, path));
    cvx_status st = cvx_image_orient(out, orientation);
    if (st != CVX_OK) {
        cvx_image_free(out);
    }
    return st;
}

cvx_status cvx_image_read(cvx_image *out, const char *path)
{
    static const uint8_t png[8] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};
    static const uint8_t jpeg[3] = {0xff, 0xd8, 0xff};
    uint8_t head[8] = {0};
    bool other = true;
    cvx_status st = CVX_OK;

    CVX_RETURN_IF(cvx_check_file(path));
    FILE *f = fopen(path, "rb");
    if (f == NULL) {
        return cvx_fail(CVX_EIO, "cannot open %s: %s", path, strerror(errno));
    }
    size_t n = fread(head, 1, sizeof head, f);
    bool tiff =
        n == sizeof head && (memcmp(head, "II*\0", 4) == 0 || memcmp(head, "MM\0*", 4) == 0);
    rewind(f);
    if (n == sizeof head && memcmp(head, png, sizeof png) == 0) {
        other = false;
        st = cvx_png_read(out, path, f);
    } else if (n == sizeof head && memcmp(head, jpeg, sizeof jpeg) == 0) {
        st = cvx_jpeg_read(out, path, f, &other);
    }
    if (st == CVX_OK && other) {
        st = tiff ? read_tiff(out, path) : cvx_av_image_read(out, path);
    }
    fclose(f);
    return st;
}
