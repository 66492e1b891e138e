#include "model/stages/stages.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/memory.h"
#include "kernels/transfer.h"
#include "model/stages/frames.h"

struct cvx_stages {
    cvx_ctx *ctx;
    cvx_stages_options o;
    cvx_stages_input in;
    cvx_stages_plan plan;
    cvx_arena weights, step;
    cvx_rife *rife;
    cvx_rife_config rife_cfg;
    cvx_esrgan *esrgan;
    cvx_esrgan_config esrgan_cfg;
    cvx_esrgan_tiling tiling;
    int64_t ph, pw;       /* frames with the padding that RIFE wants */
    int64_t per_a, per_b; /* output frame k stands at source position k·per_a / per_b */
    float *a, *b;         /* padded frames [ph, pw, 4] */
    float *large;         /* enlarged [h·factor, w·factor, 3] */
};

/* ---- where the shipped models are ------------------------------------------------------------- */

static bool there(char out[CVX_PATH_MAX], const char *folder, const char *rest, const char *name)
{
    char config[CVX_PATH_MAX + 16];

    if (folder == NULL ||
        snprintf(out, CVX_PATH_MAX, "%s%s/%s", folder, rest, name) >= CVX_PATH_MAX) {
        return false;
    }
    snprintf(config, sizeof config, "%s/config.json", out);
    return cvx_is_file(config);
}

cvx_status cvx_stages_find_model(char out[CVX_PATH_MAX], const char *name)
{
    char self[CVX_PATH_MAX] = "";
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);

    if (n > 0) {
        self[n] = 0;
        *strrchr(self, '/') = 0;
    }
    if (there(out, getenv("CVX_MODELS"), "", name) ||
        (n > 0 && (there(out, self, "/../models", name) ||
                   there(out, self, "/../share/cvx/models", name))) ||
        there(out, "models", "", name)) {
        return CVX_OK;
    }
    return cvx_fail(CVX_EIO,
                    "the model %s that comes with cvx is not in $CVX_MODELS, beside the program or "
                    "in ./models: name a folder",
                    name);
}

/* ---- opening ---------------------------------------------------------------------------------- */

static cvx_status open_rife(cvx_stages *s)
{
    cvx_weights *w = NULL;
    cvx_load l = {.ctx = s->ctx, .arena = &s->weights, .pack = true};

    CVX_RETURN_IF(cvx_rife_config_load(&s->rife_cfg, s->o.rife));
    CVX_RETURN_IF(cvx_weights_open(&w, s->o.rife));
    l.weights = w;
    cvx_status st = cvx_rife_open(&s->rife, &l, &s->rife_cfg);
    cvx_weights_close(w);
    s->ph = (s->in.h + s->rife_cfg.pad - 1) / s->rife_cfg.pad * s->rife_cfg.pad;
    s->pw = (s->in.w + s->rife_cfg.pad - 1) / s->rife_cfg.pad * s->rife_cfg.pad;
    return st;
}

static cvx_status open_esrgan(cvx_stages *s)
{
    cvx_weights *w = NULL;
    cvx_load l = {.ctx = s->ctx, .arena = &s->weights, .pack = true};

    CVX_RETURN_IF(cvx_esrgan_config_load(&s->esrgan_cfg, s->o.esrgan));
    s->tiling = cvx_esrgan_default_tiling(&s->esrgan_cfg);
    if (s->o.tile > 0) {
        s->tiling.tile = s->o.tile;
        s->tiling.overlap = s->o.overlap;
        s->tiling.margin =
            s->o.overlap > 0 ? 0 : s->tiling.margin; /* overlaps as the demo has them */
    }
    CVX_RETURN_IF(cvx_esrgan_check_tiling(&s->tiling));
    CVX_RETURN_IF(cvx_weights_open(&w, s->o.esrgan));
    l.weights = w;
    cvx_status st = cvx_esrgan_open(&s->esrgan, &l, &s->esrgan_cfg);
    cvx_weights_close(w);
    return st;
}

static cvx_status check_rate(cvx_stages *s)
{
    cvx_fps in = s->in.fps, out;
    double source = (double)in.num / (double)in.den;

    if (s->o.rife == NULL) {
        s->o.factor = 1;
    } else if (s->o.factor != 0 && s->o.factor != 2 && s->o.factor != 4 && s->o.factor != 8) {
        return cvx_fail(CVX_EINVAL, "%lld frames for one; 2, 4 or 8 are possible",
                        (long long)s->o.factor);
    }
    s->plan.fps = s->o.factor > 0 ? source * (double)s->o.factor : s->o.fps;
    if (!(source >= 0.01 && fmax(source, s->plan.fps) <= 1000)) {
        return cvx_fail(CVX_EINVAL,
                        "the input has %g frames a second, the output would have %g; rates go from "
                        "0.01 to 1000",
                        source, s->plan.fps);
    }
    CVX_RETURN_IF(cvx_fps_from_double(&in, source));
    CVX_RETURN_IF(cvx_fps_from_double(&out, s->plan.fps));
    s->per_a = in.num * out.den;
    s->per_b = in.den * out.num;
    if (s->o.factor == 0 && s->per_b > 64 * s->per_a) {
        return cvx_fail(
            CVX_EINVAL,
            "from %.6g to %.6g frames a second: more than 64 frames for one are not made", source,
            s->plan.fps);
    }
    return CVX_OK;
}

static cvx_status check_scale(cvx_stages *s)
{
    double scale = s->o.scale > 0 ? s->o.scale : s->esrgan_cfg.scale;

    if (s->o.esrgan == NULL) {
        s->plan.w = s->in.w;
        s->plan.h = s->in.h;
        return CVX_OK;
    }
    if (!(scale >= 1 && scale <= (double)s->esrgan_cfg.factor)) {
        return cvx_fail(CVX_EINVAL, "scale %g; this model goes from 1 to %lld", scale,
                        (long long)s->esrgan_cfg.factor);
    }
    s->o.scale = scale;
    s->plan.w = (int64_t)floor((double)s->in.w * scale + 1e-9);
    s->plan.h = (int64_t)floor((double)s->in.h * scale + 1e-9);
    if (s->plan.w > CVX_MEDIA_MAX_SIDE || s->plan.h > CVX_MEDIA_MAX_SIDE) {
        return cvx_fail(CVX_EINVAL, "%lldx%lld enlarged %g times is %lldx%lld; sides go up to %d",
                        (long long)s->in.w, (long long)s->in.h, scale, (long long)s->plan.w,
                        (long long)s->plan.h, CVX_MEDIA_MAX_SIDE);
    }
    return CVX_OK;
}

/* Everything but memory; in measure mode the arenas count. */
static cvx_status open_models(cvx_stages *s)
{
    s->in.fps = s->in.fps.num > 0 ? s->in.fps : (cvx_fps){8, 1};
    s->ph = s->in.h;
    s->pw = s->in.w;
    CVX_RETURN_IF(check_rate(s));
    if (s->o.rife != NULL) {
        CVX_RETURN_IF(open_rife(s));
    }
    if (s->o.esrgan != NULL) {
        CVX_RETURN_IF(open_esrgan(s));
    }
    return check_scale(s);
}

static void close_models(cvx_stages *s)
{
    cvx_rife_close(s->rife);
    cvx_esrgan_close(s->esrgan);
    cvx_arena_close(&s->weights);
    cvx_arena_close(&s->step);
    free(s->a);
    free(s->b);
    free(s->large);
}

static cvx_status alloc_frames(cvx_stages *s)
{
    size_t padded = (size_t)(s->ph * s->pw * 4);
    int64_t f = s->esrgan_cfg.factor;

    s->a = calloc(padded, sizeof *s->a);
    s->b = calloc(padded, sizeof *s->b);
    if (s->o.esrgan != NULL) {
        s->large = malloc((size_t)(s->in.h * s->in.w * f * f * 3) * sizeof *s->large);
    }
    return s->a != NULL && s->b != NULL && (s->o.esrgan == NULL || s->large != NULL)
               ? CVX_OK
               : cvx_fail(CVX_ENOMEM, "no memory for frames of %lldx%lld", (long long)s->plan.w,
                          (long long)s->plan.h);
}

/* Host memory: the padded frames and what frames.c and tile.c take beside the arenas, the unit's frames. */
static size_t host_bytes(const cvx_stages *s)
{
    size_t padded = (size_t)(s->ph * s->pw * 4 * 4), in = (size_t)(s->in.h * s->in.w * 12);
    size_t f = s->o.esrgan != NULL ? (size_t)s->esrgan_cfg.factor : 0;
    size_t out = (size_t)(s->plan.w * s->plan.h * 3 * cvx_stages_most_frames(s));

    return 3 * padded + 2 * in + 2 * in * f * f + 2 * out;
}

cvx_status cvx_stages_measure(cvx_stages_plan *out, const cvx_ctx *ctx, const cvx_stages_options *o,
                              const cvx_stages_input *in)
{
    cvx_ctx counting = *ctx;
    cvx_stages s = {.ctx = &counting, .o = *o, .in = *in};
    cvx_status st;

    counting.measure = true;
    memset(counting.stat, 0, sizeof counting.stat);
    cvx_arena_open_measure(&s.weights, "weights");
    cvx_arena_open_measure(&s.step, "step");
    CVX_TRY(st, open_models(&s), done);
    CVX_TRY(st, cvx_stages_unit(&s, 0, NULL, NULL, NULL), done);
    s.plan.weights = s.weights.peak;
    s.plan.step = s.step.peak + host_bytes(&s);
    for (int i = 0; i < CVX_OP_COUNT; i++) {
        s.plan.flops[i] = i == CVX_OP_ID_pack ? 0 : counting.stat[i].flops;
    }
    *out = s.plan;
done:
    close_models(&s);
    return st;
}

cvx_status cvx_stages_open(cvx_stages **out, cvx_ctx *ctx, const cvx_stages_options *o,
                           const cvx_stages_input *in)
{
    cvx_stages_plan plan;
    cvx_status st;

    CVX_RETURN_IF(cvx_stages_measure(&plan, ctx, o, in));
    size_t need = plan.weights + plan.step, have = cvx_memory_available();
    if (need > have) {
        return cvx_fail(CVX_ENOMEM, "frames of %lldx%lld need %.1f GiB and %.1f are available",
                        (long long)in->w, (long long)in->h, (double)need / (double)(1 << 30),
                        (double)have / (double)(1 << 30));
    }
    cvx_stages *s = calloc(1, sizeof *s);
    if (s == NULL) {
        return cvx_fail(CVX_ENOMEM, "no memory for the stages");
    }
    s->ctx = ctx;
    s->o = *o;
    s->in = *in;
    CVX_TRY(st, cvx_arena_open(&s->weights, "weights", plan.weights), fail);
    CVX_TRY(st, cvx_arena_open(&s->step, "step", plan.step), fail);
    CVX_TRY(st, open_models(s), fail);
    CVX_TRY(st, alloc_frames(s), fail);
    s->plan.weights = plan.weights;
    s->plan.step = plan.step;
    memcpy(s->plan.flops, plan.flops, sizeof plan.flops);
    *out = s;
    return CVX_OK;
fail:
    cvx_stages_close(s);
    return st;
}

void cvx_stages_close(cvx_stages *s)
{
    if (s != NULL) {
        close_models(s);
        free(s);
    }
}

const cvx_stages_plan *cvx_stages_plan_of(const cvx_stages *s)
{
    return &s->plan;
}

const cvx_stages_input *cvx_stages_input_of(const cvx_stages *s)
{
    return &s->in;
}

/* ---- a unit ----------------------------------------------------------------------------------- */

/* First output frame at or after source frame i. */
static int64_t first_frame(const cvx_stages *s, int64_t i)
{
    return (i * s->per_b + s->per_a - 1) / s->per_a;
}

int64_t cvx_stages_unit_frames(const cvx_stages *s, int64_t i)
{
    return s->o.factor > 0 ? s->o.factor : first_frame(s, i + 1) - first_frame(s, i);
}

int64_t cvx_stages_most_frames(const cvx_stages *s)
{
    return s->o.factor > 0 ? s->o.factor : (s->per_b + s->per_a - 1) / s->per_a;
}

/* Where a unit's finished frames go. */
typedef struct unit {
    cvx_stages *s;
    uint8_t *out;
} unit;

static void put_bytes(uint8_t *to, const float *from, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        float v = from[i] < 0 ? 0 : from[i] > 1 ? 1 : from[i];
        to[i] = (uint8_t)rintf(v * 255.0f);
    }
}

/* The network's output made smaller where less than its factor is asked for. */
static cvx_status shrink(cvx_stages *s)
{
    size_t mark = cvx_arena_mark(&s->step);
    int64_t f = s->esrgan_cfg.factor;
    cvx_tensor x, y;

    CVX_RETURN_IF(CVX_ALLOC(&s->step, &x, CVX_F32, s->in.h * f, s->in.w * f, 3));
    CVX_RETURN_IF(CVX_ALLOC(&s->step, &y, CVX_F32, s->plan.h, s->plan.w, 3));
    cvx_upload(s->ctx, &x, s->large);
    CVX_RETURN_IF(cvx_op_resize(
        s->ctx, &(cvx_resize_args){
                    .y = &y, .x = &x, .step = (double)f / s->o.scale, .gain = 1, .cubic = true}));
    cvx_download(s->ctx, s->large, &y);
    cvx_arena_release(&s->step, mark, false);
    return CVX_OK;
}

static cvx_status finish_frame(void *payload, const float *rgb, int64_t h, int64_t w)
{
    unit *u = payload;
    cvx_stages *s = u->s;
    int64_t n = s->plan.w * s->plan.h * 3;
    const float *done = rgb;

    if (s->esrgan != NULL) {
        CVX_RETURN_IF(cvx_esrgan_tiled(s->esrgan, &s->step, s->large, rgb, h, w, &s->tiling));
        if (s->o.scale != (double)s->esrgan_cfg.factor) {
            CVX_RETURN_IF(shrink(s));
        }
        done = s->large;
    }
    if (!s->ctx->measure) {
        put_bytes(u->out, done, n);
        u->out += n;
    }
    return CVX_OK;
}

/* Bytes to a padded frame of four channels; its padding is zero from the beginning. */
static void pad_frame(const cvx_stages *s, float *to, const uint8_t *from)
{
    for (int64_t r = 0; r < s->in.h; r++) {
        for (int64_t c = 0; c < s->in.w; c++) {
            for (int64_t k = 0; k < 3; k++) {
                to[(r * s->pw + c) * 4 + k] = (float)from[(r * s->in.w + c) * 3 + k] / 255.0f;
            }
        }
    }
}

/* Without RIFE: the frame itself. */
static cvx_status frame_alone(cvx_stages *s, const uint8_t *a, unit *u)
{
    int64_t n = s->in.w * s->in.h * 3;

    for (int64_t i = 0; i < n && !s->ctx->measure; i++) {
        s->a[i] = (float)a[i] / 255.0f;
    }
    return finish_frame(u, s->a, s->in.h, s->in.w);
}

cvx_status cvx_stages_unit(cvx_stages *s, int64_t i, uint8_t *out, const uint8_t *a,
                           const uint8_t *b)
{
    unit u = {s, out};
    cvx_pair p = {.a = s->a, .b = s->b, .h = s->in.h, .w = s->in.w, .ph = s->ph, .pw = s->pw};

    if (s->rife == NULL) {
        return frame_alone(s, a, &u);
    }
    if (!s->ctx->measure) {
        pad_frame(s, s->a, a);
        if (b != a) {
            pad_frame(s, s->b, b);
        } else {
            p.b = p.a;
        }
    }
    if (s->o.factor > 0) {
        return cvx_pair_frames(s->rife, &s->step, &p, s->o.factor, finish_frame, &u);
    }
    if (s->ctx
            ->measure) { /* what a unit needs most: as many frames as any has, each between two others */
        p.b = (const float *)(const void *)s; /* another frame than a; neither is read */
        for (int64_t k = 0; k < cvx_stages_most_frames(s); k++) {
            CVX_RETURN_IF(cvx_pair_frame_at(s->rife, &s->step, &p, 0.5, finish_frame, &u));
        }
        return CVX_OK;
    }
    for (int64_t k = first_frame(s, i); k < first_frame(s, i + 1); k++) {
        int64_t at = k * s->per_a - i * s->per_b;
        CVX_RETURN_IF(cvx_pair_frame_at(s->rife, &s->step, &p, (double)at / (double)s->per_b,
                                        finish_frame, &u));
    }
    return CVX_OK;
}
