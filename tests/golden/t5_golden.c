/* T5 against transformers: every hidden state at 226 tokens, prompt embeddings of every variant. */
#include <string.h>

#include "golden.h"
#include "kernels/ops.h"
#include "model/t5/t5.h"
#include "model/text/t5_tokenizer.h"

/* Two layers of sums over 48 to 256 terms: f32 rounding stays near 1e-6; the bound is 1e-4. */
#define BOUND 1e-4

typedef struct model {
    cvx_mesh *mesh;
    cvx_ctx *ctx;
    cvx_weights *w;
    cvx_arena weights, step;
    cvx_t5_config cfg;
    cvx_t5 *t5;
} model;

static void open_model(model *m, const char *dir)
{
    char path[512];

    *m = (model){0};
    OK(cvx_ctx_open(&m->ctx, &(cvx_ctx_options){.backend = getenv("CVX_TEST_BACKEND"),
                                                .isa = getenv("CVX_TEST_ISA")}));
    snprintf(path, sizeof path, "%s/text_encoder", dir);
    OK(cvx_t5_config_load(&m->cfg, path));
    OK(cvx_weights_open(&m->w, path));
    OK(cvx_ctx_arena(m->ctx, &m->weights, "weights", (size_t)1 << 28));
    OK(cvx_ctx_arena(m->ctx, &m->step, "step", (size_t)1 << 28));
    OK(cvx_mesh_self(&m->mesh));
    cvx_load load = {.ctx = m->ctx, .arena = &m->weights, .weights = m->w, .mesh = m->mesh};
    OK(cvx_t5_open(&m->t5, &load, &m->cfg));
}

static void close_model(model *m)
{
    cvx_t5_close(m->t5);
    cvx_mesh_close(m->mesh);
    cvx_arena_close(&m->step);
    cvx_arena_close(&m->weights);
    cvx_weights_close(m->w);
    cvx_ctx_close(m->ctx);
}

static void check_hidden(void *payload, int64_t i, const cvx_tensor *x)
{
    char name[32];
    snprintf(name, sizeof name, "hidden_%lld", (long long)i);
    close_to(payload, name, x->data, cvx_numel(x), BOUND);
}

static void hidden_states(void **state)
{
    model m;
    cvx_weights *w = NULL;
    cvx_tensor out;
    int32_t ids[226];

    (void)state;
    open_model(&m, DATA "variants/tiny-5b");
    OK(cvx_weights_open(&w, DATA "extra/t5-226.safetensors"));
    cvx_tensor g = golden(w, "input_ids");
    for (int i = 0; i < 226; i++) {
        ids[i] = (int32_t)((float *)g.data)[i];
    }
    OK(CVX_ALLOC(&m.step, &out, CVX_F32, 226, m.cfg.d_model));
    OK(cvx_t5_encode(m.t5, &m.step, &out, ids, 226, check_hidden, w));
    close_to(w, "out", out.data, cvx_numel(&out), BOUND);
    free(g.data);
    cvx_weights_close(w);
    close_model(&m);
}

static void prompt_embeds(void **state)
{
    static const char *const names[] = {"prompt_embeds", "negative_prompt_embeds"};
    static const char *const keys[] = {"prompt", "negative_prompt"};
    char path[512];
    model m;
    cvx_weights *w = NULL;
    cvx_t5_tokenizer *tok = NULL;

    open_model(&m, *state);
    snprintf(path, sizeof path, "%s/golden.safetensors", (const char *)*state);
    OK(cvx_weights_open(&w, path));
    snprintf(path, sizeof path, "%s/tokenizer", (const char *)*state);
    OK(cvx_t5_tokenizer_open(&tok, path));
    int64_t n = atoll(cvx_weights_meta(w, "max_sequence_length"));
    for (int i = 0; i < 2; i++) {
        int32_t *ids = calloc((size_t)n, sizeof *ids);
        cvx_t5_tokens t = {0};
        cvx_tensor out;
        OK(cvx_t5_tokenizer_encode(tok, cvx_weights_meta(w, keys[i]), n, ids, &t));
        OK(CVX_ALLOC(&m.step, &out, CVX_F32, n, m.cfg.d_model));
        OK(cvx_t5_encode(m.t5, &m.step, &out, ids, n, NULL, NULL));
        close_to(w, names[i], out.data, cvx_numel(&out), BOUND);
        cvx_t5_tokens_clear(&t);
        free(ids);
    }
    cvx_t5_tokenizer_close(tok);
    cvx_weights_close(w);
    close_model(&m);
}

int main(void)
{
    static char *dirs[] = {DATA "variants/tiny-2b", DATA "variants/tiny-5b",
                           DATA "variants/tiny-5b-i2v", DATA "variants/tiny-1.5-5b",
                           DATA "variants/tiny-1.5-5b-i2v"};
    struct CMUnitTest tests[8] = {cmocka_unit_test(hidden_states)};
    size_t n = 1;

    for (size_t i = 0; i < 5; i++) {
        tests[n++] =
            (struct CMUnitTest){strrchr(dirs[i], '/') + 1, prompt_embeds, NULL, NULL, dirs[i]};
    }
    return _cmocka_run_group_tests("t5", tests, n, NULL, NULL);
}
