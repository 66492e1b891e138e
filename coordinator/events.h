/* Server-sent events of a job. */
#ifndef CVX_COORDINATOR_EVENTS_H
#define CVX_COORDINATOR_EVENTS_H

#include <microhttpd.h>

#include "coordinator/server.h"

/* A response that tells what happened behind the entry `last` (NULL: from the beginning) and what happens, until the job ends. */
struct MHD_Response *cvx_events_response(cvx_server *s, const char *job, const char *last);

#endif
