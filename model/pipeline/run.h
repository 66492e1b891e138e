/* What the files of the pipeline share: its parts, and one run of a job through the stages. */
#ifndef CVX_MODEL_PIPELINE_RUN_H
#define CVX_MODEL_PIPELINE_RUN_H

#include "base/rng.h"
#include "model/pipeline/pipeline.h"

typedef enum cvx_part_id { CVX_PART_T5, CVX_PART_DIT, CVX_PART_VAE, CVX_PART_COUNT } cvx_part_id;

typedef struct cvx_part {
    cvx_weights *weights;
    cvx_arena arena;
    union {
        cvx_t5 *t5;
        cvx_dit *dit;
        cvx_vae *vae;
        void *any;
    } model;
} cvx_part;

struct cvx_pipeline {
    cvx_ctx *ctx;
    const cvx_checkpoint *ckpt;
    cvx_pipeline_options opt;
    cvx_part parts[CVX_PART_COUNT];
};

/* Everything one run holds. */
typedef struct cvx_run {
    cvx_pipeline *p;
    const cvx_job *job;
    const cvx_pipeline_hooks *hooks;
    cvx_stage_cost *cost;
    cvx_progress progress;
    cvx_arena arena, step; /* job and step lifetimes */
    cvx_rng rng;
    cvx_dit_shape shape;
    cvx_tensor embeds;  /* [texts, text, d]: negative (if guided), then each prompt */
    cvx_tensor latents; /* [F, C, h, w] */
    cvx_tensor image;   /* [F, C, h, w]: I2V condition; data NULL without */
    cvx_tensor known; /* [K, C, h, w]: of --extend, the video's first latents; data NULL without */
    cvx_resume *resume; /* as hooks->resume, on every rank */
    int64_t start;      /* steps that were done before this run */
} cvx_run;

/* run.c: what every stage needs. */

/* Opens a part if it is not open. Not collective: callers agree where one rank's failure would leave others waiting. */
cvx_status cvx_run_open(cvx_pipeline *p, cvx_part_id id) CVX_CHECK;
void cvx_run_close(cvx_pipeline *p, cvx_part_id id);
/* Closes a part that no later stage needs, where memory is to be saved. */
void cvx_run_done_with(cvx_run *r, cvx_part_id id);

/* Adds sign times what the counters of work and exchange show now. */
void cvx_run_counters(const cvx_run *r, cvx_stage_cost *c, int sign);
/* The beginning and end of a stage of `total` steps: progress, cost, memory given back. */
cvx_status cvx_run_begin(cvx_run *r, cvx_stage s, int64_t total) CVX_CHECK;
void cvx_run_end(cvx_run *r, cvx_stage s);

/* Rank 0 of the replica does what its ranks need once. */
bool cvx_run_leads(const cvx_run *r);
/* The leader's tensor to everyone, unless somebody's work (st) failed: then everyone fails. Collective over the
 * replica. */
cvx_status cvx_run_share(cvx_run *r, cvx_status st, const cvx_tensor *t) CVX_CHECK;
/* t <- torch.randn of t's shape in the job's dtype, the same on every rank. */
cvx_status cvx_run_draw(cvx_run *r, const cvx_tensor *t) CVX_CHECK;

/* encode.c: prompt, and image or video; fills embeds, latents, image. Collective over the replica, as what follows. */
cvx_status cvx_run_encode(cvx_run *r, const cvx_sched *sched) CVX_CHECK;
cvx_status cvx_run_alloc_latents(cvx_run *r) CVX_CHECK;

/* denoise.c: the loop, from step r->start on, with its checkpoints. */
cvx_status cvx_run_denoise(cvx_run *r, const cvx_sched *sched) CVX_CHECK;
/* The latents after the last of `steps` steps, from the leader's checkpoint. */
cvx_status cvx_run_take_last(cvx_run *r, int64_t steps) CVX_CHECK;
/* Calls the latents hook with those after step i. */
void cvx_run_show_latents(const cvx_run *r, int64_t i);

/* preview.c: whether one is due after `done` of `steps` steps; how many a run makes at most, that of a trial with them;
 * and one: x0 (flat, as the latents) through the VAE to the preview hook. Collective over the replica. */
bool cvx_run_preview_due(const cvx_run *r, int64_t done, int64_t steps);
int64_t cvx_run_previews(const cvx_run *r, int64_t steps);
cvx_status cvx_run_preview(cvx_run *r, const cvx_tensor *x0, int64_t done) CVX_CHECK;

#endif
