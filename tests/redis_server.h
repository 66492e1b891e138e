/* A Redis of a test's own, empty, behind a socket in a temporary folder that goes away with it. Used by tests/unit. */
#ifndef CVX_TESTS_REDIS_SERVER_H
#define CVX_TESTS_REDIS_SERVER_H

#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/status.h"
#include "store/redis.h"

typedef struct redis_server {
    char dir[40], url[80];
    pid_t pid;
} redis_server;

/* False: there is no redis-server, or it does not answer within ten seconds. */
static inline bool redis_start(redis_server *s)
{
    char socket[64];
    char *argv[] = {"redis-server", "--port", "0",         "--unixsocket", socket, "--save", "",
                    "--dir",        s->dir,   "--logfile", "redis.log",    NULL};
    cvx_redis *r;

    snprintf(s->dir, sizeof s->dir, "/tmp/cvx-test-redis-XXXXXX");
    if (mkdtemp(s->dir) == NULL) {
        return false;
    }
    snprintf(socket, sizeof socket, "%s/socket", s->dir);
    snprintf(s->url, sizeof s->url, "unix://%s", socket);
    s->pid = fork();
    if (s->pid == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* also where the test breaks off */
        execvp(argv[0], argv);
        _exit(127);
    }
    for (int i = 0; i < 1000; i++) {
        if (cvx_redis_open(&r, s->url) == CVX_OK) {
            cvx_redis_close(r);
            return true;
        }
        if (waitpid(s->pid, NULL, WNOHANG) != 0) {
            s->pid = 0;
            return false;
        }
        usleep(10000);
    }
    return false;
}

static inline void redis_stop(redis_server *s)
{
    static const char *const files[] = {"socket", "redis.log"};
    char path[64];

    if (s->pid > 0) {
        kill(s->pid, SIGKILL);
        waitpid(s->pid, NULL, 0);
    }
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        snprintf(path, sizeof path, "%s/%s", s->dir, files[i]);
        (void)remove(path);
    }
    (void)rmdir(s->dir);
}

#endif
