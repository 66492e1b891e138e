/* Where to listen. cvx_http_start is in server.h. */
#ifndef CVX_COORDINATOR_HTTP_H
#define CVX_COORDINATOR_HTTP_H

#include <sys/socket.h>

#include "coordinator/server.h"

/* A host's numeric or named address. CVX_EINVAL: there is none. */
cvx_status cvx_http_address(struct sockaddr_storage *out, const char *host, int port) CVX_CHECK;

#endif
