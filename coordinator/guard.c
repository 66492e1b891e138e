#include "coordinator/guard.h"

#include <arpa/inet.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/progress.h"

#define BYTES_A_SECOND 32768.0

typedef struct address {
    unsigned char bytes[16];
} address;

struct cvx_guarded {
    int fd;
    address from;
    bool plain, answering, served; /* served: a request was answered before */
    double since;                  /* the next request could come */
    double received;               /* bytes of its body */
    cvx_guarded *next, *before;
};

static struct {
    pthread_mutex_t lock;
    double seconds;
    int per_address;
    cvx_guarded *first;
} guard = {.lock = PTHREAD_MUTEX_INITIALIZER};

void cvx_guard_open(double seconds, int per_address)
{
    guard.seconds = seconds;
    guard.per_address = per_address;
}

static address address_of(const struct sockaddr *addr)
{
    address a = {{0}};

    if (addr != NULL && addr->sa_family == AF_INET) {
        memcpy(a.bytes, &((const struct sockaddr_in *)(const void *)addr)->sin_addr, 4);
    } else if (addr != NULL && addr->sa_family == AF_INET6) {
        memcpy(a.bytes, &((const struct sockaddr_in6 *)(const void *)addr)->sin6_addr, 16);
    }
    return a;
}

bool cvx_guard_admits(const struct sockaddr *addr)
{
    address a = address_of(addr);
    int n = 0;

    if (guard.per_address == 0) {
        return true;
    }
    pthread_mutex_lock(&guard.lock);
    for (const cvx_guarded *g = guard.first; g != NULL; g = g->next) {
        n += memcmp(&g->from, &a, sizeof a) == 0;
    }
    pthread_mutex_unlock(&guard.lock);
    return n < guard.per_address;
}

cvx_guarded *cvx_guard_begin(int fd, const struct sockaddr *addr, bool plain)
{
    cvx_guarded *g = calloc(1, sizeof *g);

    if (g != NULL) {
        g->fd = fd;
        g->from = address_of(addr);
        g->plain = plain;
        g->since = cvx_now();
        pthread_mutex_lock(&guard.lock);
        g->next = guard.first;
        if (g->next != NULL) {
            g->next->before = g;
        }
        guard.first = g;
        pthread_mutex_unlock(&guard.lock);
    }
    return g;
}

void cvx_guard_end(cvx_guarded *g)
{
    if (g != NULL) {
        pthread_mutex_lock(&guard.lock);
        *(g->before != NULL ? &g->before->next : &guard.first) = g->next;
        if (g->next != NULL) {
            g->next->before = g->before;
        }
        pthread_mutex_unlock(&guard.lock);
        free(g);
    }
}

void cvx_guard_received(cvx_guarded *g, size_t n)
{
    if (g != NULL) {
        pthread_mutex_lock(&guard.lock);
        g->received += (double)n;
        pthread_mutex_unlock(&guard.lock);
    }
}

void cvx_guard_answering(cvx_guarded *g)
{
    if (g != NULL) {
        pthread_mutex_lock(&guard.lock);
        g->answering = true;
        pthread_mutex_unlock(&guard.lock);
    }
}

void cvx_guard_idle(cvx_guarded *g)
{
    if (g != NULL) {
        pthread_mutex_lock(&guard.lock);
        g->answering = false;
        g->served = true;
        g->received = 0;
        g->since = cvx_now();
        pthread_mutex_unlock(&guard.lock);
    }
}

/* The thread that reads the connection sees its end and closes it. */
static void cut(cvx_guarded *g)
{
    static const char late[] =
        "HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";

    if (g->plain && !g->served) {
        (void)!send(g->fd, late, sizeof late - 1, MSG_DONTWAIT | MSG_NOSIGNAL);
    }
    shutdown(g->fd, SHUT_RDWR);
    g->answering = true; /* once */
    cvx_log(CVX_LOG_DEBUG, NULL, "a connection sends its request too slowly: closed");
}

void cvx_guard_tend(void)
{
    double now = cvx_now();

    pthread_mutex_lock(&guard.lock);
    for (cvx_guarded *g = guard.first; g != NULL; g = g->next) {
        if (!g->answering && now - g->since > guard.seconds + g->received / BYTES_A_SECOND) {
            cut(g);
        }
    }
    pthread_mutex_unlock(&guard.lock);
}
