/* API keys: a file with a line `NAME SHA256 [waiting=N] [per_minute=N]` for each, so that a key itself lies nowhere. */
#ifndef CVX_COORDINATOR_AUTH_H
#define CVX_COORDINATOR_AUTH_H

#include "coordinator/server.h"

/* Reads the file. Lines that begin with # and empty ones are passed over. CVX_EIO, CVX_EFORMAT with the line. */
cvx_status cvx_auth_load(cvx_server *s, const char *path) CVX_CHECK;
/* Whether the header's value ("Bearer KEY", NULL: none) opens the service; owner: the key's name. All keys are compared, in constant
 * time. Without keys everybody is "local". */
bool cvx_auth_check(const cvx_server *s, const char *authorization, char *owner, size_t size);

#endif
