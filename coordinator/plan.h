/* What a job needs, asked of the program `cvx plan`. */
#ifndef CVX_COORDINATOR_PLAN_H
#define CVX_COORDINATOR_PLAN_H

#include "base/status.h"

#define CVX_PLAN_MAX 16384 /* bytes of what it says */

/* Runs argv (ends with NULL), which prints JSON, or says after "cvx: " what cannot be: that is the error, CVX_EINVAL where the asker
 * can mend it. A few run at once, others wait; one that takes very long is ended. lenient: a job that does not fit into this machine
 * is none that cannot be. keep: the same arguments get the same answer for a minute. Any thread. */
cvx_status cvx_plan_ask(char **argv, bool lenient, bool keep, char out[CVX_PLAN_MAX]) CVX_CHECK;

#endif
