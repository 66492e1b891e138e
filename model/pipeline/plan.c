#include "model/pipeline/plan.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/memory.h"
#include "kernels/memory.h"
#include "model/pipeline/finish.h"

/* The encoder, filter graphs and thread stacks beyond what is resident when the plan is made: measured
 * as the difference of a whole run and its arenas, see docs/architecture.md. */
#define ENCODER_BYTES ((size_t)17 << 20)

/* The last stage, while the models of the others are open as when decoding. One rank makes all of it at worst. */
static cvx_status measure_finish(cvx_plan *p, const cvx_ctx *ctx, const cvx_job *job)
{
    cvx_stage_cost *c = &p->stage[CVX_STAGE_FINISH];
    const cvx_stage_cost *before = &p->stage[CVX_STAGE_DECODE];
    cvx_stages_plan s;

    if (!cvx_finish_wanted(job->request)) {
        return CVX_OK;
    }
    CVX_RETURN_IF(cvx_finish_measure(&s, ctx, job->request, job->width, job->height, job->fps));
    c->weights = before->weights + s.weights;
    c->mapped = before->mapped;
    c->finish = s.step;
    for (int i = 0; i < CVX_OP_COUNT; i++) {
        c->flops[i] = s.flops[i] * (double)job->out_frames;
    }
    return CVX_OK;
}

/* Device memory beside the arenas: scratch of the ops, workspace of the products, the libraries' own. */
#define DEVICE_BYTES ((size_t)1 << 30)

static cvx_status measure(cvx_plan *p, const cvx_ctx *ctx, const cvx_checkpoint *ckpt,
                          const cvx_job *job)
{
    size_t peak = 0, needed = 0;

    CVX_RETURN_IF(cvx_pipeline_measure(ctx, ckpt, &p->options, job, p->stage));
    CVX_RETURN_IF(measure_finish(p, ctx, job));
    p->job_bytes = p->step_bytes = 0;
    for (int i = 0; i < CVX_STAGE_COUNT; i++) {
        const cvx_stage_cost *c = &p->stage[i];
        /* on a device the arenas alone count: frames and files stay in host memory */
        size_t output = i >= CVX_STAGE_DECODE && !p->on_device ? p->output_bytes : 0;
        size_t anon = c->weights + c->job + c->step + c->finish + output;
        size_t mapped = p->on_device ? 0 : c->mapped;
        needed = anon > needed ? anon : needed;
        peak = anon + mapped > peak ? anon + mapped : peak;
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
                              .fp8 = strcmp(job->request->quantize, "fp8") == 0,
                              .sage = strcmp(job->request->attention, "sage") == 0,
                              .lora = &job->request->lora,
                              .mesh = mesh},
                  .output_bytes = (size_t)(pixels * (keep_float ? 5 : 1)),
                  .base_bytes = cvx_memory_resident() + ENCODER_BYTES,
                  .available_bytes = cvx_memory_available() / (size_t)mesh->node_ranks};

    if (cvx_ctx_has_device(ctx)) {
        size_t unused, all;
        cvx_ctx_memory(ctx, &unused, &all);
        p.on_device = true;
        p.base_bytes = all - unused + DEVICE_BYTES;
        p.available_bytes = all;
    }
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

    return cvx_job_resolve(&j, ckpt, changed, &job->source) == CVX_OK &&
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

/* A trial runs one op on pseudo-random values with packed weights, as the models do. */
typedef struct trial {
    cvx_ctx ctx;
    cvx_arena arena;
} trial;

/* Room for n values of 4 bytes each. */
static cvx_status values(trial *t, void **out, int64_t n)
{
    cvx_host_values v;
    cvx_tensor to = CVX_VIEW(NULL, CVX_F32, n);

    CVX_RETURN_IF(cvx_arena_alloc(&t->arena, &to.data, (size_t)n * 4));
    CVX_RETURN_IF(cvx_host_open(&t->ctx, &v, &to, false));
    for (int64_t k = 0; k < n; k++) {
        ((float *)v.data)[k] = (float)((k * 2654435761u >> 16) & 255) / 256.0f - 0.5f;
    }
    cvx_host_close(&t->ctx, &v, &to, true);
    *out = to.data;
    return CVX_OK;
}

static cvx_status pack(trial *t, cvx_tensor *w, cvx_layout layout)
{
    cvx_tensor src = *w;

    w->layout = layout;
    CVX_RETURN_IF(cvx_arena_alloc(&t->arena, &w->data, cvx_packed_bytes(&t->ctx, &src, layout)));
    return cvx_op_pack(&t->ctx, &(cvx_pack_args){.dst = w, .src = &src});
}

static cvx_status trial_linear(trial *t)
{
    cvx_tensor x = CVX_VIEW(NULL, CVX_F32, 1024, 768), w = CVX_VIEW(NULL, CVX_F32, 768, 768), y = x;

    CVX_RETURN_IF(values(t, &x.data, 1024 * 768));
    CVX_RETURN_IF(values(t, &y.data, 1024 * 768));
    CVX_RETURN_IF(values(t, &w.data, 768 * 768));
    CVX_RETURN_IF(pack(t, &w, CVX_PACKED_LINEAR));
    return cvx_op_linear(&t->ctx, &(cvx_linear_args){.y = &y, .x = &x, .w = &w});
}

static cvx_status trial_attention(trial *t)
{
    cvx_tensor x[4];

    for (int i = 0; i < 4; i++) {
        x[i] = CVX_VIEW(NULL, CVX_F32, 1, 1024, 4, 64);
        CVX_RETURN_IF(values(t, &x[i].data, 1024 * 256));
    }
    return cvx_op_attention(
        &t->ctx,
        &(cvx_attention_args){.o = &x[3], .q = &x[0], .k = &x[1], .v = &x[2], .scale = 0.125});
}

static cvx_status trial_conv(trial *t)
{
    cvx_tensor w = CVX_VIEW(NULL, CVX_F32, 128, 128, 3, 3, 3), x, y;
    void *data = NULL;

    CVX_RETURN_IF(values(t, &w.data, 128 * 128 * 27));
    CVX_RETURN_IF(pack(t, &w, CVX_PACKED_CONV));
    CVX_RETURN_IF(values(t, &data, 3 * 66 * 66 * 128 * 2)); /* three bf16 parts take six bytes */
    x = CVX_VIEW(data, cvx_conv_input(&t->ctx, &w), 3, 66, 66, 128);
    y = CVX_VIEW(NULL, CVX_F32, 1, 64, 64, 128);
    CVX_RETURN_IF(values(t, &y.data, 64 * 64 * 128));
    return cvx_op_conv3d(&t->ctx, &(cvx_conv3d_args){.y = &y, .x = &x, .w = &w, .stride = 1});
}

/* The best of several runs: the first wait for threads to wake; packing is another op and not counted. */
static cvx_status trial_rate(trial *t, int op, cvx_status (*fn)(trial *t), double *rate)
{
    for (int k = 0; k < 5; k++) {
        cvx_op_stat *s = &t->ctx.stat[op];
        size_t mark = cvx_arena_mark(&t->arena);
        *s = (cvx_op_stat){0};
        CVX_RETURN_IF(fn(t));
        cvx_arena_release(&t->arena, mark, false);
        double r = s->flops / (s->seconds + 1e-9);
        *rate = r > *rate ? r : *rate;
    }
    return CVX_OK;
}

cvx_status cvx_plan_rates(cvx_ctx *ctx, double rate[CVX_OP_COUNT])
{
    static const struct {
        int op;
        cvx_status (*fn)(trial *t);
    } trials[] = {{CVX_OP_ID_linear, trial_linear},
                  {CVX_OP_ID_attention, trial_attention},
                  {CVX_OP_ID_conv3d, trial_conv}};
    trial t = {.ctx = *ctx};
    cvx_status st = CVX_OK;

    t.ctx.measure = false;
    t.ctx.timed = true;
    for (int i = 0; i < CVX_OP_COUNT; i++) {
        rate[i] =
            2e9; /* a few passes over memory at some 10 GB/s: these ops are small beside the others */
    }
    CVX_TRY(st, cvx_ctx_arena(&t.ctx, &t.arena, "calibration", (size_t)48 << 20), done);
    for (size_t i = 0; i < sizeof trials / sizeof *trials; i++) {
        rate[trials[i].op] = 0;
        CVX_TRY(st, trial_rate(&t, trials[i].op, trials[i].fn, &rate[trials[i].op]), done);
    }
    rate[CVX_OP_ID_conv2d] = rate[CVX_OP_ID_conv3d]; /* the same loops */
done:
    ctx->backend = t.ctx.backend; /* what the kernels keep is the context's, which frees it */
    cvx_arena_close(&t.arena);
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
