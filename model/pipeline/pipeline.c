#include "model/pipeline/pipeline.h"

#include <stdlib.h>
#include <string.h>

#include "base/fault.h"
#include "kernels/memory.h"
#include "model/pipeline/run.h"

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

void cvx_pipeline_close(cvx_pipeline *p)
{
    if (p == NULL) {
        return;
    }
    for (int i = 0; i < CVX_PART_COUNT; i++) {
        cvx_run_close(p, (cvx_part_id)i);
    }
    free(p);
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