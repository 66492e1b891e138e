/* Separable resampling with Pillow's arithmetic (Image.resize on 8-bit channels), bit for bit.
 *
 * Each output position has a window of input positions and one fixed-point weight for each. The
 * weights are computed in double, normalised to sum 1, and rounded half away from zero to 22 bits;
 * sums start at one half and are cut, so every pass rounds to nearest and clamps to 0..255. */
#include "media/image.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define WEIGHT_BITS 22 /* 32 - 8 for the pixel - 2 for overshoot and sign */

typedef struct taps {
    int64_t size;    /* longest window */
    int64_t *first;  /* [out] first input position of the window */
    int64_t *count;  /* [out] its length */
    int32_t *weight; /* [out, size] */
} taps;

static double triangle(double x)
{
    x = fabs(x);
    return x < 1.0 ? 1.0 - x : 0.0;
}

static double cubic(double x)
{
    const double a = -0.5;

    x = fabs(x);
    if (x < 1.0) {
        return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
    }
    if (x < 2.0) {
        return (((x - 5) * x + 8) * x - 4) * a;
    }
    return 0.0;
}

static double sinc(double x)
{
    if (x == 0.0) {
        return 1.0;
    }
    x *= M_PI;
    return sin(x) / x;
}

static double lanczos(double x)
{
    return -3.0 <= x && x < 3.0 ? sinc(x) * sinc(x / 3) : 0.0;
}

static void taps_free(taps *t)
{
    free(t->first);
    free(t->count);
    free(t->weight);
}

/* One output position: window and rounded weights. */
static void taps_at(taps *t, int64_t o, int64_t in, double scale, double widen, double support,
                    double (*filter)(double), double *w)
{
    double centre = ((double)o + 0.5) * scale;
    double lo = centre - support + 0.5, hi = centre + support + 0.5;
    int64_t first = lo < 0 ? 0 : (int64_t)lo;
    int64_t end = hi > (double)in ? in : (int64_t)hi;
    double sum = 0.0, inv = 1.0 / widen;

    for (int64_t i = first; i < end; i++) {
        w[i - first] = filter(((double)i - centre + 0.5) * inv);
        sum += w[i - first];
    }
    for (int64_t i = 0; i < end - first; i++) {
        double v = (sum != 0.0 ? w[i] / sum : w[i]) * (1 << WEIGHT_BITS);
        t->weight[o * t->size + i] = (int32_t)(v < 0 ? v - 0.5 : v + 0.5);
    }
    t->first[o] = first;
    t->count[o] = end - first;
}

static cvx_status taps_make(taps *t, int64_t in, int64_t out, cvx_filter f)
{
    static double (*const filters[])(double) = {triangle, cubic, lanczos};
    static const double supports[] = {1.0, 2.0, 3.0};
    double scale = (double)in / (double)out;
    double widen = scale < 1.0 ? 1.0 : scale;
    double support = supports[f] * widen;
    double *w;

    t->size = (int64_t)ceil(support) * 2 + 1;
    w = malloc((size_t)t->size * sizeof *w);
    t->first = malloc((size_t)out * sizeof *t->first);
    t->count = malloc((size_t)out * sizeof *t->count);
    t->weight = malloc((size_t)(out * t->size) * sizeof *t->weight);
    if (w == NULL || t->first == NULL || t->count == NULL || t->weight == NULL) {
        free(w);
        return cvx_fail(CVX_ENOMEM, "no memory for resize weights %lld to %lld", (long long)in,
                        (long long)out);
    }
    for (int64_t o = 0; o < out; o++) {
        taps_at(t, o, in, scale, widen, support, filters[f], w);
    }
    free(w);
    return CVX_OK;
}

static uint8_t clamp8(int32_t sum)
{
    int32_t v = sum >> WEIGHT_BITS;
    return (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v);
}

/* [h, sw, 3] -> [h, dw, 3] */
static void pass_rows(uint8_t *dst, int64_t dw, const uint8_t *src, int64_t sw, int64_t h,
                      const taps *t)
{
    for (int64_t y = 0; y < h; y++, src += sw * 3) {
        for (int64_t x = 0; x < dw; x++, dst += 3) {
            const int32_t *w = t->weight + x * t->size;
            const uint8_t *p = src + t->first[x] * 3;
            int32_t s[3] = {1 << (WEIGHT_BITS - 1), 1 << (WEIGHT_BITS - 1), 1 << (WEIGHT_BITS - 1)};
            for (int64_t i = 0; i < t->count[x]; i++, p += 3) {
                s[0] += p[0] * w[i];
                s[1] += p[1] * w[i];
                s[2] += p[2] * w[i];
            }
            for (int c = 0; c < 3; c++) {
                dst[c] = clamp8(s[c]);
            }
        }
    }
}

/* [sh, w, 3] -> [dh, w, 3]; `sum` is one row of accumulators, so the source is read along rows. */
static void pass_columns(uint8_t *dst, int64_t dh, const uint8_t *src, int64_t w, const taps *t,
                         int32_t *sum)
{
    int64_t n = w * 3;

    for (int64_t y = 0; y < dh; y++, dst += n) {
        for (int64_t x = 0; x < n; x++) {
            sum[x] = 1 << (WEIGHT_BITS - 1);
        }
        for (int64_t i = 0; i < t->count[y]; i++) {
            const uint8_t *p = src + (t->first[y] + i) * n;
            int32_t k = t->weight[y * t->size + i];
            for (int64_t x = 0; x < n; x++) {
                sum[x] += p[x] * k;
            }
        }
        for (int64_t x = 0; x < n; x++) {
            dst[x] = clamp8(sum[x]);
        }
    }
}

static cvx_status check_sides(const char *what, int64_t w, int64_t h)
{
    if (w < 1 || h < 1 || w > CVX_MEDIA_MAX_SIDE || h > CVX_MEDIA_MAX_SIDE) {
        return cvx_fail(CVX_EINVAL, "resize: %s size %lldx%lld; sides go from 1 to %d", what,
                        (long long)w, (long long)h, CVX_MEDIA_MAX_SIDE);
    }
    return CVX_OK;
}

cvx_status cvx_image_resize(uint8_t *dst, int64_t dw, int64_t dh, const uint8_t *src, int64_t sw,
                            int64_t sh, cvx_filter filter)
{
    taps tx = {0}, ty = {0};
    uint8_t *mid = NULL;
    int32_t *sum = NULL;
    bool both = dw != sw && dh != sh;
    /* The order decides the rounding in between. Since version 13 Pillow shrinks the height first
     * where it loses more than twice as many pixels as the width. */
    bool columns_first = both && sh > dh && sh - dh > (sw - dw) * 2;
    cvx_status st;

    CVX_ASSERT(filter >= CVX_FILTER_BILINEAR && filter <= CVX_FILTER_LANCZOS);
    CVX_RETURN_IF(check_sides("source", sw, sh));
    CVX_RETURN_IF(check_sides("target", dw, dh));
    if (dw == sw && dh == sh) {
        memcpy(dst, src, (size_t)(sw * sh * 3));
        return CVX_OK;
    }
    CVX_TRY(st, taps_make(&tx, sw, dw, filter), done);
    CVX_TRY(st, taps_make(&ty, sh, dh, filter), done);
    if (both) {
        mid = malloc((size_t)(columns_first ? sw * dh : dw * sh) * 3);
    }
    sum = malloc((size_t)(columns_first ? sw : dw) * 3 * sizeof *sum);
    if (sum == NULL || (both && mid == NULL)) {
        st = cvx_fail(CVX_ENOMEM, "no memory to resize %lldx%lld to %lldx%lld", (long long)sw,
                      (long long)sh, (long long)dw, (long long)dh);
        goto done;
    }
    if (columns_first) {
        pass_columns(mid, dh, src, sw, &ty, sum);
        pass_rows(dst, dw, mid, sw, dh, &tx);
    } else if (both) {
        pass_rows(mid, dw, src, sw, sh, &tx);
        pass_columns(dst, dh, mid, dw, &ty, sum);
    } else if (dw != sw) {
        pass_rows(dst, dw, src, sw, sh, &tx);
    } else {
        pass_columns(dst, dh, src, sw, &ty, sum);
    }
done:
    taps_free(&tx);
    taps_free(&ty);
    free(mid);
    free(sum);
    return st;
}
