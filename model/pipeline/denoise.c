/* The second stage: the denoising loop and its checkpoints. */
#include <stdlib.h>
#include <string.h>

#include "base/fault.h"
#include "base/stop.h"
#include "kernels/memory.h"
#include "kernels/transfer.h"
#include "model/pipeline/resume.h"
#include "model/pipeline/run.h"

typedef struct denoise {
    cvx_dit_job *dit; /* one a prompt; owned */
    cvx_tensor in,
        out; /* a window's latents (beside the image), and its velocities [batch, F, C, h, w] */
    cvx_tensor taken; /* as out, for another group's window; data NULL where there are no groups */
    cvx_tensor blended;  /* the whole video's velocities; `out` where there is one window */
    cvx_windows windows; /* of the step under way */
    cvx_tensor
        kept; /* [sets, values]: what the solver keeps from step to step; data NULL: nothing */
    cvx_tensor noise; /* DPM only */
    cvx_dit_cache cache;
    cvx_tensor full;   /* the latents before the last full step, with a cache; else data NULL */
    int64_t full_step; /* its number, from 0 */
    cvx_tensor x0;     /* the noiseless latents as the last step took them; flat; for previews */
} denoise;

/* The transformer's tables for each prompt, the negative one beside it. */
static cvx_status prepare_prompts(cvx_run *r, denoise *d)
{
    const cvx_dit_shape shape = cvx_job_window_shape(r->job);
    const int64_t *e = r->embeds.dim;
    int prompts = r->job->prompts.n;
    size_t mark = cvx_arena_mark(&r->step);
    cvx_tensor pair;

    d->dit = calloc((size_t)prompts, sizeof *d->dit);
    if (d->dit == NULL) {
        return cvx_fail(CVX_ENOMEM, "no memory for %d prompts", prompts);
    }
    CVX_RETURN_IF(CVX_ALLOC(&r->step, &pair, CVX_F32, shape.batch, e[1], e[2]));
    for (int i = 0; i < prompts; i++) {
        for (int64_t b = 0; b < shape.batch; b++) {
            cvx_tensor to = cvx_slice(&pair, 0, b, 1);
            cvx_tensor from =
                cvx_slice(&r->embeds, 0, b + 1 < shape.batch ? 0 : shape.batch - 1 + i, 1);
            cvx_copy(r->p->ctx, &to, &from);
        }
        CVX_RETURN_IF(cvx_dit_prepare(r->p->parts[CVX_PART_DIT].model.dit, &d->dit[i], &r->arena,
                                      &r->step, &shape, &pair));
    }
    cvx_arena_release(&r->step, mark, false);
    return CVX_OK;
}

/* The windows of a step at this much signal. */
static cvx_windows windows_at(const cvx_run *r, double signal)
{
    int64_t pt = r->p->ckpt->dit.patch_size_t;
    return cvx_windows_at(&r->job->windows, signal, r->job->dilation, pt > 0 ? pt : 1);
}

static cvx_status denoise_open(cvx_run *r, denoise *d, const cvx_sched *sched)
{
    int64_t n = cvx_numel(&r->latents), length = r->job->windows.length;
    const cvx_tensor *l = &r->latents;

    CVX_RETURN_IF(cvx_run_open(r->p, CVX_PART_DIT));
    CVX_RETURN_IF(prepare_prompts(r, d));
    if (r->image.data != NULL || windows_at(r, 0).frames < r->job->windows.frames) {
        CVX_RETURN_IF(CVX_ALLOC(&r->arena, &d->in, CVX_F32, length,
                                l->dim[1] * (r->image.data != NULL ? 2 : 1), l->dim[2], l->dim[3]));
    }
    CVX_RETURN_IF(CVX_ALLOC(&r->arena, &d->out, CVX_F32, r->shape.batch, length, l->dim[1],
                            l->dim[2], l->dim[3]));
    d->blended = d->out;
    if (r->p->opt.mesh->dim[CVX_MESH_WINDOW]->size > 1) {
        CVX_RETURN_IF(CVX_ALLOC(&r->arena, &d->taken, CVX_F32, r->shape.batch, length, l->dim[1],
                                l->dim[2], l->dim[3]));
    }
    if (r->job->windows.n > 1) {
        CVX_RETURN_IF(CVX_ALLOC(&r->arena, &d->blended, CVX_F32, r->shape.batch, l->dim[0],
                                l->dim[1], l->dim[2], l->dim[3]));
    }
    if (r->job->sched.kind == CVX_SCHED_DPM) {
        CVX_RETURN_IF(CVX_ALLOC(&r->arena, &d->noise, CVX_F32, n));
    }
    if (r->job->request->first_block_cache > 0) {
        CVX_RETURN_IF(cvx_dit_cache_open(&d->cache, r->p->parts[CVX_PART_DIT].model.dit, d->dit,
                                         r->job->request->first_block_cache, &r->arena));
        d->dit->cache = &d->cache;
        CVX_RETURN_IF(CVX_ALLOC(&r->arena, &d->full, CVX_F32, n));
    }
    int64_t sets = cvx_sched_kept(r->job->sched.kind);
    if (sets > 0) {
        CVX_RETURN_IF(CVX_ALLOC(&r->arena, &d->kept, CVX_F32, sets, n));
        cvx_zero(r->p->ctx, &d->kept);
    } else if (cvx_run_previews(r, cvx_sched_steps(sched)) > 0) {
        CVX_RETURN_IF(CVX_ALLOC(&r->arena, &d->x0, CVX_F32, n));
    }
    return CVX_OK;
}

/* Set k of what the solver keeps. */
static cvx_tensor kept(const denoise *d, int64_t k)
{
    cvx_tensor set = cvx_slice(&d->kept, 0, k, 1);
    return CVX_RESHAPE(&set, d->kept.dim[1]);
}

/* x0 of step i is known: corrects the sample that led to it, then predicts the next one. */
static cvx_status unipc_step(cvx_run *r, denoise *d, const cvx_sched *sched, int64_t i,
                             const cvx_tensor *latents)
{
    cvx_ctx *ctx = r->p->ctx;
    cvx_tensor sample = kept(d, 0), now = kept(d, 1 + i % 3);
    cvx_tensor before = kept(d, 1 + (i + 2) % 3), older = kept(d, 1 + (i + 1) % 3);
    cvx_sched_unipc_coef c;

    cvx_sched_unipc(sched, i, &c);
    cvx_combine_args first = {.y = &sample, .x = {latents}, .c = {1}, .n = 1};
    if (c.corrects) {
        first = (cvx_combine_args){.y = &sample, .x = {&sample, &before, &older, &now}, .n = 4};
        memcpy(first.c, c.correct, sizeof c.correct);
    }
    CVX_RETURN_IF(cvx_op_combine(ctx, &first));
    cvx_combine_args next = {.y = latents, .x = {&sample, &now, &before}, .n = 3};
    memcpy(next.c, c.predict, sizeof c.predict);
    return cvx_op_combine(ctx, &next);
}

/* The transformer's input: a window's latents, or with an image both side by side in each frame's channels. */
static cvx_tensor window_input(cvx_run *r, const denoise *d, int64_t start)
{
    const cvx_windows *w = &d->windows;
    int64_t length = w->length, c = r->latents.dim[1];
    const cvx_tensor *from[2] = {&r->latents, &r->image};

    if (r->image.data == NULL && w->frames == w->video) {
        return cvx_slice(&r->latents, 0, start, length);
    }
    for (int64_t f = 0; f < length; f++) {
        cvx_tensor frame = cvx_slice(&d->in, 0, f, 1);
        for (int i = 0; i < 2 && from[i]->data != NULL; i++) {
            cvx_tensor src = cvx_slice(from[i], 0, cvx_windows_place(w, start + f), 1);
            cvx_tensor dst = cvx_slice(&frame, 1, i * c, c);
            cvx_copy(r->p->ctx, &dst, &src);
        }
    }
    return d->in;
}

/* Adds window i's share of its frames, from its velocities v, to the video's. */
static cvx_status blend_window(cvx_run *r, denoise *d, int64_t i, const cvx_tensor *v)
{
    const cvx_windows *w = &d->windows;
    int64_t start = cvx_windows_start(w, i), n = cvx_numel(&r->latents) / r->latents.dim[0];
    /* what windows before this one have written */
    int64_t seen = i == 0 ? 0 : cvx_windows_start(w, i - 1) + w->length;

    for (int64_t b = 0; b < r->shape.batch; b++) {
        cvx_tensor from = cvx_slice(v, 0, b, 1), to = cvx_slice(&d->blended, 0, b, 1);
        from = CVX_RESHAPE(&from, w->length, n);
        to = CVX_RESHAPE(&to, w->video, n);
        for (int64_t f = 0; f < w->length; f++) {
            cvx_tensor x = cvx_slice(&from, 0, f, 1);
            cvx_tensor y = cvx_slice(&to, 0, cvx_windows_place(w, start + f), 1);
            float share = cvx_windows_share(w, i, start + f);
            cvx_combine_args a = {.y = &y, .x = {&x, &y}, .c = {share, 1}, .n = 1};
            a.n += start + f < seen;
            CVX_RETURN_IF(cvx_op_combine(r->p->ctx, &a));
        }
    }
    return CVX_OK;
}

/* The transformer's pass; alone on its rank, and always on the same operands, it may be recorded and repeated. */
static cvx_status forward(cvx_run *r, denoise *d, const cvx_dit_job *dit, const cvx_tensor *in,
                          double timestep)
{
    bool alone = r->p->opt.mesh->replica->size == 1 && r->job->windows.n == 1 && dit->cache == NULL;
    bool again = false;
    size_t mark = cvx_arena_mark(&r->step);

    do {
        if (alone) {
            cvx_step_begin(r->p->ctx);
        }
        cvx_status st = cvx_dit_forward(r->p->parts[CVX_PART_DIT].model.dit, dit, &r->step, &d->out,
                                        in, timestep, NULL, NULL);
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

/* The transformer over window i, under the prompt that holds at its middle: d->out. */
static cvx_status predict_window(cvx_run *r, denoise *d, int64_t i, double timestep)
{
    const cvx_windows *w = &d->windows;
    int64_t start = cvx_windows_start(w, i);
    int64_t middle = cvx_windows_place(w, start + w->length / 2) - r->job->padding;
    int64_t frame = r->job->first_frame + (middle > 0 ? middle * r->p->ckpt->temporal : 0);
    int prompt = cvx_prompts_at(&r->job->prompts, frame);
    cvx_tensor in = window_input(r, d, start);

    return forward(r, d, &d->dit[prompt], &in, timestep);
}

/* All windows, dealt to the groups of the mesh in turn; the result is d->blended. Every rank blends in the order of the
 * windows, so that the sums are the same for any number of groups. A single window is blended with nothing, but groups
 * that had none need it too. */
static cvx_status predict(cvx_run *r, denoise *d, double timestep)
{
    const cvx_windows *w = &d->windows;
    bool blends = r->job->windows.n > 1;
    cvx_comm *groups = r->p->opt.mesh->dim[CVX_MESH_WINDOW];
    cvx_status st = CVX_OK;

    for (int64_t first = 0; first < w->n; first += groups->size) {
        if (first + groups->rank < w->n) {
            st = predict_window(r, d, first + groups->rank, timestep);
        }
        CVX_RETURN_IF(groups->size > 1 ? cvx_comm_agree(groups, st) : st);
        for (int g = 0; g < groups->size && first + g < w->n; g++) {
            const cvx_tensor *v = g == groups->rank || !blends ? &d->out : &d->taken;
            if (groups->size > 1) {
                CVX_RETURN_IF(
                    cvx_comm_broadcast(groups, v->data, cvx_numel(v) * (int64_t)sizeof(float), g));
            }
            CVX_RETURN_IF(blends ? blend_window(r, d, first + g, v) : CVX_OK);
        }
    }
    return CVX_OK;
}

/* --extend: for the known latents the output that makes x0 be them (x0 = c0·sample + c1·output). */
static cvx_status keep_known(cvx_run *r, denoise *d, const float c[7])
{
    int64_t first = r->job->padding, n = r->known.dim[0];
    cvx_tensor sample = cvx_slice(&r->latents, 0, first, n);

    for (int64_t b = 0; b < r->shape.batch; b++) {
        cvx_tensor v = cvx_slice(&d->blended, 0, b, 1), y;
        v = CVX_RESHAPE(&v, r->latents.dim[0], r->latents.dim[1], r->latents.dim[2],
                        r->latents.dim[3]);
        y = cvx_slice(&v, 0, first, n);
        CVX_RETURN_IF(cvx_op_combine(r->p->ctx, &(cvx_combine_args){.y = &y,
                                                                    .x = {&sample, &r->known},
                                                                    .c = {-c[0] / c[1], 1 / c[1]},
                                                                    .n = 2}));
    }
    return CVX_OK;
}

/* One frame between the neighbours at a and b, `at` of the way: the velocity that makes its noiseless latents, x0 =
 * c0·sample + c1·v, the mean of theirs. */
static cvx_status lead_frame(cvx_run *r, const cvx_tensor *v, int64_t f, int64_t a, int64_t b,
                             const float c[7])
{
    cvx_tensor y = cvx_slice(v, 0, f, 1), x = cvx_slice(&r->latents, 0, f, 1);
    cvx_tensor va = cvx_slice(v, 0, a, 1), xa = cvx_slice(&r->latents, 0, a, 1);
    cvx_tensor vb = cvx_slice(v, 0, b, 1), xb = cvx_slice(&r->latents, 0, b, 1);
    float at = (float)(f - a) / (float)(b - a), k = c[0] / c[1];

    CVX_RETURN_IF(
        cvx_op_combine(r->p->ctx, &(cvx_combine_args){.y = &y,
                                                      .x = {&va, &vb, &xa, &xb},
                                                      .c = {1 - at, at, k * (1 - at), k * at},
                                                      .n = 4}));
    return cvx_op_combine(r->p->ctx,
                          &(cvx_combine_args){.y = &y, .x = {&y, &x}, .c = {1, -k}, .n = 2});
}

/* Dilated windows: the frames between those that they lie on follow these, but for those that are known. */
static cvx_status lead_between(cvx_run *r, denoise *d, const float c[7])
{
    const cvx_windows *w = &d->windows;
    const cvx_tensor *l = &r->latents;
    int64_t known = r->job->padding, end = known + (r->known.data != NULL ? r->known.dim[0] : 0);

    for (int64_t b = 0; b < r->shape.batch; b++) {
        cvx_tensor v = cvx_slice(&d->blended, 0, b, 1);
        v = CVX_RESHAPE(&v, l->dim[0], l->dim[1], l->dim[2], l->dim[3]);
        for (int64_t k = 0; k + 1 < w->frames; k++) {
            int64_t from = cvx_windows_place(w, k), to = cvx_windows_place(w, k + 1);
            for (int64_t f = from + 1; f < to; f++) {
                if (f < known || f >= end) {
                    CVX_RETURN_IF(lead_frame(r, &v, f, from, to, c));
                }
            }
        }
    }
    return CVX_OK;
}

static cvx_status denoise_step(cvx_run *r, denoise *d, const cvx_sched *sched, int64_t i)
{
    const cvx_request *q = r->job->request;
    int64_t n = cvx_numel(&r->latents);
    cvx_tensor flat = CVX_RESHAPE(&r->latents, n);
    cvx_tensor v = CVX_RESHAPE(&d->blended, r->shape.batch, n);
    cvx_tensor uncond = cvx_slice(&v, 0, 0, 1), cond = cvx_slice(&v, 0, r->shape.batch - 1, 1);
    cvx_sched_step_args a = {.prev = &flat,
                             .sample = &flat,
                             .cond = &cond,
                             .uncond = r->job->guided ? &uncond : NULL,
                             .guidance = cvx_sched_guidance(sched, i, q->guidance_scale,
                                                            q->use_dynamic_cfg)};

    uncond = CVX_RESHAPE(&uncond, n);
    cond = CVX_RESHAPE(&cond, n);
    cvx_sched_coef(sched, i, a.c);
    d->windows = windows_at(r, a.c[0]);
    CVX_RETURN_IF(predict(r, d, (double)cvx_sched_timestep(sched, i)));
    if (d->full.data != NULL && !d->cache.reused) {
        cvx_copy(r->p->ctx, &d->full, &flat);
        d->full_step = i;
    }
    r->cost[CVX_STAGE_DENOISE].reused += d->cache.reused;
    for (int k = cvx_sched_draws(sched, i); k > 0; k--) {
        CVX_RETURN_IF(cvx_run_draw(r, &d->noise));
        a.noise = &d->noise;
    }
    if (r->known.data != NULL) {
        CVX_RETURN_IF(keep_known(r, d, a.c));
    }
    CVX_RETURN_IF(lead_between(r, d, a.c));
    bool unipc = r->job->sched.kind == CVX_SCHED_UNIPC;
    if (d->kept.data != NULL) {
        d->x0 = kept(d, unipc ? 1 + i % 3 : 0);
        a.old_x0 = i > 0 && !unipc ? &d->x0 : NULL;
    }
    a.x0_out = d->x0.data != NULL ? &d->x0 : NULL;
    CVX_RETURN_IF(cvx_op_sched_step(r->p->ctx, &a));
    return unipc ? unipc_step(r, d, sched, i, &flat) : CVX_OK;
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
                                 bool goes_on)
{
    bool cache = r->job->request->first_block_cache > 0;
    bool same = s->steps == steps && cvx_snapshot_count(s) == cvx_numel(&r->latents) &&
                (!goes_on || (s->sets == cvx_sched_kept(r->job->sched.kind) + cache &&
                              (s->cached > 0) == cache));

    return same ? CVX_OK
                : cvx_fail(CVX_EFORMAT,
                           "checkpoint after step %lld of %lld: its tensors are not this job's",
                           (long long)s->step, (long long)s->steps);
}

/* The leader's snapshot to every rank: latents, generator and, where the loop goes on (d), what the solver keeps. */
static cvx_status take_snapshot(cvx_run *r, denoise *d, int64_t steps)
{
    bool keeps = d != NULL && d->kept.data != NULL;
    bool caches = d != NULL && d->full.data != NULL;
    unsigned char bytes[CVX_RNG_BYTES + sizeof(int64_t)] = {
        0}; /* the generator, the last full step */
    cvx_tensor small = CVX_VIEW(bytes, CVX_U8, sizeof bytes);
    cvx_status st = CVX_OK;

    if (cvx_run_leads(r)) {
        const cvx_snapshot *s = &r->resume->at;
        st = check_snapshot(r, s, steps, d != NULL);
        if (st == CVX_OK) {
            int64_t full_step = s->cached - 1;
            cvx_rng_save(&s->rng, bytes);
            memcpy(bytes + CVX_RNG_BYTES, &full_step, sizeof full_step);
            cvx_upload(r->p->ctx, &r->latents, s->latents);
        }
        if (st == CVX_OK && keeps) {
            cvx_upload(r->p->ctx, &d->kept, s->kept);
        }
        if (st == CVX_OK && caches) {
            cvx_upload(r->p->ctx, &d->full, s->kept + (s->sets - 1) * cvx_snapshot_count(s));
        }
    }
    CVX_RETURN_IF(cvx_run_share(r, st, &small));
    CVX_RETURN_IF(cvx_run_share(r, CVX_OK, &r->latents));
    if (keeps) {
        CVX_RETURN_IF(cvx_run_share(r, CVX_OK, &d->kept));
    }
    if (caches) {
        CVX_RETURN_IF(cvx_run_share(r, CVX_OK, &d->full));
        memcpy(&d->full_step, bytes + CVX_RNG_BYTES, sizeof d->full_step);
    }
    if (d != NULL && cvx_run_leads(r)) { /* the decoder may need the last latents once more */
        cvx_snapshot_free(&r->resume->at);
    }
    return cvx_rng_load(&r->rng, bytes);
}

/* What the cache held, made again from the latents of the last full step. */
static cvx_status refill_cache(cvx_run *r, denoise *d, const cvx_sched *sched)
{
    const cvx_tensor now = r->latents;
    float c[7];

    if (d->full.data == NULL) {
        return CVX_OK;
    }
    cvx_sched_coef(sched, d->full_step, c);
    d->windows = windows_at(r, c[0]);
    r->latents.data = d->full.data;
    cvx_status st = predict(r, d, (double)cvx_sched_timestep(sched, d->full_step));
    r->latents = now;
    return st;
}

/* Host copies of the loop's state after `done` steps. CVX_ENOMEM. The caller frees *out. */
static cvx_status make_snapshot(const cvx_run *r, const denoise *d, int64_t done, int64_t steps,
                                cvx_snapshot *out)
{
    const int64_t *dim = r->latents.dim;
    size_t bytes = (size_t)cvx_numel(&r->latents) * sizeof(float);
    int64_t of_solver = d->kept.data != NULL && done < steps ? d->kept.dim[0] : 0;
    bool caches = d->full.data != NULL && done < steps;
    int64_t sets = of_solver + caches;
    cvx_snapshot s = {.step = done,
                      .steps = steps,
                      .dim = {dim[0], dim[1], dim[2], dim[3]},
                      .latents = malloc(bytes),
                      .sets = sets,
                      .kept = sets > 0 ? malloc((size_t)sets * bytes) : NULL,
                      .cached = caches ? d->full_step + 1 : 0,
                      .rng = r->rng};

    if (s.latents == NULL || (sets > 0 && s.kept == NULL)) {
        cvx_snapshot_free(&s);
        return cvx_fail(CVX_ENOMEM, "no memory for a copy of the latents");
    }
    cvx_download(r->p->ctx, s.latents, &r->latents);
    if (of_solver > 0) {
        cvx_download(r->p->ctx, s.kept, &d->kept);
    }
    if (caches) {
        cvx_download(r->p->ctx, s.kept + of_solver * cvx_numel(&r->latents), &d->full);
    }
    *out = s;
    return CVX_OK;
}

/* Whether the run ends here, for the time being. */
static bool is_half(const cvx_run *r, int64_t done, int64_t steps)
{
    return r->resume != NULL && r->resume->trial && done == (steps + 1) / 2;
}

/* After a step: a checkpoint if one is due or the run stops; after the last, and that of a trial, the state stays in
 * memory too. */
static void keep(cvx_run *r, const denoise *d, int64_t done, int64_t steps, bool stop)
{
    cvx_snapshot s = {0};
    bool due, last = done == steps || is_half(r, done, steps);

    if (r->resume == NULL || !cvx_run_leads(r)) {
        return;
    }
    due = cvx_resume_due(r->resume, done, steps) || (stop && r->resume->dir[0] != 0);
    if (!due && !last) {
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
    if (last) {
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
    cvx_fault_at("step");
    CVX_RETURN_IF(denoise_step(r, d, sched, i));
    CVX_RETURN_IF(cvx_sync(r->p->ctx)); /* the step is done when its progress is told */
    return cvx_progress_step(&r->progress, i + 1);
}

void cvx_run_show_latents(const cvx_run *r, int64_t i)
{
    cvx_host_values v;
    cvx_tensor host = r->latents;

    if (r->hooks->latents == NULL || cvx_host_open(r->p->ctx, &v, &r->latents, true) != CVX_OK) {
        return; /* a fault of the device comes out at the next op */
    }
    host.data = v.data;
    r->hooks->latents(r->hooks->latents_payload, i, &host);
    cvx_host_close(r->p->ctx, &v, &r->latents, false);
}

/* All steps from r->start on. */
static cvx_status loop(cvx_run *r, denoise *d, const cvx_sched *sched)
{
    int64_t steps = cvx_sched_steps(sched);

    if (r->start > 0) {
        CVX_RETURN_IF(take_snapshot(r, d, steps));
        CVX_RETURN_IF(refill_cache(r, d, sched));
    }
    for (int64_t i = r->start; i < steps; i++) {
        bool stop = false;
        CVX_RETURN_IF(step_end(r, step_and_tell(r, d, sched, i), &stop));
        cvx_run_show_latents(r, i);
        keep(r, d, i + 1, steps, stop);
        if (stop) {
            return stopped(r, i + 1, steps);
        }
        bool half = is_half(r, i + 1, steps);
        if (half || cvx_run_preview_due(r, i + 1, steps)) {
            CVX_RETURN_IF(cvx_run_preview(r, &d->x0, i + 1));
        }
        if (half) {
            break;
        }
    }
    return CVX_OK;
}

/* How many frames the windows of step i lie on: what a step costs. */
static int64_t windowed(const cvx_run *r, const cvx_sched *sched, int64_t i)
{
    float c[7];
    cvx_sched_coef(sched, i, c);
    return windows_at(r, c[0]).frames;
}

/* The steps of a measured run: of those that cost the same one is walked. */
static cvx_status measure_steps(cvx_run *r, denoise *d, const cvx_sched *sched)
{
    int64_t steps = cvx_sched_steps(sched), next;

    for (int64_t i = 0; i < steps; i = next) {
        cvx_stage_cost one = {0};
        bool stop;
        for (next = i + 1; next < steps && windowed(r, sched, next) == windowed(r, sched, i);) {
            next++;
        }
        cvx_run_counters(r, &one, -1);
        CVX_RETURN_IF(step_end(r, denoise_step(r, d, sched, i), &stop));
        cvx_run_counters(r, &one, 1);
        extend(&r->cost[CVX_STAGE_DENOISE], &one, next - i - 1);
    }
    return CVX_OK;
}

/* The previews of a measured run: one is walked. */
static cvx_status measure_previews(cvx_run *r, const denoise *d, int64_t steps)
{
    int64_t n = cvx_run_previews(r, steps);
    cvx_stage_cost one = {0};

    if (n == 0) {
        return CVX_OK;
    }
    cvx_run_counters(r, &one, -1);
    CVX_RETURN_IF(cvx_run_preview(r, &d->x0, steps - 1));
    cvx_run_counters(r, &one, 1);
    extend(&r->cost[CVX_STAGE_DENOISE], &one, n - 1);
    return CVX_OK;
}

cvx_status cvx_run_denoise(cvx_run *r, const cvx_sched *sched)
{
    int64_t steps = cvx_sched_steps(sched);
    denoise d = {0};

    CVX_RETURN_IF(cvx_run_begin(r, CVX_STAGE_DENOISE, steps));
    cvx_status st = denoise_open(r, &d, sched);
    if (st == CVX_OK && !r->p->ctx->measure) {
        st = loop(r, &d, sched);
    } else if (st == CVX_OK) {
        st = measure_steps(r, &d, sched);
        st = st == CVX_OK ? measure_previews(r, &d, steps) : st;
    }
    free(d.dit);
    CVX_RETURN_IF(st);
    cvx_run_end(r, CVX_STAGE_DENOISE);
    cvx_run_done_with(r, CVX_PART_DIT);
    return CVX_OK;
}

cvx_status cvx_run_take_last(cvx_run *r, int64_t steps)
{
    return take_snapshot(r, NULL, steps);
}
