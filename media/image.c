#include "media/image.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "media/av_util.h"
#include "media/image_codec.h"

cvx_status cvx_image_read(cvx_image *out, const char *path)
{
    static const uint8_t png[8] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};
    static const uint8_t jpeg[3] = {0xff, 0xd8, 0xff};
    uint8_t head[8] = {0};
    bool other = true;
    cvx_status st = CVX_OK;

    if (!cvx_is_file(path)) {
        return cvx_fail(CVX_EIO, "cannot read the picture %s: %s", path,
                        cvx_is_dir(path) ? "it is a folder" : "no such file");
    }
    FILE *f = fopen(path, "rb");
    if (f == NULL) {
        return cvx_fail(CVX_EIO, "cannot open %s: %s", path, strerror(errno));
    }
    size_t n = fread(head, 1, sizeof head, f);
    rewind(f);
    if (n == sizeof head && memcmp(head, png, sizeof png) == 0) {
        other = false;
        st = cvx_png_read(out, path, f);
    } else if (n == sizeof head && memcmp(head, jpeg, sizeof jpeg) == 0) {
        st = cvx_jpeg_read(out, path, f, &other);
    }
    if (st == CVX_OK && other) {
        st = cvx_av_image_read(out, path);
    }
    fclose(f);
    return st;
}
