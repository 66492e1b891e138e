#include "store/script.h"

#include <string.h>

#define SCRIPTS(X)                                                                                 \
    X(create)                                                                                      \
    X(dispatch) X(claim) X(renew) X(finish) X(cancel) X(reap) X(unread) X(remove) X(record) X(waits)

#define DECLARE(name)                                                                              \
    extern const unsigned char cvx_lua_##name[];                                                   \
    extern const size_t cvx_lua_##name##_len;
SCRIPTS(DECLARE)

static const struct {
    const char *name;
    const unsigned char *text;
    const size_t *len;
} scripts[] = {
#define ENTRY(name) {#name, cvx_lua_##name, &cvx_lua_##name##_len},
    SCRIPTS(ENTRY)};

cvx_status cvx_script_run(cvx_redis *r, redisReply **out, const char *name,
                          const cvx_script_arg *args, int n)
{
    const char *argv[3 + CVX_SCRIPT_ARGS] = {"EVAL", NULL, "0"};
    size_t len[3 + CVX_SCRIPT_ARGS] = {4, 0, 1};

    CVX_ASSERT(n <= CVX_SCRIPT_ARGS);
    for (size_t i = 0; i < sizeof scripts / sizeof *scripts; i++) {
        if (strcmp(scripts[i].name, name) == 0) {
            argv[1] = (const char *)scripts[i].text;
            len[1] = *scripts[i].len;
        }
    }
    CVX_ASSERT(argv[1] != NULL);
    for (int i = 0; i < n; i++) {
        argv[3 + i] = args[i].data;
        len[3 + i] = args[i].len;
    }
    return cvx_redis_argv(r, out, 3 + n, argv, len);
}
