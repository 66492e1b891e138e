/* The transformer against diffusers: first call of every variant, every part inside tiny-5b, and a
 * checkpoint in shards. */
#include <string.h>

#include "golden.h"
#include "kernels/transfer.h"
#include "model/dit/dit.h"
#include "model/t5/t5.h"
#include "model/text/t5_tokenizer.h"

/* Sums of at most 512 terms in two layers: f32 rounding stays near 1e-6; the bound is 1e-4. */
#define BOUND 1e-4

typedef struct model {
    cvx_ctx *ctx;
    cvx_weights *w;
    cvx_arena weights, job, step;
    cvx_dit_config cfg;
    cvx_dit *dit;
    cvx_mesh *mesh;
} model;

static void open_model(model *m, const char *config_dir, const char *weights_dir)
{
    *m = (model){0};
    OK(cvx_ctx_open(&m->ctx, &(cvx_ctx_options){.backend = getenv("CVX_TEST_BACKEND"),
                                                .isa = getenv("CVX_TEST_ISA")}));
    OK(cvx_dit_config_load(&m->cfg, config_dir));
    OK(cvx_weights_open(&m->w, weights_dir));
    OK(cvx_ctx_arena(m->ctx, &m->weights, "weights", (size_t)1 << 28));
    OK(cvx_ctx_arena(m->ctx, &m->job, "job", (size_t)1 << 28));
    OK(cvx_ctx_arena(m->ctx, &m->step, "step", (size_t)1 << 28));
    OK(cvx_mesh_self(&m->mesh));
    cvx_load load = {
        .ctx = m->ctx, .arena = &m->weights, .weights = m->w, .pack = true, .mesh = m->mesh};
    OK(cvx_dit_open(&m->dit, &load, &m->cfg));
}

static void close_model(model *m)
{
    cvx_dit_close(m->dit);
    cvx_mesh_close(m->mesh);
    cvx_arena_close(&m->step);
    cvx_arena_close(&m->job);
    cvx_arena_close(&m->weights);
    cvx_weights_close(m->w);
    cvx_ctx_close(m->ctx);
}

typedef struct inside {
    cvx_weights *w;
    int64_t text, seen;
} inside;

/* Rows of one kind (text or video) of [b, s, c] against a golden [b, rows, c]. */
static void rows_match(const inside *in, const cvx_tensor *t, const char *name, int64_t from,
                       int64_t n)
{
    int64_t b = t->dim[0], c = t->dim[2];
    float *rows = malloc((size_t)(b * n * c) * sizeof *rows);
    for (int64_t i = 0; i < b; i++) {
        memcpy(rows + i * n * c, (float *)t->data + (i * t->dim[1] + from) * c,
               (size_t)(n * c) * sizeof *rows);
    }
    close_to(in->w, name, rows, b * n * c, BOUND);
    free(rows);
}

static void tap(void *payload, const char *name, const cvx_tensor *t)
{
    inside *in = payload;
    char full[64];

    snprintf(full, sizeof full, "dit.%s", name);
    if (strcmp(name, "block-1.patch_embed") == 0) {
        rows_match(in, t, "dit.patch_embed", 0, t->dim[1]);
    } else if (strcmp(name + 6, ".out") == 0) {
        full[strlen(full) - 4] = 0;
        char part[80];
        snprintf(part, sizeof part, "%s.text", full);
        rows_match(in, t, part, 0, in->text);
        snprintf(part, sizeof part, "%s.video", full);
        rows_match(in, t, part, in->text, t->dim[1] - in->text);
    } else if (strcmp(name, "time_embedding") == 0) {
        float twice[2048];
        int64_t n = cvx_numel(t);
        memcpy(twice, t->data, (size_t)n * sizeof(float));
        memcpy(twice + n, t->data, (size_t)n * sizeof(float));
        close_to(in->w, full, twice, 2 * n, BOUND);
    } else {
        return;
    }
    in->seen++;
}

/* One call: embeddings [2, L, d] in, output of both batch items. latents: one item [F, C, h, w]. */
static cvx_tensor forward(model *m, const cvx_tensor *embeds, const cvx_tensor *latents, double t,
                          cvx_dit_tap fn, void *payload)
{
    cvx_dit_job job;
    cvx_tensor out;
    cvx_dit_shape s = {.batch = 2,
                       .frames = latents->dim[0],
                       .height = latents->dim[2],
                       .width = latents->dim[3],
                       .text_len = embeds->dim[1]};

    OK(CVX_ALLOC(&m->job, &out, CVX_F32, 2, s.frames, m->cfg.out_channels, s.height, s.width));
    OK(cvx_dit_check(&m->cfg, &s, 8));
    OK(cvx_dit_prepare(m->dit, &job, &m->job, &m->step, &s, embeds));
    OK(cvx_dit_forward(m->dit, &job, &m->step, &out, latents, t, fn, payload));
    return out;
}

/* [negative, positive] of the golden file. */
static cvx_tensor joint_embeds(model *m, cvx_weights *w)
{
    cvx_tensor neg = golden(w, "negative_prompt_embeds"), pos = golden(w, "prompt_embeds"), out;
    OK(CVX_ALLOC(&m->job, &out, CVX_F32, 2, pos.dim[1], pos.dim[2]));
    memcpy(out.data, neg.data, (size_t)cvx_numel(&neg) * sizeof(float));
    memcpy((float *)out.data + cvx_numel(&neg), pos.data, (size_t)cvx_numel(&pos) * sizeof(float));
    free(neg.data);
    free(pos.data);
    return out;
}

static void first_call(model *m, cvx_weights *w, cvx_weights *expect)
{
    cvx_tensor embeds = joint_embeds(m, w), in = golden(w, "transformer_in"),
               t = golden(w, "transformer_t");
    cvx_tensor item = CVX_VIEW(in.data, CVX_F32, in.dim[1], in.dim[2], in.dim[3], in.dim[4]);
    cvx_tensor out = forward(m, &embeds, &item, ((float *)t.data)[0], NULL, NULL);

    close_to(expect, "transformer_out", out.data, cvx_numel(&out), BOUND);
    free(in.data);
    free(t.data);
}

static void variant(void **state)
{
    char path[512];
    model m;
    cvx_weights *w = NULL;

    snprintf(path, sizeof path, "%s/transformer", (const char *)*state);
    open_model(&m, path, path);
    snprintf(path, sizeof path, "%s/golden.safetensors", (const char *)*state);
    OK(cvx_weights_open(&w, path));
    first_call(&m, w, w);
    cvx_weights_close(w);
    close_model(&m);
}

static void shards(void **state)
{
    model m;
    cvx_weights *w = NULL, *expect = NULL;

    (void)state;
    open_model(&m, DATA "variants/tiny-2b/transformer", CVX_TEST_DATA "/sharded-2b");
    OK(cvx_weights_open(&w, DATA "variants/tiny-2b/golden.safetensors"));
    OK(cvx_weights_open(&expect, DATA "extra/sharded-2b-golden.safetensors"));
    first_call(&m, w, expect);
    cvx_weights_close(expect);
    cvx_weights_close(w);
    close_model(&m);
}

static void rotary_table(void **state)
{
    model m;
    cvx_weights *w = NULL;
    cvx_dit_job job;

    (void)state;
    open_model(&m, DATA "variants/tiny-5b/transformer", DATA "variants/tiny-5b/transformer");
    OK(cvx_weights_open(&w, DATA "variants/tiny-5b/golden.safetensors"));
    cvx_tensor embeds = joint_embeds(&m, w);
    cvx_dit_shape s = {
        .batch = 2, .frames = 5, .height = 8, .width = 12, .text_len = embeds.dim[1]};
    OK(cvx_dit_prepare(m.dit, &job, &m.job, &m.step, &s, &embeds));
    close_to(w, "rope_cos", job.cos.data, cvx_numel(&job.cos), 1e-6);
    close_to(w, "rope_sin", job.sin.data, cvx_numel(&job.sin), 1e-6);
    cvx_weights_close(w);
    close_model(&m);
}

/* T5's rows for one prompt, without the pipeline. */
static void encode(model *m, const char *prompt, int64_t n, float *out)
{
    const char *dir = DATA "variants/tiny-5b/text_encoder";
    cvx_t5_config cfg;
    cvx_weights *w = NULL;
    cvx_t5 *t5 = NULL;
    cvx_t5_tokenizer *tok = NULL;
    cvx_t5_tokens t = {0};
    int32_t ids[256];

    OK(cvx_t5_config_load(&cfg, dir));
    OK(cvx_weights_open(&w, dir));
    cvx_load load = {.ctx = m->ctx, .arena = &m->weights, .weights = w, .mesh = m->mesh};
    OK(cvx_t5_open(&t5, &load, &cfg));
    OK(cvx_t5_tokenizer_open(&tok, DATA "variants/tiny-5b/tokenizer"));
    OK(cvx_t5_tokenizer_encode(tok, prompt, n, ids, &t));
    cvx_tensor o = CVX_VIEW(out, CVX_F32, n, cfg.d_model);
    OK(cvx_t5_encode(t5, &m->step, &o, ids, n, NULL, NULL));
    cvx_t5_tokens_clear(&t);
    cvx_t5_tokenizer_close(tok);
    cvx_t5_close(t5);
    cvx_weights_close(w);
}

/* Block by block: an error shows where it begins. */
static void every_part(void **state)
{
    model m;
    inside in = {0};
    cvx_tensor embeds;

    (void)state;
    open_model(&m, DATA "variants/tiny-5b/transformer", DATA "variants/tiny-5b/transformer");
    OK(cvx_weights_open(&in.w, DATA "extra/inside-5b.safetensors"));
    in.text = atoll(cvx_weights_meta(in.w, "max_sequence_length"));
    OK(CVX_ALLOC(&m.job, &embeds, CVX_F32, 2, in.text, m.cfg.text_embed_dim));
    encode(&m, cvx_weights_meta(in.w, "negative_prompt"), in.text, embeds.data);
    encode(&m, cvx_weights_meta(in.w, "prompt"), in.text,
           (float *)embeds.data + in.text * m.cfg.text_embed_dim);
    cvx_tensor l = golden(in.w, "latents_0");
    cvx_tensor item = CVX_VIEW(l.data, CVX_F32, l.dim[1], l.dim[2], l.dim[3], l.dim[4]);
    forward(&m, &embeds, &item, 999, tap, &in);
    assert_int_equal(in.seen, 2 + m.cfg.num_layers);
    free(l.data);
    cvx_weights_close(in.w);
    close_model(&m);
}

int main(void)
{
    static char *dirs[] = {DATA "variants/tiny-2b", DATA "variants/tiny-5b",
                           DATA "variants/tiny-5b-i2v", DATA "variants/tiny-1.5-5b",
                           DATA "variants/tiny-1.5-5b-i2v"};
    struct CMUnitTest tests[8] = {cmocka_unit_test(shards), cmocka_unit_test(rotary_table),
                                  cmocka_unit_test(every_part)};
    size_t n = 3;

    for (size_t i = 0; i < 5; i++) {
        tests[n++] = (struct CMUnitTest){strrchr(dirs[i], '/') + 1, variant, NULL, NULL, dirs[i]};
    }
    return _cmocka_run_group_tests("transformer", tests, n, NULL, NULL);
}
