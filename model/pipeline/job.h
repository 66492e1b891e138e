/* A request made concrete against a checkpoint: every default filled in, every size checked. */
#ifndef CVX_MODEL_PIPELINE_JOB_H
#define CVX_MODEL_PIPELINE_JOB_H

#include "model/pipeline/checkpoint.h"
#include "model/pipeline/request.h"
#include "model/pipeline/windows.h"
#include "model/prompts.h"

#define CVX_NOTE_MAX 512
#define CVX_TITLE_MAX 2048

/* What is known of the clip of --video or --extend before the job: its frames, their size, their rate (0: none). */
typedef struct cvx_source {
    int64_t frames, w, h;
    double fps, shortest,
        longest; /* the last two: times between frames, where they are uneven; else 0 */
} cvx_source;

/* By reading the file or folder once; zeros where the request names none. Errors as cvx_media_reader_*. */
cvx_status cvx_source_look(cvx_source *out, const cvx_request *r) CVX_CHECK;

/* --extend: how the given clip and the frames that the model makes lie to each other. Zeros without. */
typedef struct cvx_extension {
    int64_t overlap; /* frames of the clip's end that are the model's first ones */
    int64_t
        latents; /* latent frames that are known for them; 0: they are the image of image-to-video */
    int64_t kept; /* frames of the clip that stand in the output before the new ones */
    int64_t skip; /* decoded frames that are not new */
} cvx_extension;

typedef struct cvx_job {
    const cvx_request *request; /* borrowed */
    int64_t num_frames, height, width;
    int64_t latent_frames; /* of the video asked for */
    int64_t
        padding; /* 1.5: frames put in front so that patch_size_t divides; dropped after the loop */
    int64_t latent_height, latent_width, text_len;
    int64_t decoded;    /* frames that the decoder gives: 4L - 3, for even L 4L */
    int64_t out_frames; /* of the output: these, unless a clip is extended */
    int64_t
        first_frame; /* number in the output of the model's first frame; below zero if it is not there */
    double fps;
    bool guided; /* classifier-free guidance: two batch items */
    cvx_dtype dtype;
    cvx_sched_config sched;
    cvx_prompts prompts; /* their frames are numbers in the output */
    cvx_source source;
    cvx_extension extension;
    cvx_windows windows;   /* of latent frames, padding included: one for all of them, or several */
    int64_t dilation;      /* of windows in the first steps, see cvx_windows_at */
    cvx_vae_tiling tiling; /* enabled or not */
    char title[CVX_TITLE_MAX]; /* the prompts, for the output's metadata */
    char note[CVX_NOTE_MAX];   /* a warning for the user, or "" */
} cvx_job;

/* Errors: CVX_EINVAL naming the value and the nearest that works. */
cvx_status cvx_job_resolve(cvx_job *out, const cvx_checkpoint *c, const cvx_request *r,
                           const cvx_source *source) CVX_CHECK;

/* The shape of the whole video's latents, and of what the transformer sees at a time: a window. */
cvx_dit_shape cvx_job_shape(const cvx_job *j);
cvx_dit_shape cvx_job_window_shape(const cvx_job *j);

#endif
