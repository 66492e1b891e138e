/* The Lua scripts of store/lua, each run as one step. Internal to store/. */
#ifndef CVX_STORE_SCRIPT_H
#define CVX_STORE_SCRIPT_H

#include "store/redis.h"

#define CVX_SCRIPT_ARGS 64
typedef struct cvx_script_arg {
    const void *data;
    size_t len;
} cvx_script_arg;

/* Runs the script of that name ("claim"). Caller frees *out. */
cvx_status cvx_script_run(cvx_redis *r, redisReply **out, const char *name,
                          const cvx_script_arg *args, int n) CVX_CHECK;

#endif
