/* The first stage: the prompt through the text encoder, an image or a video through the VAE, the starting latents. */
#include <stdlib.h>
#include <string.h>

#include "kernels/memory.h"
#include "kernels/transfer.h"
#include "model/pipeline/inputs.h"
#include "model/pipeline/run.h"
#include "model/text/t5_tokenizer.h"

/* Bytes of text that a note shows: all, or at most CUT_SHOWN, in whole characters. */
#define CUT_SHOWN 160
static int shown(const char *text)
{
    size_t n = strlen(text);

    if (n <= CUT_SHOWN) {
        return (int)n;
    }
    for (n = CUT_SHOWN; n > 0 && ((unsigned char)text[n] & 0xc0) == 0x80;) {
        n--;
    }
    return (int)n;
}

/* One prompt into row `i` of the embeddings. */
static cvx_status encode_prompt(cvx_run *r, cvx_t5_tokenizer *tok, const char *text, int64_t i)
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
        int bytes = shown(t.cut);
        cvx_progress_note(&r->progress,
                          "the prompt is longer than %lld tokens; left out: \"%.*s%s\"",
                          (long long)n, bytes, t.cut, t.cut[bytes] != 0 ? "..." : "");
    }
    cvx_t5_tokens_clear(&t);
    if (st == CVX_OK) {
        st = cvx_t5_encode(r->p->parts[CVX_PART_T5].model.t5, &r->step, &row, ids, n, NULL, NULL);
    }
    free(ids);
    return st;
}

/* A prompt may ask for any of the tokenizer's ids, so the embedding must have them all. */
static cvx_status open_tokenizer(cvx_t5_tokenizer **out, const cvx_checkpoint *c)
{
    char dir[CVX_PATH_MAX];

    CVX_RETURN_IF(cvx_checkpoint_part(c, dir, "tokenizer"));
    CVX_RETURN_IF(cvx_t5_tokenizer_open(out, dir));
    int64_t ids = cvx_t5_tokenizer_size(*out);
    return ids <= c->t5.vocab_size
               ? CVX_OK
               : cvx_fail(CVX_EFORMAT,
                          "%s: %lld ids, more than the text encoder's vocab_size of %lld", dir,
                          (long long)ids, (long long)c->t5.vocab_size);
}

/* By the tensor ranks beside the leader, each with its shard of T5. */
static cvx_status encode_prompts(cvx_run *r)
{
    const cvx_request *q = r->job->request;
    cvx_t5_tokenizer *tok = NULL;
    cvx_status st = CVX_OK;
    int64_t i = 0;

    st = cvx_run_open(r->p, CVX_PART_T5);
    if (st == CVX_OK && !r->p->ctx->measure) {
        st = open_tokenizer(&tok, r->p->ckpt);
    }
    /* from here on the ranks that share T5 wait for each other */
    CVX_TRY(st, cvx_comm_agree(r->p->opt.mesh->dim[CVX_MESH_TENSOR], st), done);
    if (r->job->guided) {
        CVX_TRY(st, encode_prompt(r, tok, q->negative_prompt, i++), done);
        CVX_TRY(st, cvx_progress_step(&r->progress, i), done);
    }
    for (int k = 0; k < r->job->prompts.n; k++) {
        CVX_TRY(st, encode_prompt(r, tok, r->job->prompts.text[k], i++), done);
        CVX_TRY(st, cvx_progress_step(&r->progress, i), done);
    }
done:
    cvx_t5_tokenizer_close(tok);
    return st;
}

static cvx_status encode_text(cvx_run *r)
{
    int64_t texts = r->shape.batch - 1 + r->job->prompts.n;
    CVX_RETURN_IF(
        CVX_ALLOC(&r->arena, &r->embeds, CVX_F32, texts, r->job->text_len, r->p->ckpt->t5.d_model));
    const cvx_mesh *m =
        r->p->opt.mesh; /* tensor varies fastest: these ranks are the leader's group */
    bool encodes = m->replica->rank < m->degrees.n[CVX_MESH_TENSOR];
    return cvx_run_share(r, encodes ? encode_prompts(r) : CVX_OK, &r->embeds);
}

static cvx_status encode_moments(cvx_run *r, const cvx_tensor *pixels, const cvx_tensor *moments)
{
    CVX_RETURN_IF(cvx_comm_agree(r->p->opt.mesh->replica, cvx_run_open(r->p, CVX_PART_VAE)));
    return cvx_vae_encode(r->p->parts[CVX_PART_VAE].model.vae, &r->step, moments, pixels,
                          &r->job->tiling);
}

/* out [F, C, h, w] <- a sample of moments [2C, F, h, w] with noise [C, F, h, w], on the host. */
static cvx_status sample_posterior(cvx_run *r, const cvx_tensor *out, const cvx_tensor *moments,
                                   const cvx_tensor *noise, float scale)
{
    const cvx_tensor *t[3] = {out, moments, noise};
    cvx_host_values v[3] = {{0}};
    cvx_status st = CVX_OK;

    for (int i = 0; i < 3; i++) {
        CVX_TRY(st, cvx_host_open(r->p->ctx, &v[i], t[i], i > 0), done);
    }
    cvx_posterior_sample(v[0].data, v[1].data, v[2].data, out->dim[1], out->dim[0],
                         out->dim[2] * out->dim[3], scale);
done:
    for (int i = 0; i < 3; i++) {
        cvx_host_close(r->p->ctx, &v[i], t[i], i == 0 && st == CVX_OK);
    }
    return st;
}

/* Fills t on the host: by cvx_load_image, cvx_load_video or cvx_load_latents. */
typedef cvx_status (*filler)(const cvx_run *r, const cvx_tensor *t);
static cvx_status fill_from_file(cvx_run *r, const cvx_tensor *t, filler fn)
{
    cvx_host_values v;
    cvx_tensor host = *t;

    if (r->p->ctx->measure) {
        return CVX_OK;
    }
    CVX_RETURN_IF(cvx_host_open(r->p->ctx, &v, t, false));
    host.data = v.data;
    cvx_status st = fn(r, &host);
    cvx_host_close(r->p->ctx, &v, t, st == CVX_OK);
    return st;
}

/* The end of the clip that is extended. */
static cvx_status read_end(const cvx_run *r, const cvx_tensor *t)
{
    const cvx_job *j = r->job;
    int64_t n = j->extension.overlap;

    return cvx_load_video(j->request->extend, t->data, j->source.frames - n, n, j->height,
                          j->width);
}

static cvx_status read_image(const cvx_run *r, const cvx_tensor *t)
{
    if (r->job->request->extend != NULL) {
        return read_end(r, t);
    }
    return cvx_load_image(r->job->request->image, t->data, r->job->height, r->job->width);
}

static cvx_status read_video(const cvx_run *r, const cvx_tensor *t)
{
    return cvx_load_video(r->job->request->video, t->data, 0, r->job->num_frames, r->job->height,
                          r->job->width);
}

static cvx_status read_latents(const cvx_run *r, const cvx_tensor *t)
{
    return cvx_load_latents(r->job->request->latents, t);
}

/* Encodes pixels [T, 3, H, W] in -1..1: out [F, C, h, w] = scale·sample of the posterior, its noise drawn in torch's
 * order [C, F, h, w]; or, without `sampled`, scale·mean, and nothing is drawn. */
static cvx_status encode_pixels(cvx_run *r, const cvx_tensor *pixels, const cvx_tensor *out,
                                float scale, bool sampled)
{
    const cvx_tensor *o = out;
    int64_t f = o->dim[0], c = o->dim[1];
    size_t mark = cvx_arena_mark(&r->step);
    cvx_tensor moments, noise;

    CVX_RETURN_IF(CVX_ALLOC(&r->step, &moments, CVX_F32, 2 * c, f, o->dim[2], o->dim[3]));
    CVX_RETURN_IF(CVX_ALLOC(&r->step, &noise, CVX_F32, c, f, o->dim[2], o->dim[3]));
    CVX_RETURN_IF(cvx_run_share(r, encode_moments(r, pixels, &moments), &moments));
    if (sampled) {
        CVX_RETURN_IF(cvx_run_draw(r, &noise));
    } else {
        cvx_zero(r->p->ctx, &noise);
    }
    cvx_status st = r->p->ctx->measure ? CVX_OK : sample_posterior(r, out, &moments, &noise, scale);
    cvx_arena_release(&r->step, mark, false);
    return st;
}

/* Image-to-video: the first latent frame holds the image, the others zeros. */
static cvx_status encode_image(cvx_run *r)
{
    const cvx_vae_config *v = &r->p->ckpt->vae;
    cvx_tensor pixels, first;
    size_t mark = cvx_arena_mark(&r->step);
    float s = (float)v->scaling_factor;

    CVX_RETURN_IF(CVX_ALLOC(&r->arena, &r->image, CVX_F32, r->latents.dim[0], r->latents.dim[1],
                            r->latents.dim[2], r->latents.dim[3]));
    cvx_zero(r->p->ctx, &r->image);
    CVX_RETURN_IF(CVX_ALLOC(&r->step, &pixels, CVX_F32, 1, 3, r->job->height, r->job->width));
    CVX_RETURN_IF(cvx_comm_agree(r->p->opt.mesh->replica, fill_from_file(r, &pixels, read_image)));
    first = cvx_slice(&r->image, 0, 0, 1);
    CVX_RETURN_IF(encode_pixels(r, &pixels, &first, v->invert_scale_latents ? 1 / s : s, true));
    cvx_arena_release(&r->step, mark, false);
    return CVX_OK;
}

/* --extend: the latents of the clip's end. Their mean: nothing about them is to vary. */
static cvx_status encode_end(cvx_run *r)
{
    const cvx_extension *e = &r->job->extension;
    const int64_t *l = r->latents.dim;
    size_t mark = cvx_arena_mark(&r->step);
    cvx_tensor pixels;

    CVX_RETURN_IF(CVX_ALLOC(&r->arena, &r->known, CVX_F32, e->latents, l[1], l[2], l[3]));
    CVX_RETURN_IF(
        CVX_ALLOC(&r->step, &pixels, CVX_F32, e->overlap, 3, r->job->height, r->job->width));
    CVX_RETURN_IF(cvx_comm_agree(r->p->opt.mesh->replica, fill_from_file(r, &pixels, read_end)));
    CVX_RETURN_IF(
        encode_pixels(r, &pixels, &r->known, (float)r->p->ckpt->vae.scaling_factor, false));
    cvx_arena_release(&r->step, mark, false);
    return CVX_OK;
}

/* Video-to-video: latents = a·encoded + b·noise at the first timestep that is left. */
static cvx_status encode_video(cvx_run *r, const cvx_sched *sched)
{
    cvx_tensor pixels, noise;
    size_t mark = cvx_arena_mark(&r->step);
    float a, b;

    CVX_RETURN_IF(CVX_ALLOC(&r->step, &pixels, CVX_F32, r->job->num_frames, 3, r->job->height,
                            r->job->width));
    CVX_RETURN_IF(cvx_comm_agree(r->p->opt.mesh->replica, fill_from_file(r, &pixels, read_video)));
    CVX_RETURN_IF(
        encode_pixels(r, &pixels, &r->latents, (float)r->p->ckpt->vae.scaling_factor, true));
    CVX_RETURN_IF(CVX_ALLOC(&r->step, &noise, CVX_F32, cvx_numel(&r->latents)));
    CVX_RETURN_IF(cvx_run_draw(r, &noise));
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

cvx_status cvx_run_alloc_latents(cvx_run *r)
{
    const cvx_dit_shape *s = &r->shape;

    return CVX_ALLOC(&r->arena, &r->latents, CVX_F32, s->frames, r->p->ckpt->vae.latent_channels,
                     s->height, s->width);
}

/* FreeNoise, on the host: the noise comes from there anyway. */
static cvx_status reschedule(cvx_run *r)
{
    int64_t n = cvx_numel(&r->latents), frames = r->latents.dim[0];

    if (r->p->ctx->measure) {
        return CVX_OK;
    }
    float *noise = malloc((size_t)n * sizeof *noise);
    if (noise == NULL) {
        return cvx_fail(CVX_ENOMEM, "no memory for %lld values of noise", (long long)n);
    }
    cvx_download(r->p->ctx, noise, &r->latents);
    cvx_windows_reschedule(&r->job->windows, noise, n / frames, &r->rng);
    cvx_upload(r->p->ctx, &r->latents, noise);
    free(noise);
    return CVX_OK;
}

/* The starting latents, drawing from the generator in the pipelines' order: posterior, then noise. A resumed run
 * needs the image or the clip's end alone: its latents and generator come from the checkpoint. */
static cvx_status start_latents(cvx_run *r, const cvx_sched *sched)
{
    const cvx_request *q = r->job->request;

    CVX_RETURN_IF(cvx_run_alloc_latents(r));
    if (r->p->ckpt->image_to_video) {
        CVX_RETURN_IF(encode_image(r));
    } else if (q->extend != NULL) {
        CVX_RETURN_IF(encode_end(r));
    }
    if (r->start > 0) {
        return CVX_OK;
    }
    if (q->video != NULL) {
        return encode_video(r, sched);
    }
    if (q->latents != NULL) {
        return fill_from_file(r, &r->latents, read_latents);
    }
    CVX_RETURN_IF(cvx_run_draw(r, &r->latents));
    return q->free_noise ? reschedule(r) : CVX_OK;
}

cvx_status cvx_run_encode(cvx_run *r, const cvx_sched *sched)
{
    const cvx_request *q = r->job->request;
    bool pictures = q->image != NULL || q->video != NULL || q->extend != NULL;
    int64_t units = r->shape.batch - 1 + r->job->prompts.n + pictures;

    CVX_RETURN_IF(cvx_run_begin(r, CVX_STAGE_ENCODE, units));
    CVX_RETURN_IF(encode_text(r));
    cvx_run_done_with(r, CVX_PART_T5);
    CVX_RETURN_IF(start_latents(r, sched));
    cvx_run_end(r, CVX_STAGE_ENCODE);
    if (pictures) {
        cvx_run_done_with(r, CVX_PART_VAE);
    }
    return CVX_OK;
}
