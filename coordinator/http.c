/* HTTP by libmicrohttpd: a few threads for all connections, bodies of JSON and forms, files with ranges, server-sent events. */
#include "coordinator/http.h"

#include <errno.h>
#include <fcntl.h>
#include <microhttpd.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "coordinator/auth.h"
#include "coordinator/events.h"
#include "coordinator/workers.h"

#define CONNECTIONS 2000
#define CONNECTION_TIMEOUT 60
#define THREADS 2
#define THREAD_STACK ((size_t)1 << 20) /* JSON of 2,048 levels is read by recursion */
#define FIELD_MAX 40000

/* A request while its body comes in. */
typedef struct exchange {
    char owner[64];
    bool refused; /* the body is read and dropped: the answer is known */
    cvx_http_answer answer;
    char *body;
    size_t len, sent;
    struct MHD_PostProcessor *form;
    json_t *fields;
    char image[CVX_PATH_MAX];
    int image_fd;
    bool known; /* the answer is there */
    cvx_server *server;
    cvx_http_request request;
    cvx_task task;
} exchange;

static struct MHD_Daemon *http_daemon;

void cvx_answer_error(cvx_http_answer *a, unsigned status, const char *param, const char *fmt, ...)
{
    char text[600];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    const char *type = status == 401   ? "authentication_error"
                       : status == 429 ? "rate_limit_error"
                       : status >= 500 ? "server_error"
                                       : "invalid_request_error";
    json_decref(a->json);
    a->status = status;
    json_t *message = json_string(text); /* NULL where a cut went through a character */
    a->json = json_pack("{s:{s:o, s:s, s:s?, s:n}}", "error", "message",
                        message != NULL ? message : json_string("bad request"), "type", type,
                        "param", param, "code");
    a->retry_after = status == 503 ? 2 : status == 429 ? 1 : 0;
}

void cvx_answer_status(cvx_http_answer *a, cvx_status st, const char *param)
{
    bool asker = st == CVX_EINVAL || st == CVX_EUNSUPPORTED;

    cvx_answer_error(a, st == CVX_EIO ? 503 : asker ? 400 : 500, param, "%s", cvx_error());
}

static const char *header(struct MHD_Connection *c, const char *name)
{
    return MHD_lookup_connection_value(c, MHD_HEADER_KIND, name);
}

static const char *query(struct MHD_Connection *c, const char *name)
{
    return MHD_lookup_connection_value(c, MHD_GET_ARGUMENT_KIND, name);
}

/* A picture's bytes go to a file of their own name; nothing of the name that came is used. */
static cvx_status take_image(exchange *x, const cvx_server *s, const char *data, size_t n)
{
    char id[CVX_ID_MAX];

    if (x->image_fd < 0) {
        cvx_job_id(id);
        snprintf(x->image, sizeof x->image, "%.4000s/uploads", s->data_dir);
        CVX_RETURN_IF(cvx_mkdirs(x->image));
        snprintf(x->image, sizeof x->image, "%.4000s/uploads/%s", s->data_dir, id);
        x->image_fd = open(x->image, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0640);
    }
    return x->image_fd >= 0 && write(x->image_fd, data, n) == (ssize_t)n
               ? CVX_OK
               : cvx_fail(CVX_EINTERNAL, "cannot write the picture: %s", strerror(errno));
}

typedef struct form_state {
    exchange *x;
    const cvx_server *s;
} form_state;

/* Adds a piece of a text field. */
static void add_text(exchange *x, const char *key, const char *data, size_t n, bool first)
{
    const json_t *old = first ? NULL : json_object_get(x->fields, key);
    size_t have = old != NULL ? json_string_length(old) : 0;
    char *all = have + n <= FIELD_MAX ? malloc(have + n + 1) : NULL;

    if (all == NULL) {
        cvx_answer_error(&x->answer, 413, NULL, "%.60s: more than %d bytes", key, FIELD_MAX);
        x->refused = true;
        return;
    }
    if (have > 0) {
        memcpy(all, json_string_value(old), have);
    }
    memcpy(all + have, data, n);
    /* a piece may end within a character: checked when all is there */
    json_object_set_new_nocheck(x->fields, key, json_stringn_nocheck(all, have + n));
    free(all);
}

static enum MHD_Result form_piece(void *cls, enum MHD_ValueKind kind, const char *key,
                                  const char *filename, const char *type, const char *encoding,
                                  const char *data, uint64_t off, size_t size)
{
    form_state *f = cls;
    (void)kind;
    (void)type;
    (void)encoding;

    if (f->x->refused) {
        return MHD_YES;
    }
    if (filename != NULL) {
        if (strcmp(key, "input_reference") != 0) {
            cvx_answer_error(&f->x->answer, 400, NULL, "%.60s: no file is meant here", key);
            f->x->refused = true;
        } else if (off + size > CVX_UPLOAD_MAX) {
            cvx_answer_error(&f->x->answer, 413, key, "input_reference: more than %zu bytes",
                             CVX_UPLOAD_MAX);
            f->x->refused = true;
        } else if (size > 0 && take_image(f->x, f->s, data, size) != CVX_OK) {
            cvx_answer_status(&f->x->answer, CVX_EINTERNAL, NULL);
            f->x->refused = true;
        }
    } else {
        add_text(f->x, key, data, size, off == 0);
    }
    return MHD_YES;
}

typedef struct running_form {
    exchange x; /* first */
    form_state state;
} running_form;

/* The beginning of a request: who asks, and how the body will be read. */
static exchange *begin(cvx_server *s, struct MHD_Connection *c, const char *path,
                       const char *method)
{
    running_form *r = calloc(1, sizeof *r);

    if (r == NULL) {
        return NULL;
    }
    exchange *x = &r->x;
    x->image_fd = -1;
    x->answer.status = 200;
    r->state = (form_state){x, s};
    if (strncmp(path, "/v1/", 4) == 0 &&
        !cvx_auth_check(s, header(c, "Authorization"), x->owner, sizeof x->owner)) {
        cvx_answer_error(
            &x->answer, 401, NULL,
            "no API key, or not one of this service; it goes into Authorization: Bearer KEY");
        x->refused = true;
        return x;
    }
    const char *type = header(c, "Content-Type");
    bool form = type != NULL && (strncasecmp(type, "multipart/form-data", 19) == 0 ||
                                 strncasecmp(type, "application/x-www-form-urlencoded", 33) == 0);
    if (strcmp(method, "POST") == 0 && form) {
        x->fields = json_object();
        x->form = MHD_create_post_processor(c, 16384, form_piece, &r->state);
        if (x->form == NULL) {
            cvx_answer_error(&x->answer, 400, NULL, "the form's boundary is missing");
            x->refused = true;
        }
    }
    return x;
}

static void take_body(exchange *x, const char *data, size_t n)
{
    if (x->refused) {
        return;
    }
    if (x->form != NULL) {
        x->sent += n;
        if (x->sent > CVX_UPLOAD_MAX + CVX_BODY_MAX) {
            cvx_answer_error(&x->answer, 413, NULL, "the body has more than %zu bytes",
                             CVX_UPLOAD_MAX + CVX_BODY_MAX);
            x->refused = true;
        } else if (MHD_post_process(x->form, data, n) != MHD_YES && !x->refused) {
            cvx_answer_error(&x->answer, 400, NULL, "the form cannot be read");
            x->refused = true;
        }
        return;
    }
    char *more = x->len + n <= CVX_BODY_MAX ? realloc(x->body, x->len + n + 1) : NULL;
    if (more == NULL) {
        cvx_answer_error(&x->answer, 413, NULL, "the body has more than %zu bytes", CVX_BODY_MAX);
        x->refused = true;
        return;
    }
    memcpy(more + x->len, data, n);
    x->body = more;
    x->len += n;
}

/* The body's fields, once all of it is there. */
static void end_body(exchange *x)
{
    const char *key;
    json_t *v;

    if (x->refused) {
        return;
    }
    if (x->form != NULL) {
        json_object_foreach(x->fields, key, v)
        {
            json_t *checked = json_stringn(json_string_value(v), json_string_length(v));
            if (checked == NULL || json_string_length(v) != strlen(json_string_value(v))) {
                cvx_answer_error(&x->answer, 400, NULL, "%.60s: not UTF-8", key);
                x->refused = true;
            }
            json_decref(checked);
        }
    } else if (x->len > 0 && cvx_json_parse(&x->fields, x->body, x->len, "the body") != CVX_OK) {
        cvx_answer_error(&x->answer, 400, NULL, "%s", cvx_error());
        x->refused = true;
    }
}

/* "bytes=a-b", "bytes=a-", "bytes=-n" within size; false: not one that can be served. */
static bool parse_range(const char *h, uint64_t size, uint64_t *from, uint64_t *n)
{
    unsigned long long a = 0, b = size - 1;

    if (size == 0 || strncmp(h, "bytes=", 6) != 0 || strchr(h, ',') != NULL) {
        return false;
    }
    if (sscanf(h + 6, "%llu-%llu", &a, &b) >= 1 && h[6] != '-') {
        b = b >= size ? size - 1 : b;
    } else if (sscanf(h + 6, "-%llu", &b) == 1 && b > 0) {
        a = b < size ? size - b : 0;
        b = size - 1;
    } else {
        return false;
    }
    *from = a;
    *n = b - a + 1;
    return a <= b;
}

static struct MHD_Response *file_response(struct MHD_Connection *c, cvx_http_answer *a)
{
    const char *range = header(c, "Range");
    struct stat sb;
    uint64_t from = 0, n;
    char text[80];
    int fd = open(a->file, O_RDONLY | O_CLOEXEC);

    if (fd < 0 || fstat(fd, &sb) != 0) {
        if (fd >= 0) {
            close(fd);
        }
        cvx_answer_error(a, 404, NULL, "the file is no longer there");
        return NULL;
    }
    n = (uint64_t)sb.st_size;
    if (range != NULL && parse_range(range, (uint64_t)sb.st_size, &from, &n)) {
        a->status = 206;
    } else if (range != NULL && strncmp(range, "bytes=", 6) == 0 && strchr(range, ',') == NULL) {
        close(fd);
        cvx_answer_error(a, 416, NULL, "range '%.60s' of a file of %lld bytes", range,
                         (long long)sb.st_size);
        return NULL;
    }
    struct MHD_Response *r = MHD_create_response_from_fd_at_offset64(n, fd, from);
    MHD_add_response_header(r, "Content-Type", a->type);
    MHD_add_response_header(r, "Accept-Ranges", "bytes");
    if (a->status == 206) {
        snprintf(text, sizeof text, "bytes %llu-%llu/%lld", (unsigned long long)from,
                 (unsigned long long)(from + n - 1), (long long)sb.st_size);
        MHD_add_response_header(r, "Content-Range", text);
    }
    return r;
}

static struct MHD_Response *response_of(struct MHD_Connection *c, exchange *x)
{
    cvx_http_answer *a = &x->answer;
    struct MHD_Response *r = NULL;

    if (a->events != NULL) {
        return cvx_events_response(c, a->events, header(c, "Last-Event-ID"));
    }
    if (a->file != NULL && (r = file_response(c, a)) != NULL) {
        return r;
    }
    if (a->text != NULL) {
        r = MHD_create_response_from_buffer(strlen(a->text), a->text, MHD_RESPMEM_MUST_COPY);
        MHD_add_response_header(r, "Content-Type", a->type);
        return r;
    }
    char *text = json_dumps(a->json, JSON_COMPACT | JSON_PRESERVE_ORDER);
    r = MHD_create_response_from_buffer(strlen(text), text, MHD_RESPMEM_MUST_FREE);
    MHD_add_response_header(r, "Content-Type", "application/json");
    return r;
}

static enum MHD_Result answer(struct MHD_Connection *c, exchange *x)
{
    char number[24];
    struct MHD_Response *r = response_of(c, x);

    if (r == NULL) {
        return MHD_NO;
    }
    if (x->answer.poll_after_ms > 0) {
        snprintf(number, sizeof number, "%d", x->answer.poll_after_ms);
        MHD_add_response_header(r, "openai-poll-after-ms", number);
    }
    if (x->answer.retry_after > 0) {
        snprintf(number, sizeof number, "%d", x->answer.retry_after);
        MHD_add_response_header(r, "Retry-After", number);
    }
    MHD_add_response_header(r, "X-Content-Type-Options", "nosniff");
    MHD_add_response_header(r, "Content-Security-Policy",
                            "default-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
                            "media-src 'self' blob:; frame-ancestors 'none'");
    enum MHD_Result res = MHD_queue_response(c, x->answer.status, r);
    MHD_destroy_response(r);
    return res;
}

/* A picture that no job begins with. */
static void drop_image(exchange *x)
{
    if (x->image[0] != 0 && x->answer.status >= 400) {
        unlink(x->image);
    }
}

/* Asks the API; by a worker, while the connection is suspended. */
static void ask(void *payload)
{
    exchange *x = payload;

    cvx_api(x->server, &x->request, &x->answer);
    drop_image(x);
}

/* Its strings are the connection's. */
static void fill_request(exchange *x, struct MHD_Connection *c, const char *path,
                         const char *method)
{
    x->request = (cvx_http_request){.method = method,
                                    .path = path,
                                    .owner = x->owner,
                                    .idempotency_key = header(c, "Idempotency-Key"),
                                    .after = query(c, "after"),
                                    .limit = query(c, "limit"),
                                    .order = query(c, "order"),
                                    .status = query(c, "status"),
                                    .variant = query(c, "variant"),
                                    .fields = x->fields,
                                    .image = x->image[0] != 0 ? x->image : NULL};
}

static enum MHD_Result handle(void *cls, struct MHD_Connection *c, const char *path,
                              const char *method, const char *version, const char *data,
                              size_t *size, void **state)
{
    cvx_server *s = cls;
    exchange *x = *state;
    (void)version;

    if (x == NULL) {
        *state = begin(s, c, path, method);
        return *state != NULL ? MHD_YES : MHD_NO;
    }
    if (*size > 0) {
        take_body(x, data, *size);
        *size = 0;
        return MHD_YES;
    }
    if (x->known) {
        return answer(c, x);
    }
    x->known = true;
    end_body(x);
    if (x->image_fd >= 0) {
        close(x->image_fd);
        x->image_fd = -1;
    }
    if (x->refused) {
        drop_image(x);
        return answer(c, x);
    }
    fill_request(x, c, path, method);
    x->server = s;
    x->task = (cvx_task){.run = ask, .payload = x, .connection = c};
    if (!cvx_workers_add(&x->task, strcmp(method, "POST") == 0 ? CVX_LANE_SLOW : CVX_LANE_QUICK)) {
        cvx_answer_error(&x->answer, 503, NULL, "the service ends");
        return answer(c, x);
    }
    return MHD_YES;
}

static void completed(void *cls, struct MHD_Connection *c, void **state,
                      enum MHD_RequestTerminationCode why)
{
    exchange *x = *state;
    (void)cls;
    (void)c;
    (void)why;

    if (x != NULL) {
        if (x->form != NULL) {
            MHD_destroy_post_processor(x->form);
        }
        if (x->image_fd >= 0) {
            close(x->image_fd);
            unlink(x->image);
        }
        json_decref(x->fields);
        json_decref(x->answer.json);
        free(x->answer.text);
        free(x->answer.file);
        free(x->answer.events);
        free(x->body);
        free(x);
    }
}

/* A descriptor a connection, as far as the system lets us, and some for files and Redis. */
static void raise_descriptors(void)
{
    struct rlimit r;

    if (getrlimit(RLIMIT_NOFILE, &r) == 0 && r.rlim_cur < CONNECTIONS + 200) {
        r.rlim_cur = r.rlim_max < CONNECTIONS + 200 ? r.rlim_max : CONNECTIONS + 200;
        (void)setrlimit(RLIMIT_NOFILE, &r);
    }
}

cvx_status cvx_http_start(cvx_server *s, const char *host, int *port)
{
    struct sockaddr_storage at;
    const union MHD_DaemonInfo *info;

    CVX_RETURN_IF(cvx_http_address(&at, host, *port));
    unsigned v6 = at.ss_family == AF_INET6 ? (unsigned)MHD_USE_IPv6 : 0;
    raise_descriptors();
    CVX_RETURN_IF(cvx_workers_start());
    CVX_RETURN_IF(cvx_events_start(s));
    http_daemon = MHD_start_daemon((unsigned)MHD_USE_EPOLL_INTERNAL_THREAD |
                                       (unsigned)MHD_ALLOW_SUSPEND_RESUME | v6,
                                   (uint16_t)*port, NULL, NULL, handle, s, MHD_OPTION_SOCK_ADDR,
                                   (struct sockaddr *)&at, MHD_OPTION_CONNECTION_LIMIT,
                                   (unsigned)CONNECTIONS, MHD_OPTION_CONNECTION_TIMEOUT,
                                   (unsigned)CONNECTION_TIMEOUT, MHD_OPTION_THREAD_POOL_SIZE,
                                   (unsigned)THREADS, MHD_OPTION_THREAD_STACK_SIZE, THREAD_STACK,
                                   MHD_OPTION_NOTIFY_COMPLETED, completed, NULL, MHD_OPTION_END);
    if (http_daemon == NULL) {
        return cvx_fail(CVX_EIO, "cannot listen at %s, port %d: %s", host, *port, strerror(errno));
    }
    info = MHD_get_daemon_info(http_daemon, MHD_DAEMON_INFO_BIND_PORT);
    *port = info != NULL ? info->port : *port;
    return CVX_OK;
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
