#include "model/pipeline/windows.h"

#include <string.h>

cvx_windows cvx_windows_make(int64_t frames, int64_t length, int64_t stride)
{
    if (length >= frames) {
        return (cvx_windows){1, frames, frames, frames, frames};
    }
    return (cvx_windows){1 + (frames - length + stride - 1) / stride, length, stride, frames,
                         frames};
}

cvx_windows cvx_windows_at(const cvx_windows *w, double signal, int64_t dilation, int64_t unit)
{
    for (int64_t d = dilation; d > 1; d /= 2) {
        int64_t frames = (w->video - 1 + d - 1) / d + 1;
        frames = (frames + unit - 1) / unit * unit;
        /* in numbers: d = 2 up to a signal of 0.948, d = 4 of 0.6 */
        bool early = signal * signal * (1 + (double)(d * d * d * d) / 144) < 1;
        if (early && frames >= w->length && frames < w->video) {
            cvx_windows at = cvx_windows_make(frames, w->length, w->stride);
            at.video = w->video;
            return at;
        }
    }
    return *w;
}

int64_t cvx_windows_place(const cvx_windows *w, int64_t k)
{
    int64_t gaps = w->frames - 1;
    return gaps > 0 ? (k * (w->video - 1) + gaps / 2) / gaps : 0;
}

int64_t cvx_windows_start(const cvx_windows *w, int64_t i)
{
    int64_t last = w->frames - w->length;
    return i * w->stride < last ? i * w->stride : last;
}

/* Before the shares are made to sum to 1: highest in the middle. */
static double weight(const cvx_windows *w, int64_t i, int64_t f)
{
    int64_t at = f - cvx_windows_start(w, i);

    if (at < 0 || at >= w->length) {
        return 0;
    }
    int64_t from_end = w->length - 1 - at;
    return (double)(1 + (at < from_end ? at : from_end));
}

float cvx_windows_share(const cvx_windows *w, int64_t i, int64_t f)
{
    double sum = 0;

    for (int64_t k = 0; k < w->n; k++) {
        sum += weight(w, k, f);
    }
    return (float)(weight(w, i, f) / sum);
}

void cvx_windows_reschedule(const cvx_windows *w, float *noise, int64_t values, cvx_rng *rng)
{
    for (int64_t to = w->length; to < w->frames; to += w->stride) {
        int64_t n = w->frames - to < w->stride ? w->frames - to : w->stride;
        float *dst = noise + to * values;
        memcpy(dst, noise + (to - w->length) * values, (size_t)(n * values) * sizeof *dst);
        for (int64_t k = n - 1; k > 0; k--) { /* Fisher and Yates */
            int64_t j = (int64_t)(cvx_rng_u32(rng) % (uint64_t)(k + 1));
            for (int64_t v = 0; j != k && v < values; v++) {
                float t = dst[k * values + v];
                dst[k * values + v] = dst[j * values + v];
                dst[j * values + v] = t;
            }
        }
    }
}
