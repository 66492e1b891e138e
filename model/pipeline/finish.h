/* The stages after the key frames within `cvx generate`: --interpolate and --upscale (model/stages). */
#ifndef CVX_MODEL_PIPELINE_FINISH_H
#define CVX_MODEL_PIPELINE_FINISH_H

#include "model/pipeline/job.h"
#include "model/pipeline/output.h"
#include "model/stages/stages.h"
#include "parallel/comm.h"

/* Whether the request asks for one of them. */
bool cvx_finish_wanted(const cvx_request *r);

/* What they make of frames of w x h at this rate, and need. CVX_EINVAL also for an output of tensors. */
cvx_status cvx_finish_measure(cvx_stages_plan *out, const cvx_ctx *ctx, const cvx_request *r,
                              int64_t w, int64_t h, double fps) CVX_CHECK;

/* The folders of their models ("" where a stage is not asked for), each [CVX_PATH_MAX]. */
cvx_status cvx_finish_models(const cvx_request *r, char *rife, char *esrgan) CVX_CHECK;

/* Rank 0's frames `o` (NULL elsewhere) through the stages into `path`. Collective over comm. *frames: how many were
 * written (rank 0). They compute in f32 on the CPU whatever ctx does. */
cvx_status cvx_finish_run(const cvx_ctx *ctx, const cvx_job *job, const cvx_output *o,
                          const char *path, cvx_comm *comm, cvx_progress *progress,
                          int64_t *frames) CVX_CHECK;

#endif
