#include "model/dit/positions.h"

#include <math.h>
#include <string.h>

/* get_1d_sincos_pos_embed_from_grid: [sin | cos] of pos / 10000^(i / (dim/2)); frequencies in double. */
static void sincos_1d(float *out, int64_t dim, double pos)
{
    for (int64_t i = 0; i < dim / 2; i++) {
        double omega = 1.0 / pow(10000.0, (double)i / ((double)dim / 2.0));
        out[i] = (float)sin(pos * omega);
        out[dim / 2 + i] = (float)cos(pos * omega);
    }
}

static void axis(float *out, const float *first, int64_t dim, double pos)
{
    if (out == first) {
        sincos_1d(out, dim, pos);
    } else {
        memcpy(out, first, (size_t)dim * sizeof *out);
    }
}

void cvx_sincos_3d(float *out, int64_t dim, int64_t frames, int64_t gh, int64_t gw,
                   double spatial_scale, double temporal_scale)
{
    int64_t dt = dim / 4, ds = 3 * dim / 4;

    for (int64_t f = 0; f < frames; f++) {
        for (int64_t y = 0; y < gh; y++) {
            for (int64_t x = 0; x < gw; x++) {
                float *row = out + ((f * gh + y) * gw + x) * dim;
                const float *t_row = out + f * gh * gw * dim, *y_row = out + y * gw * dim,
                            *x_row = out + x * dim;
                /* each coordinate's values are computed once, at its first row, and copied from there;
                 * the grid stacks w first, so its half of the spatial channels comes first */
                axis(row, t_row, dt, (double)((float)f / (float)temporal_scale));
                axis(row + dt, x_row + dt, ds / 2, (double)((float)x / (float)spatial_scale));
                axis(row + dt + ds / 2, y_row + dt + ds / 2, ds / 2,
                     (double)((float)y / (float)spatial_scale));
            }
        }
    }
}

/* get_1d_rotary_pos_embed(repeat_interleave_real): cos, sin [dim] at pos; f32 frequencies and angle. */
static void rotary_1d(float *c, float *s, int64_t dim, float pos)
{
    for (int64_t i = 0; i < dim / 2; i++) {
        float freq = 1.0f / powf(10000.0f, (float)(2 * i) / (float)dim);
        float angle = pos * freq;
        c[2 * i] = c[2 * i + 1] = cosf(angle);
        s[2 * i] = s[2 * i + 1] = sinf(angle);
    }
}

/* As axis() above: `back` is the distance to the first row of this coordinate. */
static void rotary_axis(float *c, float *s, int64_t back, int64_t dim, float pos)
{
    if (back == 0) {
        rotary_1d(c, s, dim, pos);
    } else {
        memcpy(c, c + back, (size_t)dim * sizeof *c);
        memcpy(s, s + back, (size_t)dim * sizeof *s);
    }
}

/* Python's round of a double to an integer: half to even. */
static int64_t py_round(double v)
{
    return (int64_t)rint(v);
}

typedef struct region {
    double top, left, bottom, right;
} region;

/* get_resize_crop_region_for_grid. */
static region crop_region(int64_t h, int64_t w, int64_t tw, int64_t th)
{
    double r = (double)h / (double)w;
    int64_t rh, rw;

    if (r > (double)th / (double)tw) {
        rh = th;
        rw = py_round((double)th / (double)h * (double)w);
    } else {
        rw = tw;
        rh = py_round((double)tw / (double)w * (double)h);
    }
    int64_t top = py_round((double)(th - rh) / 2.0), left = py_round((double)(tw - rw) / 2.0);
    return (region){(double)top, (double)left, (double)(top + rh), (double)(left + rw)};
}

/* torch.linspace(a, b, n)[i] in f32. */
static float linspace_f32(double a, double b, int64_t n, int64_t i)
{
    float fa = (float)a, fb = (float)b;
    float step = n > 1 ? (fb - fa) / (float)(n - 1) : 0;
    return i < n / 2 ? fa + step * (float)i : fb - step * (float)(n - 1 - i);
}

void cvx_rotary_3d(float *cos_out, float *sin_out, const cvx_dit_config *cfg, int64_t frames,
                   int64_t gh, int64_t gw)
{
    int64_t d = cfg->attention_head_dim, dt = d / 4, ds = d / 8 * 3;
    bool slice = cfg->patch_size_t > 0;
    int64_t nt = slice ? (frames + cfg->patch_size_t - 1) / cfg->patch_size_t : frames;
    region r = {0};

    if (!slice) {
        r = crop_region(gh, gw, cfg->sample_width / cfg->patch_size,
                        cfg->sample_height / cfg->patch_size);
    }
    for (int64_t f = 0; f < nt; f++) {
        for (int64_t y = 0; y < gh; y++) {
            for (int64_t x = 0; x < gw; x++) {
                int64_t row = ((f * gh + y) * gw + x) * d;
                float *c = cos_out + row, *s = sin_out + row;
                double h = (double)gh, w = (double)gw;
                float py = slice ? (float)y : linspace_f32(r.top, r.bottom * (h - 1) / h, gh, y);
                float px = slice ? (float)x : linspace_f32(r.left, r.right * (w - 1) / w, gw, x);
                int64_t t_row = f * gh * gw * d, y_row = y * gw * d, x_row = x * d;
                rotary_axis(c, s, t_row - row, dt, (float)f);
                rotary_axis(c + dt, s + dt, y_row - row, ds, py);
                rotary_axis(c + dt + ds, s + dt + ds, x_row - row, ds, px);
            }
        }
    }
}

void cvx_timestep_embedding(float *out, int64_t dim, double t, bool flip, int64_t freq_shift)
{
    int64_t half = dim / 2;

    for (int64_t i = 0; i < half; i++) {
        float e = (float)-log(10000.0) * (float)i / (float)(half - freq_shift);
        float angle = (float)t * expf(e);
        out[flip ? half + i : i] = sinf(angle);
        out[flip ? i : half + i] = cosf(angle);
    }
    if (dim % 2 == 1) {
        out[dim - 1] = 0;
    }
}
