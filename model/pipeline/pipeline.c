#include "model/pipeline/pipeline.h"

#include <stdlib.h>
#include <string.h>

#include "base/fault.h"
#include "kernels/memory.h"
#include "kernels/transfer.h"
#include "model/lora.h"
#include "model/pipeline/run.h"

/* Room of the weights arenas: reserved, not used. Packed f32 weights of CogVideoX-5b are 22 GB. */
#define WEIGHTS_RESERVE ((size_t)1 << 38)

const char *const cvx_stage_names[CVX_STAGE_COUNT] = {"encode", "denoise", "decode", "finish"};

cvx_status cvx_pipeline_open(cvx_pipeline **out, cvx_ctx *ctx, const cvx_checkpoint *ckpt,
                             const cvx_pipeline_options *opt)
{
    cvx_pipeline *p = calloc(1, sizeof *p);

    if (p == NULL) {
        return cvx_fail(CVX_ENOMEM, "no memory for a pipeline");
    }
    *p = (cvx_pipeline){.ctx = ctx, .ckpt = ckpt, .opt = *opt};
    *out = p;
    return CVX_OK;
}

static void close_part(cvx_pipeline *p, cvx_part_id id)
{
    cvx_part *x = &p->parts[id];

    switch (id) {
    case CVX_PART_T5: cvx_t5_close(x->model.t5); break;
    case CVX_PART_DIT: cvx_dit_close(x->model.dit); break;
    case CVX_PART_VAE: cvx_vae_close(x->model.vae); break;
    case CVX_PART_COUNT: break;
    }
    if (x->weights != NULL) {
        cvx_ctx_forget(p->ctx);
    }
    cvx_arena_close(&x->arena);
    cvx_weights_close(x->weights);
    *x = (cvx_part){0};
}

void cvx_pipeline_close(cvx_pipeline *p)
{
    if (p == NULL) {
        return;
    }
    for (int i = 0; i < CVX_PART_COUNT; i++) {
        close_part(p, (cvx_part_id)i);
    }
    free(p);
}

static cvx_status merge_loras(cvx_pipeline *p, cvx_part *x)
{
    for (int i = 0; p->opt.lora != NULL && i < p->opt.lora->n; i++) {
        CVX_RETURN_IF(cvx_lora_merge(x->weights, p->opt.lora->item[i]));
    }
    return CVX_OK;
}

/* Whether the transformer's linear weights are kept packed; the VAE's convolutions always are. */
static bool packs(const cvx_pipeline *p)
{
    return p->opt.pack && p->opt.offload != CVX_OFFLOAD_SEQUENTIAL;
}

cvx_status cvx_run_open(cvx_pipeline *p, cvx_part_id id)
{
    static const char *const names[CVX_PART_COUNT] = {"text_encoder", "transformer", "vae"};
    cvx_part *x = &p->parts[id];
    char dir[CVX_PATH_MAX];
    cvx_status st = CVX_OK;

    if (x->model.any != NULL) {
        return CVX_OK;
    }
    CVX_RETURN_IF(cvx_checkpoint_part(p->ckpt, dir, names[id]));
    CVX_TRY(st, cvx_weights_open(&x->weights, dir), done);
    CVX_TRY(st, cvx_ctx_arena(p->ctx, &x->arena, "weights", WEIGHTS_RESERVE), done);
    cvx_load load = {.ctx = p->ctx,
                     .arena = &x->arena,
                     .weights = x->weights,
                     .pack = packs(p),
                     .fp8 = id == CVX_PART_DIT && p->opt.fp8,
                     .sage = p->opt.sage,
                     .mesh = p->opt.mesh};
    if (id == CVX_PART_T5) {
        load.pack = false; /* read once or twice a job: packing would cost more than it gives */
        CVX_TRY(st, cvx_t5_open(&x->model.t5, &load, &p->ckpt->t5), done);
    } else if (id == CVX_PART_DIT) {
        CVX_TRY(st, merge_loras(p, x), done);
        CVX_TRY(st, cvx_dit_open(&x->model.dit, &load, &p->ckpt->dit), done);
    } else {
        CVX_TRY(st, cvx_vae_open(&x->model.vae, &load, &p->ckpt->vae), done);
    }
done:
    if (st != CVX_OK) {
        close_part(p, id);
    }
    return st;
}

/* Adds sign times what the counters of work and exchange show now. */
void cvx_run_counters(const cvx_run *r, cvx_stage_cost *c, int sign)
{
    for (int i = 0; i < CVX_OP_COUNT; i++) {
        c->flops[i] += sign * r->p->ctx->stat[i].flops;
    }
    for (int i = 0; i < CVX_MESH_COMMS; i++) {
        for (int k = 0; k < CVX_COMM_KINDS; k++) {
            const cvx_comm_stat *now = &cvx_mesh_comm(r->p->opt.mesh, i)->stat[k];
            c->comm[i][k].calls += sign * now->calls;
            c->comm[i][k].bytes_sent += sign * now->bytes_sent;
            c->comm[i][k].seconds += sign * now->seconds;
        }
    }
}

cvx_status cvx_run_begin(cvx_run *r, cvx_stage s, int64_t total)
{
    r->cost[s] = (cvx_stage_cost){0};
    cvx_run_counters(r, &r->cost[s], -1);
    r->step.peak = r->step.used;
    cvx_ctx_range(r->p->ctx, cvx_stage_names[s]);
    return cvx_progress_begin(&r->progress, cvx_stage_names[s], total);
}

void cvx_run_end(cvx_run *r, cvx_stage s)
{
    cvx_stage_cost *c = &r->cost[s];

    cvx_run_counters(r, c, 1);
    for (int i = 0; i < CVX_PART_COUNT; i++) {
        const cvx_part *x = &r->p->parts[i];
        c->weights += x->arena.used;
        c->mapped += x->weights != NULL ? (size_t)cvx_weights_in_place(x->weights) : 0;
    }
    cvx_ctx_range(r->p->ctx, NULL);
    c->job = r->arena.used;
    c->step = r->step.peak;
    c->seconds = cvx_progress_end(&r->progress);
    cvx_arena_release(&r->step, r->step.used, true);
    r->step.peak = r->step.used;
}

void cvx_run_done_with(cvx_run *r, cvx_part_id id)
{
    /* the encoder's weights stay where they are mapped: to open it again for the next job costs next to nothing */
    if (id == CVX_PART_T5 || r->p->opt.offload != CVX_OFFLOAD_NONE) {
        close_part(r->p, id);
    }
}

/* Rank 0 of the replica does what its ranks need once. */
bool cvx_run_leads(const cvx_run *r)
{
    return r->p->opt.mesh->replica->rank == 0;
}

/* The leader's tensor to everyone, unless the leader's work (st) failed: then everyone fails. */
cvx_status cvx_run_share(cvx_run *r, cvx_status st, const cvx_tensor *t)
{
    cvx_comm *c = r->p->opt.mesh->replica;

    CVX_RETURN_IF(cvx_comm_agree(c, st));
    return cvx_comm_broadcast(c, t->data, cvx_numel(t) * (int64_t)cvx_dtype_size(t->dtype), 0);
}

/* t <- torch.randn of t's shape in the job's dtype. */
cvx_status cvx_run_draw(cvx_run *r, const cvx_tensor *t)
{
    int64_t n = cvx_numel(t);

    if (r->p->ctx->measure) {
        return CVX_OK;
    }
    float *f = malloc((size_t)n * sizeof *f);
    if (f == NULL) {
        return cvx_fail(CVX_ENOMEM, "no memory for %lld values of noise", (long long)n);
    }
    cvx_rng_randn(&r->rng, f, r->job->dtype == CVX_BF16 ? CVX_RNG_BF16 : CVX_RNG_F32, n);
    cvx_upload(r->p->ctx, t, f);
    free(f);
    return CVX_OK;
}

/* Frames of one decoded chunk on their way to the hook. */
static cvx_status on_frames(void *payload, const float *rgb, int64_t first, int64_t n)
{
    cvx_run *r = payload;

    if (r->hooks->frames != NULL) {
        CVX_RETURN_IF(r->hooks->frames(r->hooks->frames_payload, rgb, first, n, r->job->height,
                                       r->job->width));
    }
    return cvx_progress_step(&r->progress, first + n);
}

static cvx_status decode(cvx_run *r)
{
    int64_t f = r->shape.frames - r->job->padding, n = cvx_numel(&r->latents);
    cvx_tensor z;

    CVX_RETURN_IF(cvx_comm_agree(r->p->opt.mesh->replica, cvx_run_open(r->p, CVX_PART_VAE)));
    CVX_RETURN_IF(CVX_ALLOC(&r->step, &z, CVX_F32, r->latents.dim[0], r->latents.dim[1],
                            r->latents.dim[2], r->latents.dim[3]));
    /* decode_latents: 1 / scaling_factor in double, then one product in f32 */
    cvx_tensor flat = CVX_RESHAPE(&z, n), src = CVX_RESHAPE(&r->latents, n);
    float inv = (float)(1.0 / r->p->ckpt->vae.scaling_factor);
    CVX_RETURN_IF(cvx_op_sched_step(
        r->p->ctx,
        &(cvx_sched_step_args){.prev = &flat, .sample = &src, .cond = &src, .c = {[2] = inv}}));
    z = cvx_slice(&z, 0, r->job->padding, f);
    return cvx_vae_decode(r->p->parts[CVX_PART_VAE].model.vae, &r->step, &z, &r->job->tiling,
                          on_frames, r);
}

static cvx_status stage_decode(cvx_run *r)
{
    CVX_RETURN_IF(cvx_run_begin(r, CVX_STAGE_DECODE, r->job->decoded));
    CVX_RETURN_IF(cvx_comm_agree(r->p->opt.mesh->replica, decode(r)));
    cvx_run_end(r, CVX_STAGE_DECODE);
    cvx_run_done_with(r, CVX_PART_VAE);
    return CVX_OK;
}

static cvx_status open_sched(cvx_sched **out, const cvx_job *job)
{
    CVX_RETURN_IF(cvx_sched_open(out, &job->sched, job->request->num_inference_steps));
    if (job->request->video == NULL) {
        return CVX_OK;
    }
    cvx_status st = cvx_sched_set_strength(*out, job->request->strength);
    if (st != CVX_OK) {
        cvx_sched_close(*out);
        *out = NULL;
    }
    return st;
}

/* Where the loop starts, as the leader knows it. Counted in every run, so that the plan's counts hold. */
static cvx_status find_start(cvx_run *r)
{
    int first = cvx_run_leads(r) && r->resume != NULL ? -(int)r->resume->at.step : 0;

    CVX_RETURN_IF(cvx_comm_least(r->p->opt.mesh->replica, &first));
    r->start = -first;
    return CVX_OK;
}

/* Latents after the last step: by the loop, or where an earlier run has done them all, from its checkpoint. */
static cvx_status make_latents(cvx_run *r, const cvx_sched *sched)
{
    int64_t steps = cvx_sched_steps(sched);

    CVX_RETURN_IF(find_start(r));
    if (r->start < steps) {
        if (!r->p->ctx->measure) {
            cvx_fault_at("encode");
        }
        CVX_RETURN_IF(cvx_run_encode(r, sched));
        return cvx_run_denoise(r, sched);
    }
    CVX_RETURN_IF(cvx_run_alloc_latents(r));
    CVX_RETURN_IF(cvx_run_take_last(r, steps));
    cvx_run_show_latents(r, steps - 1);
    return CVX_OK;
}

/* Each rank says whether it has the memory to decode, before one of them begins. */
static cvx_status admit_decode(cvx_run *r, const cvx_pipeline_hooks *hooks)
{
    cvx_status st = CVX_OK;

    if (r->resume != NULL) {
        r->resume->decoding = true;
    }
    if (!r->p->ctx->measure) {
        st = cvx_fault("decode");
        if (st == CVX_OK && hooks->admit_decode != NULL) {
            st = hooks->admit_decode(hooks->admit_payload);
        }
    }
    return cvx_comm_agree(r->p->opt.mesh->replica, st);
}

cvx_status cvx_pipeline_run(cvx_pipeline *p, const cvx_job *job, int64_t video_index,
                            const cvx_pipeline_hooks *hooks, size_t job_bytes, size_t step_bytes,
                            cvx_stage_cost cost[CVX_STAGE_COUNT])
{
    cvx_status st = CVX_OK;
    cvx_sched *sched = NULL;
    cvx_run r = {.p = p,
                 .job = job,
                 .hooks = hooks,
                 .cost = cost,
                 .shape = cvx_job_shape(job),
                 .resume = hooks->resume,
                 .progress = {.payload = hooks->event_payload}};
    const cvx_pipeline_hooks none = {0};

    if (cvx_run_leads(&r)) {
        r.progress.fn = hooks->event;
    } else {
        r.hooks = &none;
    }
    memset(cost, 0, CVX_STAGE_COUNT * sizeof *cost);
    cvx_rng_seed(&r.rng, (uint64_t)job->request->seed + (uint64_t)video_index);
    CVX_TRY(st, open_sched(&sched, job), done);
    CVX_TRY(st, cvx_ctx_arena(p->ctx, &r.arena, "job", job_bytes), done);
    CVX_TRY(st, cvx_ctx_arena(p->ctx, &r.step, "step", step_bytes), done);
    CVX_TRY(st, make_latents(&r, sched), done);
    if (r.resume == NULL || !r.resume->trial) {
        CVX_TRY(st, admit_decode(&r, hooks), done);
        CVX_TRY(st, stage_decode(&r), done);
    }
done:
    cvx_arena_close(&r.step);
    cvx_arena_close(&r.arena);
    cvx_sched_close(sched);
    return st;
}

cvx_status cvx_pipeline_measure(const cvx_ctx *ctx, const cvx_checkpoint *ckpt,
                                const cvx_pipeline_options *opt, const cvx_job *job,
                                cvx_stage_cost cost[CVX_STAGE_COUNT])
{
    cvx_ctx measuring = *ctx;
    cvx_pipeline *p = NULL;
    cvx_mesh *dry = NULL;
    cvx_pipeline_options options = *opt;
    const cvx_pipeline_hooks none = {0};

    measuring.measure = true;
    memset(measuring.stat, 0, sizeof measuring.stat);
    CVX_RETURN_IF(cvx_mesh_dry(&dry, &opt->mesh->degrees, opt->mesh->world->rank));
    options.mesh = dry;
    cvx_status st = cvx_pipeline_open(&p, &measuring, ckpt, &options);
    if (st == CVX_OK) {
        st = cvx_pipeline_run(p, job, 0, &none, 0, 0, cost);
    }
    cvx_pipeline_close(p);
    cvx_mesh_close(dry);
    return st;
}
