/* What a job needs once: positions, the ofs embedding, the projected text. */
#include <stdlib.h>

#include "kernels/transfer.h"
#include "model/dit/parts.h"
#include "model/dit/positions.h"

/* Rotary tables through a host buffer: built once a job. */
static cvx_status make_rotary(cvx_dit *d, cvx_dit_job *job, cvx_arena *arena, int64_t gh,
                              int64_t gw)
{
    int64_t hd = d->cfg.attention_head_dim, n = job->video_rows * hd;

    CVX_RETURN_IF(CVX_ALLOC(arena, &job->cos, CVX_F32, job->video_rows, hd));
    CVX_RETURN_IF(CVX_ALLOC(arena, &job->sin, CVX_F32, job->video_rows, hd));
    if (d->ctx->measure) {
        return CVX_OK;
    }
    float *host = malloc(2 * (size_t)n * sizeof *host);
    if (host == NULL) {
        return cvx_fail(CVX_ENOMEM, "no memory for the rotary table of %lld rows",
                        (long long)job->video_rows);
    }
    cvx_rotary_3d(host, host + n, &d->cfg, job->shape.frames, gh, gw);
    cvx_upload(d->ctx, &job->cos, host);
    cvx_upload(d->ctx, &job->sin, host + n);
    free(host);
    return CVX_OK;
}

/* CogVideoXPatchEmbed.forward's choice: the checkpoint's learned table at its own size and length, else
 * sincos of the job's size (also where learned ones do not fit the frame count). */
static cvx_status make_positions(cvx_dit *d, cvx_dit_job *job, cvx_arena *arena, int64_t gh,
                                 int64_t gw, bool *learned)
{
    const cvx_dit_config *cfg = &d->cfg;
    int64_t video_frames = (job->shape.frames - 1) * cfg->temporal_compression_ratio + 1;

    *learned = cfg->use_learned && video_frames == cfg->sample_frames;
    if (cfg->use_rotary && !cfg->use_learned) {
        return CVX_OK;
    }
    if (*learned) {
        job->pos = cvx_slice(&d->pos, 0, job->shape.text_len, job->video_rows);
        return CVX_OK;
    }
    CVX_RETURN_IF(CVX_ALLOC(arena, &job->pos, CVX_F32, job->video_rows, d->c));
    if (d->ctx->measure) {
        return CVX_OK;
    }
    float *host = malloc((size_t)(job->video_rows * d->c) * sizeof *host);
    if (host == NULL) {
        return cvx_fail(CVX_ENOMEM, "no memory for the position table of %lld rows",
                        (long long)job->video_rows);
    }
    cvx_sincos_3d(host, d->c, job->shape.frames, gh, gw, cfg->spatial_interpolation_scale,
                  cfg->temporal_interpolation_scale);
    cvx_upload(d->ctx, &job->pos, host);
    free(host);
    return CVX_OK;
}

/* The ofs embedding of 1.5-I2V, always at ofs = 2.0 (the pipeline's value). */
static cvx_status make_ofs(cvx_dit *d, cvx_dit_job *job, cvx_arena *arena)
{
    int64_t oe = d->cfg.ofs_embed_dim;
    cvx_tensor e, h;

    if (oe == 0) {
        return CVX_OK;
    }
    float *host = malloc((size_t)oe * sizeof *host);
    if (host == NULL) {
        return cvx_fail(CVX_ENOMEM, "no memory for the ofs embedding");
    }
    cvx_timestep_embedding(host, oe, 2.0, d->cfg.flip_sin_to_cos, d->cfg.freq_shift);
    cvx_status st = CVX_OK;
    CVX_TRY(st, CVX_ALLOC(arena, &e, CVX_F32, 1, oe), done);
    CVX_TRY(st, CVX_ALLOC(arena, &h, CVX_F32, 1, oe), done);
    CVX_TRY(st, CVX_ALLOC(arena, &job->ofs, CVX_F32, 1, oe), done);
    cvx_upload(d->ctx, &e, host);
    CVX_TRY(st, cvx_linear_run(d->ctx, &d->ofs1, &h, &e, CVX_ACT_SILU), done);
    CVX_TRY(st, cvx_linear_run(d->ctx, &d->ofs2, &job->ofs, &h, CVX_ACT_NONE), done);
done:
    free(host);
    return st;
}

cvx_status cvx_dit_prepare(cvx_dit *d, cvx_dit_job *job, cvx_arena *arena, cvx_arena *step,
                           const cvx_dit_shape *shape, const cvx_tensor *prompt_embeds)
{
    const cvx_dit_config *cfg = &d->cfg;
    int64_t pt = cfg->patch_size_t > 0 ? cfg->patch_size_t : 1;
    int64_t gh = shape->height / cfg->patch_size, gw = shape->width / cfg->patch_size;
    bool learned;

    (void)step;
    *job = (cvx_dit_job){.shape = *shape, .video_rows = shape->frames / pt * gh * gw};
    CVX_ASSERT(shape->frames % pt == 0);
    if (cfg->use_rotary) {
        CVX_RETURN_IF(make_rotary(d, job, arena, gh, gw));
    }
    CVX_RETURN_IF(make_positions(d, job, arena, gh, gw, &learned));
    CVX_RETURN_IF(make_ofs(d, job, arena));
    CVX_RETURN_IF(CVX_ALLOC(arena, &job->text, CVX_F32, shape->batch, shape->text_len, d->c));
    CVX_RETURN_IF(cvx_linear_run(d->ctx, &d->text_proj, &job->text, prompt_embeds, CVX_ACT_NONE));
    if (learned) {
        cvx_tensor pos = cvx_slice(&d->pos, 0, 0, shape->text_len);
        CVX_RETURN_IF(
            cvx_op_add(d->ctx, &(cvx_add_args){.y = &job->text, .a = &job->text, .b = &pos}));
    }
    return CVX_OK;
}
