/* Any bytes as what a client sends to the service, which runs here without Redis and without `cvx plan`: as a whole request, as the
 * JSON of a job, or as its form, which the first byte says. What is a whole request must get an answer, and never a 500. */
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
        if (k <= 0) { /* the answer came before the end */
            return;
        }
        data = (const char *)data + k;
        n -= (size_t)k;
    }
}

/* The answer's status; 0: there was none, in time or until the connection was closed. */
static int status_of(int fd)
{
    char head[4096], rest[4096];
    size_t n = 0;
    int status = 0;
    ssize_t k;

    while (n < sizeof head - 1 && (k = recv(fd, head + n, sizeof head - 1 - n, 0)) > 0) {
        n += (size_t)k;
    }
    while ((k = recv(fd, rest, sizeof rest, 0)) > 0) {
    }
    head[n] = 0;
    return sscanf(head, "HTTP/1.%*d %d", &status) == 1 ? status : 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const types[] = {NULL, "application/json",
                                        "multipart/form-data; boundary=x"};
    static bool open;
    const struct timeval patience = {15, 0}, little = {0, 10000};
    char head[300];
    int pair[2];

    if (!open) {
        enter();
        open = true;
    }
    if (size < 1 || size > 1 << 16 || socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0) {
        return 0;
    }
    const char *type = types[data[0] % 3];
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
    if ((type != NULL && status == 0) || (status >= 500 && status != 503 && status != 505)) {
        fprintf(stderr, "status %d\n", status);
        abort();
    }
    return 0;
}
