#include "model/dit/dit.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "kernels/transfer.h"
#include "model/dit/positions.h"

/* Rows of the feed-forward that are in memory at once: its hidden layer is four times as wide as the
 * stream. Rows do not depend on each other, so the split changes no bit. */
#define FF_ROWS 4096

/* CogVideoXLayerNormZero: the affine norm and the six projections of silu(time), each [c, time_dim], in
 * the file's order shift, scale, gate (video), then the same for text. */
typedef struct norm_zero {
    cvx_linear mod[6];
    cvx_tensor gamma, beta;
} norm_zero;

typedef struct block {
    norm_zero norm1, norm2;
    cvx_linear q, k, v, o, ff0, ff2;
    cvx_tensor q_gamma, q_beta, k_gamma, k_beta;
} block;

struct cvx_dit {
    cvx_ctx *ctx;
    cvx_dit_config cfg;
    int64_t c; /* inner width: heads · head_dim */
    cvx_linear time1, time2, ofs1, ofs2, text_proj, patch, proj_out, out_shift, out_scale;
    cvx_tensor final_gamma, final_beta, out_gamma, out_beta;
    cvx_tensor pos; /* learned table [text + rows, c], data NULL without */
    block *blocks;
};

static cvx_status load_norm(const cvx_load *l, const cvx_dit_config *cfg, cvx_tensor *gamma,
                            cvx_tensor *beta, const char *name, int64_t c)
{
    if (!cfg->norm_affine) {
        return CVX_OK;
    }
    CVX_RETURN_IF(cvx_vector_load(l, gamma, name, "weight", c));
    return cvx_vector_load(l, beta, name, "bias", c);
}

static cvx_status load_norm_zero(const cvx_load *l, const cvx_dit *d, norm_zero *z,
                                 const char *name)
{
    char full[160];

    snprintf(full, sizeof full, "%s.linear", name);
    for (int i = 0; i < 6; i++) {
        CVX_RETURN_IF(cvx_linear_load_rows(l, &z->mod[i], full, 6 * d->c, d->cfg.time_embed_dim,
                                           true, i * d->c, d->c));
    }
    snprintf(full, sizeof full, "%s.norm", name);
    return load_norm(l, &d->cfg, &z->gamma, &z->beta, full, d->c);
}

static cvx_status load_block(const cvx_load *l, const cvx_dit *d, block *b, int64_t i)
{
    char name[160], base[64];
    int64_t c = d->c, hd = d->cfg.attention_head_dim;
    const struct {
        cvx_linear *lin;
        const char *name;
        int64_t n, k;
        bool bias;
    } linears[] = {{&b->q, "attn1.to_q", c, c, d->cfg.attention_bias},
                   {&b->k, "attn1.to_k", c, c, d->cfg.attention_bias},
                   {&b->v, "attn1.to_v", c, c, d->cfg.attention_bias},
                   {&b->o, "attn1.to_out.0", c, c, true},
                   {&b->ff0, "ff.net.0.proj", 4 * c, c, true},
                   {&b->ff2, "ff.net.2", c, 4 * c, true}};

    snprintf(base, sizeof base, "transformer_blocks.%lld", (long long)i);
    for (size_t j = 0; j < sizeof linears / sizeof *linears; j++) {
        snprintf(name, sizeof name, "%s.%s", base, linears[j].name);
        CVX_RETURN_IF(
            cvx_linear_load(l, linears[j].lin, name, linears[j].n, linears[j].k, linears[j].bias));
    }
    snprintf(name, sizeof name, "%s.attn1.norm_q", base);
    CVX_RETURN_IF(cvx_vector_load(l, &b->q_gamma, name, "weight", hd));
    CVX_RETURN_IF(cvx_vector_load(l, &b->q_beta, name, "bias", hd));
    snprintf(name, sizeof name, "%s.attn1.norm_k", base);
    CVX_RETURN_IF(cvx_vector_load(l, &b->k_gamma, name, "weight", hd));
    CVX_RETURN_IF(cvx_vector_load(l, &b->k_beta, name, "bias", hd));
    snprintf(name, sizeof name, "%s.norm1", base);
    CVX_RETURN_IF(load_norm_zero(l, d, &b->norm1, name));
    snprintf(name, sizeof name, "%s.norm2", base);
    return load_norm_zero(l, d, &b->norm2, name);
}

/* The patch embedding as a linear layer: 1.0 stores a Conv2d [c, in, p, p], 1.5 a Linear. */
static cvx_status load_patch(const cvx_load *l, cvx_dit *d)
{
    const cvx_dit_config *cfg = &d->cfg;
    int64_t p = cfg->patch_size, k = cfg->in_channels * p * p;

    if (cfg->patch_size_t > 0) {
        return cvx_linear_load(l, &d->patch, "patch_embed.proj", d->c, k * cfg->patch_size_t, true);
    }
    cvx_tensor w;
    CVX_RETURN_IF(
        CVX_WEIGHT(l->weights, &w, "patch_embed.proj.weight", d->c, cfg->in_channels, p, p));
    d->patch.w = CVX_RESHAPE(&w, d->c, k);
    CVX_RETURN_IF(cvx_linear_pack(l, &d->patch.w));
    if (cfg->patch_bias) {
        return cvx_vector_load(l, &d->patch.b, "patch_embed.proj", "bias", d->c);
    }
    return CVX_OK;
}

static int64_t sample_rows(const cvx_dit_config *c)
{
    int64_t frames = (c->sample_frames - 1) / c->temporal_compression_ratio + 1;
    return (c->sample_height / c->patch_size) * (c->sample_width / c->patch_size) * frames;
}

static cvx_status load_outer(const cvx_load *l, cvx_dit *d)
{
    const cvx_dit_config *cfg = &d->cfg;
    int64_t c = d->c, te = cfg->time_embed_dim, oe = cfg->ofs_embed_dim;
    int64_t pt = cfg->patch_size_t > 0 ? cfg->patch_size_t : 1;
    int64_t out = cfg->patch_size * cfg->patch_size * pt * cfg->out_channels;

    CVX_RETURN_IF(cvx_linear_load(l, &d->time1, "time_embedding.linear_1", te, c, true));
    CVX_RETURN_IF(cvx_linear_load(l, &d->time2, "time_embedding.linear_2", te, te, true));
    if (oe > 0) {
        CVX_RETURN_IF(cvx_linear_load(l, &d->ofs1, "ofs_embedding.linear_1", oe, oe, true));
        CVX_RETURN_IF(cvx_linear_load(l, &d->ofs2, "ofs_embedding.linear_2", oe, oe, true));
        if (oe != te) {
            return cvx_fail(CVX_EFORMAT, "ofs_embed_dim %lld must equal time_embed_dim %lld",
                            (long long)oe, (long long)te);
        }
    }
    CVX_RETURN_IF(
        cvx_linear_load(l, &d->text_proj, "patch_embed.text_proj", c, cfg->text_embed_dim, true));
    CVX_RETURN_IF(load_patch(l, d));
    CVX_RETURN_IF(load_norm(l, cfg, &d->final_gamma, &d->final_beta, "norm_final", c));
    CVX_RETURN_IF(load_norm(l, cfg, &d->out_gamma, &d->out_beta, "norm_out.norm", c));
    CVX_RETURN_IF(cvx_linear_load_rows(l, &d->out_shift, "norm_out.linear", 2 * c, te, true, 0, c));
    CVX_RETURN_IF(cvx_linear_load_rows(l, &d->out_scale, "norm_out.linear", 2 * c, te, true, c, c));
    CVX_RETURN_IF(cvx_linear_load(l, &d->proj_out, "proj_out", out, c, true));
    if (cfg->use_learned) {
        cvx_tensor t;
        int64_t rows = cfg->max_text_seq_length + sample_rows(cfg);
        CVX_RETURN_IF(
            CVX_WEIGHT_F32(l->weights, l->arena, &t, "patch_embed.pos_embedding", 1, rows, c));
        d->pos = CVX_RESHAPE(&t, rows, c);
    }
    return CVX_OK;
}

cvx_status cvx_dit_open(cvx_dit **out, const cvx_load *l, const cvx_dit_config *cfg)
{
    cvx_status st = CVX_OK;
    cvx_dit *d = calloc(1, sizeof *d);

    if (d == NULL || (d->blocks = calloc((size_t)cfg->num_layers, sizeof *d->blocks)) == NULL) {
        st = cvx_fail(CVX_ENOMEM, "transformer: no memory for %lld layers",
                      (long long)cfg->num_layers);
        goto done;
    }
    d->ctx = l->ctx;
    d->cfg = *cfg;
    d->c = cfg->num_attention_heads * cfg->attention_head_dim;
    CVX_TRY(st, load_outer(l, d), done);
    for (int64_t i = 0; i < cfg->num_layers; i++) {
        CVX_TRY(st, load_block(l, d, &d->blocks[i], i), done);
    }
    *out = d;
    d = NULL;
done:
    cvx_dit_close(d);
    return st;
}

void cvx_dit_close(cvx_dit *d)
{
    if (d != NULL) {
        free(d->blocks);
        free(d);
    }
}

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

/* One pass's state. Rows: [text; video] of each batch item, s = text + video of them. */
typedef struct pass {
    cvx_dit *d;
    const cvx_dit_job *job;
    cvx_arena *step;
    int64_t b, s, text;
    cvx_tensor x, h; /* [b·s, c]: the stream, and its normed form */
    cvx_tensor emb;  /* [1, time_dim]: silu of the time embedding */
    cvx_dit_tap tap;
    void *payload;
} pass;

static void tell(const pass *p, const char *name, const cvx_tensor *t)
{
    if (p->tap != NULL && !p->d->ctx->measure) {
        p->tap(p->payload, name, t);
    }
}

static void tell_block(const pass *p, int64_t i, const char *part, const cvx_tensor *rows)
{
    if (p->tap != NULL && !p->d->ctx->measure) {
        char name[64];
        cvx_tensor t = CVX_RESHAPE(rows, p->b, p->s, p->d->c);
        snprintf(name, sizeof name, "block%lld.%s", (long long)i, part);
        p->tap(p->payload, name, &t);
    }
}

static cvx_status time_embedding(pass *p, double timestep)
{
    cvx_dit *d = p->d;
    int64_t te = d->cfg.time_embed_dim;
    cvx_tensor sin, h, ones;
    float *host = malloc((size_t)(d->c > te ? d->c : te) * sizeof *host);
    cvx_status st = CVX_OK;

    if (host == NULL) {
        return cvx_fail(CVX_ENOMEM, "no memory for the time embedding");
    }
    CVX_TRY(st, CVX_ALLOC(p->step, &sin, CVX_F32, 1, d->c), done);
    CVX_TRY(st, CVX_ALLOC(p->step, &h, CVX_F32, 1, te), done);
    CVX_TRY(st, CVX_ALLOC(p->step, &ones, CVX_F32, 1, te), done);
    CVX_TRY(st, CVX_ALLOC(p->step, &p->emb, CVX_F32, 1, te), done);
    cvx_timestep_embedding(host, d->c, timestep, d->cfg.flip_sin_to_cos, d->cfg.freq_shift);
    cvx_upload(d->ctx, &sin, host);
    for (int64_t i = 0; i < te; i++) {
        host[i] = 1;
    }
    cvx_upload(d->ctx, &ones, host);
    CVX_TRY(st, cvx_linear_run(d->ctx, &d->time1, &h, &sin, CVX_ACT_SILU), done);
    CVX_TRY(st, cvx_linear_run(d->ctx, &d->time2, &p->emb, &h, CVX_ACT_NONE), done);
    if (p->job->ofs.data != NULL) {
        CVX_TRY(st,
                cvx_op_add(d->ctx, &(cvx_add_args){.y = &p->emb, .a = &p->emb, .b = &p->job->ofs}),
                done);
    }
    tell(p, "time_embedding", &p->emb);
    /* every user applies silu first: once here is the same */
    CVX_TRY(st,
            cvx_op_gated_act(
                d->ctx,
                &(cvx_gated_act_args){.y = &p->emb, .a = &p->emb, .b = &ones, .act = CVX_ACT_SILU}),
            done);
done:
    free(host);
    return st;
}

/* x [b·s, c] <- text rows (already projected), then patches of the latents, with positions. */
static cvx_status patch_embed(pass *p, const cvx_tensor *latents)
{
    cvx_dit *d = p->d;
    const cvx_dit_config *cfg = &d->cfg;
    int64_t v = p->job->video_rows, k = d->patch.w.dim[1];
    size_t mark = cvx_arena_mark(p->step);
    cvx_tensor rows;
    cvx_tensor in =
        CVX_RESHAPE(latents, 1, latents->dim[0], latents->dim[1], latents->dim[2], latents->dim[3]);

    CVX_RETURN_IF(CVX_ALLOC(p->step, &rows, CVX_F32, 1, v, k));
    CVX_RETURN_IF(cvx_op_patchify(
        d->ctx,
        &(cvx_patchify_args){.y = &rows, .x = &in, .p = cfg->patch_size, .pt = cfg->patch_size_t}));
    rows = CVX_RESHAPE(&rows, v, k);
    for (int64_t i = 0; i < p->b; i++) {
        cvx_tensor text = cvx_slice(&p->x, 0, i * p->s, p->text);
        cvx_tensor video = cvx_slice(&p->x, 0, i * p->s + p->text, v);
        cvx_tensor from = cvx_slice(&p->job->text, 0, i, 1);
        cvx_copy(d->ctx, &text, &from);
        CVX_RETURN_IF(cvx_op_linear(
            d->ctx, &(cvx_linear_args){.y = &video,
                                       .x = &rows,
                                       .w = &d->patch.w,
                                       .b = d->patch.b.data ? &d->patch.b : NULL,
                                       .residual = p->job->pos.data ? &p->job->pos : NULL}));
    }
    cvx_arena_release(p->step, mark, false);
    return CVX_OK;
}

/* The six modulation vectors as three pairs [2, c]: row 0 for text, row 1 for video. */
static cvx_status modulation(pass *p, const norm_zero *z, cvx_tensor pair[3])
{
    for (int i = 0; i < 3; i++) {
        CVX_RETURN_IF(CVX_ALLOC(p->step, &pair[i], CVX_F32, 2, p->d->c));
        for (int text = 0; text < 2; text++) {
            cvx_tensor row = cvx_slice(&pair[i], 0, text ? 0 : 1, 1);
            CVX_RETURN_IF(
                cvx_linear_run(p->d->ctx, &z->mod[i + 3 * text], &row, &p->emb, CVX_ACT_NONE));
        }
    }
    return CVX_OK;
}

/* h = norm(x) modulated. pair: shift, scale, gate. */
static cvx_status norm_modulate(pass *p, const norm_zero *z, const cvx_tensor pair[3])
{
    return cvx_op_layer_norm(p->d->ctx,
                             &(cvx_layer_norm_args){.y = &p->h,
                                                    .x = &p->x,
                                                    .gamma = z->gamma.data ? &z->gamma : NULL,
                                                    .beta = z->beta.data ? &z->beta : NULL,
                                                    .scale = &pair[1],
                                                    .shift = &pair[0],
                                                    .text_rows = p->text,
                                                    .period = p->s,
                                                    .eps = p->d->cfg.norm_eps});
}

/* q, k: norm over the head, rotary positions on the video rows. */
static cvx_status norm_rope(pass *p, const cvx_tensor *x, const cvx_tensor *gamma,
                            const cvx_tensor *beta)
{
    return cvx_op_qk_norm_rope(
        p->d->ctx, &(cvx_qk_norm_rope_args){.x = x,
                                            .gamma = gamma,
                                            .beta = beta,
                                            .cos = p->job->cos.data ? &p->job->cos : NULL,
                                            .sin = p->job->sin.data ? &p->job->sin : NULL,
                                            .text_rows = p->text,
                                            .eps = 1e-6});
}

/* x += gate · to_out(attention(h)). */
static cvx_status self_attention(pass *p, const block *b, const cvx_tensor *gate)
{
    cvx_dit *d = p->d;
    int64_t hd = d->cfg.attention_head_dim, rows = p->b * p->s;
    const cvx_linear *lin[3] = {&b->q, &b->k, &b->v};
    cvx_tensor qkv[3], v4[3];
    size_t mark = cvx_arena_mark(p->step);

    for (int i = 0; i < 3; i++) {
        CVX_RETURN_IF(CVX_ALLOC(p->step, &qkv[i], CVX_F32, rows, d->c));
        CVX_RETURN_IF(cvx_linear_run(d->ctx, lin[i], &qkv[i], &p->h, CVX_ACT_NONE));
        v4[i] = CVX_RESHAPE(&qkv[i], p->b, p->s, d->cfg.num_attention_heads, hd);
    }
    CVX_RETURN_IF(norm_rope(p, &v4[0], &b->q_gamma, &b->q_beta));
    CVX_RETURN_IF(norm_rope(p, &v4[1], &b->k_gamma, &b->k_beta));
    /* the normed rows are spent: they hold the attention's output */
    cvx_tensor o = CVX_RESHAPE(&p->h, p->b, p->s, d->cfg.num_attention_heads, hd);
    CVX_RETURN_IF(cvx_op_attention(d->ctx, &(cvx_attention_args){.o = &o,
                                                                 .q = &v4[0],
                                                                 .k = &v4[1],
                                                                 .v = &v4[2],
                                                                 .scale = 1.0 / sqrt((double)hd)}));
    CVX_RETURN_IF(cvx_op_linear(d->ctx, &(cvx_linear_args){.y = &p->x,
                                                           .x = &p->h,
                                                           .w = &b->o.w,
                                                           .b = &b->o.b,
                                                           .residual = &p->x,
                                                           .gate = gate,
                                                           .text_rows = p->text,
                                                           .period = p->s}));
    cvx_arena_release(p->step, mark, false);
    return CVX_OK;
}

/* x += gate · ff(h), FF_ROWS rows at a time within a batch item. */
static cvx_status feed_forward(pass *p, const block *b, const cvx_tensor *gate)
{
    cvx_dit *d = p->d;
    size_t mark = cvx_arena_mark(p->step);
    int64_t most = p->s < FF_ROWS ? p->s : FF_ROWS;
    bool whole = p->b * p->s <= FF_ROWS; /* small: both items in one call */
    int64_t period = whole ? p->b * p->s : p->s, step = whole ? period : most;
    cvx_tensor hidden;

    CVX_RETURN_IF(CVX_ALLOC(p->step, &hidden, CVX_F32, step, 4 * d->c));
    for (int64_t r = 0; r < p->b * p->s;) {
        int64_t in_item = r % period, n = period - in_item < step ? period - in_item : step;
        int64_t text = p->text - in_item > 0 ? p->text - in_item : 0;
        cvx_tensor x = cvx_slice(&p->x, 0, r, n), h = cvx_slice(&p->h, 0, r, n);
        cvx_tensor f = cvx_slice(&hidden, 0, 0, n);
        CVX_RETURN_IF(cvx_linear_run(d->ctx, &b->ff0, &f, &h, CVX_ACT_GELU_TANH));
        CVX_RETURN_IF(cvx_op_linear(d->ctx, &(cvx_linear_args){.y = &x,
                                                               .x = &f,
                                                               .w = &b->ff2.w,
                                                               .b = &b->ff2.b,
                                                               .residual = &x,
                                                               .gate = gate,
                                                               .text_rows = whole      ? p->text
                                                                            : text < n ? text
                                                                                       : n,
                                                               .period = whole ? p->s : n}));
        r += n;
    }
    cvx_arena_release(p->step, mark, false);
    return CVX_OK;
}

static cvx_status run_block(pass *p, const block *b, int64_t i)
{
    size_t mark = cvx_arena_mark(p->step);
    cvx_tensor pair[3];

    CVX_RETURN_IF(modulation(p, &b->norm1, pair));
    CVX_RETURN_IF(norm_modulate(p, &b->norm1, pair));
    CVX_RETURN_IF(self_attention(p, b, &pair[2]));
    tell_block(p, i, "after_attn", &p->x);
    CVX_RETURN_IF(modulation(p, &b->norm2, pair));
    CVX_RETURN_IF(norm_modulate(p, &b->norm2, pair));
    CVX_RETURN_IF(feed_forward(p, b, &pair[2]));
    tell_block(p, i, "out", &p->x);
    cvx_arena_release(p->step, mark, false);
    return CVX_OK;
}

/* out <- unpatchify(proj_out(norm_out(norm_final(video rows)))). */
static cvx_status head(pass *p, const cvx_tensor *out)
{
    cvx_dit *d = p->d;
    const cvx_dit_config *cfg = &d->cfg;
    int64_t v = p->job->video_rows, n = d->proj_out.w.dim[0];
    cvx_tensor shift, scale, rows;
    cvx_layer_norm_args norm_final = {.gamma = d->final_gamma.data ? &d->final_gamma : NULL,
                                      .beta = d->final_beta.data ? &d->final_beta : NULL,
                                      .eps = cfg->norm_eps};
    cvx_layer_norm_args norm_out = {.gamma = d->out_gamma.data ? &d->out_gamma : NULL,
                                    .beta = d->out_beta.data ? &d->out_beta : NULL,
                                    .shift = &shift,
                                    .scale = &scale,
                                    .period = v,
                                    .eps = cfg->norm_eps};

    CVX_RETURN_IF(CVX_ALLOC(p->step, &shift, CVX_F32, 2, d->c));
    CVX_RETURN_IF(CVX_ALLOC(p->step, &scale, CVX_F32, 2, d->c));
    for (int64_t i = 0; i < 2; i++) {
        cvx_tensor a = cvx_slice(&shift, 0, i, 1), b = cvx_slice(&scale, 0, i, 1);
        CVX_RETURN_IF(cvx_linear_run(d->ctx, &d->out_shift, &a, &p->emb, CVX_ACT_NONE));
        CVX_RETURN_IF(cvx_linear_run(d->ctx, &d->out_scale, &b, &p->emb, CVX_ACT_NONE));
    }
    CVX_RETURN_IF(CVX_ALLOC(p->step, &rows, CVX_F32, p->b, v, n));
    for (int64_t i = 0; i < p->b; i++) {
        cvx_tensor x = cvx_slice(&p->x, 0, i * p->s + p->text, v);
        cvx_tensor y = cvx_slice(&rows, 0, i, 1);
        norm_final.x = norm_final.y = norm_out.x = norm_out.y = &x;
        CVX_RETURN_IF(cvx_op_layer_norm(d->ctx, &norm_final));
        CVX_RETURN_IF(cvx_op_layer_norm(d->ctx, &norm_out));
        CVX_RETURN_IF(cvx_linear_run(d->ctx, &d->proj_out, &y, &x, CVX_ACT_NONE));
    }
    return cvx_op_unpatchify(d->ctx, &(cvx_unpatchify_args){.y = out,
                                                            .x = &rows,
                                                            .p = cfg->patch_size,
                                                            .pt = cfg->patch_size_t});
}

cvx_status cvx_dit_forward(cvx_dit *d, const cvx_dit_job *job, cvx_arena *step,
                           const cvx_tensor *out, const cvx_tensor *latents, double timestep,
                           cvx_dit_tap tap, void *payload)
{
    size_t mark = cvx_arena_mark(step);
    pass p = {.d = d,
              .job = job,
              .step = step,
              .b = job->shape.batch,
              .text = job->shape.text_len,
              .s = job->shape.text_len + job->video_rows,
              .tap = tap,
              .payload = payload};

    CVX_RETURN_IF(CVX_ALLOC(step, &p.x, CVX_F32, p.b * p.s, d->c));
    CVX_RETURN_IF(CVX_ALLOC(step, &p.h, CVX_F32, p.b * p.s, d->c));
    CVX_RETURN_IF(time_embedding(&p, timestep));
    CVX_RETURN_IF(patch_embed(&p, latents));
    tell_block(&p, -1, "patch_embed", &p.x);
    for (int64_t i = 0; i < d->cfg.num_layers; i++) {
        CVX_RETURN_IF(run_block(&p, &d->blocks[i], i));
    }
    CVX_RETURN_IF(head(&p, out));
    cvx_arena_release(step, mark, false);
    return CVX_OK;
}
