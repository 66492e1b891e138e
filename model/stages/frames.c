#include "model/stages/frames.h"

#include <stdlib.h>

#include "kernels/transfer.h"

#define STILL 0.996
#define CUT 0.2

typedef struct work {
    cvx_rife *m;
    cvx_ctx *ctx;
    cvx_arena *step;
    const cvx_pair *p;
    cvx_frame_fn fn;
    void *payload;
    float *host, *rgb; /* a padded frame, a finished one */
} work;

static cvx_status emit_host(work *k, const float *frame)
{
    const cvx_pair *p = k->p;

    for (int64_t i = 0; i < p->h * p->w && !k->ctx->measure; i++) {
        for (int64_t c = 0; c < 3; c++) {
            k->rgb[3 * i + c] = frame[(i / p->w * p->pw + i % p->w) * 4 + c];
        }
    }
    return k->fn(k->payload, k->rgb, p->h, p->w);
}

static cvx_status emit(work *k, const cvx_tensor *frame)
{
    cvx_download(k->ctx, k->host, frame);
    return emit_host(k, k->host);
}

static cvx_status middle(work *k, const cvx_tensor *y, const cvx_tensor *a, const cvx_tensor *b)
{
    return cvx_rife_frame(k->m, k->step, y, a, b, 0.5, NULL);
}

static cvx_status new_frame(work *k, cvx_tensor *out)
{
    return CVX_ALLOC(k->step, out, CVX_F32, 1, k->p->ph, k->p->pw, 4);
}

/* n = 1, 3, 7 frames between a and b. */
static cvx_status bisect(work *k, const cvx_tensor *a, const cvx_tensor *b, int64_t n)
{
    size_t mark = cvx_arena_mark(k->step);
    cvx_tensor m;

    CVX_RETURN_IF(new_frame(k, &m));
    CVX_RETURN_IF(middle(k, &m, a, b));
    if (n > 1) {
        CVX_RETURN_IF(bisect(k, a, &m, n / 2));
    }
    CVX_RETURN_IF(emit(k, &m));
    if (n > 1) {
        CVX_RETURN_IF(bisect(k, &m, b, n / 2));
    }
    cvx_arena_release(k->step, mark, false);
    return CVX_OK;
}

static cvx_status work_open(work *k)
{
    const cvx_pair *p = k->p;

    k->ctx = cvx_rife_ctx(k->m);
    k->host = malloc((size_t)(p->ph * p->pw * 4) * sizeof *k->host);
    k->rgb = malloc((size_t)(p->h * p->w * 3) * sizeof *k->rgb);
    return k->host != NULL && k->rgb != NULL
               ? CVX_OK
               : cvx_fail(CVX_ENOMEM, "no memory for a frame of %lldx%lld", (long long)p->w,
                          (long long)p->h);
}

static cvx_status load(work *k, cvx_tensor *a, cvx_tensor *b)
{
    CVX_RETURN_IF(new_frame(k, a));
    CVX_RETURN_IF(new_frame(k, b));
    cvx_upload(k->ctx, a, k->p->a);
    cvx_upload(k->ctx, b, k->p->b);
    return CVX_OK;
}

static cvx_status pair_frames(work *k, int64_t factor)
{
    const cvx_pair *p = k->p;
    bool measure = k->ctx->measure;
    cvx_tensor a, b;
    double like = measure ? 0.5 : cvx_frame_ssim(p->a, p->b, p->ph, p->pw);

    CVX_RETURN_IF(load(k, &a, &b));
    if (like > STILL) {
        CVX_RETURN_IF(middle(k, &b, &a, &a));
        CVX_RETURN_IF(emit(k, &b));
        like = cvx_frame_ssim(p->a, k->host, p->ph, p->pw);
    } else {
        CVX_RETURN_IF(emit_host(k, p->a));
    }
    if (like >= CUT && factor > 1) {
        return bisect(k, &a, &b, factor - 1);
    }
    for (int64_t i = 1; i < factor; i++) {
        CVX_RETURN_IF(emit_host(k, p->a));
    }
    return CVX_OK;
}

cvx_status cvx_pair_frames(cvx_rife *m, cvx_arena *step, const cvx_pair *p, int64_t factor,
                           cvx_frame_fn fn, void *payload)
{
    size_t mark = cvx_arena_mark(step);
    work k = {.m = m, .step = step, .p = p, .fn = fn, .payload = payload};
    cvx_status st = work_open(&k);

    if (st == CVX_OK) {
        st = pair_frames(&k, factor);
    }
    cvx_arena_release(step, mark, false);
    free(k.host);
    free(k.rgb);
    return st;
}

static cvx_status frame_at(work *k, double t)
{
    const cvx_pair *p = k->p;
    cvx_tensor a, b, y;

    if (t <= 0 || p->a == p->b ||
        (!k->ctx->measure && cvx_frame_ssim(p->a, p->b, p->ph, p->pw) < CUT)) {
        return emit_host(k, p->a);
    }
    CVX_RETURN_IF(load(k, &a, &b));
    CVX_RETURN_IF(new_frame(k, &y));
    CVX_RETURN_IF(cvx_rife_frame(k->m, k->step, &y, &a, &b, t, NULL));
    return emit(k, &y);
}

cvx_status cvx_pair_frame_at(cvx_rife *m, cvx_arena *step, const cvx_pair *p, double t,
                             cvx_frame_fn fn, void *payload)
{
    size_t mark = cvx_arena_mark(step);
    work k = {.m = m, .step = step, .p = p, .fn = fn, .payload = payload};
    cvx_status st = work_open(&k);

    if (st == CVX_OK) {
        st = frame_at(&k, t);
    }
    cvx_arena_release(step, mark, false);
    free(k.host);
    free(k.rgb);
    return st;
}
