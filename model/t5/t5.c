#include "model/t5/t5.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "kernels/transfer.h"

typedef struct layer {
    cvx_tensor norm0, norm1;
    cvx_linear q, k, v, o, wi_0, wi_1, wo;
} layer;

struct cvx_t5 {
    cvx_ctx *ctx;
    cvx_comm *tensor;    /* the ranks that share the weights */
    cvx_shard heads, ff; /* this rank's of num_heads and d_ff */
    cvx_t5_config cfg;
    cvx_tensor embed;         /* [vocab, d_model], as in the file */
    cvx_tensor relative_bias; /* [buckets, heads] f32 */
    cvx_tensor final_norm;
    layer *layers;
};

static cvx_status read_config(cvx_t5_config *c, const json_t *j, const char *path)
{
    const char *ff = "gated-gelu";
    const struct {
        const char *key;
        int64_t *out;
    } ints[] = {{"d_model", &c->d_model},
                {"d_ff", &c->d_ff},
                {"d_kv", &c->d_kv},
                {"num_heads", &c->num_heads},
                {"num_layers", &c->num_layers},
                {"vocab_size", &c->vocab_size},
                {"relative_attention_num_buckets", &c->relative_attention_num_buckets},
                {"relative_attention_max_distance", &c->relative_attention_max_distance}};

    for (size_t i = 0; i < sizeof ints / sizeof *ints; i++) {
        CVX_RETURN_IF(cvx_json_int(j, path, ints[i].key, ints[i].out));
        if (*ints[i].out < 1 || *ints[i].out > 1 << 24) {
            return cvx_fail(CVX_EFORMAT, "%s: \"%s\" must be a positive number", path, ints[i].key);
        }
    }
    CVX_RETURN_IF(cvx_json_double(j, path, "layer_norm_epsilon", &c->layer_norm_epsilon));
    CVX_RETURN_IF(cvx_json_str(j, path, "feed_forward_proj", &ff));
    if (strcmp(ff, "gated-gelu") != 0) {
        return cvx_fail(CVX_EUNSUPPORTED,
                        "%s: feed_forward_proj is \"%s\"; T5 v1.1's \"gated-gelu\" is needed", path,
                        ff);
    }
    if (c->d_kv > 128 || c->relative_attention_num_buckets < 4 ||
        c->relative_attention_max_distance <= c->relative_attention_num_buckets / 4) {
        return cvx_fail(CVX_EFORMAT,
                        "%s: d_kv must be at most 128, and the relative attention "
                        "buckets at least 4 with a max_distance above a quarter of them",
                        path);
    }
    return CVX_OK;
}

cvx_status cvx_t5_config_load(cvx_t5_config *out, const char *dir)
{
    char path[CVX_PATH_MAX];
    json_t *j = NULL;
    cvx_t5_config c = {.d_model = 512,
                       .d_ff = 2048,
                       .d_kv = 64,
                       .num_heads = 8,
                       .num_layers = 6,
                       .vocab_size = 32128,
                       .relative_attention_num_buckets = 32,
                       .relative_attention_max_distance = 128,
                       .layer_norm_epsilon = 1e-6};

    CVX_RETURN_IF(cvx_path_join(path, dir, "config.json"));
    CVX_RETURN_IF(cvx_json_load(&j, path));
    cvx_status st = read_config(&c, j, path);
    json_decref(j);
    if (st == CVX_OK) {
        *out = c;
    }
    return st;
}

static cvx_status load_layer(const cvx_load *l, const cvx_t5 *t, layer *y, int64_t i)
{
    char name[160];
    const cvx_t5_config *c = &t->cfg;
    int64_t inner = c->num_heads * c->d_kv, d = c->d_model;
    int64_t a0 = t->heads.start * c->d_kv, an = t->heads.len * c->d_kv;
    int64_t f0 = t->ff.start, fn = t->ff.len;
    const struct {
        cvx_linear *lin;
        const char *name;
        int64_t n, k;
        cvx_weights_part part;
    } linears[] = {{&y->q, "layer.0.SelfAttention.q", inner, d, {a0, an, 0, d}},
                   {&y->k, "layer.0.SelfAttention.k", inner, d, {a0, an, 0, d}},
                   {&y->v, "layer.0.SelfAttention.v", inner, d, {a0, an, 0, d}},
                   {&y->o, "layer.0.SelfAttention.o", d, inner, {0, d, a0, an}},
                   {&y->wi_0, "layer.1.DenseReluDense.wi_0", c->d_ff, d, {f0, fn, 0, d}},
                   {&y->wi_1, "layer.1.DenseReluDense.wi_1", c->d_ff, d, {f0, fn, 0, d}},
                   {&y->wo, "layer.1.DenseReluDense.wo", d, c->d_ff, {0, d, f0, fn}}};

    for (size_t j = 0; j < sizeof linears / sizeof *linears; j++) {
        snprintf(name, sizeof name, "encoder.block.%lld.%s", (long long)i, linears[j].name);
        CVX_RETURN_IF(cvx_linear_load_part(l, linears[j].lin, name, linears[j].n, linears[j].k,
                                           false, &linears[j].part));
    }
    snprintf(name, sizeof name, "encoder.block.%lld.layer.0.layer_norm", (long long)i);
    CVX_RETURN_IF(cvx_vector_load(l, &y->norm0, name, "weight", c->d_model));
    snprintf(name, sizeof name, "encoder.block.%lld.layer.1.layer_norm", (long long)i);
    return cvx_vector_load(l, &y->norm1, name, "weight", c->d_model);
}

cvx_status cvx_t5_open(cvx_t5 **out, const cvx_load *l, const cvx_t5_config *cfg)
{
    cvx_status st = CVX_OK;
    cvx_t5 *t = calloc(1, sizeof *t);
    const char *embed = cvx_weights_has(l->weights, "shared.weight")
                            ? "shared.weight"
                            : "encoder.embed_tokens.weight";

    if (t == NULL || (t->layers = calloc((size_t)cfg->num_layers, sizeof *t->layers)) == NULL) {
        st = cvx_fail(CVX_ENOMEM, "T5: no memory for %lld layers", (long long)cfg->num_layers);
        goto done;
    }
    t->ctx = l->ctx;
    t->tensor = l->mesh->dim[CVX_MESH_TENSOR];
    t->cfg = *cfg;
    t->heads = cvx_shard_of(cfg->num_heads, t->tensor->size, t->tensor->rank);
    t->ff = cvx_shard_of(cfg->d_ff, t->tensor->size, t->tensor->rank);
    CVX_TRY(st, CVX_WEIGHT(l->weights, &t->embed, embed, cfg->vocab_size, cfg->d_model), done);
    cvx_weights_count_in_place(l->weights, &t->embed);
    CVX_TRY(st,
            CVX_WEIGHT_F32(l->weights, l->arena, &t->relative_bias,
                           "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
                           cfg->relative_attention_num_buckets, cfg->num_heads),
            done);
    CVX_TRY(st,
            cvx_vector_load(l, &t->final_norm, "encoder.final_layer_norm", "weight", cfg->d_model),
            done);
    for (int64_t i = 0; i < cfg->num_layers; i++) {
        CVX_TRY(st, load_layer(l, t, &t->layers[i], i), done);
    }
    *out = t;
    t = NULL;
done:
    cvx_t5_close(t);
    return st;
}

void cvx_t5_close(cvx_t5 *t5)
{
    if (t5 != NULL) {
        free(t5->layers);
        free(t5);
    }
}

/* T5Attention._relative_position_bucket, bidirectional. distance = key - query. */
static int64_t bucket_of(int64_t distance, int64_t buckets, int64_t max_distance)
{
    int64_t half = buckets / 2, exact = half / 2;
    int64_t base = distance > 0 ? half : 0;
    int64_t d = distance < 0 ? -distance : distance;

    if (d < exact) {
        return base + d;
    }
    /* in single precision and truncated, as torch does it */
    float v = logf((float)d / (float)exact) / (float)log((double)max_distance / (double)exact) *
              (float)(half - exact);
    int64_t far = exact + (int64_t)v;
    return base + (far < half - 1 ? far : half - 1);
}

/* bias [this rank's heads, n, n]: row i, column j holds the head's weight of bucket(j - i). */
static cvx_status make_bias(cvx_t5 *t, cvx_arena *step, cvx_tensor *bias, int64_t n)
{
    int64_t h = t->heads.len, all = t->cfg.num_heads;

    CVX_RETURN_IF(CVX_ALLOC(step, bias, CVX_F32, h, n, n));
    if (t->ctx->measure) {
        return CVX_OK;
    }
    float *host = malloc((size_t)(h * n * n) * sizeof *host + 1);
    float *table = malloc((size_t)(t->cfg.relative_attention_num_buckets * all) * sizeof *table);
    if (host == NULL || table == NULL) {
        free(host);
        free(table);
        return cvx_fail(CVX_ENOMEM, "T5: no memory for the position bias of %lld tokens",
                        (long long)n);
    }
    cvx_download(t->ctx, table, &t->relative_bias);
    for (int64_t i = 0; i < n; i++) {
        for (int64_t j = 0; j < n; j++) {
            int64_t b = bucket_of(j - i, t->cfg.relative_attention_num_buckets,
                                  t->cfg.relative_attention_max_distance);
            for (int64_t k = 0; k < h; k++) {
                host[(k * n + i) * n + j] = table[b * all + t->heads.start + k];
            }
        }
    }
    cvx_upload(t->ctx, bias, host);
    free(host);
    free(table);
    return CVX_OK;
}

/* x += w(v): this rank's part of the sum over tensor ranks (the first rank that has any brings x), then the sum. v
 * [n, part->len or its heads' columns]. */
static cvx_status add_part(cvx_t5 *t, const cvx_linear *w, const cvx_shard *part,
                           const cvx_tensor *x, const cvx_tensor *v)
{
    bool lead = part->start == 0 && part->len > 0;

    if (part->len == 0) {
        cvx_zero(t->ctx, x);
    } else {
        CVX_RETURN_IF(cvx_op_linear(
            t->ctx, &(cvx_linear_args){.y = x, .x = v, .w = &w->w, .residual = lead ? x : NULL}));
    }
    return t->tensor->size == 1 ? CVX_OK : cvx_comm_allreduce_f32(t->tensor, x->data, cvx_numel(x));
}

/* x += o(attention(norm(x))). x, h [n, d_model]. */
static cvx_status self_attention(cvx_t5 *t, cvx_arena *step, const layer *y, const cvx_tensor *x,
                                 const cvx_tensor *h, const cvx_tensor *bias)
{
    const cvx_t5_config *c = &t->cfg;
    int64_t n = x->dim[0], heads = t->heads.len, inner = heads * c->d_kv;
    size_t mark = cvx_arena_mark(step);
    cvx_tensor p[4], v4[4]; /* q, k, v, attention */
    const cvx_linear *lin[3] = {&y->q, &y->k, &y->v};

    CVX_RETURN_IF(cvx_op_rms_norm(
        t->ctx,
        &(cvx_rms_norm_args){.y = h, .x = x, .gamma = &y->norm0, .eps = c->layer_norm_epsilon}));
    for (int i = 0; i < 4; i++) {
        CVX_RETURN_IF(CVX_ALLOC(step, &p[i], CVX_F32, n, inner));
        v4[i] = CVX_RESHAPE(&p[i], 1, n, heads, c->d_kv);
        if (i < 3) {
            CVX_RETURN_IF(cvx_linear_run(t->ctx, lin[i], &p[i], h, CVX_ACT_NONE));
        }
    }
    if (heads > 0) {
        CVX_RETURN_IF(cvx_op_attention(
            t->ctx,
            &(cvx_attention_args){
                .o = &v4[3], .q = &v4[0], .k = &v4[1], .v = &v4[2], .bias = bias, .scale = 1.0}));
    }
    CVX_RETURN_IF(add_part(t, &y->o, &t->heads, x, &p[3]));
    cvx_arena_release(step, mark, false);
    return CVX_OK;
}

/* x += wo(gelu(wi_0(norm(x))) * wi_1(norm(x))). */
static cvx_status feed_forward(cvx_t5 *t, cvx_arena *step, const layer *y, const cvx_tensor *x,
                               const cvx_tensor *h)
{
    size_t mark = cvx_arena_mark(step);
    cvx_tensor a, b;

    CVX_RETURN_IF(cvx_op_rms_norm(t->ctx, &(cvx_rms_norm_args){.y = h,
                                                               .x = x,
                                                               .gamma = &y->norm1,
                                                               .eps = t->cfg.layer_norm_epsilon}));
    CVX_RETURN_IF(CVX_ALLOC(step, &a, CVX_F32, x->dim[0], t->ff.len));
    CVX_RETURN_IF(CVX_ALLOC(step, &b, CVX_F32, x->dim[0], t->ff.len));
    CVX_RETURN_IF(cvx_linear_run(t->ctx, &y->wi_0, &a, h, CVX_ACT_NONE));
    CVX_RETURN_IF(cvx_linear_run(t->ctx, &y->wi_1, &b, h, CVX_ACT_NONE));
    CVX_RETURN_IF(cvx_op_gated_act(
        t->ctx, &(cvx_gated_act_args){.y = &a, .a = &a, .b = &b, .act = CVX_ACT_GELU_TANH}));
    CVX_RETURN_IF(add_part(t, &y->wo, &t->ff, x, &a));
    cvx_arena_release(step, mark, false);
    return CVX_OK;
}

cvx_status cvx_t5_encode(cvx_t5 *t5, cvx_arena *step, const cvx_tensor *out, const int32_t *ids,
                         int64_t n, cvx_t5_tap hidden, void *payload)
{
    size_t mark = cvx_arena_mark(step);
    cvx_tensor x, h, bias;

    CVX_RETURN_IF(CVX_ALLOC(step, &x, CVX_F32, n, t5->cfg.d_model));
    CVX_RETURN_IF(CVX_ALLOC(step, &h, CVX_F32, n, t5->cfg.d_model));
    CVX_RETURN_IF(make_bias(t5, step, &bias, n));
    CVX_RETURN_IF(
        cvx_op_embed(t5->ctx, &(cvx_embed_args){.y = &x, .table = &t5->embed, .ids = ids}));
    for (int64_t i = 0; i < t5->cfg.num_layers; i++) {
        if (hidden != NULL) {
            hidden(payload, i, &x);
        }
        CVX_RETURN_IF(self_attention(t5, step, &t5->layers[i], &x, &h, &bias));
        CVX_RETURN_IF(feed_forward(t5, step, &t5->layers[i], &x, &h));
    }
    CVX_RETURN_IF(
        cvx_op_rms_norm(t5->ctx, &(cvx_rms_norm_args){.y = out,
                                                      .x = &x,
                                                      .gamma = &t5->final_norm,
                                                      .eps = t5->cfg.layer_norm_epsilon}));
    if (hidden != NULL) {
        hidden(payload, t5->cfg.num_layers, out);
    }
    cvx_arena_release(step, mark, false);
    return CVX_OK;
}
