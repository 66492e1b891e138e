/* What generator.c (models that stay open), video.c (one video), bestof.c (the best of several) and generate.c (a request) share. */
#ifndef CVX_MODEL_PIPELINE_GENERATOR_H
#define CVX_MODEL_PIPELINE_GENERATOR_H

#include "model/pipeline/generate.h"
#include "model/pipeline/output.h"
#include "model/pipeline/places.h"

struct cvx_generator {
    cvx_generator_options opt;
    cvx_progress progress;

    /* while `key` stays the same, these stay open */
    json_t *key;
    cvx_checkpoint ckpt;
    cvx_ctx *ctx;
    cvx_pipeline *pipeline;
    cvx_pipeline_options options; /* of the pipeline */
    cvx_opt_list lora;            /* its LoRAs; the strings are key's */
    size_t base_bytes;            /* resident before the first model was opened */

    /* of the present request */
    const cvx_request *request;
    cvx_job job;
    cvx_plan plan;
    json_t *hashes;
};

/* One video on its way: its job and plan are the request's, or those of the second try in tiles. */
typedef struct cvx_video {
    cvx_generator *g;
    const cvx_job *job;
    const cvx_plan *plan;
    bool retiled;
    int64_t k;
    cvx_places places; /* of its files */
    cvx_output output;
    cvx_output preview; /* the last one, on the same rank */
    cvx_tensor last;    /* latents after the last step, owned copy [F, C, h, w] */
    json_t *scores;     /* of its frames; NULL: none */
    double mean;
    json_t *candidates;        /* the seeds it was chosen from, and their scores; NULL: none */
    cvx_request tiled_request; /* of the second try: job and plan point there then */
    cvx_job tiled_job;
    cvx_plan tiled_plan;
    cvx_resume resume;
    cvx_stage_cost cost[CVX_STAGE_COUNT];
} cvx_video;

/* generator.c: the checkpoint and the context of the present request, unless those that are open are the right ones. */
cvx_status cvx_generator_open_model(cvx_generator *g) CVX_CHECK;
/* The plan of a job. What open models hold already is taken off what is needed and added to what is available; where the plan
 * wants weights in another form than they are open in, they are closed. */
cvx_status cvx_generator_plan(cvx_generator *g, const cvx_job *job, cvx_plan *plan) CVX_CHECK;
/* The models, as the plan wants them. */
cvx_status cvx_generator_open_pipeline(cvx_generator *g, const cvx_plan *plan) CVX_CHECK;
/* Forgets what belongs to one request alone. */
void cvx_generator_end_request(cvx_generator *g);

/* Rank 0 of a data group writes what the group made. */
static inline bool cvx_generator_leads(const cvx_generator *g)
{
    return g->opt.mesh->replica->rank == 0;
}

/* The ranks that work on the same request. */
static inline cvx_comm *cvx_generator_everyone(const cvx_generator *g)
{
    return g->opt.group_alone ? g->opt.mesh->replica : g->opt.mesh->world;
}

/* video.c. All that follow are collective over the replica. */

/* Opens and renders video k, or only the first half of its steps (trial: then `at` of its checkpoints and the preview
 * are what is left of it). half: where to begin, as a trial left it, taken over; may be NULL. The caller closes the video in any
 * case. */
cvx_status cvx_video_make(cvx_generator *g, cvx_video *v, int64_t k, bool trial,
                          cvx_snapshot *half) CVX_CHECK;
/* What is made of the frames: scores, output, manifest. */
cvx_status cvx_video_finish(cvx_video *v) CVX_CHECK;
void cvx_video_close(cvx_video *v);

/* CLIP scores of the frames of o against the prompts that hold at them, by the leader alone; *out stays NULL without
 * --clip-model. */
cvx_status cvx_video_score(cvx_generator *g, const cvx_output *o, const cvx_prompts *prompts,
                           json_t **out, double *mean) CVX_CHECK;

typedef enum cvx_turn { CVX_TURN_MAKE = 0, CVX_TURN_SKIP = -1, CVX_TURN_STOP = -2 } cvx_turn;

/* What the group does about video k: a wish to stop that came to any of its ranks goes before all else. */
cvx_status cvx_video_turn(const cvx_generator *g, int64_t k, bool skip_done,
                          cvx_turn *out) CVX_CHECK;
/* Whether video k (or candidate k) is this group's. Not collective. */
bool cvx_video_own(const cvx_generator *g, int64_t k);
/* The status of a run that a signal has stopped between two videos. */
cvx_status cvx_video_stopped(const cvx_request *r) CVX_CHECK;

/* --best-of. Collective over the mesh. */
cvx_status cvx_best_of(cvx_generator *g) CVX_CHECK;

#endif
