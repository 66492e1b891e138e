/* The ops of one run in the order in which they ran. */
#ifndef CVX_KERNELS_TRACE_H
#define CVX_KERNELS_TRACE_H

#include <stdint.h>

#include "base/status.h"

typedef struct cvx_trace_op {
    int op;         /* CVX_OP_ID_... */
    double begin;   /* cvx_now() before it */
    double seconds; /* how long it took (ctx->timed: on its device, too) */
    double flops;
} cvx_trace_op;

/* While ctx->trace points to one, each op that succeeds is written down. {0} is empty; the owner frees it. */
typedef struct cvx_trace {
    cvx_trace_op *at;
    int64_t n, room;
} cvx_trace;

/* CVX_ENOMEM. */
cvx_status cvx_trace_note(cvx_trace *t, const cvx_trace_op *op) CVX_CHECK;
/* Empty again. */
void cvx_trace_free(cvx_trace *t);

#endif
