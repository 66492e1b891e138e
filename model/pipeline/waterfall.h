/* Where the time of one run goes, op after op in the order in which they ran. Stretches of ops that repeat, such as a
 * transformer's blocks, become one group of rows. */
#ifndef CVX_MODEL_PIPELINE_WATERFALL_H
#define CVX_MODEL_PIPELINE_WATERFALL_H

#include <stdio.h>

#include "kernels/trace.h"

/* One op of a group. Seconds and FLOP are those of all its times. */
typedef struct cvx_waterfall_row {
    int op;         /* CVX_OP_ID_... */
    int64_t group;  /* 0, 1 ...; the ops of a group follow each other */
    int64_t times;  /* the group ran this often without a pause */
    double at;      /* seconds from the start of the run to the first time's */
    double between; /* before it since the op before: the host, copies, exchanges */
    double seconds, flops;
} cvx_waterfall_row;

typedef struct cvx_waterfall {
    cvx_waterfall_row *row; /* NULL where n is 0 */
    int64_t n;
    double seconds; /* of the run */
    double after;   /* of these, after the last op */
} cvx_waterfall;

/* *w <- the ops of a run that lasted from `begin` to `end` (cvx_now()). Two calls of an op are the same to it if their
 * FLOP are. CVX_ENOMEM; the caller frees. */
cvx_status cvx_waterfall_make(cvx_waterfall *w, const cvx_trace *t, double begin,
                              double end) CVX_CHECK;
void cvx_waterfall_free(cvx_waterfall *w);

/* A line a row; its bar begins where the time of the rows above ends. */
void cvx_waterfall_print(const cvx_waterfall *w, FILE *out);
/* A JSON array of the rows. */
void cvx_waterfall_print_json(const cvx_waterfall *w, FILE *out);

#endif
