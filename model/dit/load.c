/* Weights of the transformer: what of them this rank keeps. */
#include <stdio.h>
#include <stdlib.h>

#include "model/dit/parts.h"

static cvx_status load_norm(const cvx_load *l, const cvx_dit_config *cfg, cvx_tensor *gamma,
                            cvx_tensor *beta, const char *name, int64_t c)
{
    if (!cfg->norm_affine) {
        return CVX_OK;
    }
    CVX_RETURN_IF(cvx_vector_load(l, gamma, name, "weight", c));
    return cvx_vector_load(l, beta, name, "bias", c);
}

cvx_shard cvx_dit_ff_shard(const cvx_dit_config *cfg, int size, int rank)
{
    int64_t hd = cfg->attention_head_dim, c = cfg->num_attention_heads * hd, end[2] = {0, 0};

    for (int i = 0; i <= rank + 1; i++) {
        int64_t heads = i < size ? cvx_shard_of(cfg->num_attention_heads, size, i).start
                                 : cfg->num_attention_heads;
        int64_t to = 6 * c * i / size - 2 * heads * hd; /* a head's column has twice the weights */
        to = to < 4 * c ? to : 4 * c;
        int k = i <= rank ? 0 : 1;
        end[1] = to > end[1] ? to : end[1]; /* with many more ranks than heads some get nothing */
        end[k] = end[1];
    }
    return (cvx_shard){end[0], end[1] - end[0]};
}

/* The linear layers of a block, each rank's part of them. */
static cvx_status load_linears(const cvx_load *l, const cvx_dit *d, cvx_dit_block *b,
                               const char *base)
{
    char name[160];
    int64_t c = d->c, hd = d->cfg.attention_head_dim;
    int64_t a0 = d->heads.start * hd, an = d->heads.len * hd, f0 = d->ff.start, fn = d->ff.len;
    const struct {
        cvx_linear *lin;
        const char *name;
        int64_t n, k;
        bool bias;
        cvx_weights_part part;
    } linears[] = {
        {&b->q, "attn1.to_q", c, c, d->cfg.attention_bias, {a0, an, 0, c}},
        {&b->k, "attn1.to_k", c, c, d->cfg.attention_bias, {a0, an, 0, c}},
        {&b->v, "attn1.to_v", c, c, d->cfg.attention_bias, {a0, an, 0, c}},
        {&b->o, "attn1.to_out.0", c, c, cvx_dit_leads(&d->heads), {0, c, a0, an}},
        {&b->ff0, "ff.net.0.proj", 4 * c, c, true, {f0, fn, 0, c}},
        {&b->ff2, "ff.net.2", c, 4 * c, cvx_dit_leads(&d->ff), {0, c, f0, fn}},
    };

    for (size_t j = 0; j < sizeof linears / sizeof *linears; j++) {
        snprintf(name, sizeof name, "%s.%s", base, linears[j].name);
        CVX_RETURN_IF(cvx_linear_load_part(l, linears[j].lin, name, linears[j].n, linears[j].k,
                                           linears[j].bias, &linears[j].part));
    }
    return CVX_OK;
}

static cvx_status load_block(const cvx_load *l, const cvx_dit *d, cvx_dit_block *b, int64_t i)
{
    char name[160], base[64];
    int64_t hd = d->cfg.attention_head_dim;

    snprintf(base, sizeof base, "transformer_blocks.%lld", (long long)i);
    CVX_RETURN_IF(load_linears(l, d, b, base));
    snprintf(name, sizeof name, "%s.attn1.norm_q", base);
    CVX_RETURN_IF(cvx_vector_load(l, &b->q_gamma, name, "weight", hd));
    CVX_RETURN_IF(cvx_vector_load(l, &b->q_beta, name, "bias", hd));
    snprintf(name, sizeof name, "%s.attn1.norm_k", base);
    CVX_RETURN_IF(cvx_vector_load(l, &b->k_gamma, name, "weight", hd));
    CVX_RETURN_IF(cvx_vector_load(l, &b->k_beta, name, "bias", hd));
    for (int j = 0; j < 2; j++) {
        snprintf(name, sizeof name, "%s.norm%d.norm", base, j + 1);
        CVX_RETURN_IF(load_norm(l, &d->cfg, &b->gamma[j], &b->beta[j], name, d->c));
    }
    return CVX_OK;
}

/* The file's linear layer of a norm holds six projections [c, time_dim], one below the other: shift, scale, gate
 * for video, then for text. */
static cvx_status load_mods(const cvx_load *l, cvx_dit *d)
{
    char name[160];
    const cvx_comm *t = d->mesh->dim[CVX_MESH_TENSOR];
    cvx_shard own = cvx_shard_of(CVX_DIT_MODS * d->cfg.num_layers, t->size, t->rank);

    for (int64_t i = own.start; i < own.start + own.len; i++) {
        int64_t norm = i / 6 % 2, part = i / 2 % 3, video = i % 2;
        cvx_weights_part rows = {(part + (video ? 0 : 3)) * d->c, d->c, 0, d->cfg.time_embed_dim};
        snprintf(name, sizeof name, "transformer_blocks.%lld.norm%lld.linear",
                 (long long)(i / CVX_DIT_MODS), (long long)(norm + 1));
        CVX_RETURN_IF(cvx_linear_load_part(l, &d->mods[i], name, 6 * d->c, d->cfg.time_embed_dim,
                                           true, &rows));
    }
    return CVX_OK;
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
    CVX_RETURN_IF(cvx_linear_load_part(l, &d->out_shift, "norm_out.linear", 2 * c, te, true,
                                       &(cvx_weights_part){0, c, 0, te}));
    CVX_RETURN_IF(cvx_linear_load_part(l, &d->out_scale, "norm_out.linear", 2 * c, te, true,
                                       &(cvx_weights_part){c, c, 0, te}));
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
    const cvx_comm *t = l->mesh->dim[CVX_MESH_TENSOR];
    cvx_status st = CVX_OK;
    cvx_dit *d = calloc(1, sizeof *d);
    size_t n = (size_t)cfg->num_layers;

    if (d == NULL || (d->blocks = calloc(n, sizeof *d->blocks)) == NULL ||
        (d->mods = calloc(n * CVX_DIT_MODS, sizeof *d->mods)) == NULL) {
        st = cvx_fail(CVX_ENOMEM, "transformer: no memory for %lld layers",
                      (long long)cfg->num_layers);
        goto done;
    }
    d->ctx = l->ctx;
    d->mesh = l->mesh;
    d->exchange = l->exchange;
    d->sage = l->sage;
    d->act = cvx_activations(l->ctx);
    d->cfg = *cfg;
    d->c = cfg->num_attention_heads * cfg->attention_head_dim;
    d->heads = cvx_shard_of(cfg->num_attention_heads, t->size, t->rank);
    d->ff = cvx_dit_ff_shard(cfg, t->size, t->rank);
    cvx_load whole =
        *l; /* the blocks' layers are nearly all of the work; the others keep their precision */
    whole.fp8 = false;
    CVX_TRY(st, load_outer(&whole, d), done);
    CVX_TRY(st, load_mods(&whole, d), done);
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
        free(d->mods);
        free(d->blocks);
        free(d);
    }
}
