#include "coordinator/local.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"
#include "base/progress.h"

#define ARGS 32
#define LOCK_SECONDS 5.0
/* What fails this soon is started again later each time, in the end after so many seconds. */
#define SOON 10.0
#define LONGEST_PAUSE 60.0

typedef struct child {
    const char *what, *package; /* package: what is missing where it cannot be started; or NULL */
    char *argv[ARGS];
    pid_t pid; /* 0: not running */
    int nice;
    double started, ended, pause; /* pause: seconds until it is started again */
} child;

struct cvx_local {
    child redis, pool;
    int lock; /* of the Redis' folder; -1: none */
    char log[CVX_PATH_MAX];
};

cvx_status cvx_local_open(cvx_local **out, const char *data_dir)
{
    cvx_local *l = calloc(1, sizeof *l);

    if (l == NULL) {
        return cvx_fail(CVX_ENOMEM, "no memory");
    }
    l->lock = -1;
    *out = l;
    return cvx_path_join(l->log, data_dir, "cvx.log");
}

static void add(child *c, const char *arg)
{
    int n = 0;

    while (c->argv[n] != NULL) {
        n++;
    }
    CVX_ASSERT(n + 1 < ARGS);
    c->argv[n] = strdup(arg);
}

/* In the new process. Its output goes to the log; it ends when we do. Returns if it cannot be started. */
static void become(const cvx_local *l, const child *c, pid_t parent)
{
    int fd = open(l->log, O_CREAT | O_APPEND | O_WRONLY, 0640);

    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent) {
        _exit(1);
    }
    setpgid(0, 0); /* a Ctrl-C is the coordinator's to handle */
    (void)setpriority(PRIO_PROCESS, 0, c->nice);
    if (c == &l->redis) { /* the folder is free once Redis is gone, too */
        (void)fcntl(l->lock, F_SETFD, 0);
    }
    if (fd >= 0) {
        dup2(fd, 1);
        dup2(fd, 2);
    }
    execvp(c->argv[0], c->argv);
}

/* Starts it, and waits until it is a program of its own: a pipe that this closes tells so, or why not. */
static cvx_status begin(cvx_local *l, child *c)
{
    pid_t parent = getpid(), pid;
    int why = 0, told[2];

    c->started = c->ended = cvx_now();
    if (pipe2(told, O_CLOEXEC) != 0) {
        return cvx_fail(CVX_EINTERNAL, "cannot start %s: %s", c->argv[0], strerror(errno));
    }
    pid = fork();
    if (pid == 0) {
        become(l, c, parent);
        why = errno;
        _exit(write(told[1], &why, sizeof why) == sizeof why ? 127 : 126);
    }
    close(told[1]);
    if (pid < 0) {
        why = errno;
    } else if (read(told[0], &why, sizeof why) == sizeof why) {
        (void)waitpid(pid, NULL, 0);
    } else {
        c->pid = pid;
    }
    close(told[0]);
    return c->pid != 0
               ? CVX_OK
               : cvx_fail(CVX_EIO, "cannot start %s: %s%s%s%s", c->argv[0], strerror(why),
                          c->package != NULL ? " (package " : "",
                          c->package != NULL ? c->package : "", c->package != NULL ? ")" : "");
}

static cvx_status wait_for_redis(const cvx_local *l, const char *url)
{
    cvx_redis *r;
    redisReply *reply;
    double begun = cvx_now();

    for (;;) {
        cvx_status st = cvx_redis_open(&r, url);
        if (st == CVX_OK) {
            st = cvx_redis_command(r, &reply, "PING"); /* refused while it reads its files */
            if (st == CVX_OK) {
                freeReplyObject(reply);
            }
            cvx_redis_close(r);
        }
        if (st == CVX_OK || st == CVX_EINVAL) {
            return st;
        }
        if (waitpid(l->redis.pid, NULL, WNOHANG) != 0 || cvx_now() - begun > 30) {
            return cvx_fail(
                CVX_EIO,
                "redis-server did not start; %s, or redis/redis.log beside it, says why "
                "(package redis-server)",
                l->log);
        }
        usleep(10000);
    }
}

/* Two Redis in one folder would write into each other's files. One whose service was killed needs a moment to end. */
static cvx_status lock_folder(cvx_local *l, const char *dir, const char *data_dir)
{
    char path[CVX_PATH_MAX];
    double begun = cvx_now();

    CVX_RETURN_IF(cvx_path_join(path, dir, "lock"));
    l->lock = open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0640);
    if (l->lock < 0) {
        return cvx_fail(CVX_EIO, "cannot write %s: %s", path, strerror(errno));
    }
    while (flock(l->lock, LOCK_EX | LOCK_NB) != 0) {
        if (errno != EWOULDBLOCK || cvx_now() - begun > LOCK_SECONDS) {
            return cvx_fail(CVX_EINVAL, "--data-dir %s: another cvx serve uses it", data_dir);
        }
        usleep(50000);
    }
    return CVX_OK;
}

cvx_status cvx_local_redis(cvx_local *l, const char *data_dir, char url[CVX_URL_MAX])
{
    char dir[CVX_PATH_MAX], socket[CVX_PATH_MAX], log[CVX_PATH_MAX];

    CVX_RETURN_IF(cvx_path_join(dir, data_dir, "redis"));
    CVX_RETURN_IF(cvx_mkdirs(dir));
    CVX_RETURN_IF(lock_folder(l, dir, data_dir));
    CVX_RETURN_IF(cvx_path_join(log, dir, "redis.log"));
    CVX_RETURN_IF(cvx_path_join(socket, dir, "socket"));
    if (strlen(socket) > 100) { /* what a socket's address holds */
        return cvx_fail(CVX_EINVAL, "--data-dir %.200s: too long for a socket in it (100 bytes)",
                        data_dir);
    }
    l->redis.what = l->redis.package = "redis-server";
    const char *const args[] = {"redis-server",
                                "--port",
                                "0",
                                "--unixsocket",
                                socket,
                                "--unixsocketperm",
                                "700",
                                "--dir",
                                dir,
                                "--save",
                                "",
                                "--appendonly",
                                "yes",
                                "--appendfsync",
                                "always",
                                "--daemonize",
                                "no",
                                "--logfile",
                                log};
    for (size_t i = 0; i < sizeof args / sizeof *args; i++) {
        add(&l->redis, args[i]);
    }
    snprintf(url, CVX_URL_MAX, "unix://%.400s", socket);
    CVX_RETURN_IF(begin(l, &l->redis));
    return wait_for_redis(l, url);
}

cvx_status cvx_local_pool(cvx_local *l, const char *rank_program, const char *url,
                          const char *model, const char *clip_model, int64_t ranks, int64_t threads,
                          const cvx_log_options *log)
{
    char n[24];

    l->pool.what = "the pool";
    l->pool.nice = 5; /* computing never keeps requests waiting */
    if (ranks > 1) {
        l->pool.package = "openmpi-bin, for --ranks 2 or more";
        snprintf(n, sizeof n, "%lld", (long long)ranks);
        const char *const mpi[] = {"mpirun", "--oversubscribe", "-n", n};
        for (size_t i = 0; i < 4; i++) {
            add(&l->pool, mpi[i]);
        }
        if (geteuid() == 0) {
            add(&l->pool, "--allow-run-as-root");
        }
    }
    const char *const args[] = {rank_program, "--pool", "--redis", url, "--model", model};
    for (size_t i = 0; i < sizeof args / sizeof *args; i++) {
        add(&l->pool, args[i]);
    }
    if (clip_model != NULL) {
        add(&l->pool, "--clip-model");
        add(&l->pool, clip_model);
    }
    const char *const lines[][2] = {{"--log-format", log->format}, {"--log-level", log->level}};
    for (int i = 0; i < 2; i++) {
        if (lines[i][1] != NULL) {
            add(&l->pool, lines[i][0]);
            add(&l->pool, lines[i][1]);
        }
    }
    if (threads > 0) {
        snprintf(n, sizeof n, "%lld", (long long)threads);
        add(&l->pool, "--threads");
        add(&l->pool, n);
    }
    return begin(l, &l->pool);
}

static void tend(cvx_local *l, child *c)
{
    double now = cvx_now();
    int status;

    if (c->pid != 0 && waitpid(c->pid, &status, WNOHANG) == c->pid) {
        c->pid = 0;
        c->ended = now;
        bool failing = now - c->started < SOON && !(WIFEXITED(status) && WEXITSTATUS(status) == 0);
        c->pause = failing && c->pause > 0 ? 2 * c->pause : 1;
        c->pause = c->pause < LONGEST_PAUSE ? c->pause : LONGEST_PAUSE;
        cvx_log(CVX_LOG_WARN, NULL,
                "%s has ended (%s %d): started again in %.0f s; %s has what it said", c->what,
                WIFEXITED(status) ? "exit" : "signal",
                WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status), c->pause, l->log);
    }
    if (c->pid == 0 && c->argv[0] != NULL && now - c->ended > c->pause && begin(l, c) != CVX_OK) {
        cvx_log(CVX_LOG_ERROR, NULL, "%s", cvx_error());
        c->pause = LONGEST_PAUSE;
    }
}

void cvx_local_tend(cvx_local *l)
{
    tend(l, &l->redis);
    tend(l, &l->pool);
}

static void end(child *c, int sign)
{
    if (c->pid != 0) {
        kill(c->pid, sign);
        for (int i = 0; i < 3000 && waitpid(c->pid, NULL, WNOHANG) == 0; i++) {
            usleep(10000);
            if (i == 2900) {
                kill(c->pid, SIGKILL);
            }
        }
    }
    for (int i = 0; c->argv[i] != NULL; i++) {
        free(c->argv[i]);
    }
}

void cvx_local_close(cvx_local *l)
{
    if (l != NULL) {
        /* mpirun gives its ranks only seconds after a SIGTERM, but hands SIGUSR1 on */
        end(&l->pool, SIGUSR1);
        end(&l->redis, SIGTERM);
        if (l->lock >= 0) {
            close(l->lock);
        }
        free(l);
    }
}
