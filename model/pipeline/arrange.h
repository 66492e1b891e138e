/* How the ranks of a job could be arranged, and which arrangement to take. Every candidate mesh is measured by
 * walking the job on it with communicators that only count; the scaling model of docs/parallelism.md turns
 * work and bytes into seconds. */
#ifndef CVX_MODEL_PIPELINE_ARRANGE_H
#define CVX_MODEL_PIPELINE_ARRANGE_H

#include "model/pipeline/cluster.h"

typedef struct cvx_arrangement {
    cvx_degrees degrees;
    bool exact;                   /* the same bits as one rank: neither ring nor tensor */
    bool fits;                    /* in cvx_cluster.memory */
    size_t bytes;                 /* of the fullest rank: weights, files read in place, job, step */
    size_t step[CVX_STAGE_COUNT]; /* step memory of each stage, of the rank that needs most */
    int64_t sent;                 /* bytes that the busiest rank sends for one video */
    double seconds;               /* of the whole batch of videos */
    double step_seconds;          /* of one denoising step */
    double exchange;              /* share of the seconds that goes to exchanges */
} cvx_arrangement;

/* Meshes of exactly `ranks` ranks, the fastest first. */
typedef struct cvx_arrangements {
    cvx_arrangement *item;
    int n, best; /* best: the one to take, with its reason; -1 if the fixed degrees leave none */
    char reason[160];
} cvx_arrangements;

/* Measures the candidates: meshes with the degrees of `fixed` (0: free; NULL: all free), where data goes only as far
 * as there are videos and cfg needs guidance; ring and tensor are tried only if `all` is set, if they are fixed,
 * for more than 16 ranks, or if nothing else will do. ctx, ckpt, job as for cvx_plan_make; opt->mesh is not
 * used. The one to take is the fastest that fits and has one rank's bits; one with ring or tensor, which
 * change bits, only if none of those fits or if it is twice as fast. CVX_EINVAL if `fixed` leaves no mesh.
 * Free with cvx_arrangements_free. Not collective. */
cvx_status cvx_arrange(cvx_arrangements *out, const cvx_ctx *ctx, const cvx_checkpoint *ckpt,
                       const cvx_job *job, const cvx_pipeline_options *opt,
                       const cvx_cluster *cluster, int ranks, const cvx_degrees *fixed,
                       bool all) CVX_CHECK;
void cvx_arrangements_free(cvx_arrangements *l);

/* The mesh for a request on the ranks of `world`, of which node_ranks share this machine: rank 0 chooses, tells the
 * choice and its reason as a note through `progress` (may be NULL), and gives the degrees to all. Degrees in the
 * request are kept. A NULL prompt or output is no error here. Collective over world. */
cvx_status cvx_arrange_world(cvx_mesh **out, const cvx_request *r, cvx_comm *world, int node_ranks,
                             cvx_progress *progress) CVX_CHECK;

/* The degrees that a request fixes, 0 for those that are free. */
cvx_degrees cvx_request_degrees(const cvx_request *r);

/* "data 1 x cfg 2 x ring 1 x ulysses 4 x tensor 1" without the ones, "one rank" if nothing is left. */
char *cvx_degrees_describe(const cvx_degrees *d, char *buf, size_t size);

#endif
