/* One connection to a Redis server, by hiredis: the commands cvx needs, with cvx's errors.
 *
 * A connection belongs to one thread. It is made again by the next command when it broke. Redis that cannot be
 * reached is CVX_EIO, an answer of another kind than expected CVX_EFORMAT. */
#ifndef CVX_STORE_REDIS_H
#define CVX_STORE_REDIS_H

#include <hiredis/hiredis.h>

#include "base/status.h"

typedef struct cvx_redis cvx_redis;

/* redis://[user:password@]host[:port][/db], redis://:password@host..., or unix:///path/to/socket[?db=N]. Connects. Caller
 * closes. CVX_EINVAL: not such an address; the message never shows the password. */
cvx_status cvx_redis_open(cvx_redis **out, const char *url) CVX_CHECK;
void cvx_redis_close(cvx_redis *r); /* accepts NULL */

/* Seconds a command may take; 5 unless told. A blocking read needs more than it blocks. */
void cvx_redis_timeout(cvx_redis *r, double seconds);

/* One command, printf style as hiredis reads it (%s, %b with length, %lld). *out is freed by freeReplyObject. An error
 * that Redis answers is CVX_EFORMAT with its text. Repeated once over a new connection only where the old one turned out
 * to be closed before anything was sent. */
cvx_status cvx_redis_command(cvx_redis *r, redisReply **out, const char *format, ...) CVX_CHECK;
cvx_status cvx_redis_argv(cvx_redis *r, redisReply **out, int argc, const char **argv,
                          const size_t *len) CVX_CHECK;

#endif
