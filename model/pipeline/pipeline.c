#include "model/pipeline/pipeline.h"

#include <stdlib.h>
#include <string.h>

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
    bool noisy;         /* latents already hold the start (V2V, --latents) */
} run;

static cvx_status stage_begin(run *r, cvx_stage s, int64_t total)
{
    cvx_stage_cost *c = &r->cost[s];

    *c = (cvx_stage_cost){0};
    for (int i = 0; i < CVX_OP_COUNT; i++) {
        c->flops[i] = -r->p->ctx->stat[i].flops;
    }
    r->step.peak = r->step.used;
    return cvx_progress_begin(&r->progress, cvx_stage_names[s], total);
}

static void stage_end(run *r, cvx_stage s)
{
    cvx_stage_cost *c = &r->cost[s];

    for (int i = 0; i < CVX_OP_COUNT; i++) {
        c->flops[i] += r->p->ctx->stat[i].flops;
    }
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
    CVX_RETURN_IF(open_part(r->p, PART_VAE));
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
    CVX_RETURN_IF(share(r, leads(r) ? encode_moments(r, pixels, &moments) : CVX_OK, &moments));
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
    if (!r->p->ctx->measure) {
        CVX_RETURN_IF(
            cvx_load_image(r->job->request->image, pixels.data, r->job->height, r->job->width));
    }
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
    if (!r->p->ctx->measure) {
        CVX_RETURN_IF(cvx_load_video(r->job->request->video, pixels.data, r->job->num_frames,
                                     r->job->height, r->job->width));
    }
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

/* The starting latents, drawing from the generator in the pipelines' order: posterior, then noise. */
static cvx_status start_latents(run *r, const cvx_sched *sched)
{
    const cvx_request *q = r->job->request;
    const cvx_dit_shape *s = &r->shape;

    CVX_RETURN_IF(CVX_ALLOC(&r->arena, &r->latents, CVX_F32, s->frames,
                            r->p->ckpt->vae.latent_channels, s->height, s->width));
    if (q->image != NULL) {
        CVX_RETURN_IF(encode_image(r));
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

static cvx_status stage_denoise(run *r, const cvx_sched *sched)
{
    int64_t steps = cvx_sched_steps(sched), walk = r->p->ctx->measure ? 1 : steps;
    denoise d;

    CVX_RETURN_IF(stage_begin(r, CVX_STAGE_DENOISE, steps));
    CVX_RETURN_IF(denoise_open(r, &d));
    for (int64_t i = 0; i < walk; i++) {
        /* the step boundary: a rank that failed takes the others with it, none waits for it */
        CVX_RETURN_IF(cvx_comm_agree(r->p->opt.mesh->replica, denoise_step(r, &d, sched, i)));
        if (r->hooks->latents != NULL && !r->p->ctx->measure) {
            r->hooks->latents(r->hooks->latents_payload, i, &r->latents);
        }
        CVX_RETURN_IF(cvx_progress_step(&r->progress, i + 1));
    }
    stage_end(r, CVX_STAGE_DENOISE);
    for (int i = 0; r->p->ctx->measure && i < CVX_OP_COUNT; i++) {
        r->cost[CVX_STAGE_DENOISE].flops[i] *= (double)steps;
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

    CVX_RETURN_IF(open_part(r->p, PART_VAE));
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
    CVX_RETURN_IF(cvx_comm_agree(r->p->opt.mesh->replica, leads(r) ? decode(r) : CVX_OK));
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
             .progress = {.payload = hooks->event_payload}};
    const cvx_pipeline_hooks none = {0};

    if (leads(&r)) {
        r.progress.fn = hooks->event;
    } else {
        r.hooks = &none;
    }
    cvx_rng_seed(&r.rng, (uint64_t)job->request->seed + (uint64_t)video_index);
    CVX_TRY(st, open_sched(&sched, job), done);
    if (p->ctx->measure) {
        cvx_arena_open_measure(&r.arena, "job");
        cvx_arena_open_measure(&r.step, "step");
    } else {
        CVX_TRY(st, cvx_arena_open(&r.arena, "job", job_bytes), done);
        CVX_TRY(st, cvx_arena_open(&r.step, "step", step_bytes), done);
    }
    CVX_TRY(st, stage_encode(&r, sched), done);
    CVX_TRY(st, stage_denoise(&r, sched), done);
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
    const cvx_pipeline_hooks none = {0};

    measuring.measure = true;
    memset(measuring.stat, 0, sizeof measuring.stat);
    CVX_RETURN_IF(cvx_pipeline_open(&p, &measuring, ckpt, opt));
    cvx_mesh_set_measure(opt->mesh, true);
    cvx_status st = cvx_pipeline_run(p, job, 0, &none, 0, 0, cost);
    cvx_mesh_set_measure(opt->mesh, false);
    cvx_pipeline_close(p);
    return st;
}
