#include "model/pipeline/bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "kernels/memory.h"
#include "kernels/trace.h"
#include "kernels/transfer.h"
#include "model/pipeline/generate.h"
#include "model/pipeline/waterfall.h"

#define AT(f) offsetof(cvx_bench_options, f)

const cvx_opt cvx_bench_opts[] = {
    {"model", CVX_OPT_STR, AT(request.model), "DIR", "checkpoint", 0, 0, NULL},
    {"height", CVX_OPT_INT, AT(request.height), "PIXELS", "default 480", 16, 16384, NULL},
    {"width", CVX_OPT_INT, AT(request.width), "PIXELS", "default 720", 16, 16384, NULL},
    {"num-frames", CVX_OPT_INT, AT(request.num_frames), "N", "default 9", 1, 100000, NULL},
    {"runs", CVX_OPT_INT, AT(runs), "N", "timed runs after one to warm up (default 3)", 1, 1000,
     NULL},
    {"threads", CVX_OPT_INT, AT(request.threads), "N", "CPU threads", 1, 1024, NULL},
    {"dtype", CVX_OPT_CHOICE, AT(request.dtype), NULL, "default f32", 0, 0, "f32|bf16"},
    {"backend", CVX_OPT_CHOICE, AT(request.backend), NULL, "default auto", 0, 0,
     "auto|ref|cpu|cuda"},
    {"quantize", CVX_OPT_CHOICE, AT(request.quantize), NULL, "default none", 0, 0, "none|fp8"},
    {"attention", CVX_OPT_CHOICE, AT(request.attention), NULL, "default auto", 0, 0, "auto|sage"},
    {"isa", CVX_OPT_CHOICE, AT(request.isa), NULL, "default auto", 0, 0, "auto|" CVX_CPU_LEVELS},
    {"enable-tiling", CVX_OPT_FLAG, AT(request.enable_tiling), NULL, "tiled decode", 0, 0, NULL},
    {"enable-cfg-parallel", CVX_OPT_FLAG, AT(request.enable_cfg_parallel), NULL,
     "the two branches of guidance on different ranks (cvx-rank)", 0, 0, NULL},
    {"ring-degree", CVX_OPT_INT, AT(request.degree[CVX_MESH_RING]), "N", "ring ranks (cvx-rank)", 1,
     CVX_MAX_RANKS, NULL},
    {"ulysses-degree", CVX_OPT_INT, AT(request.degree[CVX_MESH_ULYSSES]), "N",
     "ulysses ranks (cvx-rank)", 1, CVX_MAX_RANKS, NULL},
    {"tensor-parallel-degree", CVX_OPT_INT, AT(request.degree[CVX_MESH_TENSOR]), "N",
     "tensor ranks (cvx-rank)", 1, CVX_MAX_RANKS, NULL},
    {"json", CVX_OPT_FLAG, AT(request.json), NULL, "one JSON object", 0, 0, NULL},
    {NULL, 0, 0, NULL, NULL, 0, 0, NULL},
};

typedef struct bench {
    const cvx_bench_options *o;
    cvx_request request;
    cvx_ctx *ctx;
    cvx_checkpoint ckpt;
    cvx_job job;
    cvx_weights *w;
    const cvx_mesh *mesh;
    cvx_arena weights, arena, step;
    double seconds[1000];
    cvx_trace trace; /* of the last run, which lasted from begin to end */
    double begin, end;
} bench;

/* Values in -1..1 that do not repeat soon: timing on zeros would flatter. */
static cvx_status fill(bench *b, const cvx_tensor *t)
{
    cvx_host_values v;
    uint32_t s = 12345;

    CVX_RETURN_IF(cvx_host_open(b->ctx, &v, t, false));
    for (int64_t i = 0; i < cvx_numel(t); i++) {
        s = s * 1664525u + 1013904223u;
        ((float *)v.data)[i] = (float)(int32_t)s * 0x1p-31f;
    }
    cvx_host_close(b->ctx, &v, t, true);
    return CVX_OK;
}

static cvx_status open_part(bench *b, const char *name, cvx_load *load)
{
    char dir[CVX_PATH_MAX];

    CVX_RETURN_IF(cvx_checkpoint_part(&b->ckpt, dir, name));
    CVX_RETURN_IF(cvx_weights_open(&b->w, dir));
    CVX_RETURN_IF(cvx_ctx_arena(b->ctx, &b->weights, "weights", (size_t)1 << 37));
    *load = (cvx_load){.ctx = b->ctx,
                       .arena = &b->weights,
                       .weights = b->w,
                       .pack = true,
                       .mesh = b->mesh,
                       .fp8 = strcmp(b->o->request.quantize, "fp8") == 0,
                       .sage = strcmp(b->o->request.attention, "sage") == 0};
    return CVX_OK;
}

/* Where ops return before they are done, their times come from one more run in which each is waited for. */
static int64_t own_run(const bench *b)
{
    return cvx_ctx_has_device(b->ctx) ? 1 : 0;
}

static void begin_run(bench *b, int64_t i)
{
    b->ctx->timed = i == b->o->runs;
    b->ctx->trace = i == b->o->runs + own_run(b) - 1 ? &b->trace : NULL;
    if (i == 0 || b->ctx->timed) {
        memset(b->ctx->stat, 0, sizeof b->ctx->stat);
    }
}

/* All ranks are done with run i. */
static void end_run(bench *b, int64_t i, double begin)
{
    b->begin = begin;
    b->end = cvx_now();
    if (i >= 0 && i < b->o->runs) {
        b->seconds[i] = b->end - begin;
    }
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
    CVX_TRY(st, fill(b, &embeds), done);
    CVX_TRY(st, fill(b, &in), done);
    CVX_TRY(st, cvx_dit_prepare(dit, &dj, &b->arena, &b->step, &s, &embeds), done);
    for (int64_t i = -1; i < b->o->runs + own_run(b); i++) {
        begin_run(b, i);
        CVX_TRY(st, cvx_comm_agree(b->mesh->world, CVX_OK), done); /* all start at once */
        double t = cvx_now();
        CVX_TRY(st, cvx_dit_forward(dit, &dj, &b->step, &out, &in, 500, NULL, NULL), done);
        CVX_TRY(st, cvx_sync(b->ctx), done);
        CVX_TRY(st, cvx_comm_agree(b->mesh->world, CVX_OK), done);
        end_run(b, i, t);
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
    load.fp8 = false;
    CVX_TRY(st, cvx_vae_open(&vae, &load, &b->ckpt.vae), done);
    CVX_TRY(st,
            CVX_ALLOC(&b->arena, &z, CVX_F32, b->job.latent_frames, b->ckpt.vae.latent_channels,
                      b->job.latent_height, b->job.latent_width),
            done);
    CVX_TRY(st, fill(b, &z), done);
    for (int64_t i = -1; i < b->o->runs + own_run(b); i++) {
        begin_run(b, i);
        CVX_TRY(st, cvx_comm_agree(b->mesh->world, CVX_OK), done);
        double t = cvx_now();
        CVX_TRY(st, cvx_vae_decode(vae, &b->step, &z, &b->job.tiling, drop_frames, NULL), done);
        CVX_TRY(st, cvx_sync(b->ctx), done);
        CVX_TRY(st, cvx_comm_agree(b->mesh->world, CVX_OK), done);
        end_run(b, i, t);
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

/* What a device does at most: FLOP/s at the precision asked for, and bytes/s of its memory. 0: not known. */
typedef struct roof {
    double flops, bytes;
} roof;

/* By the device's name: dense products, without sparsity, as NVIDIA's data sheets say. */
static roof roofline(const bench *b)
{
    static const struct {
        const char *name;
        double f32, bf16, fp8, bytes;
    } devices[] = {{"H100 PCIe", 51e12, 756e12, 1513e12, 2.0e12},
                   {"H100", 67e12, 989e12, 1979e12, 3.35e12},
                   {"H200", 67e12, 989e12, 1979e12, 4.8e12},
                   {"A100", 19.5e12, 312e12, 312e12, 2.039e12}};
    char what[160];

    if (!cvx_ctx_has_device(b->ctx) || !cvx_cuda_usable(what)) {
        return (roof){0};
    }
    for (size_t i = 0; i < sizeof devices / sizeof *devices; i++) {
        if (strstr(what, devices[i].name) != NULL) {
            return (roof){strcmp(b->o->request.quantize, "fp8") == 0 ? devices[i].fp8
                          : b->ctx->compute == CVX_BF16              ? devices[i].bf16
                                                                     : devices[i].f32,
                          devices[i].bytes};
        }
    }
    return (roof){0};
}

/* The least time in which the device can do that, by its units or by its memory. */
static double least_seconds(const roof *most, const cvx_op_stat *s)
{
    double units = s->flops / most->flops, memory = s->bytes / most->bytes;
    return units > memory ? units : memory;
}

/* Where the time goes by op: share, rates, and how much of the roof they reach. */
static void print_ops(const bench *b, FILE *out)
{
    double all = 0;
    const roof most = roofline(b);

    for (int i = 0; i < CVX_OP_COUNT; i++) {
        all += b->ctx->stat[i].seconds;
    }
    fprintf(out, "%-18s %8s %10s %8s %10s %10s%s\n", "op", "calls", "seconds", "share", "TFLOP/s",
            "GB/s", most.flops > 0 ? "   roofline" : "");
    for (int i = 0; i < CVX_OP_COUNT; i++) {
        const cvx_op_stat *s = &b->ctx->stat[i];
        if (s->calls > 0) {
            double seconds = s->seconds + 1e-12;
            char part[32] = "";
            if (most.flops > 0) {
                snprintf(part, sizeof part, " %9.1f%%", 100 * least_seconds(&most, s) / seconds);
            }
            fprintf(out, "%-18s %8lld %10.4f %7.1f%% %10.3f %10.2f%s\n", cvx_op_names[i],
                    (long long)s->calls, s->seconds, 100 * s->seconds / all,
                    s->flops / seconds / 1e12, s->bytes / seconds / 1e9, part);
        }
    }
}

/* The same as a member of the JSON object. */
static void print_ops_json(const bench *b, FILE *out)
{
    const char *comma = "";
    const roof most = roofline(b);

    fprintf(out, ", \"roofline_flops\": %.4g, \"roofline_bytes\": %.4g, \"ops\": {", most.flops,
            most.bytes);
    for (int i = 0; i < CVX_OP_COUNT; i++) {
        const cvx_op_stat *s = &b->ctx->stat[i];
        if (s->calls > 0) {
            fprintf(
                out,
                "%s\"%s\": {\"calls\": %lld, \"seconds\": %.6f, \"flops\": %.6g, \"bytes\": %.6g}",
                comma, cvx_op_names[i], (long long)s->calls, s->seconds, s->flops, s->bytes);
            comma = ", ";
        }
    }
    fprintf(out, "}");
}

static cvx_status report(bench *b, const char *what, FILE *out)
{
    cvx_waterfall fall;
    double flops = 0;
    int64_t n = b->o->runs;

    for (int i = 0; i < CVX_OP_COUNT; i++) {
        flops += b->ctx->stat[i].flops / (own_run(b) ? 1.0 : (double)n);
    }
    CVX_RETURN_IF(cvx_waterfall_make(&fall, &b->trace, b->begin, b->end));
    qsort(b->seconds, (size_t)n, sizeof b->seconds[0], by_value);
    double median = b->seconds[n / 2];
    if (b->o->request.json) {
        fprintf(
            out,
            "{\"bench\": \"%s\", \"backend\": \"%s\", \"ranks\": %d, \"threads\": %d, \"runs\": %lld, \"seconds_min\": %.6f, "
            "\"seconds_median\": %.6f, \"seconds_max\": %.6f, \"gflop\": %.3f, \"gflops\": %.2f, "
            "\"peak_bytes\": %zu, \"step_bytes\": %zu, \"device_peak_bytes\": %zu",
            what, b->ctx->ops->name, b->mesh->world->size, b->ctx->threads, (long long)n,
            b->seconds[0], median, b->seconds[n - 1], flops / 1e9, flops / median / 1e9,
            cvx_memory_peak(), b->step.peak, cvx_ctx_peak(b->ctx));
        print_ops_json(b, out);
        fprintf(out, ", \"waterfall\": ");
        cvx_waterfall_print_json(&fall, out);
        fprintf(out, "}\n");
        cvx_waterfall_free(&fall);
        return CVX_OK;
    }
    fprintf(
        out,
        "%s on %s, %d ranks of %d threads, %lld runs: median %.4f s (%.4f to %.4f), %.1f GFLOP, %.1f GFLOP/s, peak "
        "%.1f MiB\n\n",
        what, b->ctx->ops->name, b->mesh->world->size, b->ctx->threads, (long long)n, median,
        b->seconds[0], b->seconds[n - 1], flops / 1e9, flops / median / 1e9,
        (double)cvx_memory_peak() / (1 << 20));
    if (cvx_ctx_has_device(b->ctx)) {
        fprintf(
            out,
            "device memory at its highest %.1f MiB; the ops below each waited for, in a run of their own\n\n",
            (double)cvx_ctx_peak(b->ctx) / (1 << 20));
    }
    print_ops(b, out);
    fprintf(out, "\n");
    cvx_waterfall_print(&fall, out);
    cvx_waterfall_free(&fall);
    return CVX_OK;
}

static cvx_status prepare(bench *b)
{
    cvx_request *r = &b->request;

    *r = b->o->request;
    r->prompt = (cvx_opt_list){{""}, 1};
    r->output = "bench.mp4";
    r->height = r->height > 0 ? r->height : 480;
    r->width = r->width > 0 ? r->width : 720;
    r->num_frames = r->num_frames > 0 ? r->num_frames : 9;
    CVX_RETURN_IF(cvx_request_check(r));
    CVX_RETURN_IF(cvx_checkpoint_open(&b->ckpt, r->model));
    r->image = b->ckpt.image_to_video ? "none" : NULL; /* its size counts, it is not read */
    CVX_RETURN_IF(cvx_job_resolve(&b->job, &b->ckpt, r, &(cvx_source){0}));
    CVX_RETURN_IF(cvx_request_ctx(&b->ctx, r));
    CVX_RETURN_IF(cvx_ctx_arena(b->ctx, &b->arena, "job", (size_t)1 << 35));
    return cvx_ctx_arena(b->ctx, &b->step, "step", (size_t)1 << 37);
}

cvx_status cvx_bench(const cvx_bench_options *o, const char *what, const cvx_mesh *mesh, FILE *out)
{
    bool dit = strcmp(what, "dit") == 0;
    bench *b = calloc(1, sizeof *b);
    cvx_status st = CVX_OK;

    if (!dit && strcmp(what, "vae") != 0) {
        st = cvx_fail(CVX_EINVAL, "unknown benchmark '%s': dit and vae are known", what);
    } else if (b == NULL) {
        st = cvx_fail(CVX_ENOMEM, "no memory for a benchmark");
    } else {
        b->o = o;
        b->mesh = mesh;
        st = prepare(b);
    }
    CVX_TRY(st, cvx_comm_agree(mesh->world, st), done);
    CVX_TRY(st, dit ? bench_dit(b) : bench_vae(b), done);
    if (mesh->world->rank == 0) {
        st = report(b, what, out);
    }
done:
    if (b != NULL) {
        cvx_trace_free(&b->trace);
        cvx_arena_close(&b->step);
        cvx_arena_close(&b->arena);
        cvx_arena_close(&b->weights);
        cvx_weights_close(b->w);
        cvx_ctx_close(b->ctx);
        free(b);
    }
    return st;
}
