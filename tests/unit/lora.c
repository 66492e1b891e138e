/* LoRA: "FILE:SCALE", the merged numbers against a plain triple loop, and files that do not belong. */
#include <string.h>
#include <unistd.h>

#include "../golden/golden.h"
#include "base/file.h"
#include "model/linear.h"
#include "model/lora.h"

#define N 5
#define K 7
#define R 3

static char dir[] = "/tmp/cvx-lora-XXXXXX";
static float base_a[N * K], base_b[K], low[2][R * K], high[2][N * R];
static uint16_t base_h[N * K], half_low[R * K];

static void path_of(char out[CVX_PATH_MAX], const char *name)
{
    snprintf(out, CVX_PATH_MAX, "%s/%s", dir, name);
}

static float value(int i)
{
    return (float)((i * 7919 + 13) % 101 - 50) / 64.0f;
}

static int begin(void **state)
{
    char path[CVX_PATH_MAX];

    (void)state;
    if (mkdtemp(dir) == NULL) {
        return 1;
    }
    for (int i = 0; i < N * K; i++) {
        base_a[i] = value(i);
        base_h[i] = cvx_f32_to_f16(value(i + 500));
    }
    for (int m = 0; m < 2; m++) {
        for (int i = 0; i < R * K; i++) {
            low[m][i] = value(1000 * m + i + 40);
            half_low[i] = cvx_f32_to_bf16(low[0][i]);
        }
        for (int i = 0; i < N * R; i++) {
            high[m][i] = value(1000 * m + i + 90);
        }
    }
    const cvx_tensor t[4] = {CVX_VIEW(base_a, CVX_F32, N, K), CVX_VIEW(base_h, CVX_F16, N, K),
                             CVX_VIEW(base_b, CVX_F32, K), CVX_VIEW(base_a, CVX_F32, N, K, 1)};
    static const char *const names[] = {"blocks.0.to_q.weight", "blocks.0.to_k.weight",
                                        "blocks.0.to_q.bias", "conv.weight"};
    path_of(path, "base.safetensors");
    return cvx_safetensors_write(path, t, names, 4, NULL, 0) != CVX_OK;
}

static int end(void **state)
{
    char command[64];
    (void)state;
    snprintf(command, sizeof command, "rm -rf '%s'", dir);
    return system(command);
}

typedef struct part {
    const char *key;
    cvx_tensor t;
} part;

/* config: JSON of lora_adapter_metadata, or NULL. */
static void put_with(const char *name, const part *parts, int n, const char *config)
{
    const char *const meta[] = {"lora_adapter_metadata", config};
    char path[CVX_PATH_MAX];
    const char *names[8];
    cvx_tensor t[8];

    for (int i = 0; i < n; i++) {
        names[i] = parts[i].key;
        t[i] = parts[i].t;
    }
    path_of(path, name);
    OK(cvx_safetensors_write(path, t, names, n, meta, config != NULL ? 1 : 0));
}

static void put(const char *name, const part *parts, int n)
{
    put_with(name, parts, n, NULL);
}

static cvx_weights *open_base(void)
{
    char path[CVX_PATH_MAX];
    cvx_weights *w = NULL;

    path_of(path, "base.safetensors");
    OK(cvx_weights_open(&w, path));
    return w;
}

/* Merges "dir/NAME[:SCALE]". */
static cvx_status merge(cvx_weights *w, const char *name)
{
    char item[CVX_PATH_MAX];
    path_of(item, name);
    return cvx_lora_merge(w, item);
}

/* want += s · up [N, R] · down [R, K], in double. */
static void add(double *want, const float *up, const float *down, double s)
{
    for (int i = 0; i < N; i++) {
        for (int j = 0; j < K; j++) {
            for (int r = 0; r < R; r++) {
                want[i * K + j] += s * (double)up[i * R + r] * (double)down[r * K + j];
            }
        }
    }
}

/* One rounding to f32 after sums in double, for each merge: values stay below 8, so 2^-22 each. */
static void equals(cvx_weights *w, const char *name, const double *want, int merges)
{
    float merged[N * K];
    cvx_tensor t = CVX_VIEW(merged, CVX_F32, N, K);

    OK(cvx_weights_changed_part(w, &t, name, N, K, &(cvx_weights_part){0, N, 0, K}));
    assert_int_equal(CVX_WEIGHT(w, &t, name, N, K), CVX_EINTERNAL); /* not without the changes */
    for (int i = 0; i < N * K; i++) {
        double got = (double)merged[i];
        if (!(fabs(got - want[i]) <= merges * 0x1p-22)) {
            fail_msg("%s[%d]: %.9g, %.9g is right", name, i, got, want[i]);
        }
    }
}

static void parse(void **state)
{
    static const struct {
        const char *item, *path;
        double scale;
    } rows[] = {{"a.safetensors", "a.safetensors", 1},
                {"a:0.5", "a", 0.5},
                {"a:-2", "a", -2},
                {"a:1e-3", "a", 1e-3},
                {"a:b", "a:b", 1},
                {"a:", "a:", 1},
                {"a:nan", "a:nan", 1},
                {"a:inf", "a:inf", 1},
                {"a:0.5x", "a:0.5x", 1},
                {"dir:1/a", "dir:1/a", 1},
                {"dir:1/a:2", "dir:1/a", 2},
                {"a:b:0", "a:b", 0}};
    char path[CVX_PATH_MAX], *huge = calloc(1, CVX_PATH_MAX + 10);
    double scale;

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        OK(cvx_lora_parse(rows[i].item, path, &scale));
        assert_string_equal(path, rows[i].path);
        assert_true(scale == rows[i].scale);
    }
    memset(huge, 'x', CVX_PATH_MAX + 9);
    assert_int_equal(cvx_lora_parse("", path, &scale), CVX_EINVAL);
    assert_int_equal(cvx_lora_parse(":1", path, &scale), CVX_EINVAL);
    assert_int_equal(cvx_lora_parse(huge, path, &scale), CVX_EINVAL);
    free(huge);
}

static const char *const spellings[][2] = {
    {"transformer.%s.lora_A.weight", "transformer.%s.lora_B.weight"},
    {"%s.lora_A.weight", "%s.lora_B.weight"},
    {"base_model.model.%s.lora_A.weight", "base_model.model.%s.lora_B.weight"},
    {"base_model.model.transformer.%s.lora_A.default.weight",
     "base_model.model.transformer.%s.lora_B.default.weight"},
    {"transformer.%s.lora.down.weight", "transformer.%s.lora.up.weight"},
    {"%s.lora_down.weight", "%s.lora_up.weight"}};

/* Every spelling of the keys, with scale 1 and 0.25. */
static void spelled_and_scaled(void **state)
{
    static const double scales[] = {1, 0.25, -3};
    static const char *const items[] = {"l.safetensors", "l.safetensors:0.25", "l.safetensors:-3"};

    (void)state;
    for (size_t s = 0; s < sizeof spellings / sizeof *spellings; s++) {
        char key[2][128];
        for (int h = 0; h < 2; h++) {
            const char *at = strstr(spellings[s][h], "%s");
            snprintf(key[h], sizeof key[h], "%.*sblocks.0.to_q%s", (int)(at - spellings[s][h]),
                     spellings[s][h], at + 2);
        }
        put("l.safetensors",
            (const part[]){{key[0], CVX_VIEW(low[0], CVX_F32, R, K)},
                           {key[1], CVX_VIEW(high[0], CVX_F32, N, R)}},
            2);
        for (int i = 0; i < 3; i++) {
            cvx_weights *w = open_base();
            double want[N * K];
            for (int k = 0; k < N * K; k++) {
                want[k] = (double)base_a[k];
            }
            add(want, high[0], low[0], scales[i]);
            OK(merge(w, items[i]));
            equals(w, "blocks.0.to_q.weight", want, 1);
            cvx_weights_close(w);
        }
    }
}

/* alpha 6 of rank 3 doubles; on f16 weights and a bf16 half, and a second LoRA on top of the first. */
static void alpha_and_several(void **state)
{
    float alpha = 6;
    uint16_t alpha_h = cvx_f32_to_f16(1.5f);
    double want[N * K];
    float low_h[R * K];
    cvx_weights *w = open_base();

    (void)state;
    put("one.safetensors",
        (const part[]){{"blocks.0.to_k.lora_A.weight", CVX_VIEW(half_low, CVX_BF16, R, K)},
                       {"blocks.0.to_k.lora_B.weight", CVX_VIEW(high[0], CVX_F32, N, R)},
                       {"blocks.0.to_k.alpha", cvx_view(&alpha, CVX_F32, 0, NULL)}},
        3);
    put("two.safetensors",
        (const part[]){{"transformer.blocks.0.to_k.lora_A.weight", CVX_VIEW(low[1], CVX_F32, R, K)},
                       {"transformer.blocks.0.to_k.lora_B.weight",
                        CVX_VIEW(high[1], CVX_F32, N, R)},
                       {"transformer.blocks.0.to_k.alpha", CVX_VIEW(&alpha_h, CVX_F16, 1)}},
        3);
    cvx_to_f32(low_h, half_low, CVX_BF16, R * K);
    for (int k = 0; k < N * K; k++) {
        want[k] = (double)cvx_f16_to_f32(base_h[k]);
    }
    OK(merge(w, "one.safetensors:0.5"));
    add(want, high[0], low_h, 0.5 * 2);
    equals(w, "blocks.0.to_k.weight", want, 1);
    OK(merge(w, "two.safetensors"));
    add(want, high[1], low[1], 0.5);
    equals(w, "blocks.0.to_k.weight", want, 2);

    cvx_tensor q; /* the others stay in the map */
    OK(CVX_WEIGHT(w, &q, "blocks.0.to_q.weight", N, K));
    assert_memory_equal(q.data, base_a, sizeof base_a);
    cvx_weights_close(w);
}

/* peft's settings in the metadata decide alpha / rank; the file has rank 3. factor 0: refused. */
static void configured(void **state)
{
    static const struct {
        const char *config;
        double factor;
        const char *why;
    } rows[] = {
        {"{\"transformer.r\": 3, \"transformer.lora_alpha\": 12}", 4, NULL},
        {"{\"r\": 3, \"lora_alpha\": 12}", 4, NULL},
        {"{\"transformer.r\": 3}", 8 / 3.0, NULL}, /* peft's default alpha */
        {"{\"r\": 3, \"lora_alpha\": 6, \"use_rslora\": true}", 3.4641016151377544, NULL},
        {"{\"r\": 3, \"lora_alpha\": 6, \"alpha_pattern\": {\"to_q\": 3}}", 1, NULL},
        {"{\"r\": 3, \"lora_alpha\": 6, \"alpha_pattern\": {\"0.to_q\": 3}}", 1, NULL},
        {"{\"r\": 3, \"lora_alpha\": 6, \"alpha_pattern\": {\"o_q\": 3}}", 2, NULL},
        {"{\"r\": 3, \"lora_alpha\": 6, \"alpha_pattern\": {\"^to_q\": 3}}", 2, NULL},
        {"{\"r\": 3, \"lora_alpha\": 6, \"alpha_pattern\": {\"^blocks.0.to_q\": 3}}", 1, NULL},
        {"{\"r\": 9, \"lora_alpha\": 6, \"rank_pattern\": {\"to_q\": 3}}", 2, NULL},
        {"{\"r\": 4, \"lora_alpha\": 6}", 0, "rank 3"},
        {"{\"lora_alpha\": 6}", 0, "rank 3"}, /* peft's default rank is 8 */
        {"{\"r\": \"three\"}", 0, "\"r\""},
        {"{\"r\": 3, \"alpha_pattern\": [1]}", 0, "alpha_pattern"},
        {"{\"r\": 3, \"alpha_pattern\": {\"to_[qk]\": 1}}", 0, "to_[qk]"},
        {"{\"r\": 3, \"use_dora\": true}", 0, "DoRA"},
        {"{\"r\": 3", 0, "not JSON"},
        {"[]", 0, "object"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        cvx_weights *w = open_base();
        double want[N * K];
        put_with("c.safetensors",
                 (const part[]){{"blocks.0.to_q.lora_A.weight", CVX_VIEW(low[0], CVX_F32, R, K)},
                                {"blocks.0.to_q.lora_B.weight", CVX_VIEW(high[0], CVX_F32, N, R)}},
                 2, rows[i].config);
        cvx_status st = merge(w, "c.safetensors:0.5");
        if (rows[i].why == NULL) {
            OK(st);
            for (int k = 0; k < N * K; k++) {
                want[k] = (double)base_a[k];
            }
            add(want, high[0], low[0], 0.5 * rows[i].factor);
            equals(w, "blocks.0.to_q.weight", want, 1);
        } else if (st == CVX_OK || strstr(cvx_error(), "c.safetensors") == NULL ||
                   strstr(cvx_error(), rows[i].why) == NULL) {
            fail_msg("row %zu: %s", i, st == CVX_OK ? "accepted" : cvx_error());
        }
        cvx_weights_close(w);
    }
}

/* A layer's part, as a tensor-parallel rank loads it, into `arena`. */
static cvx_linear load(cvx_ctx *ctx, cvx_arena *arena, bool pack, const char *lora,
                       const cvx_weights_part *p)
{
    cvx_weights *w = open_base();
    cvx_load l = {.ctx = ctx, .arena = arena, .weights = w, .pack = pack};
    cvx_linear lin = {0};

    if (lora != NULL) {
        OK(merge(w, lora));
    }
    OK(cvx_linear_load_part(&l, &lin, "blocks.0.to_k", N, K, false, p));
    int64_t in_place = cvx_weights_in_place(w);
    assert_int_equal(in_place, pack || lora != NULL || p->cols < K ? 0 : 2 * p->rows * K);
    cvx_weights_close(w);
    return lin;
}

/* The parts of a layer are those of the whole, bit for bit; only they are in memory, and a measuring arena counts
 * them. */
static void parts_of_a_layer(void **state)
{
    static const cvx_weights_part parts[] = {{0, N, 0, K}, {2, 3, 0, K}, {0, N, 3, 2},
                                             {0, N, 6, 1}, {1, 0, 0, K}, {0, N, 2, 0}};
    cvx_arena arena, m;
    cvx_ctx *ctx = NULL;

    (void)state;
    OK(cvx_ctx_open(&ctx, &(cvx_ctx_options){.backend = "ref"}));
    OK(cvx_arena_open(&arena, "weights", 1 << 16));
    cvx_linear whole = load(ctx, &arena, false, "one.safetensors", &parts[0]);
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        const cvx_weights_part *p = &parts[i];
        for (int pack = 0; pack < 2; pack++) { /* ref packs to plain f32 */
            size_t mark = cvx_arena_mark(&arena);
            cvx_linear lin = load(ctx, &arena, pack, "one.safetensors", p);
            int64_t n = p->rows * p->cols;
            assert_int_equal(cvx_arena_mark(&arena) - mark, (n * 4 + 63) / 64 * 64);
            for (int64_t k = 0; k < n; k++) {
                int64_t at = (p->row0 + k / p->cols) * K + p->col0 + k % p->cols;
                assert_true(((float *)lin.w.data)[k] == ((float *)whole.w.data)[at]);
            }
            cvx_arena_open_measure(&m, "weights");
            ctx->measure = true;
            load(ctx, &m, pack, "one.safetensors", p);
            ctx->measure = false;
            assert_int_equal(m.used, cvx_arena_mark(&arena) - mark);
            cvx_arena_release(&arena, mark, false);
        }
        cvx_linear plain = load(ctx, &arena, true, NULL, p);
        for (int64_t k = 0; k < p->rows * p->cols; k++) {
            int64_t at = (p->row0 + k / p->cols) * K + p->col0 + k % p->cols;
            assert_true(((float *)plain.w.data)[k] == cvx_f16_to_f32(base_h[at]));
        }
    }
    cvx_arena_close(&arena);
    cvx_ctx_close(ctx);
}

static void refused(void **state)
{
    float one[2] = {1, 1}, nan = NAN;
    uint8_t bytes[R * K] = {0};
    const cvx_tensor a = CVX_VIEW(low[0], CVX_F32, R, K), b = CVX_VIEW(high[0], CVX_F32, N, R);
    const char *const ka = "blocks.0.to_q.lora_A.weight", *const kb = "blocks.0.to_q.lora_B.weight";
    const struct {
        part parts[4];
        int n;
        const char *culprit, *why;
    } rows[] = {
        {{{ka, a}}, 1, ka, "no second half"},
        {{{kb, b}}, 1, kb, "no first half"},
        {{{ka, a}, {kb, b}, {"text_encoder.q.lora_A.weight", a}},
         3,
         "text_encoder.q",
         "no second half"},
        {{{ka, a},
          {kb, b},
          {"text_encoder.q.lora_A.weight", a},
          {"text_encoder.q.lora_B.weight", b}},
         4,
         "text_encoder.q",
         "no layer of this transformer"},
        {{{ka, a}, {kb, b}, {"blocks.0.to_q.lora_magnitude_vector", a}},
         3,
         "lora_magnitude_vector",
         "no LoRA half"},
        {{{ka, a}, {kb, b}, {"blocks.0.to_q.weight", a}},
         3,
         "blocks.0.to_q.weight",
         "no LoRA half"},
        {{{ka, a}, {kb, b}, {"transformer.blocks.0.to_q.lora_A.weight", a}},
         3,
         "lora_A",
         "same half"},
        {{{ka, b}, {kb, a}}, 2, ka, "the layer is [5, 7]"},
        {{{ka, CVX_VIEW(low[0], CVX_F32, K, R)}, {kb, b}}, 2, ka, "[7, 3]"},
        {{{ka, CVX_VIEW(low[0], CVX_F32, 2, K)}, {kb, b}}, 2, ka, "[2, 7]"},
        {{{ka, CVX_VIEW(low[0], CVX_F32, 0, K)}, {kb, CVX_VIEW(high[0], CVX_F32, N, 0)}},
         2,
         ka,
         "[0, 7]"},
        {{{ka, CVX_VIEW(low[0], CVX_F32, R * K)}, {kb, b}}, 2, ka, "[21]"},
        {{{ka, cvx_view(low[0], CVX_F32, 0, NULL)}, {kb, b}}, 2, ka, "[]"},
        {{{ka, CVX_VIEW(bytes, CVX_U8, R, K)}, {kb, b}}, 2, ka, "F32, F16 or BF16"},
        {{{ka, a}, {kb, b}, {"blocks.0.to_q.alpha", CVX_VIEW(one, CVX_F32, 2)}},
         3,
         "alpha of blocks.0.to_q",
         "one finite number"},
        {{{ka, a}, {kb, b}, {"blocks.0.to_q.alpha", CVX_VIEW(&nan, CVX_F32, 1)}},
         3,
         "alpha of blocks.0.to_q",
         "one finite number"},
        {{{"conv.lora_A.weight", a}, {"conv.lora_B.weight", b}}, 2, "conv", "[5, 7, 1]"},
        {{{ka, a}}, 0, "bad.safetensors", "no LoRA keys"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        cvx_weights *w = open_base();
        put("bad.safetensors", rows[i].parts, rows[i].n);
        if (merge(w, "bad.safetensors") != CVX_EFORMAT) {
            fail_msg("row %zu was not refused", i);
        }
        if (strstr(cvx_error(), "bad.safetensors") == NULL ||
            strstr(cvx_error(), rows[i].culprit) == NULL ||
            strstr(cvx_error(), rows[i].why) == NULL) {
            fail_msg("row %zu: %s", i, cvx_error());
        }
        cvx_weights_close(w);
    }
    cvx_weights *w = open_base();
    assert_int_equal(merge(w, "absent.safetensors"), CVX_EIO);
    cvx_weights_close(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(parse),
                                       cmocka_unit_test(spelled_and_scaled),
                                       cmocka_unit_test(alpha_and_several),
                                       cmocka_unit_test(configured),
                                       cmocka_unit_test(parts_of_a_layer),
                                       cmocka_unit_test(refused)};
    return cmocka_run_group_tests(tests, begin, end);
}
