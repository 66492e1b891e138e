/* The second stage: the denoising loop and its checkpoints. */
#include <stdlib.h>

#include "base/fault.h"
#include "base/stop.h"
#include "kernels/memory.h"
#include "kernels/transfer.h"
#include "model/pipeline/resume.h"
#include "model/pipeline/run.h"

/* The transformer's input: the latents, or with an image both side by side in each frame's channels. */
static void model_input(cvx_run *r, const cvx_tensor *in)
{
    for (int64_t f = 0; r->image.data != NULL && f < r->shape.frames; f++) {
        const cvx_tensor *from[2] = {&r->latents, &r->image};
        for (int i = 0; i < 2; i++) {
            int64_t c = r->latents.dim[1];
            cvx_tensor frame = cvx_slice(in, 0, f, 1), src = cvx_slice(from[i], 0, f, 1);
            cvx_tensor dst = cvx_slice(&frame, 1, i * c, c);
            cvx_copy(r->p->ctx, &dst, &src);
        }
    }
}

typedef struct denoise {
    cvx_dit_job dit;
    cvx_tensor in, out, old_x0, noise; /* old_x0, noise: DPM only */
    bool has_old;
} denoise;

static cvx_status denoise_open(cvx_run *r, denoise *d)
{
    int64_t n = cvx_numel(&r->latents);
    const cvx_tensor *l = &r->latents;

    *d = (denoise){.in = r->latents};
    CVX_RETURN_IF(cvx_run_open(r->p, CVX_PART_DIT));
    CVX_RETURN_IF(cvx_dit_prepare(r->p->parts[CVX_PART_DIT].model.dit, &d->dit, &r->arena, &r->step,
                                  &r->shape, &r->embeds));
    if (r->image.data != NULL) {
        CVX_RETURN_IF(
            CVX_ALLOC(&r->arena, &d->in, CVX_F32, l->dim[0], 2 * l->dim[1], l->dim[2], l->dim[3]));
    }
    CVX_RETURN_IF(CVX_ALLOC(&r->arena, &d->out, CVX_F32, r->shape.batch, l->dim[0], l->dim[1],
                            l->dim[2], l->dim[3]));
    if (r->job->sched.kind == CVX_SCHED_DPM) {
        CVX_RETURN_IF(CVX_ALLOC(&r->arena, &d->old_x0, CVX_F32, n));
        CVX_RETURN_IF(CVX_ALLOC(&r->arena, &d->noise, CVX_F32, n));
    }
    return CVX_OK;
}

/* The transformer's pass; alone on its rank it may be recorded and repeated. */
static cvx_status forward(cvx_run *r, denoise *d, double timestep)
{
    bool alone = r->p->opt.mesh->replica->size == 1, again = false;
    size_t mark = cvx_arena_mark(&r->step);

    do {
        if (alone) {
            cvx_step_begin(r->p->ctx);
        }
        cvx_status st = cvx_dit_forward(r->p->parts[CVX_PART_DIT].model.dit, &d->dit, &r->step,
                                        &d->out, &d->in, timestep, NULL, NULL);
        if (alone) {
            st = cvx_step_end(r->p->ctx, st, &again);
        }
        CVX_RETURN_IF(st);
        if (again) {
            cvx_arena_release(&r->step, mark, false);
        }
    } while (again);
    return CVX_OK;
}

static cvx_status denoise_step(cvx_run *r, denoise *d, const cvx_sched *sched, int64_t i)
{
    const cvx_request *q = r->job->request;
    int64_t n = cvx_numel(&r->latents);
    cvx_tensor flat = CVX_RESHAPE(&r->latents, n);
    cvx_tensor v = CVX_RESHAPE(&d->out, r->shape.batch, n);
    cvx_tensor uncond = cvx_slice(&v, 0, 0, 1), cond = cvx_slice(&v, 0, r->shape.batch - 1, 1);
    cvx_sched_step_args a = {.prev = &flat,
                             .sample = &flat,
                             .cond = &cond,
                             .uncond = r->job->guided ? &uncond : NULL,
                             .guidance = cvx_sched_guidance(sched, i, q->guidance_scale,
                                                            q->use_dynamic_cfg)};

    uncond = CVX_RESHAPE(&uncond, n);
    cond = CVX_RESHAPE(&cond, n);
    model_input(r, &d->in);
    CVX_RETURN_IF(forward(r, d, (double)cvx_sched_timestep(sched, i)));
    for (int k = cvx_sched_draws(sched, i, d->has_old); k > 0; k--) {
        CVX_RETURN_IF(cvx_run_draw(r, &d->noise));
        a.noise = &d->noise;
    }
    cvx_sched_coef(sched, i, d->has_old, a.c);
    if (d->old_x0.data != NULL) {
        a.x0_out = &d->old_x0;
        a.old_x0 = d->has_old ? &d->old_x0 : NULL;
        d->has_old = true;
    }
    return cvx_op_sched_step(r->p->ctx, &a);
}

/* Adds the work and exchanges of `times` more steps like `one`. */
static void extend(cvx_stage_cost *c, const cvx_stage_cost *one, int64_t times)
{
    for (int i = 0; i < CVX_OP_COUNT; i++) {
        c->flops[i] += (double)times * one->flops[i];
    }
    for (int i = 0; i < CVX_MESH_COMMS; i++) {
        for (int k = 0; k < CVX_COMM_KINDS; k++) {
            c->comm[i][k].calls += times * one->comm[i][k].calls;
            c->comm[i][k].bytes_sent += times * one->comm[i][k].bytes_sent;
        }
    }
}

/* What a checkpoint must be to continue this loop; its job was compared before. */
static cvx_status check_snapshot(const cvx_run *r, const cvx_snapshot *s, int64_t steps,
                                 bool old_x0)
{
    bool same = s->steps == steps && cvx_snapshot_count(s) == cvx_numel(&r->latents) &&
                (!old_x0 || s->old_x0 != NULL);

    return same ? CVX_OK
                : cvx_fail(CVX_EFORMAT,
                           "checkpoint after step %lld of %lld: its tensors are not this job's",
                           (long long)s->step, (long long)s->steps);
}

/* The leader's snapshot to every rank: latents, generator and, where the loop goes on, the previous x0. */
static cvx_status take_snapshot(cvx_run *r, denoise *d, int64_t steps)
{
    bool old_x0 = d != NULL && d->old_x0.data != NULL;
    unsigned char bytes[CVX_RNG_BYTES] = {0};
    cvx_tensor rng = CVX_VIEW(bytes, CVX_U8, CVX_RNG_BYTES);
    cvx_status st = CVX_OK;

    if (cvx_run_leads(r)) {
        const cvx_snapshot *s = &r->resume->at;
        st = check_snapshot(r, s, steps, old_x0);
        if (st == CVX_OK) {
            cvx_rng_save(&s->rng, bytes);
            cvx_upload(r->p->ctx, &r->latents, s->latents);
        }
        if (st == CVX_OK && old_x0) {
            cvx_upload(r->p->ctx, &d->old_x0, s->old_x0);
        }
    }
    CVX_RETURN_IF(cvx_run_share(r, st, &rng));
    CVX_RETURN_IF(cvx_run_share(r, CVX_OK, &r->latents));
    if (old_x0) {
        CVX_RETURN_IF(cvx_run_share(r, CVX_OK, &d->old_x0));
        d->has_old = true;
    }
    if (d != NULL && cvx_run_leads(r)) { /* the decoder may need the last latents once more */
        cvx_snapshot_free(&r->resume->at);
    }
    return cvx_rng_load(&r->rng, bytes);
}

/* Host copies of the loop's state after `done` steps. CVX_ENOMEM. The caller frees *out. */
static cvx_status make_snapshot(const cvx_run *r, const denoise *d, int64_t done, int64_t steps,
                                cvx_snapshot *out)
{
    const int64_t *dim = r->latents.dim;
    size_t bytes = (size_t)cvx_numel(&r->latents) * sizeof(float);
    bool old_x0 = d->has_old && done < steps;
    cvx_snapshot s = {.step = done,
                      .steps = steps,
                      .dim = {dim[0], dim[1], dim[2], dim[3]},
                      .latents = malloc(bytes),
                      .old_x0 = old_x0 ? malloc(bytes) : NULL,
                      .rng = r->rng};

    if (s.latents == NULL || (old_x0 && s.old_x0 == NULL)) {
        cvx_snapshot_free(&s);
        return cvx_fail(CVX_ENOMEM, "no memory for a copy of the latents");
    }
    cvx_download(r->p->ctx, s.latents, &r->latents);
    if (old_x0) {
        cvx_download(r->p->ctx, s.old_x0, &d->old_x0);
    }
    *out = s;
    return CVX_OK;
}

/* After a step: a checkpoint if one is due or the run stops; after the last, the latents stay in memory too. */
static void keep(cvx_run *r, const denoise *d, int64_t done, int64_t steps, bool stop)
{
    cvx_snapshot s = {0};
    bool due;

    if (r->resume == NULL || !cvx_run_leads(r)) {
        return;
    }
    due = cvx_resume_due(r->resume, done, steps) || (stop && r->resume->dir[0] != 0);
    if (!due && done < steps) {
        return;
    }
    if (make_snapshot(r, d, done, steps, &s) != CVX_OK) {
        cvx_progress_note(&r->progress, "no checkpoint after step %lld: %s; going on without",
                          (long long)done, cvx_error());
        return;
    }
    if (due) {
        /* a failed write is told in a note; the run goes on, or stops as it was asked to */
        bool written = cvx_resume_save(r->resume, &s, &r->progress);
        (void)written;
    }
    if (done == steps) {
        cvx_snapshot_free(&r->resume->at);
        r->resume->at = s;
        return;
    }
    cvx_snapshot_free(&s);
}

/* The step boundary: every rank learns whether one failed, then none waits for it; and whether one was asked
 * to stop, then all do. */
static cvx_status step_end(cvx_run *r, cvx_status own, bool *stop)
{
    *stop = cvx_stop_asked();
    return cvx_comm_agree_wish(r->p->opt.mesh->replica, own, stop);
}

static cvx_status stopped(const cvx_run *r, int64_t done, int64_t steps)
{
    if (r->job->request->checkpoint_dir != NULL) {
        return cvx_fail(CVX_EREQUEUE,
                        "stopped by a signal after step %lld of %lld: the same command goes on "
                        "from %s",
                        (long long)done, (long long)steps, r->job->request->checkpoint_dir);
    }
    return cvx_fail(CVX_ECANCELLED,
                    "stopped by a signal after step %lld of %lld (with --checkpoint-dir the same "
                    "command would go on from there)",
                    (long long)done, (long long)steps);
}

static cvx_status step_and_tell(cvx_run *r, denoise *d, const cvx_sched *sched, int64_t i)
{
    if (!r->p->ctx->measure) {
        cvx_fault_at("step");
    }
    CVX_RETURN_IF(denoise_step(r, d, sched, i));
    CVX_RETURN_IF(cvx_sync(r->p->ctx)); /* the step is done when its progress is told */
    return cvx_progress_step(&r->progress, i + 1);
}

void cvx_run_show_latents(const cvx_run *r, int64_t i)
{
    cvx_host_values v;
    cvx_tensor host = r->latents;

    if (r->hooks->latents == NULL || r->p->ctx->measure ||
        cvx_host_open(r->p->ctx, &v, &r->latents, true) != CVX_OK) {
        return; /* a fault of the device comes out at the next op */
    }
    host.data = v.data;
    r->hooks->latents(r->hooks->latents_payload, i, &host);
    cvx_host_close(r->p->ctx, &v, &r->latents, false);
}

cvx_status cvx_run_denoise(cvx_run *r, const cvx_sched *sched)
{
    int64_t steps = cvx_sched_steps(sched), walk = r->p->ctx->measure ? 1 : steps;
    cvx_stage_cost all = {0}; /* of the steps that were walked */
    denoise d;

    CVX_RETURN_IF(cvx_run_begin(r, CVX_STAGE_DENOISE, steps));
    CVX_RETURN_IF(denoise_open(r, &d));
    cvx_run_counters(r, &all, -1);
    if (r->start > 0) {
        CVX_RETURN_IF(take_snapshot(r, &d, steps));
    }
    for (int64_t i = r->start; i < walk; i++) {
        bool stop = false;
        CVX_RETURN_IF(step_end(r, step_and_tell(r, &d, sched, i), &stop));
        cvx_run_show_latents(r, i);
        if (!r->p->ctx->measure) {
            keep(r, &d, i + 1, steps, stop);
        }
        if (stop) {
            return stopped(r, i + 1, steps);
        }
    }
    cvx_run_counters(r, &all, 1);
    cvx_run_end(r, CVX_STAGE_DENOISE);
    if (r->p->ctx->measure) {
        extend(&r->cost[CVX_STAGE_DENOISE], &all, steps - 1);
    }
    cvx_run_done_with(r, CVX_PART_DIT);
    return CVX_OK;
}

cvx_status cvx_run_take_last(cvx_run *r, int64_t steps)
{
    return take_snapshot(r, NULL, steps);
}
