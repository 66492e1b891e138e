/* `cvx generate` as a function: request in, files out. */
#ifndef CVX_MODEL_PIPELINE_GENERATE_H
#define CVX_MODEL_PIPELINE_GENERATE_H

#include "model/pipeline/plan.h"

/* Collective over the mesh: its data groups share the videos of the request (video k goes to group k modulo their
 * number), the ranks of a group share each video; rank 0 of a group writes. Runs the request: plan, admission, generation, scores, output and manifest for each video. On failure
 * nothing half-written stays. `report` (may be NULL) gets one line per finished video. */
cvx_status cvx_generate(const cvx_request *r, const cvx_mesh *mesh, cvx_event_fn event,
                        void *payload, FILE *report) CVX_CHECK;

/* Opens the context a request asks for. Caller closes. */
cvx_status cvx_request_ctx(cvx_ctx **out, const cvx_request *r) CVX_CHECK;

#endif
