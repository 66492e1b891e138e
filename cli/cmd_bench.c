/* cvx bench: times the transformer's step or the VAE's decode alone. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "kernels/transfer.h"
#include "model/pipeline/generate.h"

typedef struct options {
    const char *model, *dtype, *backend, *isa;
    int64_t height, width, num_frames, runs, threads;
    bool json, tiling;
} options;

static const cvx_opt opts[] = {
    {"model", CVX_OPT_STR, offsetof(options, model), "DIR", "checkpoint", 0, 0, NULL},
    {"height", CVX_OPT_INT, offsetof(options, height), "PIXELS", "default 480", 16, 16384, NULL},
    {"width", CVX_OPT_INT, offsetof(options, width), "PIXELS", "default 720", 16, 16384, NULL},
    {"num-frames", CVX_OPT_INT, offsetof(options, num_frames), "N", "default 9", 1, 100000, NULL},
    {"runs", CVX_OPT_INT, offsetof(options, runs), "N",
     "timed runs after one to warm up (default 3)", 1, 1000, NULL},
    {"threads", CVX_OPT_INT, offsetof(options, threads), "N", "CPU threads", 1, 1024, NULL},
    {"dtype", CVX_OPT_CHOICE, offsetof(options, dtype), NULL, "default f32", 0, 0, "f32|bf16"},
    {"backend", CVX_OPT_CHOICE, offsetof(options, backend), NULL, "default auto", 0, 0,
     "auto|ref|cpu|cuda"},
    {"isa", CVX_OPT_CHOICE, offsetof(options, isa), NULL, "default auto", 0, 0,
     "auto|portable|avx2|avx512|amx"},
    {"enable-tiling", CVX_OPT_FLAG, offsetof(options, tiling), NULL, "tiled decode", 0, 0, NULL},
    {"json", CVX_OPT_FLAG, offsetof(options, json), NULL, "one JSON object", 0, 0, NULL},
    {NULL, 0, 0, NULL, NULL, 0, 0, NULL},
};

typedef struct bench {
    options o;
    cvx_ctx *ctx;
    cvx_checkpoint ckpt;
    cvx_job job;
    cvx_weights *w;
    cvx_arena weights, arena, step;
    double seconds[1000];
} bench;

/* Values in -1..1 that do not repeat soon: timing on zeros would flatter. */
static void fill(const cvx_tensor *t)
{
    uint32_t s = 12345;
    for (int64_t i = 0; i < cvx_numel(t); i++) {
        s = s * 1664525u + 1013904223u;
        ((float *)t->data)[i] = (float)(int32_t)s * 0x1p-31f;
    }
}

static cvx_status open_part(bench *b, const char *name, cvx_load *load)
{
    char dir[CVX_PATH_MAX];

    CVX_RETURN_IF(cvx_checkpoint_part(&b->ckpt, dir, name));
    CVX_RETURN_IF(cvx_weights_open(&b->w, dir));
    CVX_RETURN_IF(cvx_arena_open(&b->weights, "weights", (size_t)1 << 37));
    *load = (cvx_load){.ctx = b->ctx, .arena = &b->weights, .weights = b->w, .pack = true};
    return CVX_OK;
}

static void reset_stats(bench *b)
{
    memset(b->ctx->stat, 0, sizeof b->ctx->stat);
}

static cvx_status bench_dit(bench *b)
{
    cvx_load load;
    cvx_dit *dit = NULL;
    cvx_dit_job dj;
    cvx_dit_shape s = cvx_job_shape(&b->job);
    cvx_tensor embeds, in, out;
    cvx_status st = CVX_OK;

    CVX_RETURN_IF(open_part(b, "transformer", &load));
    CVX_TRY(st, cvx_dit_open(&dit, &load, &b->ckpt.dit), done);
    CVX_TRY(st,
            CVX_ALLOC(&b->arena, &embeds, CVX_F32, s.batch, s.text_len, b->ckpt.dit.text_embed_dim),
            done);
    CVX_TRY(st,
            CVX_ALLOC(&b->arena, &in, CVX_F32, s.frames, b->ckpt.dit.in_channels, s.height,
                      s.width),
            done);
    CVX_TRY(st,
            CVX_ALLOC(&b->arena, &out, CVX_F32, s.batch, s.frames, b->ckpt.dit.out_channels,
                      s.height, s.width),
            done);
    fill(&embeds);
    fill(&in);
    CVX_TRY(st, cvx_dit_prepare(dit, &dj, &b->arena, &b->step, &s, &embeds), done);
    for (int64_t i = -1; i < b->o.runs; i++) {
        if (i == 0) {
            reset_stats(b);
        }
        double t = cvx_now();
        CVX_TRY(st, cvx_dit_forward(dit, &dj, &b->step, &out, &in, 500, NULL, NULL), done);
        if (i >= 0) {
            b->seconds[i] = cvx_now() - t;
        }
    }
done:
    cvx_dit_close(dit);
    return st;
}

static cvx_status drop_frames(void *payload, const float *rgb, int64_t first, int64_t n)
{
    (void)payload;
    (void)rgb;
    (void)first;
    (void)n;
    return CVX_OK;
}

static cvx_status bench_vae(bench *b)
{
    cvx_load load;
    cvx_vae *vae = NULL;
    cvx_tensor z;
    cvx_status st = CVX_OK;

    CVX_RETURN_IF(open_part(b, "vae", &load));
    CVX_TRY(st, cvx_vae_open(&vae, &load, &b->ckpt.vae), done);
    CVX_TRY(st,
            CVX_ALLOC(&b->arena, &z, CVX_F32, b->job.latent_frames, b->ckpt.vae.latent_channels,
                      b->job.latent_height, b->job.latent_width),
            done);
    fill(&z);
    for (int64_t i = -1; i < b->o.runs; i++) {
        if (i == 0) {
            reset_stats(b);
        }
        double t = cvx_now();
        CVX_TRY(st, cvx_vae_decode(vae, &b->step, &z, &b->job.tiling, drop_frames, NULL), done);
        if (i >= 0) {
            b->seconds[i] = cvx_now() - t;
        }
    }
done:
    cvx_vae_close(vae);
    return st;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void print_ops(const bench *b)
{
    double all = 0;

    for (int i = 0; i < CVX_OP_COUNT; i++) {
        all += b->ctx->stat[i].seconds;
    }
    printf("%-18s %8s %10s %8s %10s\n", "op", "calls", "seconds", "share", "GFLOP/s");
    for (int i = 0; i < CVX_OP_COUNT; i++) {
        const cvx_op_stat *s = &b->ctx->stat[i];
        if (s->calls > 0) {
            printf("%-18s %8lld %10.4f %7.1f%% %10.1f\n", cvx_op_names[i], (long long)s->calls,
                   s->seconds, 100 * s->seconds / all, s->flops / (s->seconds + 1e-12) / 1e9);
        }
    }
}

static void report(bench *b, const char *what)
{
    double flops = 0;
    int64_t n = b->o.runs;

    for (int i = 0; i < CVX_OP_COUNT; i++) {
        flops += b->ctx->stat[i].flops / (double)n;
    }
    qsort(b->seconds, (size_t)n, sizeof b->seconds[0], by_value);
    double median = b->seconds[n / 2];
    if (b->o.json) {
        printf(
            "{\"bench\": \"%s\", \"backend\": \"%s\", \"threads\": %d, \"runs\": %lld, \"seconds_min\": %.6f, "
            "\"seconds_median\": %.6f, \"seconds_max\": %.6f, \"gflop\": %.3f, \"gflops\": %.2f, "
            "\"peak_bytes\": %zu}\n",
            what, b->ctx->ops->name, b->ctx->threads, (long long)n, b->seconds[0], median,
            b->seconds[n - 1], flops / 1e9, flops / median / 1e9, cvx_memory_peak());
        return;
    }
    printf(
        "%s on %s, %d threads, %lld runs: median %.4f s (%.4f to %.4f), %.1f GFLOP, %.1f GFLOP/s, peak "
        "%.1f MiB\n\n",
        what, b->ctx->ops->name, b->ctx->threads, (long long)n, median, b->seconds[0],
        b->seconds[n - 1], flops / 1e9, flops / median / 1e9,
        (double)cvx_memory_peak() / (1 << 20));
    print_ops(b);
}

static cvx_status run_bench(bench *b, const char *what)
{
    cvx_request r = CVX_REQUEST_INIT;
    bool dit = strcmp(what, "dit") == 0;
    cvx_status st = CVX_OK;

    if (!dit && strcmp(what, "vae") != 0) {
        return cvx_fail(CVX_EINVAL, "unknown benchmark '%s': dit and vae are known", what);
    }
    r.model = b->o.model;
    r.prompt = "";
    r.output = "bench.mp4";
    r.height = b->o.height;
    r.width = b->o.width;
    r.num_frames = b->o.num_frames;
    r.threads = b->o.threads;
    r.enable_tiling = b->o.tiling;
    r.dtype = b->o.dtype;
    r.backend = b->o.backend;
    r.isa = b->o.isa;
    CVX_RETURN_IF(cvx_request_check(&r));
    CVX_RETURN_IF(cvx_checkpoint_open(&b->ckpt, r.model));
    r.image = b->ckpt.image_to_video ? "none" : NULL;
    CVX_RETURN_IF(cvx_job_resolve(&b->job, &b->ckpt, &r, 0));
    CVX_RETURN_IF(cvx_request_ctx(&b->ctx, &r));
    CVX_TRY(st, cvx_arena_open(&b->arena, "job", (size_t)1 << 35), done);
    CVX_TRY(st, cvx_arena_open(&b->step, "step", (size_t)1 << 37), done);
    CVX_TRY(st, dit ? bench_dit(b) : bench_vae(b), done);
    report(b, what);
done:
    cvx_arena_close(&b->step);
    cvx_arena_close(&b->arena);
    cvx_arena_close(&b->weights);
    cvx_weights_close(b->w);
    cvx_ctx_close(b->ctx);
    return st;
}

static int run(int argc, char **argv)
{
    static bench b; /* large: not for the stack */
    const char *pos[1];
    int n, code;

    b.o = (options){.dtype = "f32",
                    .backend = "auto",
                    .isa = "auto",
                    .height = 480,
                    .width = 720,
                    .num_frames = 9,
                    .runs = 3};
    if (!cvx_cli_begin(&cvx_cmd_bench, &b.o, argc, argv, pos, 1, 1, &n, &code)) {
        return code;
    }
    return cvx_cli_finish(run_bench(&b, pos[0]));
}

const cvx_command cvx_cmd_bench = {
    .name = "cvx bench",
    .args = "dit|vae",
    .summary = "Times one transformer step (guidance on) or a VAE decode on random values.",
    .opts = opts,
    .run = run,
};
