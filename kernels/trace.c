#include "kernels/trace.h"

#include <stdlib.h>

cvx_status cvx_trace_note(cvx_trace *t, const cvx_trace_op *op)
{
    if (t->n == t->room) {
        int64_t room = t->room > 0 ? 2 * t->room : 1024;
        cvx_trace_op *more = realloc(t->at, (size_t)room * sizeof *more);
        if (more == NULL) {
            return cvx_fail(CVX_ENOMEM, "no memory to write down %lld ops", (long long)room);
        }
        t->at = more;
        t->room = room;
    }
    t->at[t->n++] = *op;
    return CVX_OK;
}

void cvx_trace_free(cvx_trace *t)
{
    free(t->at);
    *t = (cvx_trace){0};
}
