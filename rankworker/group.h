/* Ranks that run one job together: a whole pool, or a part of one that is split. */
#ifndef CVX_RANKWORKER_GROUP_H
#define CVX_RANKWORKER_GROUP_H

#include "model/pipeline/generate.h"
#include "model/pipeline/request.h"
#include "rankworker/link.h"
#include "rankworker/stats.h"

/* What the jobs of a group have shown; on its first rank. */
typedef struct cvx_group_news {
    int64_t jobs, completed, peak; /* peak: the highest resident size of a rank */
    double tflops;                 /* of a rank, in the last job that was completed; 0: none was */
} cvx_group_news;

typedef struct cvx_group {
    const cvx_request *defaults; /* what every job has */
    const char *data_dir, *lora_dir;
    cvx_comm *host,
        *world; /* the one that waits politely, and the one that jobs run on (host itself, or the devices') */
    int node_ranks; /* of the whole pool on this machine: they share its memory and cores */
    cvx_link *link; /* on the first rank; elsewhere NULL */
    cvx_mesh *mesh; /* kept, with the generator on it, while jobs want the same */
    cvx_generator *generator;
    cvx_stats_sum told; /* what the mesh had sent when the last job ended */
    cvx_group_news news;
} cvx_group;

/* Runs the job (the same on every rank) and reports its end. A failure of the job is reported and is none of the group; what is
 * returned is: its ranks can no longer talk. Collective over the group. */
cvx_status cvx_group_run(cvx_group *g, Cvx__Assignment *a) CVX_CHECK;
/* Closes the models. */
void cvx_group_close(cvx_group *g);

#endif
