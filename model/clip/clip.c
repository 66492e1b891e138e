#include "model/clip/clip.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/memory.h"
#include "kernels/transfer.h"
#include "model/clip/preprocess.h"
#include "model/linear.h"
#include "model/text/clip_tokenizer.h"

/* Before transformers' PR 24773 the config's end token was written as 2
 * whatever the vocabulary; such models are read at their highest id, which is
 * the end token of CLIP's vocabularies. */
#define LEGACY_EOS 2

typedef struct norm {
    cvx_tensor gamma, beta;
} norm;

typedef struct layer {
    norm norm1, norm2;
    cvx_linear q, k, v, o, fc1, fc2;
} layer;

struct cvx_clip {
    cvx_ctx *ctx;
    cvx_clip_config cfg;
    cvx_weights *weights;
    cvx_arena arena, step;
    cvx_clip_tokenizer *tokenizer;
    layer *text_layers, *vision_layers;
    cvx_tensor token_embed;    /* [vocab, hidden], as in the file */
    cvx_tensor text_positions; /* [max_position_embeddings, hidden] */
    norm text_final;
    cvx_linear patch;            /* [hidden, 3 p p] */
    cvx_tensor class_embed;      /* [hidden] */
    cvx_tensor vision_positions; /* [1 + patches, hidden] */
    norm vision_pre, vision_post;
    cvx_linear text_projection, vision_projection;
};

/* ---- loading ---- */

static cvx_status load_norm(const cvx_load *l, norm *out, const char *name, int64_t n)
{
    CVX_RETURN_IF(cvx_vector_load(l, &out->gamma, name, "weight", n));
    return cvx_vector_load(l, &out->beta, name, "bias", n);
}

static cvx_status load_layer(const cvx_load *l, const cvx_clip_tower *t, const char *tower,
                             int64_t i, layer *y)
{
    char name[160];
    int64_t c = t->hidden_size, f = t->intermediate_size;
    const struct {
        cvx_linear *lin;
        const char *name;
        int64_t n, k;
    } linears[] = {{&y->q, "self_attn.q_proj", c, c}, {&y->k, "self_attn.k_proj", c, c},
                   {&y->v, "self_attn.v_proj", c, c}, {&y->o, "self_attn.out_proj", c, c},
                   {&y->fc1, "mlp.fc1", f, c},        {&y->fc2, "mlp.fc2", c, f}};

    for (size_t j = 0; j < sizeof linears / sizeof *linears; j++) {
        snprintf(name, sizeof name, "%s.encoder.layers.%lld.%s", tower, (long long)i,
                 linears[j].name);
        CVX_RETURN_IF(cvx_linear_load(l, linears[j].lin, name, linears[j].n, linears[j].k, true));
    }
    snprintf(name, sizeof name, "%s.encoder.layers.%lld.layer_norm1", tower, (long long)i);
    CVX_RETURN_IF(load_norm(l, &y->norm1, name, c));
    snprintf(name, sizeof name, "%s.encoder.layers.%lld.layer_norm2", tower, (long long)i);
    return load_norm(l, &y->norm2, name, c);
}

static cvx_status load_layers(const cvx_load *l, const cvx_clip_tower *t, const char *tower,
                              layer **out)
{
    *out = calloc((size_t)t->num_hidden_layers, sizeof **out);
    if (*out == NULL) {
        return cvx_fail(CVX_ENOMEM, "CLIP: no memory for %lld layers",
                        (long long)t->num_hidden_layers);
    }
    for (int64_t i = 0; i < t->num_hidden_layers; i++) {
        CVX_RETURN_IF(load_layer(l, t, tower, i, *out + i));
    }
    return CVX_OK;
}

static cvx_status load_text(const cvx_load *l, cvx_clip *m)
{
    const cvx_clip_config *c = &m->cfg;
    int64_t hidden = c->text.hidden_size;

    CVX_RETURN_IF(CVX_WEIGHT(l->weights, &m->token_embed,
                             "text_model.embeddings.token_embedding.weight", c->vocab_size,
                             hidden));
    CVX_RETURN_IF(CVX_WEIGHT_F32(l->weights, l->arena, &m->text_positions,
                                 "text_model.embeddings.position_embedding.weight",
                                 c->max_position_embeddings, hidden));
    CVX_RETURN_IF(load_layers(l, &c->text, "text_model", &m->text_layers));
    CVX_RETURN_IF(load_norm(l, &m->text_final, "text_model.final_layer_norm", hidden));
    return cvx_linear_load(l, &m->text_projection, "text_projection", c->projection_dim, hidden,
                           false);
}

static cvx_status load_vision(const cvx_load *l, cvx_clip *m)
{
    const cvx_clip_config *c = &m->cfg;
    int64_t hidden = c->vision.hidden_size, p = c->patch_size;
    int64_t side = c->image_size / p;

    CVX_RETURN_IF(CVX_WEIGHT(l->weights, &m->patch.w,
                             "vision_model.embeddings.patch_embedding.weight", hidden, 3, p, p));
    m->patch.w = CVX_RESHAPE(&m->patch.w, hidden, 3 * p * p);
    CVX_RETURN_IF(cvx_linear_pack(l, &m->patch.w));
    CVX_RETURN_IF(CVX_WEIGHT_F32(l->weights, l->arena, &m->class_embed,
                                 "vision_model.embeddings.class_embedding", hidden));
    CVX_RETURN_IF(CVX_WEIGHT_F32(l->weights, l->arena, &m->vision_positions,
                                 "vision_model.embeddings.position_embedding.weight",
                                 side * side + 1, hidden));
    CVX_RETURN_IF(load_norm(l, &m->vision_pre, "vision_model.pre_layrnorm", hidden)); /* sic */
    CVX_RETURN_IF(load_layers(l, &c->vision, "vision_model", &m->vision_layers));
    CVX_RETURN_IF(load_norm(l, &m->vision_post, "vision_model.post_layernorm", hidden));
    return cvx_linear_load(l, &m->vision_projection, "visual_projection", c->projection_dim, hidden,
                           false);
}

/* Bytes of activations that `rows` rows of a tower need, with room for
 * alignment. */
static size_t tower_bytes(const cvx_clip_tower *t, int64_t rows, int64_t patch)
{
    return (size_t)(rows * (8 * t->hidden_size + t->intermediate_size + 2 * patch)) *
               sizeof(float) +
           (1 << 20);
}

static cvx_status open_memory(cvx_clip *m)
{
    const cvx_clip_config *c = &m->cfg;
    int64_t patch = 3 * c->patch_size * c->patch_size;
    int64_t side = c->image_size / c->patch_size;
    size_t text = tower_bytes(&c->text, c->max_position_embeddings, 0);
    size_t vision = tower_bytes(&c->vision, CVX_CLIP_BATCH * (side * side + 1), patch);
    /* packed and widened weights: at most f32 for each 16-bit value, once packed
   * and once plain, and padding; only address space is taken */
    size_t weights = (size_t)cvx_weights_bytes(m->weights) * 4 + ((size_t)64 << 20);

    CVX_RETURN_IF(cvx_ctx_arena(m->ctx, &m->arena, "CLIP weights", weights));
    return cvx_ctx_arena(m->ctx, &m->step, "CLIP step", text > vision ? text : vision);
}

/* Where the pixel values' size follows from the configuration alone it must be
 * the model's. */
static cvx_status check_image(const cvx_clip_config *c, const char *dir)
{
    int64_t w = c->image_size, h = c->image_size;

    cvx_clip_pixels_size(&c->image, w, h, &w, &h);
    if (w != c->image_size || h != c->image_size) {
        return cvx_fail(CVX_EFORMAT,
                        "%s: the preprocessing gives %lldx%lld pixels, but the "
                        "model takes %lldx%lld",
                        dir, (long long)w, (long long)h, (long long)c->image_size,
                        (long long)c->image_size);
    }
    return CVX_OK;
}

cvx_status cvx_clip_open(cvx_clip **out, cvx_ctx *ctx, const char *dir)
{
    cvx_status st = CVX_OK;
    cvx_clip *m = calloc(1, sizeof *m);

    if (m == NULL) {
        return cvx_fail(CVX_ENOMEM, "no memory for CLIP");
    }
    m->ctx = ctx;
    CVX_TRY(st, cvx_clip_config_load(&m->cfg, dir), done);
    CVX_TRY(st, check_image(&m->cfg, dir), done);
    CVX_TRY(st, cvx_clip_tokenizer_open(&m->tokenizer, dir), done);
    if (cvx_clip_tokenizer_size(m->tokenizer) > m->cfg.vocab_size) {
        st = cvx_fail(CVX_EFORMAT, "%s: the vocabulary has %lld ids, the model %lld", dir,
                      (long long)cvx_clip_tokenizer_size(m->tokenizer),
                      (long long)m->cfg.vocab_size);
        goto done;
    }
    CVX_TRY(st, cvx_weights_open(&m->weights, dir), done);
    CVX_TRY(st, open_memory(m), done);
    cvx_load load = {.ctx = ctx, .arena = &m->arena, .weights = m->weights, .pack = true};
    CVX_TRY(st, load_text(&load, m), done);
    CVX_TRY(st, load_vision(&load, m), done);
    *out = m;
    m = NULL;
done:
    cvx_clip_close(m);
    return st;
}

void cvx_clip_close(cvx_clip *clip)
{
    if (clip != NULL) {
        cvx_clip_tokenizer_close(clip->tokenizer);
        cvx_arena_close(&clip->step);
        cvx_arena_close(&clip->arena);
        cvx_weights_close(clip->weights);
        free(clip->text_layers);
        free(clip->vision_layers);
        free(clip);
    }
}

const cvx_clip_config *cvx_clip_get_config(const cvx_clip *clip)
{
    return &clip->cfg;
}

/* ---- the encoder both towers share ---- */

static cvx_status run_norm(cvx_clip *m, const norm *n, const cvx_tensor *y, const cvx_tensor *x,
                           const cvx_clip_tower *t)
{
    return cvx_op_layer_norm(m->ctx, &(cvx_layer_norm_args){.y = y,
                                                            .x = x,
                                                            .gamma = &n->gamma,
                                                            .beta = &n->beta,
                                                            .eps = t->layer_norm_eps});
}

/* x += out_proj(attention(norm1(x))). x, h [b s, hidden]. */
static cvx_status self_attention(cvx_clip *m, const cvx_clip_tower *t, const layer *y,
                                 const cvx_tensor *x, const cvx_tensor *h, int64_t b, bool causal)
{
    int64_t s = x->dim[0] / b, d = t->hidden_size / t->num_attention_heads;
    size_t mark = cvx_arena_mark(&m->step);
    cvx_tensor p[4], v4[4]; /* q, k, v, attention */
    const cvx_linear *lin[3] = {&y->q, &y->k, &y->v};

    CVX_RETURN_IF(run_norm(m, &y->norm1, h, x, t));
    for (int i = 0; i < 4; i++) {
        CVX_RETURN_IF(CVX_ALLOC(&m->step, &p[i], CVX_F32, x->dim[0], t->hidden_size));
        v4[i] = CVX_RESHAPE(&p[i], b, s, t->num_attention_heads, d);
        if (i < 3) {
            CVX_RETURN_IF(cvx_linear_run(m->ctx, lin[i], &p[i], h, CVX_ACT_NONE));
        }
    }
    CVX_RETURN_IF(cvx_op_attention(m->ctx, &(cvx_attention_args){.o = &v4[3],
                                                                 .q = &v4[0],
                                                                 .k = &v4[1],
                                                                 .v = &v4[2],
                                                                 .scale = 1.0 / sqrt((double)d),
                                                                 .causal = causal}));
    CVX_RETURN_IF(cvx_op_linear(
        m->ctx, &(cvx_linear_args){.y = x, .x = &p[3], .w = &y->o.w, .b = &y->o.b, .residual = x}));
    cvx_arena_release(&m->step, mark, false);
    return CVX_OK;
}

/* x += fc2(act(fc1(norm2(x)))). */
static cvx_status feed_forward(cvx_clip *m, const cvx_clip_tower *t, const layer *y,
                               const cvx_tensor *x, const cvx_tensor *h)
{
    size_t mark = cvx_arena_mark(&m->step);
    cvx_tensor a;

    CVX_RETURN_IF(run_norm(m, &y->norm2, h, x, t));
    CVX_RETURN_IF(CVX_ALLOC(&m->step, &a, CVX_F32, x->dim[0], t->intermediate_size));
    CVX_RETURN_IF(cvx_linear_run(m->ctx, &y->fc1, &a, h, t->act));
    CVX_RETURN_IF(cvx_op_linear(
        m->ctx,
        &(cvx_linear_args){.y = x, .x = &a, .w = &y->fc2.w, .b = &y->fc2.b, .residual = x}));
    cvx_arena_release(&m->step, mark, false);
    return CVX_OK;
}

static cvx_status run_layers(cvx_clip *m, const cvx_clip_tower *t, const layer *layers,
                             const cvx_tensor *x, int64_t b, bool causal)
{
    size_t mark = cvx_arena_mark(&m->step);
    cvx_tensor h;

    CVX_RETURN_IF(CVX_ALLOC(&m->step, &h, CVX_F32, x->dim[0], t->hidden_size));
    for (int64_t i = 0; i < t->num_hidden_layers; i++) {
        CVX_RETURN_IF(self_attention(m, t, &layers[i], x, &h, b, causal));
        CVX_RETURN_IF(feed_forward(m, t, &layers[i], x, &h));
    }
    cvx_arena_release(&m->step, mark, false);
    return CVX_OK;
}

/* out [n, projection_dim] on the host = projection(norm(x)). x [n, hidden],
 * rows any stride apart. */
static cvx_status project(cvx_clip *m, float *out, const cvx_tensor *x, const norm *n,
                          const cvx_linear *projection, const cvx_clip_tower *t)
{
    cvx_tensor h, y;

    CVX_RETURN_IF(CVX_ALLOC(&m->step, &h, CVX_F32, x->dim[0], t->hidden_size));
    CVX_RETURN_IF(CVX_ALLOC(&m->step, &y, CVX_F32, x->dim[0], m->cfg.projection_dim));
    CVX_RETURN_IF(run_norm(m, n, &h, x, t));
    CVX_RETURN_IF(cvx_linear_run(m->ctx, projection, &y, &h, CVX_ACT_NONE));
    cvx_download(m->ctx, out, &y);
    CVX_RETURN_IF(cvx_sync(m->ctx));
    for (int64_t i = 0; i < cvx_numel(&y); i++) {
        if (!isfinite(out[i])) {
            return cvx_fail(CVX_EFORMAT, "CLIP: the weights give an embedding that is not finite");
        }
    }
    return CVX_OK;
}

/* ---- text ---- */

/* The row whose output stands for the whole text; -1 if the ids lack the end
 * token. */
static int64_t pooled_row(const cvx_clip_config *c, const int32_t *ids, int64_t n)
{
    int64_t best = c->eos_token_id == LEGACY_EOS ? 0 : -1;

    for (int64_t i = 0; i < n; i++) {
        if (c->eos_token_id == LEGACY_EOS) {
            best = ids[i] > ids[best] ? i : best;
        } else if (ids[i] == c->eos_token_id) {
            return i;
        }
    }
    return best;
}

/* The projected embedding of a caption's n token ids, start and end included. */
static cvx_status encode_ids(cvx_clip *clip, float *out, const int32_t *ids, int64_t n)
{
    const cvx_clip_config *c = &clip->cfg;
    const cvx_clip_tower *t = &c->text;
    size_t mark = cvx_arena_mark(&clip->step);
    int64_t row = pooled_row(c, ids, n);
    cvx_status st = CVX_OK;
    cvx_tensor x;

    CVX_ASSERT(n >= 1 && n <= c->max_position_embeddings);
    if (row < 0) {
        return cvx_fail(CVX_EFORMAT,
                        "CLIP: the config's eos_token_id %lld is not the tokenizer's end token",
                        (long long)c->eos_token_id);
    }
    cvx_tensor positions = cvx_slice(&clip->text_positions, 0, 0, n);
    CVX_TRY(st, CVX_ALLOC(&clip->step, &x, CVX_F32, n, t->hidden_size), done);
    CVX_TRY(st,
            cvx_op_embed(clip->ctx,
                         &(cvx_embed_args){.y = &x, .table = &clip->token_embed, .ids = ids}),
            done);
    CVX_TRY(st, cvx_op_add(clip->ctx, &(cvx_add_args){.y = &x, .a = &x, .b = &positions}), done);
    CVX_TRY(st, run_layers(clip, t, clip->text_layers, &x, 1, true), done);
    cvx_tensor pooled = cvx_slice(&x, 0, row, 1);
    st = project(clip, out, &pooled, &clip->text_final, &clip->text_projection, t);
done:
    cvx_arena_release(&clip->step, mark, false);
    return st;
}

cvx_status cvx_clip_encode_text(cvx_clip *clip, float *out, const char *text, bool *truncated)
{
    int64_t max = clip->cfg.max_position_embeddings, n;
    int32_t *ids = malloc((size_t)max * sizeof *ids);

    if (ids == NULL) {
        return cvx_fail(CVX_ENOMEM, "CLIP: no memory for %lld tokens", (long long)max);
    }
    cvx_status st = cvx_clip_tokenizer_encode(clip->tokenizer, text, max, ids, &n, truncated);
    if (st == CVX_OK) {
        st = encode_ids(clip, out, ids, n);
    }
    free(ids);
    return st;
}

/* ---- pictures ---- */

/* x [n, 1 + patches, hidden] = class embedding and patches, plus positions. */
static cvx_status embed_pixels(cvx_clip *m, const cvx_tensor *x, const float *pixels, int64_t n)
{
    const cvx_clip_config *c = &m->cfg;
    int64_t size = c->image_size, p = c->patch_size, hidden = c->vision.hidden_size;
    int64_t patches = (size / p) * (size / p);
    size_t mark = cvx_arena_mark(&m->step);
    cvx_tensor image, rows, embeds;

    CVX_RETURN_IF(CVX_ALLOC(&m->step, &image, CVX_F32, n, 1, 3, size, size));
    CVX_RETURN_IF(CVX_ALLOC(&m->step, &rows, CVX_F32, n, patches, 3 * p * p));
    CVX_RETURN_IF(CVX_ALLOC(&m->step, &embeds, CVX_F32, n, patches, hidden));
    cvx_upload(m->ctx, &image, pixels);
    CVX_RETURN_IF(cvx_op_patchify(m->ctx, &(cvx_patchify_args){.y = &rows, .x = &image, .p = p}));
    CVX_RETURN_IF(cvx_linear_run(m->ctx, &m->patch, &embeds, &rows, CVX_ACT_NONE));
    for (int64_t i = 0; i < n; i++) {
        cvx_tensor item = cvx_slice(x, 0, i, 1), from = cvx_slice(&embeds, 0, i, 1);
        item = CVX_RESHAPE(&item, patches + 1, hidden);
        from = CVX_RESHAPE(&from, patches, hidden);
        cvx_tensor first = cvx_slice(&item, 0, 0, 1), rest = cvx_slice(&item, 0, 1, patches);
        first = CVX_RESHAPE(&first, hidden);
        cvx_copy(m->ctx, &first, &m->class_embed);
        cvx_copy(m->ctx, &rest, &from);
    }
    cvx_arena_release(&m->step, mark, false);
    return cvx_op_add(m->ctx, &(cvx_add_args){.y = x, .a = x, .b = &m->vision_positions});
}

/* out [n, projection_dim] of n <= CVX_CLIP_BATCH pictures, pixels [n, 3, image_size, image_size]. */
static cvx_status encode_pixels(cvx_clip *clip, float *out, const float *pixels, int64_t n)
{
    const cvx_clip_tower *t = &clip->cfg.vision;
    int64_t side = clip->cfg.image_size / clip->cfg.patch_size, s = side * side + 1;
    size_t mark = cvx_arena_mark(&clip->step);
    cvx_status st = CVX_OK;
    cvx_tensor x3, x;

    CVX_ASSERT(n >= 1 && n <= CVX_CLIP_BATCH);
    CVX_TRY(st, CVX_ALLOC(&clip->step, &x3, CVX_F32, n, s, t->hidden_size), done);
    CVX_TRY(st, embed_pixels(clip, &x3, pixels, n), done);
    x = CVX_RESHAPE(&x3, n * s, t->hidden_size);
    CVX_TRY(st, run_norm(clip, &clip->vision_pre, &x, &x, t), done);
    CVX_TRY(st, run_layers(clip, t, clip->vision_layers, &x, n, false), done);
    cvx_tensor pooled = cvx_slice(&x3, 1, 0, 1); /* the class rows */
    pooled.ndim = 2;
    pooled.dim[1] = t->hidden_size;
    pooled.stride[1] = 1;
    st = project(clip, out, &pooled, &clip->vision_post, &clip->vision_projection, t);
done:
    cvx_arena_release(&clip->step, mark, false);
    return st;
}

cvx_status cvx_clip_encode_frames(cvx_clip *clip, float *out, const uint8_t *rgb, int64_t n,
                                  int64_t h, int64_t w)
{
    const cvx_clip_config *c = &clip->cfg;
    int64_t size = c->image_size, values = 3 * size * size, pw, ph;
    cvx_status st = CVX_OK;
    float *pixels;

    cvx_clip_pixels_size(&c->image, w, h, &pw, &ph);
    if (pw != size || ph != size) {
        return cvx_fail(CVX_EINVAL,
                        "CLIP: frames of %lldx%lld become %lldx%lld pixels without "
                        "a crop, but the model "
                        "takes %lldx%lld",
                        (long long)w, (long long)h, (long long)pw, (long long)ph, (long long)size,
                        (long long)size);
    }
    pixels = malloc((size_t)(CVX_CLIP_BATCH * values) * sizeof *pixels);
    if (pixels == NULL) {
        return cvx_fail(CVX_ENOMEM, "CLIP: no memory for %d pictures", CVX_CLIP_BATCH);
    }
    for (int64_t first = 0; first < n; first += CVX_CLIP_BATCH) {
        int64_t count = n - first < CVX_CLIP_BATCH ? n - first : CVX_CLIP_BATCH;
        for (int64_t i = 0; i < count; i++) {
            CVX_TRY(st,
                    cvx_clip_preprocess(&c->image, pixels + i * values,
                                        rgb + (first + i) * h * w * 3, w, h),
                    done);
        }
        CVX_TRY(st, encode_pixels(clip, out + first * c->projection_dim, pixels, count), done);
    }
done:
    free(pixels);
    return st;
}

double cvx_clip_score(const float *text, const float *image, int64_t n)
{
    double dot = 0, tt = 0, ii = 0;

    for (int64_t i = 0; i < n; i++) {
        dot += (double)text[i] * (double)image[i];
        tt += (double)text[i] * (double)text[i];
        ii += (double)image[i] * (double)image[i];
    }
    double score = tt > 0 && ii > 0 ? 100.0 * dot / (sqrt(tt) * sqrt(ii)) : 0.0;
    return score > 0 ? score : 0.0;
}
