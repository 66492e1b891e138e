/* Connections that cost more than they should: too many of one address, and requests that come in too slowly. */
#ifndef CVX_COORDINATOR_GUARD_H
#define CVX_COORDINATOR_GUARD_H

#include <sys/socket.h>

#include "base/status.h"

/* One connection. */
typedef struct cvx_guarded cvx_guarded;

/* seconds: how long a request may take to come in, beside a second for every 32 KB of its body. per_address: connections that one
 * address may have; 0: any number. */
void cvx_guard_open(double seconds, int per_address);

/* Whether one more connection of this address may be. */
bool cvx_guard_admits(const struct sockaddr *addr);
/* plain: without TLS, so that a status can be told to who is cut off. NULL without memory: then it is not watched. */
cvx_guarded *cvx_guard_begin(int fd, const struct sockaddr *addr, bool plain);
/* Before the descriptor is closed. Accepts NULL, as the following do. */
void cvx_guard_end(cvx_guarded *g);

/* n more bytes of a body have come. */
void cvx_guard_received(cvx_guarded *g, size_t n);
/* The request is there: from now on it is our time. */
void cvx_guard_answering(cvx_guarded *g);
/* The answer is gone; the next request may come. */
void cvx_guard_idle(cvx_guarded *g);

/* Cuts off what is too slow. Called now and then. */
void cvx_guard_tend(void);

#endif
