/* Names and shapes of a checkpoint's VAE; packing. */
#include <stdio.h>
#include <stdlib.h>

#include "model/vae/parts.h"

typedef struct loader {
    cvx_vae *v;
    coder *m;
} loader;

/* "NAME.weight" [cout, cin, kt, k, k] (2-D ones are stored without kt) and "NAME.bias". */
static cvx_status load_conv(const loader *l, conv *out, const char *name, int64_t cout, int64_t cin,
                            int64_t kt, int64_t k, bool flat)
{
    const cvx_load *load = &l->v->load;
    char full[256];

    *out = (conv){.layout = CVX_PACKED_CONV, .cache = -1};
    snprintf(full, sizeof full, "%s.weight", name);
    if (flat) {
        CVX_RETURN_IF(CVX_WEIGHT(load->weights, &out->src, full, cout, cin, k, k));
        out->src = CVX_RESHAPE(&out->src, cout, cin, 1, k, k);
    } else {
        CVX_RETURN_IF(CVX_WEIGHT(load->weights, &out->src, full, cout, cin, kt, k, k));
    }
    CVX_RETURN_IF(cvx_vector_load(load, &out->b, name, "bias", cout));
    out->next = l->m->convs;
    l->m->convs = out;
    return CVX_OK;
}

static cvx_status load_causal(const loader *l, conv *out, const char *name, const char *part,
                              int64_t cout, int64_t cin)
{
    char full[200];

    snprintf(full, sizeof full, "%s.%s.conv", name, part);
    CVX_RETURN_IF(load_conv(l, out, full, cout, cin, 3, 3, false));
    out->cache = l->m->n_caches++;
    return CVX_OK;
}

/* Group norm (encoder) or spatial norm (decoder). */
static cvx_status load_norm(const loader *l, norm *out, const char *name, const char *part,
                            int64_t c, double eps)
{
    const cvx_load *load = &l->v->load;
    char full[200], sub[240];
    int64_t zc = l->v->cfg.latent_channels;

    *out = (norm){.spatial = l->m->decoder, .eps = l->m->decoder ? 1e-6 : eps};
    snprintf(full, sizeof full, "%s.%s", name, part);
    snprintf(sub, sizeof sub, out->spatial ? "%s.norm_layer" : "%s", full);
    CVX_RETURN_IF(cvx_vector_load(load, &out->gamma, sub, "weight", c));
    CVX_RETURN_IF(cvx_vector_load(load, &out->beta, sub, "bias", c));
    if (!out->spatial) {
        return CVX_OK;
    }
    snprintf(sub, sizeof sub, "%s.conv_y.conv", full);
    CVX_RETURN_IF(load_conv(l, &out->y, sub, c, zc, 1, 1, false));
    snprintf(sub, sizeof sub, "%s.conv_b.conv", full);
    return load_conv(l, &out->b, sub, c, zc, 1, 1, false);
}

static cvx_status load_resnet(const loader *l, resnet *out, const char *name, int64_t cin,
                              int64_t cout)
{
    double eps = l->v->cfg.norm_eps;
    char full[200];

    out->cin = cin;
    out->cout = cout;
    CVX_RETURN_IF(load_norm(l, &out->n1, name, "norm1", cin, eps));
    CVX_RETURN_IF(load_norm(l, &out->n2, name, "norm2", cout, eps));
    CVX_RETURN_IF(load_causal(l, &out->c1, name, "conv1", cout, cin));
    CVX_RETURN_IF(load_causal(l, &out->c2, name, "conv2", cout, cout));
    if (cin == cout) {
        return CVX_OK;
    }
    snprintf(full, sizeof full, "%s.conv_shortcut", name);
    return load_conv(l, &out->shortcut, full, cout, cin, 1, 1, false);
}

static cvx_status load_block(const loader *l, block *out, int i, int64_t cin)
{
    const cvx_vae_config *cfg = &l->v->cfg;
    bool dec = l->m->decoder;
    const char *side = dec ? "decoder.up_blocks" : "encoder.down_blocks";
    char name[160];

    out->n_res = cfg->layers_per_block + (dec ? 1 : 0);
    out->channels = cfg->block_out_channels[dec ? cfg->n_blocks - 1 - i : i];
    out->sampled = i < cfg->n_blocks - 1;
    out->time = out->sampled && ((int64_t)1 << i) < cfg->temporal_compression_ratio;
    out->res = calloc((size_t)out->n_res, sizeof *out->res);
    if (out->res == NULL) {
        return cvx_fail(CVX_ENOMEM, "no memory for the VAE's layers");
    }
    for (int64_t j = 0; j < out->n_res; j++) {
        snprintf(name, sizeof name, "%s.%d.resnets.%lld", side, i, (long long)j);
        CVX_RETURN_IF(
            load_resnet(l, &out->res[j], name, j == 0 ? cin : out->channels, out->channels));
    }
    if (!out->sampled) {
        return CVX_OK;
    }
    snprintf(name, sizeof name, "%s.%d.%s.0.conv", side, i, dec ? "upsamplers" : "downsamplers");
    CVX_RETURN_IF(load_conv(l, &out->sampler, name, out->channels, out->channels, 1, 3, true));
    out->sampler.layout = dec ? CVX_PACKED_CONV_UP2 : CVX_PACKED_CONV;
    return CVX_OK;
}

cvx_status cvx_vae_load_coder(cvx_vae *v, coder *m, bool decoder)
{
    const cvx_vae_config *cfg = &v->cfg;
    const char *side = decoder ? "decoder" : "encoder";
    loader l = {.v = v, .m = m};
    int64_t deep = cfg->block_out_channels[cfg->n_blocks - 1], flat = cfg->block_out_channels[0];
    int64_t c = decoder ? deep : flat;
    char name[64];

    m->decoder = decoder;
    m->cin = decoder ? cfg->latent_channels : cfg->in_channels;
    m->cout = decoder ? cfg->out_channels : 2 * cfg->latent_channels;
    CVX_RETURN_IF(load_causal(&l, &m->in, side, "conv_in", c, m->cin));
    for (int i = 0; i < cfg->n_blocks; i++) {
        CVX_RETURN_IF(load_block(&l, &m->blocks[i], i, c));
        c = m->blocks[i].channels;
    }
    for (int i = 0; i < 2; i++) {
        snprintf(name, sizeof name, "%s.mid_block.resnets.%d", side, i);
        CVX_RETURN_IF(load_resnet(&l, &m->mid[i], name, deep, deep));
    }
    CVX_RETURN_IF(load_norm(&l, &m->norm_out, side, "norm_out", c, 1e-6));
    CVX_RETURN_IF(load_causal(&l, &m->out, side, "conv_out", m->cout, c));
    m->has_quant = decoder ? cfg->use_post_quant_conv : cfg->use_quant_conv;
    if (m->has_quant) {
        int64_t n = decoder ? m->cin : m->cout;
        CVX_RETURN_IF(load_conv(&l, &m->quant, decoder ? "post_quant_conv" : "quant_conv", n, n, 1,
                                1, false));
    }
    return CVX_OK;
}

cvx_status cvx_vae_pack_coder(cvx_vae *v, coder *m)
{
    const cvx_load *l = &v->load;

    for (conv *c = m->convs; c != NULL && !m->packed; c = c->next) {
        c->w = c->src;
        c->w.layout = c->layout;
        CVX_RETURN_IF(
            cvx_arena_alloc(l->arena, &c->w.data, cvx_packed_bytes(l->ctx, &c->src, c->layout)));
        CVX_RETURN_IF(cvx_op_pack(l->ctx, &(cvx_pack_args){.dst = &c->w, .src = &c->src}));
        cvx_weights_release(l->weights, &c->src);
    }
    m->packed = true;
    return CVX_OK;
}

void cvx_vae_free_coder(coder *m)
{
    for (int i = 0; i < CVX_VAE_MAX_BLOCKS; i++) {
        free(m->blocks[i].res);
    }
}
