/* Many clients of one service: connections that ask for the same path again and again, and others that listen to events. Prints one
 * line of JSON: requests, errors, latencies. usage: bench_load HOST PORT SECONDS CONNECTIONS INTERVAL_MS PATH STREAMS EVENT_PATH [KEY] */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define REPLY_MAX 65536

typedef struct client {
    int fd;
    bool stream, asked; /* asked: an answer is awaited */
    double due, sent;
    char *reply;
    size_t len;
} client;

static struct {
    struct sockaddr_in at;
    char get[1024], listen[1024];
    int epoll;
    long requests, errors, told, reopened;
    double *latency; /* s */
    size_t n, room;
} load;

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void keep(double s)
{
    if (load.n == load.room) {
        load.room = load.room * 2 + 4096;
        load.latency = realloc(load.latency, load.room * sizeof *load.latency);
    }
    load.latency[load.n++] = s;
}

static bool tell(client *c, const char *text)
{
    size_t n = strlen(text);

    c->sent = now();
    c->asked = true;
    c->len = 0;
    return send(c->fd, text, n, MSG_NOSIGNAL) == (ssize_t)n;
}

static bool dial(client *c)
{
    int one = 1;
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};

    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    c->asked = false;
    if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&load.at, sizeof load.at) != 0) {
        return false;
    }
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    return epoll_ctl(load.epoll, EPOLL_CTL_ADD, c->fd, &e) == 0 &&
           (!c->stream || tell(c, load.listen));
}

/* A stream ends with its job and is begun anew; any other connection that closes is an error. */
static void closed(client *c)
{
    close(c->fd);
    load.errors += !c->stream || c->len == 0;
    load.reopened++;
    if (!dial(c)) {
        load.errors++;
    }
}

/* Whether the answer is whole: its head, and as many bytes as that says. */
static bool whole(const client *c)
{
    const char *end = strstr(c->reply, "\r\n\r\n");
    const char *length = strcasestr(c->reply, "\r\nContent-Length:");

    return end != NULL && length != NULL && length < end &&
           c->len >= (size_t)(end + 4 - c->reply) + strtoul(length + 17, NULL, 10);
}

static void heard(client *c)
{
    ssize_t n = recv(c->fd, c->reply + c->len, REPLY_MAX - 1 - c->len, 0);

    if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
        return;
    }
    if (n <= 0) {
        closed(c);
        return;
    }
    if (c->stream) {
        load.told += n;
        c->len = 1;
        return;
    }
    c->len += (size_t)n;
    c->reply[c->len] = 0;
    if (whole(c)) {
        keep(now() - c->sent);
        load.requests++;
        load.errors += strncmp(c->reply, "HTTP/1.1 200 ", 13) != 0;
        c->asked = false;
    } else if (c->len == REPLY_MAX - 1) {
        load.errors++;
        closed(c);
    }
}

static void turn(client *all, int n, double interval, double until)
{
    struct epoll_event e[256];

    while (now() < until) {
        double t = now(), next = t + 0.02;
        for (int i = 0; i < n; i++) {
            client *c = &all[i];
            if (!c->stream && !c->asked && c->due <= t) {
                c->due += interval;
                load.errors += !tell(c, load.get);
            }
            next = !c->stream && c->due > t && c->due < next ? c->due : next;
        }
        int got = epoll_wait(load.epoll, e, 256, (int)((next - t) * 1e3));
        for (int i = 0; i < got; i++) {
            heard(e[i].data.ptr);
        }
    }
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double quantile(double q)
{
    return load.n > 0 ? load.latency[(size_t)(q * (double)(load.n - 1))] * 1e3 : 0;
}

static void request(char *out, const char *path, const char *key)
{
    snprintf(out, 1024, "GET %.300s HTTP/1.1\r\nHost: localhost\r\n%s%.200s%s\r\n", path,
             key != NULL ? "Authorization: Bearer " : "", key != NULL ? key : "",
             key != NULL ? "\r\n" : "");
}

int main(int argc, char **argv)
{
    if (argc < 9) {
        fprintf(stderr, "usage: bench_load HOST PORT SECONDS CONNECTIONS INTERVAL_MS PATH STREAMS "
                        "EVENT_PATH [KEY]\n");
        return 2;
    }
    int connections = (int)strtol(argv[4], NULL, 10), streams = (int)strtol(argv[7], NULL, 10);
    int n = connections + streams, open = 0;
    double interval = strtod(argv[5], NULL) * 1e-3;
    client *all = calloc((size_t)n, sizeof *all);
    struct rlimit r;

    if (all == NULL || inet_pton(AF_INET, argv[1], &load.at.sin_addr) != 1) {
        return 2;
    }
    getrlimit(RLIMIT_NOFILE, &r);
    r.rlim_cur = r.rlim_max;
    setrlimit(RLIMIT_NOFILE, &r);
    load.at.sin_family = AF_INET;
    load.at.sin_port = htons((uint16_t)strtol(argv[2], NULL, 10));
    load.epoll = epoll_create1(0);
    request(load.get, argv[6], argc > 9 ? argv[9] : NULL);
    request(load.listen, argv[8], argc > 9 ? argv[9] : NULL);
    for (int i = 0; i < n; i++) {
        all[i].stream = i >= connections;
        all[i].reply = calloc(1, REPLY_MAX);
        open += dial(&all[i]);
    }
    load.errors += n - open;
    for (int i = 0; i < n; i++) { /* evenly over the interval */
        all[i].due = now() + interval * i / n;
    }
    turn(all, n, interval, now() + strtod(argv[3], NULL));
    for (int i = 0; i < connections;
         i++) { /* what is still awaited counts as long as it has taken */
        if (all[i].asked) {
            keep(now() - all[i].sent);
        }
    }
    qsort(load.latency, load.n, sizeof *load.latency, ascending);
    printf(
        "{\"open\": %d, \"requests\": %ld, \"errors\": %ld, \"event_bytes\": %ld, \"p50_ms\": %.2f, "
        "\"p90_ms\": %.2f, \"p99_ms\": %.2f, \"max_ms\": %.2f}\n",
        open, load.requests, load.errors, load.told, quantile(0.5), quantile(0.9), quantile(0.99),
        quantile(1));
    return load.errors > 0;
}
