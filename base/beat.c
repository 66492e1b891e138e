#include "base/beat.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"

#define BEATS_A_SECOND 5

static struct {
    _Atomic uint64_t work, ticks;
    _Atomic int64_t rank;
    _Atomic bool ending;
    bool started;
    int fd;
    pthread_t thread;
    char path[CVX_PATH_MAX];
} beat = {.rank = -1};

void cvx_beat(void)
{
    atomic_fetch_add_explicit(&beat.work, 1, memory_order_relaxed);
}

static bool write_record(void)
{
    cvx_beat_record r = {
        .ticks = ++beat.ticks, .work = beat.work, .rank = beat.rank, .pid = (int64_t)getpid()};
    return pwrite(beat.fd, &r, sizeof r, 0) == (ssize_t)sizeof r;
}

void cvx_beat_rank(int rank)
{
    beat.rank = rank;
    if (beat.started) {
        write_record();
    }
}

static void *run(void *arg)
{
    const struct timespec pause = {.tv_nsec = 1000000000 / BEATS_A_SECOND};

    while (!beat.ending) {
        write_record(); /* a lost record is made good by the next */
        nanosleep(&pause, NULL);
    }
    return arg;
}

cvx_status cvx_beat_start(const char *dir)
{
    char host[256] = "", name[320];
    sigset_t all, old;

    gethostname(host, sizeof host - 1);
    snprintf(name, sizeof name, "%s-%ld", host, (long)getpid());
    CVX_RETURN_IF(cvx_path_join(beat.path, dir, name));
    beat.fd = open(beat.path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    if (beat.fd < 0 || !write_record()) {
        return cvx_fail(CVX_EIO, "cannot write %s: %s", beat.path, strerror(errno));
    }
    sigfillset(&all); /* signals go to the threads that wait for them */
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int rc = pthread_create(&beat.thread, NULL, run, NULL);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (rc != 0) {
        return cvx_fail(CVX_EIO, "cannot start a thread: %s", strerror(rc));
    }
    beat.started = true;
    return CVX_OK;
}

void cvx_beat_stop(void)
{
    if (beat.started) {
        beat.ending = true;
        pthread_join(beat.thread, NULL);
        unlink(beat.path);
        close(beat.fd);
        beat.started = false;
    }
}

cvx_status cvx_beat_read(cvx_beat_record *out, const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd >= 0 ? pread(fd, out, sizeof *out, 0) : -1;

    if (fd >= 0) {
        close(fd);
    }
    return n == (ssize_t)sizeof *out ? CVX_OK : cvx_fail(CVX_EIO, "cannot read %s", path);
}
