#include <math.h>

#include "model/stages/frames.h"

#define SIDE 32
#define TAPS 11
#define VOLUME (3 * SIDE * SIDE)

/* [3, 32, 32] <- a frame, bilinear without smoothing (torch's interpolate to a size). */
static void shrink(double out[VOLUME], const float *p, int64_t h, int64_t w)
{
    for (int64_t i = 0; i < SIDE * SIDE; i++) {
        double y = ((double)(i / SIDE) + 0.5) * (double)h / SIDE - 0.5;
        double x = ((double)(i % SIDE) + 0.5) * (double)w / SIDE - 0.5;
        y = y < 0 ? 0 : y;
        x = x < 0 ? 0 : x;
        int64_t y0 = (int64_t)y, x0 = (int64_t)x, y1 = y0 + (y0 < h - 1), x1 = x0 + (x0 < w - 1);
        double fy = y - (double)y0, fx = x - (double)x0;
        for (int64_t c = 0; c < 3; c++) {
            double top =
                (double)p[(y0 * w + x0) * 4 + c] * (1 - fx) + (double)p[(y0 * w + x1) * 4 + c] * fx;
            double low =
                (double)p[(y1 * w + x0) * 4 + c] * (1 - fx) + (double)p[(y1 * w + x1) * 4 + c] * fx;
            out[c * SIDE * SIDE + i] = top * (1 - fy) + low * fy;
        }
    }
}

/* One axis of the gaussian, borders repeated. */
static void smooth_axis(double *to, const double *from, const double g[TAPS], int64_t n,
                        int64_t stride)
{
    for (int64_t i = 0; i < VOLUME; i++) {
        int64_t at = i / stride % n, base = i - at * stride;
        double sum = 0;
        for (int64_t k = 0; k < TAPS; k++) {
            int64_t j = at + k - TAPS / 2;
            j = j < 0 ? 0 : j >= n ? n - 1 : j;
            sum += g[k] * from[base + j * stride];
        }
        to[i] = sum;
    }
}

/* Local means of a·b. */
static void smooth(double out[VOLUME], const double *a, const double *b)
{
    double g[TAPS], sum = 0, t[VOLUME];

    for (int k = 0; k < TAPS; k++) {
        g[k] = exp(-(double)((k - TAPS / 2) * (k - TAPS / 2)) / 4.5);
        sum += g[k];
    }
    for (int k = 0; k < TAPS; k++) {
        g[k] /= sum;
    }
    for (int64_t i = 0; i < VOLUME; i++) {
        out[i] = a[i] * (b != NULL ? b[i] : 1);
    }
    smooth_axis(t, out, g, 3, SIDE * SIDE);
    smooth_axis(out, t, g, SIDE, SIDE);
    smooth_axis(t, out, g, SIDE, 1);
    for (int64_t i = 0; i < VOLUME; i++) {
        out[i] = t[i];
    }
}

double cvx_frame_ssim(const float *a, const float *b, int64_t ph, int64_t pw)
{
    const double c1 = 0.01 * 0.01, c2 = 0.03 * 0.03;
    double u[VOLUME], v[VOLUME], mu[VOLUME], mv[VOLUME], uu[VOLUME], vv[VOLUME], uv[VOLUME];
    double sum = 0;

    shrink(u, a, ph, pw);
    shrink(v, b, ph, pw);
    smooth(mu, u, NULL);
    smooth(mv, v, NULL);
    smooth(uu, u, u);
    smooth(vv, v, v);
    smooth(uv, u, v);
    for (int64_t i = 0; i < VOLUME; i++) {
        double m = mu[i] * mv[i], su = uu[i] - mu[i] * mu[i], sv = vv[i] - mv[i] * mv[i];
        sum += (2 * m + c1) * (2 * (uv[i] - m) + c2) /
               ((mu[i] * mu[i] + mv[i] * mv[i] + c1) * (su + sv + c2));
    }
    return sum / VOLUME;
}
