/* Where a rank runs: how many cores it may use, and how many ranks use them with it. */
#ifndef CVX_RANKWORKER_PLACE_H
#define CVX_RANKWORKER_PLACE_H

#include "parallel/comm.h"

typedef struct cvx_place {
    int node_ranks; /* ranks of the job on this machine */
    int cores;      /* that this process is bound to (all, if it is not) */
    int sharers;    /* ranks of this machine bound to some of the same cores, this one included */
    int threads;    /* cores / sharers, at least 1: what this rank should start */
} cvx_place;

/* By hwloc's view of the process's binding; cores are physical ones. Collective over world. */
cvx_status cvx_place_find(cvx_place *out, cvx_comm *world) CVX_CHECK;

/* The best instruction set that every rank's processor has: another one would give other bits on some ranks.
 * Collective over world. */
cvx_status cvx_place_isa(const char **out, cvx_comm *world) CVX_CHECK;

/* Before MPI and OpenMP start: with more ranks on this machine (as the launcher's environment says) than cores,
 * waiting ranks give their core away. May start the program again with another environment. What
 * the user has set stays. */
void cvx_place_prepare(char **argv);

#endif
