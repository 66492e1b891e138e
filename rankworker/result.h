/* What a pool leaves of a finished job, and what it tells of it. */
#ifndef CVX_RANKWORKER_RESULT_H
#define CVX_RANKWORKER_RESULT_H

#include "base/json.h"
#include "base/status.h"
#include "proto/cvx.pb-c.h"

/* Makes thumbnail.png and spritesheet.png beside `video`, whose manifest is VIDEO.json, and fills in what the manifest says. Caller
 * frees with cvx_result_free. */
cvx_status cvx_result_make(Cvx__Result *out, const char *folder, const char *video,
                           const char *mesh, double seconds) CVX_CHECK;
/* Sets the frame scores from "scores" of a manifest; NULL or none is no error. */
cvx_status cvx_result_scores(Cvx__Result *out, const json_t *scores) CVX_CHECK;
void cvx_result_free(Cvx__Result *r);

#endif
