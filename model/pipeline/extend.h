/* --extend: a clip goes on where it ends. Its last frames go through the VAE, and their latents are the model's first
 * ones: in every step the transformer's output for them is replaced by the one that leads to them, as Lugmayr et al.
 * 2022 (RePaint, arXiv 2201.09865) keep the known part of a picture, here along time and for any solver. On an
 * image-to-video checkpoint the last frame is the image instead. */
#ifndef CVX_MODEL_PIPELINE_EXTEND_H
#define CVX_MODEL_PIPELINE_EXTEND_H

#include "model/pipeline/job.h"
#include "model/pipeline/output.h"

/* Fills j->extension, and what of the job follows from it (out_frames, first_frame, a note), where the request has
 * --extend; frames and windows of j are there. CVX_EINVAL naming the count and what is possible. */
cvx_status cvx_extend_resolve(cvx_job *j, const cvx_checkpoint *c) CVX_CHECK;

/* The given clip's frames to the beginning of o, resized to the job's size. Nothing without --extend. */
cvx_status cvx_extend_fill(cvx_output *o, const cvx_job *j) CVX_CHECK;

/* cvx_output_frames for the decoder's frames of the job: those that are not new are passed over. */
cvx_status cvx_extend_frames(cvx_output *o, const cvx_job *j, const float *rgb, int64_t first,
                             int64_t n, int64_t h, int64_t w) CVX_CHECK;

#endif
