/* Whole runs against diffusers' f32 results: every variant, and the cases of tests/data/extra.
 * Bounds: latents after the steps 1e-3 relative RMS, final frames within 1 level in 99.9 % of values.
 * Two f32 implementations that add in other orders differ by about sqrt(K)·2^-24 relative in each sum;
 * over some ten layers and four to fifty steps with guidance 6 that grows to about 1e-5, so 1e-3 finds
 * wrong formulas and leaves room for other instruction sets. CVX_TEST_BACKEND and CVX_TEST_ISA choose what
 * is tested. */
#include <string.h>

#include "golden.h"
#include "model/pipeline/generate.h"
#include "model/pipeline/output.h"

typedef struct result {
    cvx_output frames;
    cvx_tensor *latents; /* after each step, owned */
    int64_t steps;
} result;

static void keep(void *payload, int64_t i, const cvx_tensor *t)
{
    result *r = payload;
    r->latents = realloc(r->latents, (size_t)(i + 1) * sizeof *r->latents);
    r->latents[i] = *t;
    r->latents[i].data = malloc((size_t)cvx_numel(t) * sizeof(float));
    memcpy(r->latents[i].data, t->data, (size_t)cvx_numel(t) * sizeof(float));
    r->steps = i + 1;
}

static void free_result(result *r)
{
    for (int64_t i = 0; i < r->steps; i++) {
        free(r->latents[i].data);
    }
    free(r->latents);
    cvx_output_close(&r->frames);
    *r = (result){0};
}

static void run(result *out, cvx_request *r)
{
    cvx_checkpoint c;
    cvx_job j;
    cvx_plan plan;
    cvx_ctx *ctx = NULL;
    cvx_pipeline *p = NULL;
    cvx_mesh *mesh = NULL;
    cvx_stage_cost cost[CVX_STAGE_COUNT];
    cvx_source source;

    r->output = "unused.mp4";
    r->backend = getenv("CVX_TEST_BACKEND") ? getenv("CVX_TEST_BACKEND") : r->backend;
    r->isa = getenv("CVX_TEST_ISA") ? getenv("CVX_TEST_ISA") : r->isa;
    OK(cvx_request_check(r));
    OK(cvx_checkpoint_open(&c, r->model));
    OK(cvx_source_look(&source, r));
    OK(cvx_job_resolve(&j, &c, r, &source));
    OK(cvx_request_ctx(&ctx, r));
    OK(cvx_mesh_self(&mesh));
    OK(cvx_plan_make(&plan, ctx, &c, &j, mesh, false));
    OK(cvx_pipeline_open(&p, ctx, &c, &plan.options));
    OK(cvx_output_open(&out->frames, j.out_frames, j.height, j.width, false));
    cvx_pipeline_hooks hooks = {.frames = cvx_output_frames,
                                .frames_payload = &out->frames,
                                .latents = keep,
                                .latents_payload = out};
    OK(cvx_pipeline_run(p, &j, 0, &hooks, plan.job_bytes, plan.step_bytes, cost));
    cvx_pipeline_close(p);
    cvx_mesh_close(mesh);
    cvx_ctx_close(ctx);
}

static const char *meta(cvx_weights *w, const char *key, const char *otherwise)
{
    const char *v = cvx_weights_meta(w, key);
    return v != NULL ? v : otherwise;
}

/* The call that a golden file's metadata describes. */
static cvx_request request_of(cvx_weights *w, const char *model)
{
    cvx_request r = CVX_REQUEST_INIT;

    r.model = model;
    r.prompt = (cvx_opt_list){{meta(w, "prompt", "")}, 1};
    r.negative_prompt = meta(w, "negative_prompt", "");
    r.height = atoll(meta(w, "height", "0"));
    r.width = atoll(meta(w, "width", "0"));
    r.num_frames = atoll(meta(w, "num_frames", "0"));
    r.num_inference_steps = atoll(meta(w, "num_inference_steps", "4"));
    r.guidance_scale = atof(meta(w, "guidance_scale", "6"));
    r.use_dynamic_cfg = strcmp(meta(w, "use_dynamic_cfg", "False"), "True") == 0;
    r.first_block_cache = atof(meta(w, "first_block_cache", "0"));
    r.seed = atoll(meta(w, "seed", "42"));
    r.max_sequence_length = atoll(meta(w, "max_sequence_length", "0"));
    r.strength = atof(meta(w, "strength", "0.8"));
    const char *s = meta(w, "scheduler", "");
    r.scheduler = strstr(s, "DPM") ? "dpm" : strstr(s, "DDIM") ? "ddim" : NULL;
    return r;
}

/* frames: u8 [.., F, 3, H, W]. */
static void frames_match(cvx_weights *w, const cvx_output *o)
{
    cvx_tensor g = golden(w, "frames");
    const float *want = g.data;
    int64_t hw = o->h * o->w, n = cvx_numel(&g), off = 0, worst = 0;

    if (n != o->n * 3 * hw) {
        fail_msg("frames: %lld values, the golden has %lld", (long long)(o->n * 3 * hw),
                 (long long)n);
    }
    for (int64_t i = 0; i < n; i++) {
        int64_t f = i / (3 * hw), c = i / hw % 3, p = i % hw;
        int64_t d = llabs((int64_t)o->rgb[(f * hw + p) * 3 + c] - (int64_t)want[i]);
        off += d > 1;
        worst = d > worst ? d : worst;
    }
    free(g.data);
    print_message("  frames: %lld of %lld values off by more than 1, worst %lld\n", (long long)off,
                  (long long)n, (long long)worst);
    if ((double)off > 0.001 * (double)n) {
        fail_msg("frames: %lld of %lld values are off by more than one level", (long long)off,
                 (long long)n);
    }
}

static void compare(cvx_weights *w, const result *out)
{
    char name[32];

    for (int64_t i = 0; i < out->steps; i++) {
        snprintf(name, sizeof name, "latents_%lld", (long long)i + 1);
        if (cvx_weights_has(w, name)) {
            close_to(w, name, out->latents[i].data, cvx_numel(&out->latents[i]), 1e-3);
        }
    }
    if (cvx_weights_has(w, "latents_first")) {
        close_to(w, "latents_first", out->latents[0].data, cvx_numel(&out->latents[0]), 1e-3);
    }
    if (cvx_weights_has(w, "latents_last")) {
        const cvx_tensor *last = &out->latents[out->steps - 1];
        close_to(w, "latents_last", last->data, cvx_numel(last), 1e-3);
    }
    if (cvx_weights_has(w, "frames")) {
        frames_match(w, &out->frames);
    }
}

typedef struct golden_case {
    const char *model, *file, *image, *video, *scheduler;
} golden_case;

static void whole_run(void **state)
{
    const golden_case *g = *state;
    cvx_weights *w = NULL;
    result out = {0};

    OK(cvx_weights_open(&w, g->file));
    cvx_request r = request_of(w, g->model);
    r.image = g->image;
    r.video = g->video;
    r.scheduler = g->scheduler != NULL ? g->scheduler : r.scheduler;
    run(&out, &r);
    compare(w, &out);
    free_result(&out);
    cvx_weights_close(w);
}

/* bf16 noise differs from f32's draw in its rounding, so both start from the same saved latents: at least
 * 30 dB with the peak max - min of the f32 latents. */
static void bf16_close_to_f32(void **state)
{
    const golden_case *g = *state;
    const char *start = "/tmp/cvx-test-latents.safetensors";
    cvx_weights *w = NULL;
    result f32 = {0}, bf16 = {0}, first = {0};

    OK(cvx_weights_open(&w, g->file));
    cvx_request r = request_of(w, g->model);
    r.image = g->image;
    r.num_inference_steps = 4;
    run(&first, &r);
    const cvx_tensor *l = &first.latents[first.steps - 1];
    cvx_tensor t = CVX_RESHAPE(l, 1, l->dim[0], l->dim[1], l->dim[2], l->dim[3]);
    static const char *const name = "latents";
    OK(cvx_safetensors_write(start, &t, &name, 1, NULL, 0));
    r.latents = start;
    run(&f32, &r);
    r.dtype = "bf16";
    run(&bf16, &r);
    const float *a = f32.latents[3].data, *b = bf16.latents[3].data;
    double mse = 0, lo = a[0], hi = a[0];
    int64_t n = cvx_numel(&f32.latents[3]);
    for (int64_t i = 0; i < n; i++) {
        mse += ((double)a[i] - b[i]) * ((double)a[i] - b[i]) / (double)n;
        lo = a[i] < lo ? a[i] : lo;
        hi = a[i] > hi ? a[i] : hi;
    }
    double psnr = 10 * log10((hi - lo) * (hi - lo) / (mse + 1e-30));
    print_message("  bf16 against f32: %.1f dB\n", psnr);
    assert_true(psnr >= 30);
    free_result(&first);
    free_result(&f32);
    free_result(&bf16);
    cvx_weights_close(w);
    remove(start);
}

/* LoRA at scale 1 and 0.5, and none: three steps each. */
static void lora_scales(void **state)
{
    static const char *const scales[] = {"None", "1.0", "0.5"};
    cvx_weights *w = NULL;
    char item[256], name[64];

    (void)state;
    OK(cvx_weights_open(&w, DATA "extra/lora-golden.safetensors"));
    for (int i = 0; i < 3; i++) {
        result out = {0};
        cvx_request r = request_of(w, DATA "variants/tiny-5b");
        snprintf(item, sizeof item, "%sextra/lora/pytorch_lora_weights.safetensors:%s", DATA,
                 scales[i]);
        if (i > 0) {
            r.lora.item[r.lora.n++] = item;
        }
        run(&out, &r);
        snprintf(name, sizeof name, "latents_scale_%s", scales[i]);
        close_to(w, name, out.latents[2].data, cvx_numel(&out.latents[2]), 1e-3);
        free_result(&out);
    }
    cvx_weights_close(w);
}

#define V(n) DATA "variants/" n
#define X(n) DATA "extra/" n ".safetensors"
#define SHAPES CVX_SOURCE_DIR "/models/shapes"

static golden_case cases[] = {
    {V("tiny-2b"), V("tiny-2b/golden.safetensors"), NULL, NULL, NULL},
    {V("tiny-5b"), V("tiny-5b/golden.safetensors"), NULL, NULL, NULL},
    {V("tiny-5b-i2v"), V("tiny-5b-i2v/golden.safetensors"), V("tiny-5b-i2v/input.png"), NULL, NULL},
    {V("tiny-1.5-5b"), V("tiny-1.5-5b/golden.safetensors"), NULL, NULL, NULL},
    {V("tiny-1.5-5b-i2v"), V("tiny-1.5-5b-i2v/golden.safetensors"), V("tiny-1.5-5b-i2v/input.png"),
     NULL, NULL},
    {V("tiny-2b"), X("size-2b"), NULL, NULL, NULL},
    {V("tiny-5b"), X("size-5b"), NULL, NULL, NULL},
    {V("tiny-1.5-5b"), X("size-1.5"), NULL, NULL, NULL},
    {V("tiny-5b"), X("steps16-5b"), NULL, NULL, NULL},
    {V("tiny-5b"), X("inside-5b"), NULL, NULL, NULL},
    {V("tiny-5b"), X("solver-DPMSolverMultistepScheduler"), NULL, NULL, "dpmsolver++"},
    {V("tiny-5b"), X("solver-UniPCMultistepScheduler"), NULL, NULL, "unipc"},
    {V("tiny-5b"), X("v2v-ddim"), NULL, DATA "extra/v2v-input", NULL},
    {V("tiny-5b"), X("v2v-dpm"), NULL, DATA "extra/v2v-input", NULL},
    {V("tiny-2b"), X("v2v-tiny-2b"), NULL, DATA "extra/v2v-input", NULL},
    {V("tiny-1.5-5b"), X("v2v-tiny-1.5-5b"), NULL, DATA "extra/v2v-input-8", NULL},
    {V("tiny-5b-i2v"), X("i2v-inside-tiny-5b-i2v"), V("tiny-5b-i2v/input.png"), NULL, NULL},
    {V("tiny-1.5-5b-i2v"), X("i2v-inside-tiny-1.5-5b-i2v"), V("tiny-1.5-5b-i2v/input.png"), NULL,
     NULL},
    {SHAPES, DATA "shapes-goldens/red-circle-right.safetensors", NULL, NULL, NULL},
    {SHAPES, DATA "shapes-goldens/blue-square-growing.safetensors", NULL, NULL, NULL},
    {SHAPES, DATA "shapes-goldens/yellow-star-up.safetensors", NULL, NULL, NULL},
    {SHAPES, DATA "shapes-goldens/green-triangle-cached.safetensors", NULL, NULL, NULL},
};

int main(void)
{
    struct CMUnitTest tests[32];
    size_t n = 0;

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        tests[n++] =
            (struct CMUnitTest){strrchr(cases[i].file, '/') + 1, whole_run, NULL, NULL, &cases[i]};
        if (strstr(cases[i].file, "golden.safetensors") != NULL) {
            tests[n - 1].name = strstr(cases[i].file, "tiny-");
        }
    }
    for (size_t i = 0; i < 5; i++) {
        tests[n++] = (struct CMUnitTest){"bf16", bf16_close_to_f32, NULL, NULL, &cases[i]};
    }
    tests[n++] = (struct CMUnitTest){"lora", lora_scales, NULL, NULL, NULL};
    return _cmocka_run_group_tests("pipeline", tests, n, NULL, NULL);
}
