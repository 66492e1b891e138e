/* A request made concrete against a checkpoint: every default filled in, every size checked. */
#ifndef CVX_MODEL_PIPELINE_JOB_H
#define CVX_MODEL_PIPELINE_JOB_H

#include "model/pipeline/checkpoint.h"
#include "model/pipeline/request.h"
#include "model/pipeline/windows.h"
#include "model/prompts.h"

#define CVX_NOTE_MAX 512
#define CVX_TITLE_MAX 2048

typedef struct cvx_job {
    const cvx_request *request; /* borrowed */
    int64_t num_frames, height, width;
    int64_t latent_frames; /* of the video asked for */
    int64_t
        padding; /* 1.5: frames put in front so that patch_size_t divides; dropped after the loop */
    int64_t latent_height, latent_width, text_len;
    int64_t out_frames; /* frames that the decoder gives: 4L - 3, for even L 4L */
    double fps;
    bool guided; /* classifier-free guidance: two batch items */
    cvx_dtype dtype;
    cvx_sched_config sched;
    cvx_prompts prompts;
    cvx_windows windows;   /* of latent frames, padding included: one for all of them, or several */
    cvx_vae_tiling tiling; /* enabled or not */
    char title[CVX_TITLE_MAX]; /* the prompts, for the output's metadata */
    char note[CVX_NOTE_MAX];   /* a warning for the user, or "" */
} cvx_job;

/* Errors: CVX_EINVAL naming the value and the nearest that works. video_frames: frames of --video, 0
 * without. */
cvx_status cvx_job_resolve(cvx_job *out, const cvx_checkpoint *c, const cvx_request *r,
                           int64_t video_frames) CVX_CHECK;

/* The shape of the whole video's latents, and of what the transformer sees at a time: a window. */
cvx_dit_shape cvx_job_shape(const cvx_job *j);
cvx_dit_shape cvx_job_window_shape(const cvx_job *j);

#endif
