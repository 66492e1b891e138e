#include "model/pipeline/pipeline.h"

#include <stdlib.h>
#include <string.h>

#include "base/fault.h"
#include "base/stop.h"
#include "kernels/transfer.h"
#include "model/lora.h"
#include "model/pipeline/inputs.h"
#include "model/text/t5_tokenizer.h"

/* Room of the weights arenas: reserved, not used. Packed f32 weights of CogVideoX-5b are 22 GB. */
#define WEIGHTS_RESERVE ((size_t)1 << 38)

const char *const cvx_stage_names[CVX_STAGE_COUNT] = {"encode", "denoise", "decode"};

typedef enum part_id { PART_T5, PART_DIT, PART_VAE, PART_COUNT } part_id;

typedef struct part {
    cvx_weights *weights;
    cvx_arena arena;
    union {
        cvx_t5 *t5;
        cvx_dit *dit;
        cvx_vae *vae;
        void *any;
    } model;
} part;

struct cvx_pipeline {
    cvx_ctx *ctx;
    const cvx_checkpoint *ckpt;
    cvx_pipeline_options opt;
    part parts[PART_COUNT];
};

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

static void close_part(cvx_pipeline *p, part_id id)
{
    part *x = &p->parts[id];

    switch (id) {
    case PART_T5: cvx_t5_close(x->model.t5); break;
    case PART_DIT: cvx_dit_close(x->model.dit); break;
    case PART_VAE: cvx_vae_close(x->model.vae); break;
    case PART_COUNT: break;
    }
    cvx_arena_close(&x->arena);
    cvx_weights_close(x->weights);
    *x = (part){0};
}

void cvx_pipeline_close(cvx_pipeline *p)
{
    if (p == NULL) {
        return;
    }
    for (int i = 0; i < PART_COUNT; i++) {
        close_part(p, (part_id)i);
    }
    free(p);
}

static cvx_status merge_loras(cvx_pipeline *p, part *x)
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

static cvx_status open_part(cvx_pipeline *p, part_id id)
{
    static const char *const names[PART_COUNT] = {"text_encoder", "transformer", "vae"};
    part *x = &p->parts[id];
    char dir[CVX_PATH_MAX];
    cvx_status st = CVX_OK;

    if (x->model.any != NULL) {
        return CVX_OK;
    }
    CVX_RETURN_IF(cvx_checkpoint_part(p->ckpt, dir, names[id]));
    CVX_TRY(st, cvx_weights_open(&x->weights, dir), done);
    if (p->ctx->measure) {
        cvx_arena_open_measure(&x->arena, "weights");
    } else {
        CVX_TRY(st, cvx_arena_open(&x->arena, "weights", WEIGHTS_RESERVE), done);
    }
    cvx_load load = {.ctx = p->ctx,
                     .arena = &x->arena,
                     .weights = x->weights,
                     .pack = packs(p),
                     .mesh = p->opt.mesh};
    if (id == PART_T5) {
        load.pack = false; /* read once or twice a job: packing would cost more than it gives */
        CVX_TRY(st, cvx_t5_open(&x->model.t5, &load, &p->ckpt->t5), done);
    } else if (id == PART_DIT) {
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

/* Everything one run holds. */
typedef struct run {
    cvx_pipeline *p;
    const cvx_job *job;
    const cvx_pipeline_hooks *hooks;
    cvx_stage_cost *cost;
    cvx_progress progress;
    cvx_arena arena, step; /* job and step lifetimes */
    cvx_rng rng;
    cvx_dit_shape shape;
    cvx_tensor embeds;  /* [batch, text, d]: negative, positive */
    cvx_tensor latents; /* [F, C, h, w] */
    cvx_tensor image;   /* [F, C, h, w]: I2V condition; data NULL without */
    cvx_resume *resume; /* as hooks->resume, on every rank */
    int64_t start;      /* steps that were done before this run */
} run;

/* Adds sign times what the counters of work and exchange show now. */
static void add_counters(const run *r, cvx_stage_cost *c, int sign)
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

static cvx_status stage_begin(run *r, cvx_stage s, int64_t total)
{
    r->cost[s] = (cvx_stage_cost){0};
    add_counters(r, &r->cost[s], -1);
    r->step.peak = r->step.used;
    return cvx_progress_begin(&r->progress, cvx_stage_names[s], total);
}

static void stage_end(run *r, cvx_stage s)
{
    cvx_stage_cost *c = &r->cost[s];

    add_counters(r, c, 1);
    for (int i = 0; i < PART_COUNT; i++) {
        const part *x = &r->p->parts[i];
        c->weights += x->arena.used;
        c->mapped += x->weights != NULL ? (size_t)cvx_weights_in_place(x->weights) : 0;
    }
    c->job = r->arena.used;
    c->step = r->step.peak;
    c->seconds = cvx_progress_end(&r->progress);
    cvx_arena_release(&r->step, r->step.used, true);
    r->step.peak = r->step.used;
}

static void done_with(run *r, part_id id)
{
    if (r->p->opt.offload != CVX_OFFLOAD_NONE) {
        close_part(r->p, id);
    }
}

/* One prompt into row `i` of the embeddings. */
static cvx_status encode_prompt(run *r, cvx_t5_tokenizer *tok, const char *text, int64_t i)
{
    int64_t n = r->job->text_len;
    cvx_tensor row = cvx_slice(&r->embeds, 0, i, 1);
    cvx_t5_tokens t = {0};
    int32_t *ids = calloc((size_t)n, sizeof *ids);

    if (ids == NULL) {
        return cvx_fail(CVX_ENOMEM, "no memory for %lld tokens", (long long)n);
    }
    row = CVX_RESHAPE(&row, n, r->embeds.dim[2]);
    cvx_status st = tok == NULL ? CVX_OK : cvx_t5_tokenizer_encode(tok, text, n, ids, &t);
    if (st == CVX_OK && t.truncated) {
        cvx_progress_note(&r->progress, "the prompt is longer than %lld tokens; left out: \"%s\"",
                          (long long)n, t.cut);
    }
    cvx_t5_tokens_clear(&t);
    if (st == CVX_OK) {
        st = cvx_t5_encode(r->p->parts[PART_T5].model.t5, &r->step, &row, ids, n, NULL, NULL);
    }
    free(ids);
    return st;
}

/* Rank 0 of the replica does what its ranks need once. */
static bool leads(const run *r)
{
    return r->p->opt.mesh->replica->rank == 0;
}

/* The leader's tensor to everyone, unless the leader's work (st) failed: then everyone fails. */
static cvx_status share(run *r, cvx_status st, const cvx_tensor *t)
{
    cvx_comm *c = r->p->opt.mesh->replica;

    CVX_RETURN_IF(cvx_comm_agree(c, st));
    return cvx_comm_broadcast(c, t->data, cvx_numel(t) * (int64_t)cvx_dtype_size(t->dtype), 0);
}

/* By the tensor ranks beside the leader, each with its shard of T5. */
static cvx_status encode_prompts(run *r)
{
    const cvx_request *q = r->job->request;
    char dir[CVX_PATH_MAX];
    cvx_t5_tokenizer *tok = NULL;
    cvx_status st = CVX_OK;
    int64_t i = 0;

    st = open_part(r->p, PART_T5);
    if (st == CVX_OK && !r->p->ctx->measure) {
        st = cvx_checkpoint_part(r->p->ckpt, dir, "tokenizer");
        st = st == CVX_OK ? cvx_t5_tokenizer_open(&tok, dir) : st;
    }
    /* from here on the ranks that share T5 wait for each other */
    CVX_TRY(st, cvx_comm_agree(r->p->opt.mesh->dim[CVX_MESH_TENSOR], st), done);
    if (r->job->guided) {
        CVX_TRY(st, encode_prompt(r, tok, q->negative_prompt, i++), done);
        CVX_TRY(st, cvx_progress_step(&r->progress, i), done);
    }
    CVX_TRY(st, encode_prompt(r, tok, q->prompt, i++), done);
    CVX_TRY(st, cvx_progress_step(&r->progress, i), done);
done:
    cvx_t5_tokenizer_close(tok);
    return st;
}

static cvx_status encode_text(run *r)
{
    CVX_RETURN_IF(CVX_ALLOC(&r->arena, &r->embeds, CVX_F32, r->shape.batch, r->job->text_len,
                            r->p->ckpt->t5.d_model));
    const cvx_mesh *m =
        r->p->opt.mesh; /* tensor varies fastest: these ranks are the leader's group */
    bool encodes = m->replica->rank < m->degrees.n[CVX_MESH_TENSOR];
    return share(r, encodes ? encode_prompts(r) : CVX_OK, &r->embeds);
}

/* t <- torch.randn of t's shape in the job's dtype. */
static cvx_status draw(run *r, const cvx_tensor *t)
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

static cvx_status encode_moments(run *r, const cvx_tensor *pixels, const cvx_tensor *moments)
{
    CVX_RETURN_IF(cvx_comm_agree(r->p->opt.mesh->replica, open_part(r->p, PART_VAE)));
    return cvx_vae_encode(r->p->parts[PART_VAE].model.vae, &r->step, moments, pixels,
                          &r->job->tiling);
}

/* Encodes pixels [T, 3, H, W] in -1..1 and samples the posterior: out [F, C, h, w] = scale·sample.
 * The noise is drawn in torch's order [C, F, h, w]. */
static cvx_status encode_pixels(run *r, const cvx_tensor *pixels, const cvx_tensor *out,
                                float scale)
{
    const cvx_tensor *o = out;
    int64_t f = o->dim[0], c = o->dim[1], hw = o->dim[2] * o->dim[3];
    size_t mark = cvx_arena_mark(&r->step);
    cvx_tensor moments, noise;

    CVX_RETURN_IF(CVX_ALLOC(&r->step, &moments, CVX_F32, 2 * c, f, o->dim[2], o->dim[3]));
    CVX_RETURN_IF(CVX_ALLOC(&r->step, &noise, CVX_F32, c, f, o->dim[2], o->dim[3]));
    CVX_RETURN_IF(share(r, encode_moments(r, pixels, &moments), &moments));
    CVX_RETURN_IF(draw(r, &noise));
    if (!r->p->ctx->measure) {
        cvx_posterior_sample(out->data, moments.data, noise.data, c, f, hw, scale);
    }
    cvx_arena_release(&r->step, mark, false);
    return CVX_OK;
}

/* Image-to-video: the first latent frame holds the image, the others zeros. */
static cvx_status encode_image(run *r)
{
    const cvx_vae_config *v = &r->p->ckpt->vae;
    cvx_tensor pixels, first;
    size_t mark = cvx_arena_mark(&r->step);
    float s = (float)v->scaling_factor;

    CVX_RETURN_IF(CVX_ALLOC(&r->arena, &r->image, CVX_F32, r->latents.dim[0], r->latents.dim[1],
                            r->latents.dim[2], r->latents.dim[3]));
    cvx_zero(r->p->ctx, &r->image);
    CVX_RETURN_IF(CVX_ALLOC(&r->step, &pixels, CVX_F32, 1, 3, r->job->height, r->job->width));
    cvx_status st = r->p->ctx->measure ? CVX_OK
                                       : cvx_load_image(r->job->request->image, pixels.data,
                                                        r->job->height, r->job->width);
    CVX_RETURN_IF(cvx_comm_agree(r->p->opt.mesh->replica, st));
    first = cvx_slice(&r->image, 0, 0, 1);
    CVX_RETURN_IF(encode_pixels(r, &pixels, &first, v->invert_scale_latents ? 1 / s : s));
    cvx_arena_release(&r->step, mark, false);
    return CVX_OK;
}

/* Video-to-video: latents = a·encoded + b·noise at the first timestep that is left. */
static cvx_status encode_video(run *r, const cvx_sched *sched)
{
    cvx_tensor pixels, noise;
    size_t mark = cvx_arena_mark(&r->step);
    float a, b;

    CVX_RETURN_IF(CVX_ALLOC(&r->step, &pixels, CVX_F32, r->job->num_frames, 3, r->job->height,
                            r->job->width));
    cvx_status st = r->p->ctx->measure
                        ? CVX_OK
                        : cvx_load_video(r->job->request->video, pixels.data, r->job->num_frames,
                                         r->job->height, r->job->width);
    CVX_RETURN_IF(cvx_comm_agree(r->p->opt.mesh->replica, st));
    CVX_RETURN_IF(encode_pixels(r, &pixels, &r->latents, (float)r->p->ckpt->vae.scaling_factor));
    CVX_RETURN_IF(CVX_ALLOC(&r->step, &noise, CVX_F32, cvx_numel(&r->latents)));
    CVX_RETURN_IF(draw(r, &noise));
    cvx_sched_add_noise(sched, &a, &b);
    cvx_tensor flat = CVX_RESHAPE(&r->latents, cvx_numel(&r->latents));
    CVX_RETURN_IF(cvx_op_sched_step(r->p->ctx, &(cvx_sched_step_args){.prev = &flat,
                                                                      .sample = &flat,
                                                                      .cond = &flat,
                                                                      .noise = &noise,
                                                                      .c = {[2] = a, [6] = b}}));
    cvx_arena_release(&r->step, mark, false);
    return CVX_OK;
}

static cvx_status alloc_latents(run *r)
{
    const cvx_dit_shape *s = &r->shape;

    return CVX_ALLOC(&r->arena, &r->latents, CVX_F32, s->frames, r->p->ckpt->vae.latent_channels,
                     s->height, s->width);
}

/* The starting latents, drawing from the generator in the pipelines' order: posterior, then noise. A resumed run
 * needs the image alone: its latents and generator come from the checkpoint. */
static cvx_status start_latents(run *r, const cvx_sched *sched)
{
    const cvx_request *q = r->job->request;

    CVX_RETURN_IF(alloc_latents(r));
    if (q->image != NULL) {
        CVX_RETURN_IF(encode_image(r));
    }
    if (r->start > 0) {
        return CVX_OK;
    }
    if (q->video != NULL) {
        return encode_video(r, sched);
    }
    if (q->latents != NULL) {
        return r->p->ctx->measure ? CVX_OK : cvx_load_latents(q->latents, &r->latents);
    }
    return draw(r, &r->latents);
}

static cvx_status stage_encode(run *r, const cvx_sched *sched)
{
    const cvx_request *q = r->job->request;
    int64_t units = r->shape.batch + (q->image || q->video ? 1 : 0);

    CVX_RETURN_IF(stage_begin(r, CVX_STAGE_ENCODE, units));
    CVX_RETURN_IF(encode_text(r));
    done_with(r, PART_T5);
    CVX_RETURN_IF(start_latents(r, sched));
    stage_end(r, CVX_STAGE_ENCODE);
    if (q->image != NULL || q->video != NULL) {
        done_with(r, PART_VAE);
    }
    return CVX_OK;
}

/* The transformer's input: the latents, or with an image both side by side in each frame's channels. */
static void model_input(run *r, const cvx_tensor *in)
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

static cvx_status denoise_open(run *r, denoise *d)
{
    int64_t n = cvx_numel(&r->latents);
    const cvx_tensor *l = &r->latents;

    *d = (denoise){.in = r->latents};
    CVX_RETURN_IF(open_part(r->p, PART_DIT));
    CVX_RETURN_IF(cvx_dit_prepare(r->p->parts[PART_DIT].model.dit, &d->dit, &r->arena, &r->step,
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

static cvx_status denoise_step(run *r, denoise *d, const cvx_sched *sched, int64_t i)
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
    CVX_RETURN_IF(cvx_dit_forward(r->p->parts[PART_DIT].model.dit, &d->dit, &r->step, &d->out,
                                  &d->in, (double)cvx_sched_timestep(sched, i), NULL, NULL));
    for (int k = cvx_sched_draws(sched, i, d->has_old); k > 0; k--) {
        CVX_RETURN_IF(draw(r, &d->noise));
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
static cvx_status check_snapshot(const run *r, const cvx_snapshot *s, int64_t steps, bool old_x0)
{
    bool same = s->steps == steps && cvx_snapshot_count(s) == cvx_numel(&r->latents) &&
                (!old_x0 || s->old_x0 != NULL);

    return same ? CVX_OK
                : cvx_fail(CVX_EFORMAT,
                           "checkpoint after step %lld of %lld: its tensors are not this job's",
                           (long long)s->step, (long long)s->steps);
}

/* The leader's snapshot to every rank: latents, generator and, where the loop goes on, the previous x0. */
static cvx_status take_snapshot(run *r, denoise *d, int64_t steps)
{
    bool old_x0 = d != NULL && d->old_x0.data != NULL;
    unsigned char bytes[CVX_RNG_BYTES] = {0};
    cvx_tensor rng = CVX_VIEW(bytes, CVX_U8, CVX_RNG_BYTES);
    cvx_status st = CVX_OK;

    if (leads(r)) {
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
    CVX_RETURN_IF(share(r, st, &rng));
    CVX_RETURN_IF(share(r, CVX_OK, &r->latents));
    if (old_x0) {
        CVX_RETURN_IF(share(r, CVX_OK, &d->old_x0));
        d->has_old = true;
    }
    if (d != NULL && leads(r)) { /* the decoder may need the last latents once more */
        cvx_snapshot_free(&r->resume->at);
    }
    return cvx_rng_load(&r->rng, bytes);
}

/* Host copies of the loop's state after `done` steps. CVX_ENOMEM. The caller frees *out. */
static cvx_status make_snapshot(const run *r, const denoise *d, int64_t done, int64_t steps,
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
static void keep(run *r, const denoise *d, int64_t done, int64_t steps, bool stop)
{
    cvx_snapshot s = {0};
    bool due;

    if (r->resume == NULL || !leads(r)) {
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
static cvx_status step_end(run *r, cvx_status own, bool *stop)
{
    *stop = cvx_stop_asked();
    return cvx_comm_agree_wish(r->p->opt.mesh->replica, own, stop);
}

static cvx_status stopped(const run *r, int64_t done, int64_t steps)
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

static cvx_status step_and_tell(run *r, denoise *d, const cvx_sched *sched, int64_t i)
{
    if (!r->p->ctx->measure) {
        cvx_fault_at("step");
    }
    CVX_RETURN_IF(denoise_step(r, d, sched, i));
    return cvx_progress_step(&r->progress, i + 1);
}

static void show_latents(const run *r, int64_t i)
{
    if (r->hooks->latents != NULL && !r->p->ctx->measure) {
        r->hooks->latents(r->hooks->latents_payload, i, &r->latents);
    }
}

static cvx_status stage_denoise(run *r, const cvx_sched *sched)
{
    int64_t steps = cvx_sched_steps(sched), walk = r->p->ctx->measure ? 1 : steps;
    cvx_stage_cost all = {0}; /* of the steps that were walked */
    denoise d;

    CVX_RETURN_IF(stage_begin(r, CVX_STAGE_DENOISE, steps));
    CVX_RETURN_IF(denoise_open(r, &d));
    add_counters(r, &all, -1);
    if (r->start > 0) {
        CVX_RETURN_IF(take_snapshot(r, &d, steps));
    }
    for (int64_t i = r->start; i < walk; i++) {
        bool stop = false;
        CVX_RETURN_IF(step_end(r, step_and_tell(r, &d, sched, i), &stop));
        show_latents(r, i);
        if (!r->p->ctx->measure) {
            keep(r, &d, i + 1, steps, stop);
        }
        if (stop) {
            return stopped(r, i + 1, steps);
        }
    }
    add_counters(r, &all, 1);
    stage_end(r, CVX_STAGE_DENOISE);
    if (r->p->ctx->measure) {
        extend(&r->cost[CVX_STAGE_DENOISE], &all, steps - 1);
    }
    done_with(r, PART_DIT);
    return CVX_OK;
}

/* Frames of one decoded chunk on their way to the hook. */
static cvx_status on_frames(void *payload, const float *rgb, int64_t first, int64_t n)
{
    run *r = payload;

    if (r->hooks->frames != NULL) {
        CVX_RETURN_IF(r->hooks->frames(r->hooks->frames_payload, rgb, first, n, r->job->height,
                                       r->job->width));
    }
    return cvx_progress_step(&r->progress, first + n);
}

static cvx_status decode(run *r)
{
    int64_t f = r->shape.frames - r->job->padding, n = cvx_numel(&r->latents);
    cvx_tensor z;

    CVX_RETURN_IF(cvx_comm_agree(r->p->opt.mesh->replica, open_part(r->p, PART_VAE)));
    CVX_RETURN_IF(CVX_ALLOC(&r->step, &z, CVX_F32, r->latents.dim[0], r->latents.dim[1],
                            r->latents.dim[2], r->latents.dim[3]));
    /* decode_latents: 1 / scaling_factor in double, then one product in f32 */
    cvx_tensor flat = CVX_RESHAPE(&z, n), src = CVX_RESHAPE(&r->latents, n);
    float inv = (float)(1.0 / r->p->ckpt->vae.scaling_factor);
    CVX_RETURN_IF(cvx_op_sched_step(
        r->p->ctx,
        &(cvx_sched_step_args){.prev = &flat, .sample = &src, .cond = &src, .c = {[2] = inv}}));
    z = cvx_slice(&z, 0, r->job->padding, f);
    return cvx_vae_decode(r->p->parts[PART_VAE].model.vae, &r->step, &z, &r->job->tiling, on_frames,
                          r);
}

static cvx_status stage_decode(run *r)
{
    CVX_RETURN_IF(stage_begin(r, CVX_STAGE_DECODE, r->job->out_frames));
    CVX_RETURN_IF(cvx_comm_agree(r->p->opt.mesh->replica, decode(r)));
    stage_end(r, CVX_STAGE_DECODE);
    done_with(r, PART_VAE);
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
static cvx_status find_start(run *r)
{
    int first = leads(r) && r->resume != NULL ? -(int)r->resume->at.step : 0;

    CVX_RETURN_IF(cvx_comm_least(r->p->opt.mesh->replica, &first));
    r->start = -first;
    return CVX_OK;
}

/* Latents after the last step: by the loop, or where an earlier run has done them all, from its checkpoint. */
static cvx_status make_latents(run *r, const cvx_sched *sched)
{
    int64_t steps = cvx_sched_steps(sched);

    CVX_RETURN_IF(find_start(r));
    if (r->start < steps) {
        if (!r->p->ctx->measure) {
            cvx_fault_at("encode");
        }
        CVX_RETURN_IF(stage_encode(r, sched));
        return stage_denoise(r, sched);
    }
    CVX_RETURN_IF(alloc_latents(r));
    CVX_RETURN_IF(take_snapshot(r, NULL, steps));
    show_latents(r, steps - 1);
    return CVX_OK;
}

/* Each rank says whether it has the memory to decode, before one of them begins. */
static cvx_status admit_decode(run *r, const cvx_pipeline_hooks *hooks)
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
    run r = {.p = p,
             .job = job,
             .hooks = hooks,
             .cost = cost,
             .shape = cvx_job_shape(job),
             .resume = hooks->resume,
             .progress = {.payload = hooks->event_payload}};
    const cvx_pipeline_hooks none = {0};

    if (leads(&r)) {
        r.progress.fn = hooks->event;
    } else {
        r.hooks = &none;
    }
    memset(cost, 0, CVX_STAGE_COUNT * sizeof *cost);
    cvx_rng_seed(&r.rng, (uint64_t)job->request->seed + (uint64_t)video_index);
    CVX_TRY(st, open_sched(&sched, job), done);
    if (p->ctx->measure) {
        cvx_arena_open_measure(&r.arena, "job");
        cvx_arena_open_measure(&r.step, "step");
    } else {
        CVX_TRY(st, cvx_arena_open(&r.arena, "job", job_bytes), done);
        CVX_TRY(st, cvx_arena_open(&r.step, "step", step_bytes), done);
    }
    CVX_TRY(st, make_latents(&r, sched), done);
    CVX_TRY(st, admit_decode(&r, hooks), done);
    CVX_TRY(st, stage_decode(&r), done);
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
