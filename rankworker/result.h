/* What a pool leaves of a finished job, and what it tells of it. */
#ifndef CVX_RANKWORKER_RESULT_H
#define CVX_RANKWORKER_RESULT_H

#include "base/opts.h"
#include "base/progress.h"
#include "kernels/ops.h"
#include "proto/cvx.pb-c.h"

/* Makes thumbnail.png and spritesheet.png in `folder`, and fills in what the video says of itself. Caller frees with
 * cvx_result_free, also on failure. */
cvx_status cvx_result_make(Cvx__Result *out, const char *folder, const char *video,
                           const char *mesh, double seconds) CVX_CHECK;
/* Scores the frames of the delivered file against the prompt, or those of a timeline, as `cvx score` does. clip: the model's
 * folder. times: frames of the file for each that the timeline counts (0: 1). progress: its stage "score" is told. */
cvx_status cvx_result_score(Cvx__Result *out, cvx_ctx *ctx, const char *clip,
                            const cvx_opt_list *prompt, int64_t times, const char *video,
                            cvx_progress *progress) CVX_CHECK;
void cvx_result_free(Cvx__Result *r);

#endif
