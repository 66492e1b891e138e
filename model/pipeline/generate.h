/* `cvx generate` as a function: request in, files out. */
#ifndef CVX_MODEL_PIPELINE_GENERATE_H
#define CVX_MODEL_PIPELINE_GENERATE_H

#include "model/pipeline/plan.h"

/* What stays open from one request to the next: context and pipeline, with the weights that its models have
 * packed. */
typedef struct cvx_generator cvx_generator;

/* A video that is complete. */
typedef struct cvx_finished {
    const char *path;
    int64_t frames, w, h;
    double fps;
    const json_t *manifest;
} cvx_finished;

typedef struct cvx_generator_options {
    const cvx_mesh *mesh; /* borrowed */
    /* Whether each data group makes whole requests by itself, others than its neighbours'; else the groups share
     * the videos of each request (video k goes to group k modulo their number). */
    bool group_alone;
    cvx_event_fn
        event; /* with its payload; NULL: nothing is told. Called on the ranks that have it */
    void *payload;
    FILE *report; /* one line per finished video, by rank 0 of its data group; may be NULL */
    /* Told of each finished video, likewise; a failure is the request's. May be NULL. */
    cvx_status (*finished)(void *payload, const cvx_finished *f);
    void *finished_payload;
} cvx_generator_options;

cvx_status cvx_generator_open(cvx_generator **out, const cvx_generator_options *opt) CVX_CHECK;
void cvx_generator_close(cvx_generator *g); /* accepts NULL */

/* The context of the last request; NULL before the first. The generator's. */
cvx_ctx *cvx_generator_ctx(const cvx_generator *g);

/* Runs the request: plan, admission, generation, scores, output and manifest for each video. On failure nothing
 * half-written stays. Collective over the mesh (with group_alone: over its replica). Models that an earlier
 * request opened are used again where model, dtype, backend, LoRAs, offloading and threads are the same.
 *
 * With --checkpoint-dir the denoising loop leaves checkpoints there and begins at the newest one; they go when the
 * video is complete. A decoder that lacks memory is tried once more in tiles, from the last latents.
 *
 * skip_done: a video whose output and manifest are there and agree with the request is not made again. So it is with
 * --checkpoint-dir for a request of several videos. */
cvx_status cvx_generator_run(cvx_generator *g, const cvx_request *r, bool skip_done) CVX_CHECK;

/* open, run, close. Collective over the mesh. */
cvx_status cvx_generate(const cvx_request *r, const cvx_generator_options *opt) CVX_CHECK;

/* Opens the context a request asks for. Caller closes. */
cvx_status cvx_request_ctx(cvx_ctx **out, const cvx_request *r) CVX_CHECK;

#endif
