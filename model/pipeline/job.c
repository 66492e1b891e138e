#include "model/pipeline/job.h"

#include <stdio.h>
#include <string.h>

#include "model/pipeline/extend.h"

/* CogVideoX-1.5's config allows 300 x 300 latents, which no training used: its own size is this. */
#define V15_HEIGHT 768
#define V15_WIDTH 1360

static void default_size(cvx_job *j, const cvx_checkpoint *c)
{
    int64_t unit = c->spatial * c->dit.patch_size;
    int64_t h = c->dit.sample_height * c->spatial / unit * unit;
    int64_t w = c->dit.sample_width * c->spatial / unit * unit;

    if (c->dit.patch_size_t > 0 && h > V15_HEIGHT && w > V15_WIDTH) {
        h = V15_HEIGHT;
        w = V15_WIDTH;
    }
    if (j->height == 0) {
        j->height = h;
    }
    if (j->width == 0) {
        j->width = w;
    }
}

/* Frames of the job, and the notes on counts that run but were not trained for. */
static cvx_status resolve_frames(cvx_job *j, const cvx_checkpoint *c, const cvx_request *r,
                                 const cvx_source *source)
{
    int64_t video_frames = r->video != NULL ? source->frames : 0;
    int64_t pt = c->dit.patch_size_t, unit = c->temporal * 2 * (pt > 0 ? pt : 1);

    j->num_frames = r->num_frames > 0  ? r->num_frames
                    : video_frames > 0 ? video_frames
                                       : c->dit.sample_frames;
    if (video_frames > 0 && j->num_frames > video_frames) {
        return cvx_fail(CVX_EINVAL, "num_frames %lld: %s has only %lld frames",
                        (long long)j->num_frames, r->video, (long long)video_frames);
    }
    bool whole_video = video_frames > 0 && r->num_frames == 0;
    /* of a video any count, as diffusers takes it */
    if ((j->num_frames - 1) % c->temporal != 0 && video_frames == 0) {
        int64_t below = (j->num_frames - 1) / c->temporal * c->temporal + 1;
        return cvx_fail(CVX_EINVAL,
                        "num_frames %lld: must be 4k + 1; the nearest are %lld and %lld",
                        (long long)j->num_frames, (long long)below,
                        (long long)(below + c->temporal));
    }
    j->latent_frames = (j->num_frames - 1) / c->temporal + 1;
    j->padding = pt > 0 ? (pt - j->latent_frames % pt) % pt : 0;
    if (r->video != NULL && j->padding > 0) {
        int64_t fit = j->latent_frames / pt * pt * c->temporal;
        if (!whole_video || fit == 0) {
            char below[32] = "";
            if (fit > 0) {
                snprintf(below, sizeof below, "%lld and ", (long long)(fit - c->temporal + 1));
            }
            return cvx_fail(CVX_EINVAL,
                            "num_frames %lld: video-to-video on this checkpoint needs latent "
                            "frames in groups of %lld; the nearest: %s%lld",
                            (long long)j->num_frames, (long long)pt, below,
                            (long long)(fit + c->temporal + 1));
        }
        snprintf(j->note, sizeof j->note,
                 "%s has %lld frames: the first %lld are used (this checkpoint "
                 "takes latent frames in groups of %lld)",
                 r->video, (long long)video_frames, (long long)fit, (long long)pt);
        j->num_frames = fit;
        j->latent_frames = fit / c->temporal;
        j->padding = 0;
    }
    j->decoded = j->out_frames = cvx_vae_video_frames(&c->vae, j->latent_frames);
    if ((j->num_frames - 1) % unit != 0 && j->note[0] == 0) {
        int64_t low = (j->num_frames - 1) / unit * unit + 1;
        snprintf(j->note, sizeof j->note,
                 "num_frames %lld: the model was trained for %lldk + 1 frames "
                 "(nearest %lld and %lld)%s",
                 (long long)j->num_frames, (long long)unit, (long long)low, (long long)(low + unit),
                 j->decoded != j->num_frames ? "; its decoder gives more frames than asked" : "");
    }
    return CVX_OK;
}

/* The windows of a long video, in latent frames that patch_size_t divides. */
static cvx_status resolve_windows(cvx_job *j, const cvx_checkpoint *c, const cvx_request *r)
{
    int64_t unit = c->dit.patch_size_t > 0 ? c->dit.patch_size_t : 1, t = c->temporal;
    int64_t frames = j->latent_frames + j->padding, length = frames, stride = frames;

    if (r->window_frames > 0) {
        length = ((r->window_frames - 1) / t + 1 + unit - 1) / unit * unit;
        stride =
            r->window_stride > 0 ? r->window_stride / t / unit * unit : length / 2 / unit * unit;
        stride = stride > 0 ? stride : unit;
        if (stride > length) {
            return cvx_fail(
                CVX_EINVAL,
                "--window-stride %lld: windows of %lld frames would leave gaps; at most %lld",
                (long long)r->window_stride, (long long)r->window_frames, (long long)(length * t));
        }
        if (c->image_to_video && length < frames) {
            return cvx_fail(
                CVX_EINVAL,
                "--window-frames on an image-to-video checkpoint: only the first window would hold "
                "the image; make the clip in parts, each continuing the one before by --extend");
        }
    }
    j->windows = cvx_windows_make(frames, length, stride);
    if (j->num_frames > c->dit.sample_frames && r->window_frames == 0 && j->note[0] == 0) {
        snprintf(
            j->note, sizeof j->note,
            "num_frames %lld: the model was trained for %lld; --window-frames %lld keeps to that",
            (long long)j->num_frames, (long long)c->dit.sample_frames,
            (long long)c->dit.sample_frames);
    }
    return CVX_OK;
}

/* What becomes of a clip that is not as the job wants it. */
static void note_source(cvx_job *j, const cvx_request *r)
{
    const cvx_source *s = &j->source;
    size_t used = strlen(j->note);

    if (r->extend != NULL && (s->w != j->width || s->h != j->height)) {
        snprintf(j->note + used, sizeof j->note - used,
                 "%s%s is %lldx%lld; its frames become %lldx%lld", used > 0 ? "; " : "", r->extend,
                 (long long)s->w, (long long)s->h, (long long)j->width, (long long)j->height);
        used = strlen(j->note);
    }
    if (s->longest > 0) {
        snprintf(j->note + used, sizeof j->note - used,
                 "%s%s: its frames last %.3g to %.3g s; all of them get the same time",
                 used > 0 ? "; " : "", r->extend != NULL ? r->extend : r->video, s->shortest,
                 s->longest);
    }
}

static cvx_status resolve_mode(const cvx_checkpoint *c, const cvx_request *r)
{
    if (c->image_to_video && r->image == NULL && r->extend == NULL) {
        return cvx_fail(CVX_EINVAL,
                        "%s is an image-to-video checkpoint: --image is needed (or --extend)",
                        c->dir);
    }
    if (!c->image_to_video && r->image != NULL) {
        return cvx_fail(CVX_EINVAL,
                        "--image: %s is a text-to-video checkpoint; an image-to-video one "
                        "has twice the in_channels",
                        c->dir);
    }
    if (c->image_to_video && r->video != NULL) {
        return cvx_fail(CVX_EINVAL,
                        "--video: %s is an image-to-video checkpoint; a text-to-video one is "
                        "needed",
                        c->dir);
    }
    return CVX_OK;
}

cvx_status cvx_job_resolve(cvx_job *out, const cvx_checkpoint *c, const cvx_request *r,
                           const cvx_source *source)
{
    cvx_job j = {
        .request = r, .height = r->height, .width = r->width, .sched = c->sched, .source = *source};

    CVX_RETURN_IF(resolve_mode(c, r));
    default_size(&j, c);
    CVX_RETURN_IF(resolve_frames(&j, c, r, source));
    CVX_RETURN_IF(resolve_windows(&j, c, r));
    if (r->first_block_cache > 0 && j.windows.n > 1) {
        return cvx_fail(
            CVX_EINVAL,
            "--first-block-cache is for videos that the model sees whole, not in the %lld windows of "
            "--window-frames %lld",
            (long long)j.windows.n, (long long)r->window_frames);
    }
    CVX_RETURN_IF(cvx_extend_resolve(&j, c));
    note_source(&j, r);
    j.prompts = (cvx_prompts){.n = 1, .text = {""}}; /* a batch's defaults may have none */
    if (r->prompt.n > 0) {
        CVX_RETURN_IF(cvx_prompts_parse(&j.prompts, &r->prompt));
    }
    /* prompts that take turns have their places in time: no window may reach over several of them */
    j.dilation = j.prompts.n > 1          ? 1
                 : r->window_dilation > 0 ? r->window_dilation
                                          : CVX_WINDOW_DILATION;
    cvx_prompts_title(&r->prompt, j.title, sizeof j.title);
    j.latent_height = j.height / c->spatial;
    j.latent_width = j.width / c->spatial;
    j.text_len = r->max_sequence_length > 0 ? r->max_sequence_length : c->dit.max_text_seq_length;
    j.fps = r->fps > 0                             ? r->fps
            : r->extend != NULL && source->fps > 0 ? source->fps /* its frames keep their pace */
            : c->dit.patch_size_t > 0              ? 16
                                                   : 8;
    j.guided = r->guidance_scale > 1;
    j.dtype = strcmp(r->dtype, "bf16") == 0 ? CVX_BF16 : CVX_F32;
    if (r->scheduler != NULL) {
        j.sched.kind = cvx_sched_find(r->scheduler);
    }
    j.tiling = (cvx_vae_tiling){.enabled = r->enable_tiling,
                                .sample_min_height = r->tile_sample_min_height,
                                .sample_min_width = r->tile_sample_min_width,
                                .overlap_factor_height = r->tile_overlap_factor_height,
                                .overlap_factor_width = r->tile_overlap_factor_width};
    cvx_dit_shape shape = cvx_job_window_shape(&j);
    CVX_RETURN_IF(cvx_dit_check(&c->dit, &shape, c->spatial));
    if (j.tiling.enabled) {
        CVX_RETURN_IF(cvx_vae_check_tiling(&c->vae, &j.tiling, j.height, j.width));
    }
    *out = j;
    return CVX_OK;
}

cvx_dit_shape cvx_job_shape(const cvx_job *j)
{
    return (cvx_dit_shape){.batch = j->guided ? 2 : 1,
                           .frames = j->latent_frames + j->padding,
                           .height = j->latent_height,
                           .width = j->latent_width,
                           .text_len = j->text_len};
}

cvx_dit_shape cvx_job_window_shape(const cvx_job *j)
{
    cvx_dit_shape s = cvx_job_shape(j);

    s.frames = j->windows.length;
    return s;
}
