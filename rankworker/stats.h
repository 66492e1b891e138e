/* What the exchanges between ranks cost: `cvx-rank --stats`. */
#ifndef CVX_RANKWORKER_STATS_H
#define CVX_RANKWORKER_STATS_H

#include <stdio.h>

#include "parallel/mesh.h"

/* Prints a row for each communicator and kind of call so far: calls of rank 0, bytes that rank 0 and all ranks
 * have sent, seconds of the rank that spent most; with `json` one event {"event": "stats", ...} of the same
 * instead. Rank 0 of the world prints. Collective over world; what this call itself exchanges is left out. */
cvx_status cvx_stats_print(const cvx_mesh *m, FILE *f, bool json) CVX_CHECK;

/* What all ranks have sent so far by each kind of call, bytes, and the highest resident size of one of them. */
typedef struct cvx_stats_sum {
    int64_t sent[CVX_COMM_KINDS];
    int64_t peak;
} cvx_stats_sum;
extern const char *const cvx_stats_kinds[CVX_COMM_KINDS]; /* "all-gather" ... */

/* Collective over `all`, whose ranks have the mesh; what this call itself exchanges is left out. */
cvx_status cvx_stats_add_up(cvx_stats_sum *out, const cvx_mesh *m, cvx_comm *all) CVX_CHECK;

#endif
