#include "parallel/tcp/wire.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

/* Seconds that a process that ends waits for its last messages to leave. */
#define LINGER 5.0
/* Milliseconds without any answer after which a machine to which something is on its way is gone. */
#define SILENCE 30000

typedef struct header {
    uint32_t group, kind;
    int64_t bytes;
} header;

typedef struct queue {
    cvx_message *first, **end;
} queue;

typedef struct peer {
    int socket;
    queue out;       /* on their way, the first one partly */
    queue wanted;    /* receives without a message */
    queue early;     /* messages without a receive, complete but for `in` */
    int64_t out_at;  /* bytes of the first one's header that are gone */
    header head;     /* of the message that comes */
    size_t head_at;  /* its bytes that have come */
    cvx_message *in; /* it */
} peer;

struct cvx_wire {
    int rank, size;
    bool broken;
    double looked; /* when the peers' machines were looked at last */
    peer *peers;
    struct pollfd *poll;
    int *who; /* whose pollfd it is */
};

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void put(queue *q, cvx_message *m)
{
    m->next = NULL;
    if (q->first == NULL) {
        q->end = &q->first;
    }
    *q->end = m;
    q->end = &m->next;
}

/* Takes out the first message of a group, or of any (any). */
static cvx_message *take(queue *q, uint32_t group, bool any)
{
    for (cvx_message **at = &q->first; *at != NULL; at = &(*at)->next) {
        cvx_message *m = *at;
        if (any || m->group == group) {
            *at = m->next;
            if (m->next == NULL) {
                q->end = at;
            }
            return m;
        }
    }
    return NULL;
}

static cvx_status gone(cvx_wire *w, int who, const char *why)
{
    w->broken = true;
    return cvx_fail(CVX_EPEER, "rank %d is gone (%s)", who, why);
}

static void drop_early(queue *q)
{
    for (cvx_message *m; (m = take(q, 0, true)) != NULL;) {
        free(m->data);
        free(m);
    }
}

cvx_status cvx_wire_open(cvx_wire **out, int rank, int size, const int *sockets)
{
    cvx_wire *w = calloc(1, sizeof *w);
    peer *peers = calloc((size_t)size, sizeof *peers);
    struct pollfd *poll = calloc((size_t)size, sizeof *poll);
    int *who = calloc((size_t)size, sizeof *who);

    if (w == NULL || peers == NULL || poll == NULL || who == NULL) {
        free(w);
        free(peers);
        free(poll);
        free(who);
        for (int i = 0; i < size; i++) {
            if (sockets[i] >= 0) {
                close(sockets[i]);
            }
        }
        return cvx_fail(CVX_ENOMEM, "no memory for %d connections", size);
    }
    *w = (cvx_wire){.rank = rank, .size = size, .peers = peers, .poll = poll, .who = who};
    for (int i = 0; i < size; i++) {
        peers[i].socket = sockets[i];
    }
    *out = w;
    return CVX_OK;
}

bool cvx_wire_broken(const cvx_wire *w)
{
    return w->broken;
}

void cvx_wire_break(cvx_wire *w)
{
    w->broken = true;
}

/* Sends what the socket takes. */
static cvx_status push(cvx_wire *w, int who)
{
    peer *p = &w->peers[who];

    while (p->out.first != NULL) {
        cvx_message *m = p->out.first;
        header h = {m->group, m->kind, m->bytes};
        struct iovec v[2] = {{(char *)&h + p->out_at, sizeof h - (size_t)p->out_at},
                             {(char *)m->data + m->at, (size_t)(m->bytes - m->at)}};
        struct msghdr msg = {.msg_iov = v, .msg_iovlen = m->bytes > 0 ? 2 : 1};
        ssize_t n = sendmsg(p->socket, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0) {
            return errno == EAGAIN || errno == EINTR ? CVX_OK : gone(w, who, strerror(errno));
        }
        int64_t of_header = n < (ssize_t)v[0].iov_len ? n : (ssize_t)v[0].iov_len;
        p->out_at += of_header;
        m->at += n - of_header;
        if (p->out_at == (int64_t)sizeof h && m->at == m->bytes) {
            take(&p->out, 0, true)->done = true;
            p->out_at = 0;
        }
    }
    return CVX_OK;
}

/* A header has come: where its bytes go. */
static cvx_status begin(cvx_wire *w, int who)
{
    peer *p = &w->peers[who];
    const header *h = &p->head;

    p->in = take(&p->wanted, h->group, false);
    if (p->in != NULL && (p->in->bytes != h->bytes || p->in->kind != h->kind)) {
        w->broken = true;
        return cvx_fail(CVX_EPEER,
                        "rank %d is at another collective (%lld bytes of kind %u came, %lld of "
                        "kind %u are awaited): it has failed",
                        who, (long long)h->bytes, h->kind, (long long)p->in->bytes, p->in->kind);
    }
    if (p->in == NULL) {
        p->in = h->bytes >= 0 ? calloc(1, sizeof *p->in) : NULL;
        if (p->in == NULL || (p->in->data = malloc((size_t)h->bytes + 1)) == NULL) {
            free(p->in);
            p->in = NULL;
            w->broken = true;
            return cvx_fail(CVX_ENOMEM, "no memory for a message of %lld bytes from rank %d",
                            (long long)h->bytes, who);
        }
        p->in->bytes = h->bytes;
        p->in->group = h->group;
        p->in->kind = h->kind;
        put(&p->early, p->in);
    }
    return CVX_OK;
}

/* Reads what has come. */
static cvx_status pull(cvx_wire *w, int who)
{
    peer *p = &w->peers[who];

    for (;;) {
        bool heading = p->in == NULL;
        char *to = heading ? (char *)&p->head + p->head_at : (char *)p->in->data + p->in->at;
        size_t room = heading ? sizeof p->head - p->head_at : (size_t)(p->in->bytes - p->in->at);
        ssize_t n = room > 0 ? recv(p->socket, to, room, MSG_DONTWAIT) : 0;
        if (n < 0) {
            return errno == EAGAIN || errno == EINTR ? CVX_OK : gone(w, who, strerror(errno));
        }
        if (n == 0 && room > 0) {
            bool needed =
                !heading || p->head_at > 0 || p->wanted.first != NULL || p->out.first != NULL;
            close(p->socket);
            p->socket = -1; /* it has ended, in order unless somebody waits for it */
            return needed ? gone(w, who, "it closed the connection") : CVX_OK;
        }
        if (heading) {
            p->head_at += (size_t)n;
            if (p->head_at < sizeof p->head) {
                continue;
            }
            p->head_at = 0;
            CVX_RETURN_IF(begin(w, who));
        } else {
            p->in->at += n;
        }
        if (p->in->at == p->in->bytes) {
            p->in->done = true;
            p->in = NULL;
        }
    }
}

static cvx_status usable(const cvx_wire *w)
{
    return w->broken ? cvx_fail(CVX_EPEER, "the connections to the other ranks are broken")
                     : CVX_OK;
}

/* Whether the machine at the other end answers nothing any more. Probes see to that while nothing is on its way (meet.c). A process
 * that takes nothing, as it computes, is not gone: its machine answers every probe of its full window, though these may
 * be two minutes apart, so that only unanswered ones count. */
static bool is_silent(int fd)
{
    struct tcp_info i = {0};
    socklen_t len = sizeof i;

    return getsockopt(fd, IPPROTO_TCP, TCP_INFO, &i, &len) == 0 &&
           (i.tcpi_unacked > 0 || i.tcpi_probes > 1) && i.tcpi_last_ack_recv > SILENCE;
}

static cvx_status look(cvx_wire *w)
{
    if (now() < w->looked + 1) {
        return CVX_OK;
    }
    w->looked = now();
    for (int i = 0; i < w->size; i++) {
        if (w->peers[i].socket >= 0 && is_silent(w->peers[i].socket)) {
            return gone(w, i, "its machine does not answer");
        }
    }
    return CVX_OK;
}

/* Waits up to wait_ms for something to move, and moves it. */
static cvx_status turn(cvx_wire *w, int wait_ms)
{
    int n = 0;

    CVX_RETURN_IF(usable(w));
    for (int i = 0; i < w->size; i++) {
        if (w->peers[i].socket >= 0) {
            short out = w->peers[i].out.first != NULL ? POLLOUT : 0;
            w->poll[n] = (struct pollfd){w->peers[i].socket, (short)(POLLIN | out), 0};
            w->who[n++] = i;
        }
    }
    if (poll(w->poll, (nfds_t)n, wait_ms) < 0 && errno != EINTR) {
        return cvx_fail(CVX_EIO, "poll: %s", strerror(errno));
    }
    CVX_RETURN_IF(look(w));
    for (int i = 0; i < n; i++) {
        if (w->poll[i].revents & (POLLIN | POLLERR | POLLHUP)) {
            CVX_RETURN_IF(pull(w, w->who[i]));
        }
        if (w->poll[i].revents & POLLOUT) {
            CVX_RETURN_IF(push(w, w->who[i]));
        }
    }
    return CVX_OK;
}

cvx_status cvx_wire_send(cvx_wire *w, int who, cvx_message *m)
{
    CVX_ASSERT(who >= 0 && who < w->size && who != w->rank);
    CVX_RETURN_IF(usable(w));
    if (w->peers[who].socket < 0) {
        return gone(w, who, "it has ended");
    }
    m->at = 0;
    m->done = false;
    put(&w->peers[who].out, m);
    return w->peers[who].out.first == m ? push(w, who) : CVX_OK;
}

cvx_status cvx_wire_receive(cvx_wire *w, int who, cvx_message *m)
{
    CVX_ASSERT(who >= 0 && who < w->size && who != w->rank);
    CVX_RETURN_IF(usable(w));
    peer *p = &w->peers[who];
    cvx_message *early = take(&p->early, m->group, false);

    m->at = 0;
    m->done = false;
    if (early == NULL) {
        if (p->socket < 0) {
            return gone(w, who, "it has ended");
        }
        put(&p->wanted, m);
        return CVX_OK;
    }
    if (early->bytes != m->bytes || early->kind != m->kind) {
        w->broken = true;
        put(&p->early, early);
        return cvx_fail(CVX_EPEER, "rank %d is at another collective: it has failed", who);
    }
    memcpy(m->data, early->data, (size_t)early->at);
    if (early->done) {
        m->done = true;
    } else { /* the rest goes straight to its place */
        m->at = early->at;
        p->in = m;
    }
    free(early->data);
    free(early);
    return CVX_OK;
}

cvx_status cvx_wire_move(cvx_wire *w)
{
    return turn(w, 0);
}

cvx_status cvx_wire_wait(cvx_wire *w, cvx_message *const *m, int n, double patience)
{
    double until = now() + patience;

    for (;;) {
        bool done = true;
        for (int i = 0; i < n; i++) {
            done = done && m[i]->done;
        }
        if (done) {
            return CVX_OK;
        }
        if (patience > 0 && now() > until) {
            w->broken = true;
            return cvx_fail(CVX_EPEER, "another rank does not answer");
        }
        CVX_RETURN_IF(turn(w, patience > 0 ? 200 : 1000));
    }
}

void cvx_wire_close(cvx_wire *w)
{
    if (w == NULL) {
        return;
    }
    double until = now() + LINGER;
    for (int i = 0; i < w->size; i++) {
        while (!w->broken && w->peers[i].out.first != NULL && now() < until) {
            if (turn(w, 100) != CVX_OK) {
                break;
            }
        }
    }
    for (int i = 0; i < w->size; i++) {
        if (w->peers[i].socket >= 0) {
            close(w->peers[i].socket);
        }
        drop_early(&w->peers[i].early);
    }
    free(w->peers);
    free(w->poll);
    free(w->who);
    free(w);
}
