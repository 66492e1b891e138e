/* Any bytes as what a client sends to the service, which runs here without Redis and without `cvx plan`: as a whole request, as the
 * JSON of a job, or as its form, which the first byte says. What is a whole request must get an answer, and never a 500. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "coordinator/guard.h"
#include "coordinator/server.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char dir[] = "/tmp/cvx-fuzz-http-XXXXXX";

static void leave(void)
{
    char path[64];

    cvx_http_stop();
    snprintf(path, sizeof path, "%s/uploads", dir);
    rmdir(path);
    if (rmdir(dir) != 0) { /* an upload that nobody keeps lies there */
        abort();
    }
}

static void enter(void)
{
    static cvx_server s = {.redis_url = "unix:///nowhere/at/all",
                           .data_dir = dir,
                           .model = "/model",
                           .model_name = "model",
                           .connections = 1000,
                           .request_seconds = 5};
    int port = -1;

    pthread_mutex_init(&s.lock, NULL);
    pthread_cond_init(&s.freed, NULL);
    if (mkdtemp(dir) == NULL || cvx_http_start(&s, "127.0.0.1", &port) != CVX_OK) {
        abort();
    }
    atexit(leave);
}

static void put(int fd, const void *data, size_t n)
{
    while (n > 0) {
        ssize_t k = send(fd, data, n, MSG_NOSIGNAL);
        if (k < 0 && errno == EINTR) {
            continue;
        }
        if (k <= 0) { /* the answer came before the end */
            return;
        }
        data = (const char *)data + k;
        n -= (size_t)k;
    }
}

/* libFuzzer's alarm interrupts a call that has a timeout of its own, which no system call of that kind survives (signal(7)). */
static ssize_t receive(int fd, void *to, size_t n)
{
    ssize_t k;

    do {
        k = recv(fd, to, n, 0);
    } while (k < 0 && errno == EINTR);
    return k;
}

/* The answer's status; 0: there was none, in time or until the connection was closed. */
static int status_of(int fd)
{
    char head[4096], rest[4096];
    size_t n = 0;
    int status = 0;
    ssize_t k;

    while (n < sizeof head - 1 && (k = receive(fd, head + n, sizeof head - 1 - n)) > 0) {
        n += (size_t)k;
    }
    while ((k = receive(fd, rest, sizeof rest)) > 0) {
    }
    head[n] = 0;
    return sscanf(head, "HTTP/1.%*d %d", &status) == 1 ? status : 0;
}

/* One request, which the first byte says how to send; its answer's status, 0: none. */
static int exchange(const uint8_t *data, size_t size)
{
    static const char *const types[] = {NULL, "application/json",
                                        "multipart/form-data; boundary=xy"};
    const struct timeval patience = {15, 0}, little = {0, 10000};
    const char *type = types[data[0] % 3];
    char head[300];
    int pair[2];

    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0) {
        abort();
    }
    /* what is no whole request may get no answer until its time is over */
    setsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, type != NULL ? &patience : &little,
               sizeof patience);
    if (cvx_http_adopt(pair[1]) != CVX_OK) {
        abort();
    }
    if (type != NULL) {
        int n = snprintf(
            head, sizeof head,
            "POST /v1/videos HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: "
            "%s\r\nContent-Length: %zu\r\n\r\n",
            type, size - 1);
        put(pair[0], head, (size_t)n);
    }
    put(pair[0], data + 1, size - 1);
    if (type == NULL) {
        shutdown(pair[0], SHUT_WR);
    }
    int status = status_of(pair[0]);
    close(pair[0]);
    cvx_guard_tend();
    return status;
}

/* A good job gets as far as the Redis that is not there, by each of the three ways: else they would try nothing. */
static void check_ways(void)
{
    static const char *const good[] = {
        ("\0POST /v1/videos HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: "
         "application/json\r\nContent-Length: 14\r\n\r\n{\"prompt\":\"x\"}"),
        "\1{\"prompt\":\"x\"}",
        "\2--xy\r\nContent-Disposition: form-data; name=\"prompt\"\r\n\r\nx\r\n--xy--\r\n"};

    for (int i = 0; i < 3; i++) {
        int status = exchange((const uint8_t *)good[i], 1 + strlen(good[i] + 1));
        if (status != 503) {
            fprintf(stderr, "a good job, way %d: status %d\n", i, status);
            abort();
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static bool open;

    if (!open) {
        enter();
        check_ways();
        open = true;
    }
    if (size < 1 || size > 1 << 16) {
        return 0;
    }
    int status = exchange(data, size);
    if ((data[0] % 3 != 0 && status == 0) || (status >= 500 && status != 503 && status != 505)) {
        fprintf(stderr, "status %d\n", status);
        abort();
    }
    return 0;
}
