/* The way of a job through the models, in stages: load -> encode -> denoise -> decode.
 *
 * The same code runs in measure mode (ctx->measure): then no weight is read and no value computed, only
 * arenas and counters move. That is how memory and work are known before the job starts. */
#ifndef CVX_MODEL_PIPELINE_PIPELINE_H
#define CVX_MODEL_PIPELINE_PIPELINE_H

#include "base/progress.h"
#include "model/pipeline/job.h"
#include "model/pipeline/resume.h"

typedef enum cvx_offload {
    CVX_OFFLOAD_NONE = 0,
    CVX_OFFLOAD_MODEL,
    CVX_OFFLOAD_SEQUENTIAL
} cvx_offload;

typedef enum cvx_stage {
    CVX_STAGE_ENCODE = 0, /* prompt, and image or video */
    CVX_STAGE_DENOISE,
    CVX_STAGE_DECODE,
    CVX_STAGE_FINISH, /* interpolation and enlargement: model/pipeline/finish.h */
    CVX_STAGE_COUNT
} cvx_stage;
extern const char *const cvx_stage_names[CVX_STAGE_COUNT];

/* What a stage holds and does. Bytes at their highest within the stage; work of the whole stage. */
typedef struct cvx_stage_cost {
    size_t weights; /* packed and widened weights of every open model */
    size_t mapped;  /* bytes of weight files that the open models read in place */
    size_t job, step;
    size_t finish; /* of the last stage, which has memory of its own */
    double flops[CVX_OP_COUNT];
    cvx_comm_stat comm[CVX_MESH_COMMS][CVX_COMM_KINDS]; /* this rank's exchanges */
    int64_t reused; /* steps that took all blocks but the first from the cache */
    double seconds;
} cvx_stage_cost;

typedef struct cvx_pipeline cvx_pipeline;

typedef struct cvx_pipeline_options {
    cvx_offload offload;
    bool pack;                /* keep linear weights packed */
    bool fp8;                 /* the transformer's as 8-bit floats */
    bool sage;                /* its attention in 8 bits */
    const cvx_opt_list *lora; /* FILE[:SCALE] items; may be NULL */
    const cvx_mesh *mesh;     /* the ranks that share each job; borrowed */
} cvx_pipeline_options;

/* Nothing is loaded yet: models open when their stage first needs them. ctx and ckpt are borrowed. */
cvx_status cvx_pipeline_open(cvx_pipeline **out, cvx_ctx *ctx, const cvx_checkpoint *ckpt,
                             const cvx_pipeline_options *opt) CVX_CHECK;
void cvx_pipeline_close(cvx_pipeline *p); /* accepts NULL */

/* Where the results of a run go. All optional; only rank 0 of the mesh's replica calls them, where nothing else
 * is said. */
typedef struct cvx_pipeline_hooks {
    cvx_event_fn event;
    void *event_payload;
    /* frames `first` .. `first + n` of the video, RGB planes f32 [n, 3, h, w] in -1..1, in order */
    cvx_status (*frames)(void *payload, const float *rgb, int64_t first, int64_t n, int64_t h,
                         int64_t w);
    void *frames_payload;
    /* latents [F, C, h, w] after step i (0-based), padding included */
    void (*latents)(void *payload, int64_t i, const cvx_tensor *latents);
    void *latents_payload;
    /* With request->preview_dir, and at the end of a trial: a frame of what the VAE makes of the noiseless latents as step
     * `done` takes them, averaged down to at most 48 x 48. RGB planes f32 [3, h, w] in about -1..1, valid during the call. */
    cvx_status (*preview)(void *payload, int64_t done, const float *rgb, int64_t h, int64_t w);
    void *preview_payload;
    /* On every rank, before the decoder: CVX_ENOMEM if this rank has no memory for it. */
    cvx_status (*admit_decode)(void *payload);
    void *admit_payload;
    /* Where the denoising loop starts, and where it leaves checkpoints. NULL on every rank or on none; what is in it
     * matters on rank 0 of the replica. With the loop over, `decoding` is set on every rank and `at` holds
     * the last latents: another run with the same object only decodes. With `trial` the run ends after half of the steps, and `at`
     * holds its state; another run with the same object, trial off, goes on from there. */
    cvx_resume *resume;
} cvx_pipeline_hooks;

/* Collective over the mesh's replica. One video: request seed + video_index. cost[] is filled for every stage
 * (zeros for one that a resumed run has no need of). In measure mode one denoising step is walked and its work
 * multiplied. step_bytes and job_bytes: sizes of the arenas (from a measured run); ignored in measure mode.
 *
 * SIGTERM or SIGUSR1 on any rank (base/stop.h) ends the run on all of them after the step: with a checkpoint
 * and CVX_EREQUEUE, or without --checkpoint-dir with CVX_ECANCELLED. */
cvx_status cvx_pipeline_run(cvx_pipeline *p, const cvx_job *job, int64_t video_index,
                            const cvx_pipeline_hooks *hooks, size_t job_bytes, size_t step_bytes,
                            cvx_stage_cost cost[CVX_STAGE_COUNT]) CVX_CHECK;

/* A measured run of the job: what each stage will hold and do on this rank of the mesh. Not collective. */
cvx_status cvx_pipeline_measure(const cvx_ctx *ctx, const cvx_checkpoint *ckpt,
                                const cvx_pipeline_options *opt, const cvx_job *job,
                                cvx_stage_cost cost[CVX_STAGE_COUNT]) CVX_CHECK;

#endif
