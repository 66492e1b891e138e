/* `cvx plan` as a program of its own, a few at once; what it said is kept for a while, as most jobs ask for what others did. */
#include "coordinator/plan.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/progress.h"

#define PLANS_AT_ONCE 4
#define PLAN_SECONDS 20.0
#define EXIT_NOMEM 5 /* cvx_status_exit(CVX_ENOMEM) */
#define KEPT 64
#define KEPT_SECONDS 60.0 /* the machine's memory and the checkpoint's files may change */

/* What a program writes, until its end. What does not fit is read all the same, so that it can end. */
typedef struct said {
    char out[CVX_PLAN_MAX], err[2048];
    size_t n[2];
    bool late; /* it was ended */
} said;

static bool take_piece(said *s, int which, int fd)
{
    char *buf = which == 0 ? s->out : s->err, rest[1024];
    size_t room = (which == 0 ? sizeof s->out : sizeof s->err) - 1 - s->n[which];
    ssize_t got = read(fd, room > 0 ? buf + s->n[which] : rest, room > 0 ? room : sizeof rest);

    if (got > 0 && room > 0) {
        s->n[which] += (size_t)got;
        buf[s->n[which]] = 0;
    }
    return got > 0 || (got < 0 && errno == EINTR);
}

/* Reads both pipes until the program ends, or has had its time. Its exit code; -1: none. */
static int listen_to(pid_t pid, const int fd[2], said *s)
{
    double begin = cvx_now();
    struct pollfd p[2] = {{fd[0], POLLIN, 0}, {fd[1], POLLIN, 0}};
    int status;

    while (p[0].fd >= 0 || p[1].fd >= 0) {
        if (cvx_now() - begin > PLAN_SECONDS) {
            kill(pid, SIGKILL);
            s->late = true;
        }
        if (poll(p, 2, 500) <= 0) {
            continue;
        }
        for (int i = 0; i < 2; i++) {
            if (p[i].fd >= 0 && p[i].revents != 0 && !take_piece(s, i, p[i].fd)) {
                p[i].fd = -1;
            }
        }
    }
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* Starts a program, its output and its errors into a pipe each. */
static cvx_status start(char **argv, pid_t *pid, int fd[2])
{
    posix_spawn_file_actions_t act;
    int out[2], err[2];

    if (pipe2(out, O_CLOEXEC) != 0) {
        return cvx_fail(CVX_EINTERNAL, "no pipe for %s: %s", argv[0], strerror(errno));
    }
    if (pipe2(err, O_CLOEXEC) != 0) {
        close(out[0]);
        close(out[1]);
        return cvx_fail(CVX_EINTERNAL, "no pipe for %s: %s", argv[0], strerror(errno));
    }
    posix_spawn_file_actions_init(&act);
    posix_spawn_file_actions_addopen(&act, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&act, out[1], 1);
    posix_spawn_file_actions_adddup2(&act, err[1], 2);
    int failed = posix_spawn(pid, argv[0], &act, NULL, argv, environ);
    posix_spawn_file_actions_destroy(&act);
    close(out[1]);
    close(err[1]);
    fd[0] = out[0];
    fd[1] = err[0];
    if (failed != 0) {
        close(out[0]);
        close(err[0]);
        return cvx_fail(CVX_EINTERNAL, "cannot start %s: %s", argv[0], strerror(failed));
    }
    return CVX_OK;
}

/* What it said to these arguments, where that was not long ago. */
typedef struct kept {
    char *key, *out; /* NULL: free */
    double since;
} kept;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t freed = PTHREAD_COND_INITIALIZER;
static int running;
static kept list[KEPT];

/* The arguments as one text; NULL without memory. Caller frees. */
static char *key_of(char **argv, bool lenient)
{
    size_t size = 3;
    char *key;

    for (int i = 0; argv[i] != NULL; i++) {
        size += strlen(argv[i]) + 1;
    }
    key = malloc(size);
    size_t n = key != NULL ? (size_t)snprintf(key, size, "%d", lenient) : 0;
    for (int i = 0; key != NULL && argv[i] != NULL; i++) {
        n += (size_t)snprintf(key + n, size - n, "\n%s", argv[i]);
    }
    return key;
}

/* With the lock held. */
static bool look_up(const char *key, char out[CVX_PLAN_MAX])
{
    for (int i = 0; key != NULL && i < KEPT; i++) {
        if (list[i].key != NULL && strcmp(list[i].key, key) == 0 &&
            cvx_now() - list[i].since < KEPT_SECONDS) {
            snprintf(out, CVX_PLAN_MAX, "%s", list[i].out);
            return true;
        }
    }
    return false;
}

/* In the place of the same key, or of the oldest one. Takes the key. With the lock held. */
static void put(char *key, const char *out)
{
    kept *to = &list[0];
    char *copy = strdup(out);

    for (int i = 0; i < KEPT; i++) {
        if (list[i].key != NULL && strcmp(list[i].key, key) == 0) {
            to = &list[i];
            break;
        }
        to = list[i].since < to->since ? &list[i] : to;
    }
    if (copy == NULL) {
        free(key);
        return;
    }
    free(to->key);
    free(to->out);
    *to = (kept){key, copy, cvx_now()};
}

static cvx_status judge(const said *s, int code, bool lenient)
{
    if (code == 0 || (code == EXIT_NOMEM && lenient && s->out[0] == '{')) {
        return CVX_OK;
    }
    if (s->late) {
        return cvx_fail(CVX_EINVAL, "too large: `cvx plan` did not end within %g s", PLAN_SECONDS);
    }
    const char *line = strstr(s->err, "cvx: "), *note = line; /* the last one is the cause */
    while (note != NULL && (note = strstr(note + 1, "\ncvx: ")) != NULL) {
        line = note + 1;
    }
    int len = line != NULL ? (int)strcspn(line, "\n") - 5 : 0;
    bool asker = code >= 2 && code <= 6;
    return len > 0 ? cvx_fail(asker ? CVX_EINVAL : CVX_EINTERNAL, "%.*s", len, line + 5)
                   : cvx_fail(CVX_EINTERNAL, "cvx plan ended without a word");
}

static cvx_status run(char **argv, bool lenient, char out[CVX_PLAN_MAX])
{
    said s = {.n = {0, 0}};
    pid_t pid;
    int fd[2] = {-1, -1};

    CVX_RETURN_IF(start(argv, &pid, fd));
    int code = listen_to(pid, fd, &s);
    close(fd[0]);
    close(fd[1]);
    CVX_RETURN_IF(judge(&s, code, lenient));
    memcpy(out, s.out, sizeof s.out);
    return CVX_OK;
}

cvx_status cvx_plan_ask(char **argv, bool lenient, bool keep, char out[CVX_PLAN_MAX])
{
    char *key = keep ? key_of(argv, lenient) : NULL;

    pthread_mutex_lock(&lock);
    while (!look_up(key, out)) {
        if (running == PLANS_AT_ONCE) {
            pthread_cond_wait(&freed, &lock);
            continue;
        }
        running++;
        pthread_mutex_unlock(&lock);
        cvx_status st = run(argv, lenient, out);
        pthread_mutex_lock(&lock);
        running--;
        if (st == CVX_OK && key != NULL) {
            put(key, out);
            key = NULL;
        }
        pthread_cond_broadcast(&freed); /* some may find here what they wait for */
        pthread_mutex_unlock(&lock);
        free(key);
        return st;
    }
    pthread_mutex_unlock(&lock);
    free(key);
    return CVX_OK;
}
