/* Server-sent events of a job. */
#ifndef CVX_COORDINATOR_EVENTS_H
#define CVX_COORDINATOR_EVENTS_H

#include <microhttpd.h>

#include "coordinator/server.h"

/* A response that tells what happened behind the entry `last` (NULL: from the beginning) and what happens, until the job ends. In
 * between its connection is suspended; one thread looks for all of them. */
struct MHD_Response *cvx_events_response(struct MHD_Connection *c, const char *job,
                                         const char *last);
cvx_status cvx_events_start(cvx_server *s) CVX_CHECK;
/* Ends every stream: none is suspended afterwards. */
void cvx_events_stop(void);

#endif
