/* What every reader of pictures does with what it has read: turn it as EXIF says. */
#include <stdlib.h>
#include <string.h>

#include "media/image_codec.h"

/* ---- EXIF ------------------------------------------------------------------------------------- */

static unsigned get16(const uint8_t *p, bool big)
{
    return big ? (unsigned)p[0] << 8 | p[1] : (unsigned)p[1] << 8 | p[0];
}

static size_t get32(const uint8_t *p, bool big)
{
    return big ? (size_t)get16(p, big) << 16 | get16(p + 2, big)
               : (size_t)get16(p + 2, big) << 16 | get16(p, big);
}

int cvx_exif_number(const uint8_t *e, size_t n, unsigned tag, int otherwise)
{
    if (n < 14 || (memcmp(e, "II*\0", 4) != 0 && memcmp(e, "MM\0*", 4) != 0)) {
        return otherwise;
    }
    bool big = e[0] == 'M';
    size_t at = get32(e + 4, big);
    if (at > n - 2) {
        return otherwise;
    }
    size_t entries = get16(e + at, big);
    at += 2;
    for (size_t i = 0; i < entries && at + 12 <= n; i++, at += 12) {
        if (get16(e + at, big) == tag) {
            return (int)get16(e + at + 8, big);
        }
    }
    return otherwise;
}

int cvx_exif_orientation(const uint8_t *e, size_t n)
{
    return cvx_exif_number(e, n, 0x0112, 1);
}

void cvx_image_free(cvx_image *img)
{
    free(img->rgb);
    *img = (cvx_image){0};
}

/* ---- orientation ----------------------------------------------------------------------------- */

cvx_status cvx_image_orient(cvx_image *img, int orientation)
{
    if (orientation < 2 || orientation > 8) {
        return CVX_OK;
    }
    /* The output pixel (x, y) comes from (sx, sy): 5..8 exchange the axes, then each may be turned. */
    bool swap = orientation >= 5;
    bool mirror_x = orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8;
    bool mirror_y = orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
    int64_t w = swap ? img->h : img->w, h = swap ? img->w : img->h;
    uint8_t *out = malloc((size_t)(w * h * 3)), *p = out;

    if (out == NULL) {
        return cvx_fail(CVX_ENOMEM, "no memory to turn a %lldx%lld picture", (long long)w,
                        (long long)h);
    }
    for (int64_t y = 0; y < h; y++) {
        for (int64_t x = 0; x < w; x++, p += 3) {
            int64_t sx = swap ? y : x, sy = swap ? x : y;
            sx = mirror_x ? img->w - 1 - sx : sx;
            sy = mirror_y ? img->h - 1 - sy : sy;
            memcpy(p, img->rgb + (sy * img->w + sx) * 3, 3);
        }
    }
    free(img->rgb);
    *img = (cvx_image){w, h, out};
    return CVX_OK;
}
