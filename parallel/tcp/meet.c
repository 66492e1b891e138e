#include "parallel/tcp/meet.h"

#include <arpa/inet.h>
#include <errno.h>
#include <limits.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MAGIC 0x32787663u /* "cvx2" */
/* Seconds until the others must have come. */
#define TIMEOUT 120
/* Seconds that a connection has to say who it is, and how many may be at that. */
#define PATIENCE 5.0
#define GUESTS 64
/* Seconds until an idle connection whose other side answers nothing is broken: idle + probes x interval. */
#define PROBE_IDLE 10
#define PROBE_INTERVAL 5
#define PROBES 4

/* What a process says first on a connection, and what rank 0 answers. */
typedef struct hello {
    uint32_t magic, rank, size;
    uint32_t port; /* where it listens itself; in an answer a verdict */
} hello;

enum { WELCOME, OTHER_SIZE, TAKEN };

/* Where a process listens, as rank 0 saw it. */
typedef struct place {
    struct in6_addr address; /* an IPv4 one mapped */
    uint16_t port;
} place;

/* --- the environment --- */

static cvx_status whole(const char *name, long least, long most, long *out)
{
    const char *v = getenv(name);
    char *end = NULL;
    long n = v != NULL ? strtol(v, &end, 10) : 0;

    if (v == NULL || end == v || *end != 0 || n < least || n > most) {
        return cvx_fail(CVX_EINVAL, "%s is '%s': a number from %ld to %ld is needed", name,
                        v != NULL ? v : "", least, most);
    }
    *out = n;
    return CVX_OK;
}

static cvx_status number(const char *name, long least, long most, int *out)
{
    long n = 0;

    CVX_RETURN_IF(whole(name, least, most, &n));
    *out = (int)n;
    return CVX_OK;
}

/* The first name of a Slurm list: "node[03-07,9],x" -> "node03". */
static void first_host(char *out, size_t size, const char *list)
{
    size_t plain = strcspn(list, "[,"), inner = 0;
    const char *number_at = "";

    if (list[plain] == '[') {
        number_at = list + plain + 1;
        inner = strcspn(number_at, "-,]");
    }
    snprintf(out, size, "%.*s%.*s", (int)plain, list, (int)inner, number_at);
}

static cvx_status read_torchrun(cvx_meeting *m)
{
    const char *host = getenv("MASTER_ADDR"), *agent = getenv("TORCHELASTIC_USE_AGENT_STORE");

    CVX_RETURN_IF(number("WORLD_SIZE", 1, 1024, &m->size));
    CVX_RETURN_IF(number("RANK", 0, m->size - 1, &m->rank));
    if (getenv("LOCAL_WORLD_SIZE") != NULL) {
        CVX_RETURN_IF(number("LOCAL_WORLD_SIZE", 1, m->size, &m->local_size));
    }
    snprintf(m->host, sizeof m->host, "%s", host != NULL ? host : "127.0.0.1");
    CVX_RETURN_IF(number("MASTER_PORT", 1, 65534, &m->port));
    m->port += agent != NULL && strcmp(agent, "True") == 0;
    return CVX_OK;
}

/* Of "2(x3),1", the tasks on each node, those on the node-th; 0 where the list does not say. */
static int tasks_on(const char *list, long node)
{
    char *end = NULL;

    for (const char *p = list; *p >= '0' && *p <= '9'; p = end + 1) {
        long tasks = strtol(p, &end, 10), times = 1;
        if (strncmp(end, "(x", 2) == 0) {
            times = strtol(end + 2, &end, 10);
            end += *end == ')';
        }
        if (node < times) {
            return tasks > 0 && tasks < INT_MAX ? (int)tasks : 0;
        }
        node -= times;
        if (*end != ',') {
            break;
        }
    }
    return 0;
}

static cvx_status read_slurm(cvx_meeting *m)
{
    const char *nodes = getenv("SLURM_STEP_NODELIST");
    long job = 0, step = 0; /* of 32 bits, also with all of them in use */

    CVX_RETURN_IF(number("SLURM_STEP_NUM_TASKS", 1, 1024, &m->size));
    CVX_RETURN_IF(number("SLURM_PROCID", 0, m->size - 1, &m->rank));
    CVX_RETURN_IF(whole("SLURM_JOB_ID", 0, UINT32_MAX, &job));
    CVX_RETURN_IF(whole("SLURM_STEP_ID", 0, UINT32_MAX, &step));
    const char *tasks = getenv("SLURM_STEP_TASKS_PER_NODE"), *node = getenv("SLURM_NODEID");
    if (tasks != NULL) {
        m->local_size = tasks_on(tasks, node != NULL ? strtol(node, NULL, 10) : 0);
    }
    if (nodes == NULL) {
        return cvx_fail(CVX_EINVAL, "SLURM_STEP_NODELIST is not set: where is rank 0?");
    }
    first_host(m->host, sizeof m->host, nodes);
    m->port = 20000 + (int)((job * 16 + step) % 10000);
    return CVX_OK;
}

cvx_status cvx_meeting_read(cvx_meeting *m, bool *told)
{
    bool torchrun = getenv("RANK") != NULL && getenv("WORLD_SIZE") != NULL;
    bool slurm = getenv("SLURM_STEP_ID") != NULL && getenv("SLURM_PROCID") != NULL &&
                 getenv("SLURM_STEP_NUM_TASKS") != NULL;

    *m = (cvx_meeting){.size = 1};
    *told = torchrun || slurm;
    if (*told) {
        CVX_RETURN_IF(torchrun ? read_torchrun(m) : read_slurm(m));
        if (getenv("CVX_MASTER_PORT") != NULL) {
            CVX_RETURN_IF(number("CVX_MASTER_PORT", 1, 65535, &m->port));
        }
    }
    return CVX_OK;
}

/* --- sockets --- */

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void tune(int fd)
{
    const struct {
        int level, name, value;
    } all[] = {{IPPROTO_TCP, TCP_NODELAY, 1},
               {SOL_SOCKET, SO_KEEPALIVE, 1},
               {IPPROTO_TCP, TCP_KEEPIDLE, PROBE_IDLE},
               {IPPROTO_TCP, TCP_KEEPINTVL, PROBE_INTERVAL},
               {IPPROTO_TCP, TCP_KEEPCNT, PROBES}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        setsockopt(fd, all[i].level, all[i].name, &all[i].value, sizeof all[i].value);
    }
}

/* A listening socket for both families, or for IPv4 where there is no IPv6. port 0: any; *port <- which. */
static cvx_status listen_at(int port, int *bound, int *out)
{
    struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port)};
    struct sockaddr_in four = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), off = 0, on = 1;
    bool is6 = fd >= 0 && setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off) == 0;
    struct sockaddr *at = is6 ? (struct sockaddr *)&six : (struct sockaddr *)&four;
    socklen_t len = is6 ? sizeof six : sizeof four;

    if (fd >= 0 && !is6) {
        close(fd);
    }
    fd = is6 ? fd : socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd >= 0) {
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    }
    if (fd < 0 || bind(fd, at, len) != 0 || listen(fd, 1024) != 0 ||
        getsockname(fd, at, &len) != 0) {
        int e = errno;
        if (fd >= 0) {
            close(fd);
        }
        return cvx_fail(CVX_EIO, "cannot listen at port %d for the other ranks: %s%s", port,
                        strerror(e), port > 0 ? "; CVX_MASTER_PORT chooses another" : "");
    }
    *bound = ntohs(is6 ? six.sin6_port : four.sin_port);
    *out = fd;
    return CVX_OK;
}

/* All of n bytes within the time; else errno tells why (ETIMEDOUT, ECONNRESET where the other side closed). */
static bool move_all(int fd, void *data, size_t n, bool in, double until)
{
    for (size_t at = 0; at < n;) {
        struct pollfd p = {fd, in ? POLLIN : POLLOUT, 0};
        double left = until - now();
        if (left <= 0 || poll(&p, 1, (int)(1000 * left) + 1) == 0) {
            errno = ETIMEDOUT;
            return false;
        }
        ssize_t k = in ? recv(fd, (char *)data + at, n - at, MSG_DONTWAIT)
                       : send(fd, (char *)data + at, n - at, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (k == 0 || (k < 0 && errno != EAGAIN && errno != EINTR)) {
            errno = k == 0 ? ECONNRESET : errno;
            return false;
        }
        at += k > 0 ? (size_t)k : 0;
    }
    return true;
}

/* One try to reach an address; -1: errno tells why. */
static int reach(const struct sockaddr *at, socklen_t len, double until)
{
    int fd = socket(at->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), e = 0;
    socklen_t size = sizeof e;
    struct pollfd p = {fd, POLLOUT, 0};
    double left = until - now();

    if (fd < 0) {
        return -1;
    }
    if (connect(fd, at, len) != 0 && errno != EINPROGRESS) {
        e = errno;
    } else if (poll(&p, 1, (int)(1000 * (left > 1 ? left : 1))) <= 0) {
        e = ETIMEDOUT;
    } else if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &e, &size) != 0) {
        e = errno;
    }
    if (e != 0) {
        close(fd);
        errno = e;
        return -1;
    }
    return fd;
}

/* Rank 0 by its name; -1: *why tells. */
static int reach_first(const cvx_meeting *m, double until, const char **why)
{
    struct addrinfo want = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM}, *all = NULL;
    char port[16];
    int fd = -1;

    snprintf(port, sizeof port, "%d", m->port);
    int rc = getaddrinfo(m->host, port, &want, &all);
    if (rc != 0) {
        *why = gai_strerror(rc);
        return -1;
    }
    for (struct addrinfo *a = all; a != NULL && fd < 0; a = a->ai_next) {
        fd = reach(a->ai_addr, a->ai_addrlen, until);
    }
    if (fd < 0) {
        *why = strerror(errno);
    }
    freeaddrinfo(all);
    return fd;
}

static int reach_place(const place *p, double until)
{
    struct sockaddr_in6 six = {.sin6_family = AF_INET6,
                               .sin6_addr = p->address,
                               .sin6_port = htons(p->port)};
    struct sockaddr_in four = {.sin_family = AF_INET, .sin_port = htons(p->port)};

    if (IN6_IS_ADDR_V4MAPPED(&p->address)) {
        memcpy(&four.sin_addr, p->address.s6_addr + 12, 4);
        return reach((struct sockaddr *)&four, sizeof four, until);
    }
    return reach((struct sockaddr *)&six, sizeof six, until);
}

/* The address of a socket's other end. */
static struct in6_addr far_end(int fd)
{
    struct sockaddr_storage s = {0};
    socklen_t len = sizeof s;
    struct in6_addr a = {0};

    if (getpeername(fd, (struct sockaddr *)&s, &len) == 0 && s.ss_family == AF_INET6) {
        a = ((struct sockaddr_in6 *)&s)->sin6_addr;
    } else {
        a.s6_addr[10] = a.s6_addr[11] = 0xff;
        memcpy(a.s6_addr + 12, &((struct sockaddr_in *)&s)->sin_addr, 4);
    }
    return a;
}

static bool is_loopback(const struct in6_addr *a)
{
    return IN6_IS_ADDR_LOOPBACK(a) || (IN6_IS_ADDR_V4MAPPED(a) && a->s6_addr[12] == 127);
}

/* --- the meeting --- */

/* A connection that has not said yet who it is. */
typedef struct guest {
    int fd;
    size_t at; /* bytes of hi that have come */
    hello hi;
    double until;
} guest;

/* The processes above `least` are awaited. */
typedef struct door {
    const cvx_meeting *m;
    int listener, least, missing;
    int *sockets;
    place *places; /* rank 0's; NULL elsewhere: nothing is answered there */
    guest guest[GUESTS];
    int n;
    char refused[160]; /* who was sent away last */
} door;

static void send_away(door *d, int i)
{
    close(d->guest[i].fd);
    d->guest[i] = d->guest[--d->n];
}

/* One more connection; where there are too many, the one that has been silent for longest goes. */
static void let_in(door *d)
{
    int fd = accept4(d->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK), oldest = 0;

    if (fd < 0) {
        return;
    }
    for (int i = 1; i < d->n; i++) {
        oldest = d->guest[i].until < d->guest[oldest].until ? i : oldest;
    }
    if (d->n == GUESTS) {
        send_away(d, oldest);
    }
    d->guest[d->n++] = (guest){.fd = fd, .until = now() + PATIENCE};
}

/* It has said who it is: one of the awaited, or is told why not. */
static void judge(door *d, int i)
{
    const cvx_meeting *m = d->m;
    guest *g = &d->guest[i];
    hello answer = {MAGIC, (uint32_t)m->rank, (uint32_t)m->size, WELCOME};

    if (g->hi.magic != MAGIC) { /* a stranger */
        send_away(d, i);
        return;
    }
    if (g->hi.size != (uint32_t)m->size) {
        answer.port = OTHER_SIZE;
        snprintf(d->refused, sizeof d->refused, "; a rank %u of %u came and was sent away",
                 g->hi.rank, g->hi.size);
    } else if (g->hi.rank < (uint32_t)d->least || g->hi.rank >= g->hi.size ||
               d->sockets[g->hi.rank] >= 0) {
        answer.port = TAKEN;
        snprintf(d->refused, sizeof d->refused, "; a second rank %u came and was sent away",
                 g->hi.rank);
    }
    if (d->places != NULL && !move_all(g->fd, &answer, sizeof answer, false, now() + PATIENCE)) {
        send_away(d, i);
        return;
    }
    if (answer.port != WELCOME) {
        send_away(d, i);
        return;
    }
    d->sockets[g->hi.rank] = g->fd;
    if (d->places != NULL) {
        d->places[g->hi.rank] = (place){far_end(g->fd), (uint16_t)g->hi.port};
    }
    d->missing--;
    d->guest[i] = d->guest[--d->n];
}

/* What a guest has said since. */
static void listen_to(door *d, int i)
{
    guest *g = &d->guest[i];
    ssize_t k = recv(g->fd, (char *)&g->hi + g->at, sizeof g->hi - g->at, MSG_DONTWAIT);

    if (k > 0) {
        g->at += (size_t)k;
        if (g->at == sizeof g->hi) {
            judge(d, i);
        }
    } else if (k == 0 || (errno != EAGAIN && errno != EINTR)) {
        send_away(d, i);
    }
}

/* Accepts all that are missing; strangers are sent away. */
static cvx_status accept_all(door *d, double until)
{
    const cvx_meeting *m = d->m;

    d->missing = m->size - d->least;
    while (d->missing > 0 && now() < until) {
        struct pollfd p[GUESTS + 1];
        int n = d->n;
        p[n] = (struct pollfd){d->listener, POLLIN, 0};
        for (int i = 0; i < n; i++) {
            p[i] = (struct pollfd){d->guest[i].fd, POLLIN, 0};
        }
        if (poll(p, (nfds_t)n + 1, 200) < 0 && errno != EINTR) {
            break;
        }
        for (int i = n - 1; i >= 0; i--) { /* the last guest takes the place of one that goes */
            if (p[i].revents != 0) {
                listen_to(d, i);
            } else if (now() > d->guest[i].until) {
                send_away(d, i);
            }
        }
        if (p[n].revents != 0) {
            let_in(d);
        }
    }
    while (d->n > 0) {
        send_away(d, 0);
    }
    return d->missing == 0
               ? CVX_OK
               : cvx_fail(CVX_EPEER, "%d of %d ranks did not come to %s port %d in time%s",
                          d->missing, m->size, m->rank == 0 ? m->host : "this rank's", m->port,
                          d->refused);
}

/* What rank 0 answers. *again: nothing, since the connection closed; it may have been one that waits for rank 0 in its place. */
static cvx_status hear_first(const cvx_meeting *m, int fd, double until, bool *again)
{
    hello h = {0};

    if (!move_all(fd, &h, sizeof h, true, until)) {
        *again = errno != ETIMEDOUT;
        return cvx_fail(CVX_EPEER, "%s port %d does not answer as rank 0 does: %s", m->host,
                        m->port, strerror(errno));
    }
    if (h.magic != MAGIC || h.rank != 0) {
        return cvx_fail(CVX_EPEER,
                        "what answers at %s port %d is no rank 0: another program or version has "
                        "that port; CVX_MASTER_PORT chooses another",
                        m->host, m->port);
    }
    if (h.port == OTHER_SIZE) {
        return cvx_fail(CVX_EPEER,
                        "rank 0 at %s port %d is of a job of %u ranks, this rank of one of %d",
                        m->host, m->port, h.size, m->size);
    }
    return h.port == WELCOME ? CVX_OK
                             : cvx_fail(CVX_EPEER, "rank 0 at %s port %d has a rank %d already",
                                        m->host, m->port, m->rank);
}

static cvx_status tell_first(const cvx_meeting *m, int port, int *sockets, place *places,
                             double until)
{
    const struct timespec nap = {0, 50000000};
    const hello h = {MAGIC, (uint32_t)m->rank, (uint32_t)m->size, (uint32_t)port};
    const char *why = "";
    cvx_status st = CVX_EPEER;

    for (bool again = true; again && now() < until;) {
        int fd = reach_first(m, until, &why);
        if (fd < 0) {
            nanosleep(&nap, NULL);
            continue;
        }
        hello own = h;
        again = !move_all(fd, &own, sizeof own, false, until);
        st = again ? cvx_fail(CVX_EPEER, "%s port %d does not listen to rank %d: %s", m->host,
                              m->port, m->rank, strerror(errno))
                   : hear_first(m, fd, until, &again);
        if (st == CVX_OK) {
            sockets[0] = fd;
            break;
        }
        close(fd);
        why = NULL;
        nanosleep(&nap, NULL);
    }
    if (sockets[0] < 0) {
        return why == NULL ? st
                           : cvx_fail(CVX_EPEER, "rank 0 was not reached at %s port %d in time: %s",
                                      m->host, m->port, why);
    }
    if (!move_all(sockets[0], places, (size_t)m->size * sizeof *places, true, until)) {
        return errno == ETIMEDOUT
                   ? cvx_fail(CVX_EPEER, "rank 0 at %s port %d waits for other ranks in vain",
                              m->host, m->port)
                   : cvx_fail(CVX_EPEER, "rank 0 at %s port %d ended before all ranks had come",
                              m->host, m->port);
    }
    return CVX_OK;
}

/* CVX_TCP_TIMEOUT from now. */
static cvx_status deadline(double *until)
{
    int seconds = TIMEOUT;

    if (getenv("CVX_TCP_TIMEOUT") != NULL) {
        CVX_RETURN_IF(number("CVX_TCP_TIMEOUT", 1, 1000000, &seconds));
    }
    *until = now() + seconds;
    return CVX_OK;
}

static cvx_status join(const cvx_meeting *m, int *sockets, place *places)
{
    double until = 0;
    int port = 0;
    door d = {.m = m, .listener = -1, .least = m->rank + 1, .sockets = sockets};

    CVX_RETURN_IF(deadline(&until));
    CVX_RETURN_IF(listen_at(m->rank == 0 ? m->port : 0, &port, &d.listener));
    d.places = m->rank == 0 ? places : NULL;
    cvx_status st =
        m->rank == 0 ? accept_all(&d, until) : tell_first(m, port, sockets, places, until);
    for (int r = 1; m->rank == 0 && r < m->size && st == CVX_OK; r++) {
        if (!move_all(sockets[r], places, (size_t)m->size * sizeof *places, false, until)) {
            st = cvx_fail(CVX_EPEER, "rank %d is gone", r);
        }
    }
    for (int r = 1; r < m->rank && st == CVX_OK; r++) {
        hello h = {MAGIC, (uint32_t)m->rank, (uint32_t)m->size, 0};
        struct in6_addr first = far_end(sockets[0]);
        if (is_loopback(&places[r].address)) { /* on rank 0's machine, which may be another */
            places[r].address = first;
        }
        sockets[r] = reach_place(&places[r], until);
        if (sockets[r] < 0 || !move_all(sockets[r], &h, sizeof h, false, until)) {
            st = cvx_fail(CVX_EPEER, "rank %d cannot be reached from rank %d: %s", r, m->rank,
                          strerror(errno));
        }
    }
    if (st == CVX_OK && m->rank > 0) {
        st = accept_all(&d, until);
    }
    close(d.listener);
    return st;
}

cvx_status cvx_meeting_hold(const cvx_meeting *m, int *sockets)
{
    place *places = calloc((size_t)m->size, sizeof *places);
    cvx_status st =
        places != NULL ? CVX_OK : cvx_fail(CVX_ENOMEM, "no memory for %d ranks", m->size);

    for (int r = 0; r < m->size; r++) {
        sockets[r] = -1;
    }
    if (st == CVX_OK && m->size > 1) {
        st = join(m, sockets, places);
    }
    for (int r = 0; r < m->size; r++) {
        if (sockets[r] >= 0 && st == CVX_OK) {
            tune(sockets[r]);
        } else if (sockets[r] >= 0) {
            close(sockets[r]);
            sockets[r] = -1;
        }
    }
    free(places);
    return st;
}
