/* The options of `cvx interpolate` and `cvx upscale`, shared with `cvx-rank interpolate|upscale`. */
#ifndef CVX_MODEL_STAGES_COMMAND_H
#define CVX_MODEL_STAGES_COMMAND_H

#include "base/opts.h"
#include "model/stages/stream.h"

typedef struct cvx_stages_request {
    const char *model, *factor, *upscale_model, *backend, *isa;
    double fps, scale;
    int64_t tile, overlap, threads;
    bool quiet, json;
} cvx_stages_request;

#define CVX_STAGES_REQUEST_INIT                                                                    \
    {                                                                                              \
        .backend = "auto", .isa = "auto"                                                           \
    }

extern const cvx_opt cvx_interpolate_opts[], cvx_upscale_opts[];
extern const char cvx_interpolate_details[], cvx_upscale_details[];

/* Does it. events, report: where progress and the result's line go (rank 0). Collective over comm. */
cvx_status cvx_stages_command(const cvx_stages_request *r, bool interpolate, const char *in,
                              const char *out, cvx_comm *comm, FILE *events,
                              FILE *report) CVX_CHECK;

#endif
