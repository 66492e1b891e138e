/* A look at the video amid the denoising loop: the VAE's picture of what the present step takes for the noiseless
 * latents. */
#include <stdlib.h>

#include "kernels/memory.h"
#include "kernels/transfer.h"
#include "model/pipeline/run.h"

/* Latents are averaged down to at most so many in height and width: a preview costs the same at any resolution. */
#define LARGEST 48

bool cvx_run_preview_due(const cvx_run *r, int64_t done, int64_t steps)
{
    int64_t n = cvx_request_previews(r->job->request);

    return done < steps && done * n / steps > (done - 1) * n / steps;
}

int64_t cvx_run_previews(const cvx_run *r, int64_t steps)
{
    int64_t n = 0;

    for (int64_t done = 1; done < steps; done++) {
        n += cvx_run_preview_due(r, done, steps);
    }
    return n + (r->job->request->early_stop > 0);
}

/* What is decoded: the first latent frame; where that is the image the job began with, the first chunk, of which
 * the last frame is shown; where a clip is extended, likewise its last known latent frame and two new ones. */
static cvx_tensor shown_frames(const cvx_run *r, const cvx_tensor *video)
{
    int64_t known = r->job->extension.latents, from = r->job->padding + (known > 0 ? known - 1 : 0);
    int64_t there = r->shape.frames - from, chunk = r->image.data != NULL || known > 0 ? 3 : 1;

    return cvx_slice(video, 0, from, chunk < there ? chunk : there);
}

/* z [n, c, h, w] <- means of k x k values of x0's frames, divided by the scaling factor. */
static cvx_status pool(cvx_run *r, const cvx_tensor *z, const cvx_tensor *x0, int64_t k)
{
    const int64_t planes = z->dim[0] * z->dim[1], h = z->dim[2], w = z->dim[3];
    const int64_t stride = x0->dim[3], plane = x0->dim[2] * stride;
    const float by = (float)(1.0 / (r->p->ckpt->vae.scaling_factor * (double)(k * k)));

    if (r->p->ctx->measure) {
        return CVX_OK;
    }
    float *from = malloc((size_t)(planes * plane) * sizeof *from);
    float *to = malloc((size_t)(planes * h * w) * sizeof *to);
    if (from == NULL || to == NULL) {
        free(from);
        free(to);
        return cvx_fail(CVX_ENOMEM, "no memory for a preview");
    }
    cvx_download(r->p->ctx, from, x0);
    for (int64_t i = 0; i < planes * h * w; i++) {
        const float *cell = from + i / (h * w) * plane + i / w % h * k * stride + i % w * k;
        float sum = 0;
        for (int64_t j = 0; j < k * k; j++) {
            sum += cell[j / k * stride + j % k];
        }
        to[i] = sum * by;
    }
    cvx_upload(r->p->ctx, z, to);
    free(from);
    free(to);
    return CVX_OK;
}

/* Where the shown frame goes: to the hook, of the leader. */
typedef struct view {
    const cvx_run *r;
    int64_t done, frames, h, w;
} view;

static cvx_status on_frames(void *payload, const float *rgb, int64_t first, int64_t n)
{
    const view *v = payload;
    const cvx_pipeline_hooks *hooks = v->r->hooks;

    if (hooks->preview == NULL || first + n < v->frames) {
        return CVX_OK;
    }
    return hooks->preview(hooks->preview_payload, v->done, rgb + (n - 1) * 3 * v->h * v->w, v->h,
                          v->w);
}

static cvx_status decode(cvx_run *r, const cvx_tensor *x0, int64_t done)
{
    const cvx_vae_config *cfg = &r->p->ckpt->vae;
    const int64_t *d = r->latents.dim;
    int64_t longer = d[2] > d[3] ? d[2] : d[3], k = (longer + LARGEST - 1) / LARGEST;
    cvx_tensor video = CVX_RESHAPE(x0, d[0], d[1], d[2], d[3]), z;
    cvx_tensor shown = shown_frames(r, &video);
    int64_t n = shown.dim[0];
    view v = {.r = r,
              .done = done,
              .frames = cvx_vae_video_frames(cfg, n),
              .h = d[2] / k * cvx_vae_spatial(cfg),
              .w = d[3] / k * cvx_vae_spatial(cfg)};

    CVX_RETURN_IF(CVX_ALLOC(&r->step, &z, CVX_F32, n, d[1], d[2] / k, d[3] / k));
    CVX_RETURN_IF(pool(r, &z, &shown, k));
    return cvx_vae_decode(r->p->parts[CVX_PART_VAE].model.vae, &r->step, &z, NULL, on_frames, &v);
}

cvx_status cvx_run_preview(cvx_run *r, const cvx_tensor *x0, int64_t done)
{
    cvx_comm *replica = r->p->opt.mesh->replica;
    size_t mark = cvx_arena_mark(&r->step);

    CVX_RETURN_IF(cvx_comm_agree(replica, cvx_run_open(r->p, CVX_PART_VAE)));
    cvx_status st = cvx_comm_agree(replica, decode(r, x0, done));
    cvx_arena_release(&r->step, mark, false);
    return st;
}
