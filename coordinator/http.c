/* HTTP by libmicrohttpd: a few threads for all connections, with TLS where there is a certificate. */
#include "coordinator/http.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "base/log.h"
#include "base/progress.h"
#include "coordinator/auth.h"
#include "coordinator/events.h"
#include "coordinator/workers.h"

#define CONNECTION_TIMEOUT 60                /* s without a byte in either direction */
#define CONNECTION_MEMORY ((size_t)32 << 10) /* bounds a request's headers */
#define THREADS 2
#define THREAD_STACK ((size_t)1 << 20) /* JSON of 2,048 levels is read by recursion */

/* A request on its way. */
typedef struct exchange {
    cvx_http_answer answer;
    cvx_body body;
    char owner[64];
    double begun;
    bool known; /* the answer is there */
    cvx_server *server;
    cvx_http_request request;
    cvx_task task;
} exchange;

static struct MHD_Daemon *http_daemon;
static char daemon_error[300]; /* the last one, while it starts */

static const char *query(struct MHD_Connection *c, const char *name)
{
    return MHD_lookup_connection_value(c, MHD_GET_ARGUMENT_KIND, name);
}

static cvx_guarded *guarded(struct MHD_Connection *c)
{
    const union MHD_ConnectionInfo *i =
        MHD_get_connection_info(c, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    return i != NULL ? i->socket_context : NULL;
}

/* Whether "HOST[:PORT]" is this machine. */
static bool is_local_name(const char *host)
{
    static const char *const names[] = {"127.0.0.1", "localhost", "[::1]"};

    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        size_t n = strlen(names[i]);
        if (strncasecmp(host, names[i], n) == 0 && (host[n] == 0 || host[n] == ':')) {
            return true;
        }
    }
    return false;
}

/* Without keys whoever reaches the loopback address is trusted, which a page from elsewhere in a browser here must not be: neither
 * by a name that leads here (the Host is then another) nor by a form that it sends (its Origin is). */
static bool is_foreign(struct MHD_Connection *c)
{
    const char *host = cvx_http_header(c, "Host"), *origin = cvx_http_header(c, "Origin");
    const char *from = origin != NULL ? strstr(origin, "://") : NULL;

    return (host != NULL && !is_local_name(host)) ||
           (origin != NULL && (from == NULL || !is_local_name(from + 3)));
}

/* The path of what may be a whole address, as a request to a proxy has it (RFC 9112, 3.2.2). */
static const char *path_of(const char *target)
{
    bool address =
        strncasecmp(target, "http://", 7) == 0 || strncasecmp(target, "https://", 8) == 0;
    const char *slash = address ? strchr(strstr(target, "://") + 3, '/') : NULL;

    return slash != NULL ? slash : address ? "/" : target;
}

/* The beginning of a request: who asks, and how the body will be read. */
static exchange *begin(cvx_server *s, struct MHD_Connection *c, const char *path,
                       const char *method)
{
    exchange *x = calloc(1, sizeof *x);

    if (x == NULL) {
        return NULL;
    }
    x->begun = cvx_now();
    x->answer.status = 200;
    cvx_body_begin(&x->body, s, &x->answer, c, strcmp(method, "POST") == 0);
    if (s->keys == 0 && is_foreign(c)) {
        cvx_answer_error(&x->answer, 403, NULL,
                         "without API keys only requests from this machine to 127.0.0.1 or "
                         "localhost are served");
        x->body.refused = true;
    } else if (strncmp(path, "/v1/", 4) == 0 &&
               !cvx_auth_check(s, cvx_http_header(c, "Authorization"), x->owner, sizeof x->owner)) {
        cvx_answer_error(
            &x->answer, 401, NULL,
            "no API key, or not one of this service; it goes into Authorization: Bearer KEY");
        x->body.refused = true;
    }
    return x;
}

/* Asks the API; by a worker, while the connection is suspended. */
static void ask(void *payload)
{
    exchange *x = payload;

    cvx_api(x->server, &x->request, &x->answer);
    cvx_body_settle(&x->body, x->answer.keeps_image);
    cvx_answer_write(&x->answer, x->request.accept_encoding);
}

/* Its strings are the connection's. */
static void fill_request(exchange *x, struct MHD_Connection *c, const char *path,
                         const char *method)
{
    const cvx_body *b = &x->body;

    x->answer.head = strcmp(method, "HEAD") == 0;
    x->request = (cvx_http_request){.method = x->answer.head ? "GET" : method,
                                    .path = path,
                                    .owner = x->owner,
                                    .accept_encoding = cvx_http_header(c, "Accept-Encoding"),
                                    .idempotency_key = cvx_http_header(c, "Idempotency-Key"),
                                    .after = query(c, "after"),
                                    .limit = query(c, "limit"),
                                    .order = query(c, "order"),
                                    .status = query(c, "status"),
                                    .variant = query(c, "variant"),
                                    .fields = b->fields,
                                    .form = !b->json,
                                    .image = b->image[0] != 0 ? b->image : NULL};
    if (cvx_log_on(CVX_LOG_DEBUG)) {
        snprintf(x->answer.what, sizeof x->answer.what, "%.12s %.180s", method, path);
    }
}

static enum MHD_Result handle(void *cls, struct MHD_Connection *c, const char *target,
                              const char *method, const char *version, const char *data,
                              size_t *size, void **state)
{
    cvx_server *s = cls;
    exchange *x = *state;
    const char *path = path_of(target);
    (void)version;

    if (x == NULL) {
        *state = begin(s, c, path, method);
        return *state != NULL ? MHD_YES : MHD_NO;
    }
    if (*size > 0) {
        size_t n = *size;
        *size = 0;
        cvx_guard_received(guarded(c), n);
        return cvx_body_take(&x->body, data, n) ? MHD_YES : MHD_NO;
    }
    if (x->known) {
        return cvx_reply(c, &x->answer);
    }
    x->known = true;
    cvx_guard_answering(guarded(c));
    cvx_body_end(&x->body);
    fill_request(x, c, path, method);
    if (x->body.refused) {
        cvx_body_settle(&x->body, false);
        return cvx_reply(c, &x->answer);
    }
    x->server = s;
    x->task = (cvx_task){.run = ask, .payload = x, .connection = c};
    if (!cvx_workers_add(&x->task, strcmp(method, "POST") == 0 ? CVX_LANE_SLOW : CVX_LANE_QUICK)) {
        cvx_answer_error(&x->answer, 503, NULL, "the service ends");
        return cvx_reply(c, &x->answer);
    }
    return MHD_YES;
}

/* The line of a request in the log. */
static void note(const exchange *x, double seconds)
{
    const cvx_http_answer *a = &x->answer;
    const char *id = strstr(a->what, "/video_"); /* of a job that is asked for, or was made */
    char job[CVX_ID_MAX] = "";

    snprintf(job, sizeof job, "%.38s", id != NULL ? id + 1 : a->job);
    cvx_log_fields(CVX_LOG_DEBUG, cvx_job_id_valid(job) ? job : NULL,
                   json_pack("{s:i, s:f, s:s}", "status", (int)a->status, "seconds", seconds,
                             "owner", x->owner),
                   "%s", a->what);
}

static void completed(void *cls, struct MHD_Connection *c, void **state,
                      enum MHD_RequestTerminationCode why)
{
    exchange *x = *state;
    (void)cls;
    (void)why;

    cvx_guard_idle(guarded(c));
    if (x != NULL) {
        double seconds = cvx_now() - x->begun;
        cvx_metrics_request(x->answer.status, x->answer.events != NULL ? -1 : seconds);
        if (x->answer.what[0] != 0) {
            note(x, seconds);
        }
        cvx_body_close(&x->body);
        json_decref(x->answer.json);
        free(x->answer.text);
        free(x->answer.bytes);
        free(x->answer.file);
        free(x->answer.events);
        free(x);
    }
}

static enum MHD_Result admit(void *cls, const struct sockaddr *addr, socklen_t len)
{
    (void)cls;
    (void)len;
    return cvx_guard_admits(addr) ? MHD_YES : MHD_NO;
}

static void connection(void *cls, struct MHD_Connection *c, void **context,
                       enum MHD_ConnectionNotificationCode what)
{
    const cvx_server *s = cls;

    if (what == MHD_CONNECTION_NOTIFY_CLOSED) {
        cvx_guard_end(*context);
        return;
    }
    const union MHD_ConnectionInfo *fd =
        MHD_get_connection_info(c, MHD_CONNECTION_INFO_CONNECTION_FD);
    const union MHD_ConnectionInfo *from =
        MHD_get_connection_info(c, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
    if (fd != NULL && from != NULL) {
        *context = cvx_guard_begin(fd->connect_fd, from->client_addr, s->tls_cert == NULL);
    }
}

/* A zero in a path or an argument would end it early: such a byte is made one that nothing is named with. */
static size_t unescape(void *cls, struct MHD_Connection *c, char *text)
{
    size_t n = MHD_http_unescape(text);
    (void)cls;
    (void)c;

    for (size_t i = 0; i < n; i++) {
        text[i] = text[i] == 0 ? '\x01' : text[i];
    }
    return n;
}

/* What the library says is wrong: mostly of clients. */
static void complain(void *cls, const char *fmt, va_list ap)
{
    char text[300];
    (void)cls;

    vsnprintf(text, sizeof text, fmt, ap);
    text[strcspn(text, "\n")] = 0;
    if (http_daemon == NULL) {
        snprintf(daemon_error, sizeof daemon_error, "%s", text);
    } else {
        cvx_log(CVX_LOG_DEBUG, NULL, "%s", text);
    }
}

/* A descriptor a connection, as far as the system lets us, and some for files and Redis. */
static void raise_descriptors(const cvx_server *s)
{
    rlim_t wanted = (rlim_t)s->connections + 200;
    struct rlimit r;

    if (getrlimit(RLIMIT_NOFILE, &r) == 0 && r.rlim_cur < wanted) {
        r.rlim_cur = r.rlim_max < wanted ? r.rlim_max : wanted;
        (void)setrlimit(RLIMIT_NOFILE, &r);
    }
}

cvx_status cvx_http_start(cvx_server *s, const char *host, int *port)
{
    struct sockaddr_storage at;
    const union MHD_DaemonInfo *info;
    struct MHD_OptionItem tls[] = {{MHD_OPTION_HTTPS_MEM_CERT, 0, (void *)s->tls_cert},
                                   {MHD_OPTION_HTTPS_MEM_KEY, 0, (void *)s->tls_key},
                                   {MHD_OPTION_HTTPS_PRIORITIES, 0,
                                    "NORMAL:-VERS-TLS1.0:-VERS-TLS1.1"},
                                   {MHD_OPTION_END, 0, NULL}};
    struct MHD_OptionItem none[] = {{MHD_OPTION_END, 0, NULL}};
    bool secure = s->tls_cert != NULL;

    if (secure && MHD_is_feature_supported(MHD_FEATURE_TLS) != MHD_YES) {
        return cvx_fail(CVX_EUNSUPPORTED, "--tls-cert: this libmicrohttpd was built without TLS");
    }
    CVX_RETURN_IF(cvx_http_address(&at, host, *port > 0 ? *port : 0));
    cvx_guard_open(s->request_seconds, s->connections_per_address);
    raise_descriptors(s);
    CVX_RETURN_IF(cvx_workers_start());
    CVX_RETURN_IF(cvx_events_start(s));
    unsigned flags = (unsigned)MHD_USE_EPOLL_INTERNAL_THREAD | (unsigned)MHD_ALLOW_SUSPEND_RESUME |
                     (unsigned)MHD_USE_ERROR_LOG | (secure ? (unsigned)MHD_USE_TLS : 0) |
                     (*port < 0 ? (unsigned)MHD_USE_NO_LISTEN_SOCKET : 0) |
                     (at.ss_family == AF_INET6 ? (unsigned)MHD_USE_IPv6 : 0);
    http_daemon = MHD_start_daemon(
        flags, (uint16_t)*port, admit, NULL, handle, s, MHD_OPTION_EXTERNAL_LOGGER, complain, NULL,
        MHD_OPTION_SOCK_ADDR, (struct sockaddr *)&at, MHD_OPTION_CONNECTION_LIMIT,
        (unsigned)s->connections, MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)CONNECTION_TIMEOUT,
        MHD_OPTION_THREAD_POOL_SIZE, (unsigned)THREADS, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
        CONNECTION_MEMORY, MHD_OPTION_THREAD_STACK_SIZE, THREAD_STACK, MHD_OPTION_NOTIFY_COMPLETED,
        completed, NULL, MHD_OPTION_NOTIFY_CONNECTION, connection, s, MHD_OPTION_UNESCAPE_CALLBACK,
        unescape, NULL, MHD_OPTION_ARRAY, secure ? tls : none, MHD_OPTION_END);
    if (http_daemon == NULL) {
        return cvx_fail(CVX_EIO, "cannot listen at %s, port %d%s: %s", host, *port,
                        secure ? " with --tls-cert and --tls-key" : "",
                        daemon_error[0] != 0 ? daemon_error : strerror(errno));
    }
    info = *port >= 0 ? MHD_get_daemon_info(http_daemon, MHD_DAEMON_INFO_BIND_PORT) : NULL;
    *port = info != NULL ? info->port : *port;
    return CVX_OK;
}

cvx_status cvx_http_adopt(int fd)
{
    const struct sockaddr_in nobody = {.sin_family = AF_INET};

    return MHD_add_connection(http_daemon, fd, (const struct sockaddr *)&nobody, sizeof nobody) ==
                   MHD_YES
               ? CVX_OK
               : cvx_fail(CVX_EIO, "the connection is not taken: %s", strerror(errno));
}

void cvx_http_stop(void)
{
    if (http_daemon != NULL) { /* nothing may be suspended when it stops */
        cvx_workers_stop();
        cvx_events_stop();
        MHD_stop_daemon(http_daemon);
        http_daemon = NULL;
    }
}
