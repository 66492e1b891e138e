#include "model/pipeline/plan.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The encoder, filter graphs and thread stacks beyond what is resident when the plan is made: measured
 * as the difference of a whole run and its arenas, see docs/architecture.md. */
#define ENCODER_BYTES ((size_t)17 << 20)

static size_t read_size(const char *path, const char *key)
{
    char line[256];
    size_t v = 0;
    FILE *f = fopen(path, "r");

    if (f == NULL) {
        return 0;
    }
    while (fgets(line, sizeof line, f) != NULL) {
        size_t n = strlen(key);
        if (strncmp(line, key, n) == 0 && sscanf(line + n, "%zu", &v) == 1) {
            break;
        }
    }
    fclose(f);
    return v;
}

size_t cvx_memory_available(void)
{
    size_t a = read_size("/proc/meminfo", "MemAvailable:") << 10;
    size_t limit = read_size("/sys/fs/cgroup/memory.max", "");
    size_t used = read_size("/sys/fs/cgroup/memory.current", "");

    if (limit > used && limit - used < a) {
        a = limit - used;
    }
    return a;
}

size_t cvx_memory_resident(void)
{
    return read_size("/proc/self/status", "VmRSS:") << 10;
}

size_t cvx_memory_peak(void)
{
    return read_size("/proc/self/status", "VmHWM:") << 10;
}

static cvx_status measure(cvx_plan *p, const cvx_ctx *ctx, const cvx_checkpoint *ckpt,
                          const cvx_job *job)
{
    size_t peak = 0, needed = 0;

    CVX_RETURN_IF(cvx_pipeline_measure(ctx, ckpt, &p->options, job, p->stage));
    p->job_bytes = p->step_bytes = 0;
    for (int i = 0; i < CVX_STAGE_COUNT; i++) {
        const cvx_stage_cost *c = &p->stage[i];
        size_t anon = c->weights + c->job + c->step + (i == CVX_STAGE_DECODE ? p->output_bytes : 0);
        needed = anon > needed ? anon : needed;
        peak = anon + c->mapped > peak ? anon + c->mapped : peak;
        p->job_bytes = c->job > p->job_bytes ? c->job : p->job_bytes;
        p->step_bytes = c->step > p->step_bytes ? c->step : p->step_bytes;
    }
    p->needed_bytes = p->base_bytes + needed;
    p->peak_bytes = p->base_bytes + peak;
    return CVX_OK;
}

static cvx_offload offload_of(const cvx_request *r)
{
    return strcmp(r->offload, "model") == 0        ? CVX_OFFLOAD_MODEL
           : strcmp(r->offload, "sequential") == 0 ? CVX_OFFLOAD_SEQUENTIAL
                                                   : CVX_OFFLOAD_NONE;
}

cvx_status cvx_plan_make(cvx_plan *out, const cvx_ctx *ctx, const cvx_checkpoint *ckpt,
                         const cvx_job *job, const cvx_mesh *mesh, bool keep_float)
{
    int64_t pixels = job->out_frames * job->height * job->width * 3;
    cvx_plan p = {.options = {.offload = offload_of(job->request),
                              .pack = true,
                              .lora = &job->request->lora,
                              .mesh = mesh},
                  .output_bytes = (size_t)(pixels * (keep_float ? 5 : 1)),
                  .base_bytes = cvx_memory_resident() + ENCODER_BYTES,
                  .available_bytes = cvx_memory_available() / (size_t)mesh->node_ranks};

    CVX_RETURN_IF(measure(&p, ctx, ckpt, job));
    if (p.needed_bytes > p.available_bytes / 10 * 8) {
        p.options.pack = false;
        CVX_RETURN_IF(measure(&p, ctx, ckpt, job));
    }
    *out = p;
    return CVX_OK;
}

static const char *tiling(const cvx_request *r)
{
    return r->enable_tiling ? " --enable-tiling" : "";
}

/* Whether the job with these changes would run and fit. */
static bool fits(const cvx_plan *plan, const cvx_ctx *ctx, const cvx_checkpoint *ckpt,
                 const cvx_job *job, const cvx_request *changed)
{
    cvx_job j;
    cvx_plan p;

    return cvx_job_resolve(&j, ckpt, changed, job->request->video != NULL ? job->num_frames : 0) ==
               CVX_OK &&
           cvx_plan_make(&p, ctx, ckpt, &j, plan->options.mesh, false) == CVX_OK &&
           p.needed_bytes <= plan->available_bytes;
}

/* As fits, in tiles or, where this size has no aligned ones, in one piece; *changed says which. */
static bool fits_somehow(const cvx_plan *plan, const cvx_ctx *ctx, const cvx_checkpoint *ckpt,
                         const cvx_job *job, cvx_request *changed)
{
    changed->enable_tiling = true;
    if (fits(plan, ctx, ckpt, job, changed)) {
        return true;
    }
    changed->enable_tiling = job->request->enable_tiling;
    return !changed->enable_tiling && fits(plan, ctx, ckpt, job, changed);
}

/* The greatest 8k + 1 frames below *changed's that fit; 9 frames and false if not even these do. */
static bool fewer_frames(const cvx_plan *plan, const cvx_ctx *ctx, const cvx_checkpoint *ckpt,
                         const cvx_job *job, cvx_request *changed)
{
    int64_t low = 1, high = (changed->num_frames - 2) / 8; /* k; low is known to fit */

    changed->num_frames = 9;
    if (!fits_somehow(plan, ctx, ckpt, job, changed)) {
        return false;
    }
    while (low < high) {
        int64_t mid = low + (high - low + 1) / 2;
        changed->num_frames = 8 * mid + 1;
        if (fits_somehow(plan, ctx, ckpt, job, changed)) {
            low = mid;
        } else {
            high = mid - 1;
        }
    }
    changed->num_frames = 8 * low + 1;
    return fits_somehow(plan, ctx, ckpt, job, changed);
}

cvx_status cvx_plan_admit(const cvx_plan *plan, const cvx_ctx *ctx, const cvx_checkpoint *ckpt,
                          const cvx_job *job)
{
    cvx_request r = *job->request;
    char hint[160] = "no smaller size of this checkpoint fits either";
    double gib = (double)(1 << 30);

    if (plan->needed_bytes <= plan->available_bytes) {
        return CVX_OK;
    }
    r.num_frames = job->num_frames;
    r.height = job->height;
    r.width = job->width;
    r.offload = "model";
    bool found = fits_somehow(plan, ctx, ckpt, job, &r);
    if (found) {
        snprintf(hint, sizeof hint, "--offload model%s fits", tiling(&r));
    }
    if (!found && r.num_frames > 9) {
        found = fewer_frames(plan, ctx, ckpt, job, &r);
        snprintf(hint, sizeof hint, "the nearest that fits is --num-frames %lld --offload model%s",
                 (long long)r.num_frames, tiling(&r));
    }
    while (!found && r.height > 64 && r.width > 64) {
        r.height = r.height * 3 / 4 / 16 * 16;
        r.width = r.width * 3 / 4 / 16 * 16;
        found = fits_somehow(plan, ctx, ckpt, job, &r);
        snprintf(hint, sizeof hint,
                 "the nearest that fits is --num-frames %lld --height %lld --width "
                 "%lld --offload model%s",
                 (long long)r.num_frames, (long long)r.height, (long long)r.width, tiling(&r));
    }
    if (!found) {
        snprintf(hint, sizeof hint, "no smaller size of this checkpoint fits either");
    }
    return cvx_fail(CVX_ENOMEM, "%lld frames of %lldx%lld need %.1f GiB and %.1f are available: %s",
                    (long long)job->num_frames, (long long)job->width, (long long)job->height,
                    (double)plan->needed_bytes / gib, (double)plan->available_bytes / gib, hint);
}

/* One op timed on pseudo-random values: FLOP/s of the better of two runs. */
typedef cvx_status (*trial_fn)(cvx_ctx *ctx, const cvx_tensor *buf);

static cvx_status trial_linear(cvx_ctx *ctx, const cvx_tensor *b)
{
    cvx_tensor x = CVX_VIEW(b[0].data, CVX_F32, 512, 768),
               w = CVX_VIEW(b[1].data, CVX_F32, 768, 768);
    cvx_tensor y = CVX_VIEW(b[2].data, CVX_F32, 512, 768);
    return cvx_op_linear(ctx, &(cvx_linear_args){.y = &y, .x = &x, .w = &w});
}

static cvx_status trial_attention(cvx_ctx *ctx, const cvx_tensor *b)
{
    cvx_tensor t[4];
    for (int i = 0; i < 4; i++) {
        t[i] = CVX_VIEW(b[i % 3].data, CVX_F32, 1, 1024, 4, 64);
    }
    t[3].data = (float *)b[2].data + 1024 * 256;
    return cvx_op_attention(
        ctx, &(cvx_attention_args){.o = &t[3], .q = &t[0], .k = &t[1], .v = &t[2], .scale = 0.125});
}

static cvx_status trial_conv(cvx_ctx *ctx, const cvx_tensor *b)
{
    cvx_tensor x = CVX_VIEW(b[0].data, CVX_F32, 3, 34, 34, 64);
    cvx_tensor w = CVX_VIEW(b[1].data, CVX_F32, 64, 64, 3, 3, 3);
    cvx_tensor y = CVX_VIEW(b[2].data, CVX_F32, 1, 32, 32, 64);
    return cvx_op_conv3d(ctx, &(cvx_conv3d_args){.y = &y, .x = &x, .w = &w, .stride = 1});
}

cvx_status cvx_plan_rates(cvx_ctx *ctx, double rate[CVX_OP_COUNT])
{
    static const struct {
        int op;
        trial_fn fn;
    } trials[] = {{CVX_OP_ID_linear, trial_linear},
                  {CVX_OP_ID_attention, trial_attention},
                  {CVX_OP_ID_conv3d, trial_conv}};
    cvx_arena a = {0};
    cvx_tensor buf[3];
    int64_t n = 512 * 1024 + 4096;
    cvx_ctx trial = *ctx;
    cvx_status st = CVX_OK;

    trial.measure = false;
    CVX_TRY(st, cvx_arena_open(&a, "calibration", (size_t)n * 3 * 4 + 4096), done);
    for (int i = 0; i < 3; i++) {
        CVX_TRY(st, CVX_ALLOC(&a, &buf[i], CVX_F32, n), done);
        for (int64_t k = 0; k < n; k++) {
            ((float *)buf[i].data)[k] = (float)((k * 2654435761u >> 16) & 255) / 256.0f - 0.5f;
        }
    }
    for (int i = 0; i < CVX_OP_COUNT; i++) {
        rate[i] =
            2e9; /* a few passes over memory at some 10 GB/s: these ops are small beside the others */
    }
    for (size_t i = 0; i < sizeof trials / sizeof *trials; i++) {
        double best = 0;
        for (int k = 0; k < 3; k++) {
            double f0 = trial.stat[trials[i].op].flops, t0 = cvx_now();
            CVX_TRY(st, trials[i].fn(&trial, buf), done);
            double r = (trial.stat[trials[i].op].flops - f0) / (cvx_now() - t0 + 1e-9);
            best = r > best ? r : best;
        }
        rate[trials[i].op] = best;
    }
done:
    ctx->backend = trial.backend; /* what the kernels keep is the context's, which frees it */
    cvx_arena_close(&a);
    return st;
}

double cvx_plan_seconds(const cvx_stage_cost *c, const double rate[CVX_OP_COUNT])
{
    double s = 0;
    for (int i = 0; i < CVX_OP_COUNT; i++) {
        s += c->flops[i] / rate[i];
    }
    return s;
}
