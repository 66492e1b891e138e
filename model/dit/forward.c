/* One forward pass. */
#include <stdio.h>
#include <stdlib.h>

#include "base/fault.h"
#include "kernels/transfer.h"
#include "model/dit/parts.h"
#include "model/dit/positions.h"

/* Rows of the feed-forward that are in memory at once: its hidden layer is four times as wide as the
 * stream. Rows do not depend on each other, so the split changes no bit. */
#define FF_ROWS 4096

typedef cvx_dit_pass pass;
typedef cvx_dit_block block;

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

/* The text rows of x <- this rank's rows of the projected text. */
static cvx_status copy_text(pass *p)
{
    for (int64_t i = 0; i < p->b && p->text > 0; i++) {
        cvx_tensor to = cvx_slice(&p->x, 0, i * p->s, p->text);
        cvx_tensor item = cvx_slice(&p->job->text, 0, p->item0 + i, 1);
        cvx_tensor from = CVX_RESHAPE(&item, item.dim[1], item.dim[2]);
        from = cvx_slice(&from, 0, p->row0, p->text);
        cvx_copy(p->d->ctx, &to, &from);
    }
    return CVX_OK;
}

/* x [b·s, c] <- text rows (already projected), then patches of the latents, with positions. */
static cvx_status patch_embed(pass *p, const cvx_tensor *latents)
{
    cvx_dit *d = p->d;
    const cvx_dit_config *cfg = &d->cfg;
    int64_t v = p->video, k = d->patch.w.dim[1];
    size_t mark = cvx_arena_mark(p->step);
    cvx_tensor rows, pos = {0};
    cvx_tensor in =
        CVX_RESHAPE(latents, 1, latents->dim[0], latents->dim[1], latents->dim[2], latents->dim[3]);

    CVX_RETURN_IF(copy_text(p));
    if (v == 0) {
        return CVX_OK;
    }
    CVX_RETURN_IF(CVX_ALLOC(p->step, &rows, CVX_F32, 1, v, k));
    CVX_RETURN_IF(cvx_op_patchify(d->ctx, &(cvx_patchify_args){.y = &rows,
                                                               .x = &in,
                                                               .p = cfg->patch_size,
                                                               .pt = cfg->patch_size_t,
                                                               .row0 = p->v0}));
    rows = CVX_RESHAPE(&rows, v, k);
    if (p->job->pos.data != NULL) {
        pos = cvx_slice(&p->job->pos, 0, p->v0, v);
    }
    for (int64_t i = 0; i < p->b; i++) {
        cvx_tensor video = cvx_slice(&p->x, 0, i * p->s + p->text, v);
        CVX_RETURN_IF(
            cvx_op_linear(d->ctx, &(cvx_linear_args){.y = &video,
                                                     .x = &rows,
                                                     .w = &d->patch.w,
                                                     .b = d->patch.b.data ? &d->patch.b : NULL,
                                                     .residual = pos.data ? &pos : NULL}));
    }
    cvx_arena_release(p->step, mark, false);
    return CVX_OK;
}

/* Every block's modulation vectors at this timestep: each tensor rank makes its shard, one all-gather a
 * pass brings the others'. */
static cvx_status modulations(pass *p)
{
    cvx_dit *d = p->d;
    cvx_comm *t = d->mesh->dim[CVX_MESH_TENSOR];
    int64_t n = CVX_DIT_MODS * d->cfg.num_layers, row = (int64_t)sizeof(float) * d->c;
    int64_t bytes[CVX_MAX_RANKS], at[CVX_MAX_RANKS];
    cvx_shard own = cvx_shard_of(n, t->size, t->rank);

    CVX_RETURN_IF(CVX_ALLOC(p->step, &p->mods, CVX_F32, n, d->c));
    for (int64_t i = own.start; i < own.start + own.len; i++) {
        cvx_tensor y = cvx_slice(&p->mods, 0, i, 1);
        CVX_RETURN_IF(cvx_linear_run(d->ctx, &d->mods[i], &y, &p->emb, CVX_ACT_NONE));
    }
    if (t->size == 1) {
        return CVX_OK;
    }
    for (int i = 0; i < t->size; i++) {
        cvx_shard s = cvx_shard_of(n, t->size, i);
        bytes[i] = s.len * row;
        at[i] = s.start * row;
    }
    return cvx_comm_allgatherv(t, (char *)p->mods.data + at[t->rank], bytes[t->rank], p->mods.data,
                               bytes, at);
}

/* Shift, scale and gate of norm j (0, 1) of block i, each [2, c]: row 0 for text, row 1 for video. */
static void modulation(const pass *p, int64_t i, int j, cvx_tensor pair[3])
{
    for (int k = 0; k < 3; k++) {
        pair[k] = cvx_slice(&p->mods, 0, CVX_DIT_MODS * i + 6 * j + 2 * k, 2);
    }
}

/* h = norm j of x, modulated. pair: shift, scale, gate. */
static cvx_status norm_modulate(pass *p, const block *b, int j, const cvx_tensor pair[3])
{
    return cvx_op_layer_norm(p->d->ctx,
                             &(cvx_layer_norm_args){.y = &p->h,
                                                    .x = &p->x,
                                                    .gamma = b->gamma[j].data ? &b->gamma[j] : NULL,
                                                    .beta = b->beta[j].data ? &b->beta[j] : NULL,
                                                    .scale = &pair[1],
                                                    .shift = &pair[0],
                                                    .text_rows = p->text,
                                                    .period = p->s,
                                                    .eps = p->d->cfg.norm_eps});
}

/* x += gate · ff(h), FF_ROWS rows at a time within a batch item. */
static cvx_status feed_forward(pass *p, const block *b, const cvx_tensor *gate)
{
    cvx_dit *d = p->d;
    size_t mark = cvx_arena_mark(p->step);
    int64_t most = p->s < FF_ROWS ? p->s : FF_ROWS;
    bool whole = p->b * p->s <= FF_ROWS; /* small: both items in one call */
    int64_t period = whole ? p->b * p->s : p->s, step = whole ? period : most;
    bool lead = cvx_dit_leads(&d->ff);
    cvx_tensor hidden;

    if (d->ff.len == 0) {
        cvx_zero(d->ctx, &p->x);
        return cvx_dit_reduce(p);
    }
    CVX_RETURN_IF(CVX_ALLOC(p->step, &hidden, d->act, step, d->ff.len));
    for (int64_t r = 0; r < p->b * p->s;) {
        int64_t in_item = r % period, n = period - in_item < step ? period - in_item : step;
        int64_t text = p->text - in_item > 0 ? p->text - in_item : 0;
        cvx_tensor x = cvx_slice(&p->x, 0, r, n), h = cvx_slice(&p->h, 0, r, n);
        cvx_tensor f = cvx_slice(&hidden, 0, 0, n);
        CVX_RETURN_IF(cvx_linear_run(d->ctx, &b->ff0, &f, &h, CVX_ACT_GELU_TANH));
        CVX_RETURN_IF(cvx_op_linear(d->ctx, &(cvx_linear_args){.y = &x,
                                                               .x = &f,
                                                               .w = &b->ff2.w,
                                                               .b = lead ? &b->ff2.b : NULL,
                                                               .residual = lead ? &x : NULL,
                                                               .gate = gate,
                                                               .text_rows = whole      ? p->text
                                                                            : text < n ? text
                                                                                       : n,
                                                               .period = whole ? p->s : n}));
        r += n;
    }
    cvx_arena_release(p->step, mark, false);
    return cvx_dit_reduce(p);
}

static cvx_status run_block(pass *p, const block *b, int64_t i)
{
    cvx_tensor pair[3];

    modulation(p, i, 0, pair);
    CVX_RETURN_IF(norm_modulate(p, b, 0, pair));
    CVX_RETURN_IF(cvx_dit_self_attention(p, b, &pair[2]));
    tell_block(p, i, "after_attn", &p->x);
    modulation(p, i, 1, pair);
    CVX_RETURN_IF(norm_modulate(p, b, 1, pair));
    CVX_RETURN_IF(feed_forward(p, b, &pair[2]));
    tell_block(p, i, "out", &p->x);
    return CVX_OK;
}

/* Where a rank of the sequence dimension stands. */
typedef struct span {
    int64_t row0, rows, text, v0, video;
} span;

static span span_of(const cvx_dit_job *job, int size, int rank)
{
    int64_t text = job->shape.text_len;
    cvx_shard s = cvx_shard_of(text + job->video_rows, size, rank);
    int64_t in_text = text - s.start < 0 ? 0 : text - s.start < s.len ? text - s.start : s.len;
    return (span){.row0 = s.start,
                  .rows = s.len,
                  .text = in_text,
                  .video = s.len - in_text,
                  .v0 = s.start + in_text - text > 0 ? s.start + in_text - text : 0};
}

/* Whether the ranks of the cfg dimension have an item each; where there is no guidance they all compute the one that there is. */
static bool items_apart(const cvx_mesh *m, const cvx_dit_job *job)
{
    return job->shape.batch >= m->degrees.n[CVX_MESH_CFG];
}

/* One exchange. */
cvx_status cvx_dit_gather_rows(pass *p, const cvx_tensor *rows, cvx_tensor *all)
{
    const cvx_mesh *m = p->d->mesh;
    cvx_comm *seq = m->sequence, *c = items_apart(m, p->job) ? m->branches : seq;
    int64_t n = rows->dim[2], batch = p->job->shape.batch, v = p->job->video_rows, at = 0;
    int64_t bytes[CVX_MAX_RANKS], place[CVX_MAX_RANKS];
    cvx_tensor blocks;

    if (c->size == 1) {
        *all = *rows;
        return CVX_OK;
    }
    CVX_RETURN_IF(CVX_ALLOC(p->step, &blocks, CVX_F32, batch, v, n));
    for (int i = 0; i < c->size; i++) {
        bytes[i] =
            (int64_t)sizeof(float) * p->b * span_of(p->job, seq->size, i % seq->size).video * n;
        place[i] = at;
        at += bytes[i];
    }
    CVX_RETURN_IF(cvx_comm_allgatherv(c, rows->data, bytes[c->rank], blocks.data, bytes, place));
    *all = blocks;
    if (p->b == 1 || seq->size == 1) { /* one item a block: they lie in order */
        return CVX_OK;
    }
    CVX_RETURN_IF(CVX_ALLOC(p->step, all, CVX_F32, batch, v, n));
    for (int i = 0; i < c->size; i++) {
        span s = span_of(p->job, seq->size, i % seq->size);
        cvx_tensor from = CVX_VIEW((char *)blocks.data + place[i], CVX_F32, p->b, s.video, 1, n);
        cvx_tensor to = CVX_RESHAPE(all, batch, v, 1, n);
        to = cvx_slice(&to, 1, s.v0, s.video);
        if (s.video > 0) {
            CVX_RETURN_IF(
                cvx_op_strided_copy(p->d->ctx, &(cvx_strided_copy_args){.y = &to, .x = &from}));
        }
    }
    return CVX_OK;
}

/* out <- unpatchify(proj_out(norm_out(norm_final(video rows)))). */
static cvx_status head(pass *p, const cvx_tensor *out)
{
    cvx_dit *d = p->d;
    const cvx_dit_config *cfg = &d->cfg;
    int64_t v = p->video, n = d->proj_out.w.dim[0];
    cvx_tensor shift, scale, rows, all;
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
    for (int64_t i = 0; i < p->b && v > 0; i++) {
        cvx_tensor x = cvx_slice(&p->x, 0, i * p->s + p->text, v);
        cvx_tensor y = cvx_slice(&rows, 0, i, 1);
        norm_final.x = norm_final.y = norm_out.x = norm_out.y = &x;
        CVX_RETURN_IF(cvx_op_layer_norm(d->ctx, &norm_final));
        CVX_RETURN_IF(cvx_op_layer_norm(d->ctx, &norm_out));
        CVX_RETURN_IF(cvx_linear_run(d->ctx, &d->proj_out, &y, &x, CVX_ACT_NONE));
    }
    CVX_RETURN_IF(cvx_dit_gather_rows(p, &rows, &all));
    return cvx_op_unpatchify(
        d->ctx,
        &(cvx_unpatchify_args){.y = out, .x = &all, .p = cfg->patch_size, .pt = cfg->patch_size_t});
}

void cvx_dit_place(cvx_dit_pass *p, const cvx_dit *d, const cvx_dit_job *job)
{
    const cvx_mesh *m = d->mesh;
    bool apart = items_apart(m, job);
    int64_t b = apart ? job->shape.batch / m->degrees.n[CVX_MESH_CFG] : job->shape.batch;
    span s = span_of(job, m->sequence->size, m->sequence->rank);

    *p = (pass){.d = (cvx_dit *)d,
                .job = job,
                .b = b,
                .item0 = apart ? b * m->at[CVX_MESH_CFG] : 0,
                .s = s.rows,
                .text = s.text,
                .video = s.video,
                .row0 = s.row0,
                .v0 = s.v0};
}

/* All blocks, or the first alone where the others' sum is taken from the cache. */
static cvx_status run_blocks(pass *p)
{
    cvx_dit *d = p->d;
    bool reuse;

    CVX_RETURN_IF(cvx_dit_cache_before(p));
    for (int64_t i = 0; i < d->cfg.num_layers; i++) {
        CVX_RETURN_IF(cvx_fault("block"));
        CVX_RETURN_IF(run_block(p, &d->blocks[i], i));
        if (i == 0) {
            CVX_RETURN_IF(cvx_dit_cache_first(p, &reuse));
            if (reuse) {
                return CVX_OK;
            }
        }
    }
    return cvx_dit_cache_after(p);
}

cvx_status cvx_dit_forward(cvx_dit *d, const cvx_dit_job *job, cvx_arena *step,
                           const cvx_tensor *out, const cvx_tensor *latents, double timestep,
                           cvx_dit_tap tap, void *payload)
{
    size_t mark = cvx_arena_mark(step);
    pass p;

    cvx_dit_place(&p, d, job);
    p.step = step;
    p.tap = tap;
    p.payload = payload;
    CVX_RETURN_IF(CVX_ALLOC(step, &p.x, CVX_F32, p.b * p.s, d->c));
    CVX_RETURN_IF(CVX_ALLOC(step, &p.h, d->act, p.b * p.s, d->c));
    CVX_RETURN_IF(time_embedding(&p, timestep));
    CVX_RETURN_IF(modulations(&p));
    CVX_RETURN_IF(patch_embed(&p, latents));
    tell_block(&p, -1, "patch_embed", &p.x);
    CVX_RETURN_IF(run_blocks(&p));
    CVX_RETURN_IF(head(&p, out));
    cvx_arena_release(step, mark, false);
    return CVX_OK;
}
