/* What a job will need, before it runs: memory by stage from a measured walk, time from measured rates. */
#ifndef CVX_MODEL_PIPELINE_PLAN_H
#define CVX_MODEL_PIPELINE_PLAN_H

#include "model/pipeline/pipeline.h"

typedef struct cvx_plan {
    cvx_pipeline_options options; /* offload as asked, pack as decided */
    cvx_stage_cost stage[CVX_STAGE_COUNT];
    size_t job_bytes, step_bytes; /* arenas for cvx_pipeline_run */
    size_t output_bytes;          /* decoded frames kept for scoring and writing */
    size_t base_bytes;            /* the process itself: code, libraries, encoder */
    size_t peak_bytes;            /* highest resident size, files read in place included */
    size_t needed_bytes;          /* the same without them: those pages can be dropped */
    size_t available_bytes;       /* of this machine now (MemAvailable, control group) */
    bool
        on_device; /* the bytes above are the device's: base those in use now and scratch, available all */
} cvx_plan;

/* Walks the job in measure mode, with packed weights if they fit in 80 % of the available memory, else
 * without. keep_float: the output keeps f32 frames. */
cvx_status cvx_plan_make(cvx_plan *out, const cvx_ctx *ctx, const cvx_checkpoint *ckpt,
                         const cvx_job *job, const cvx_mesh *mesh, bool keep_float) CVX_CHECK;

/* CVX_ENOMEM if the job cannot fit, naming the nearest that does (tiling, fewer frames, a smaller size). */
cvx_status cvx_plan_admit(const cvx_plan *plan, const cvx_ctx *ctx, const cvx_checkpoint *ckpt,
                          const cvx_job *job) CVX_CHECK;

/* FLOP/s of each op on this machine: short runs of linear, attention and conv3d (about 0.2 s in all); the
 * other ops, bound by memory, get the rate of a pass over data. */
cvx_status cvx_plan_rates(cvx_ctx *ctx, double rate[CVX_OP_COUNT]) CVX_CHECK;

/* Seconds of a stage at these rates. */
double cvx_plan_seconds(const cvx_stage_cost *c, const double rate[CVX_OP_COUNT]);

#endif
