/* Answers: JSON and text, perhaps as gzip, files with ranges, events. */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "coordinator/events.h"
#include "coordinator/http.h"

const char *cvx_http_header(struct MHD_Connection *c, const char *name)
{
    return MHD_lookup_connection_value(c, MHD_HEADER_KIND, name);
}

void cvx_answer_error(cvx_http_answer *a, unsigned status, const char *param, const char *fmt, ...)
{
    char text[600], name[80];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    snprintf(name, sizeof name, "%s", param != NULL ? param : "");
    cvx_clean_line(text); /* it may quote anything, and a cut may go through a character */
    cvx_clean_line(name);
    const char *type = status == 401   ? "authentication_error"
                       : status == 403 ? "permission_error"
                       : status == 429 ? "rate_limit_error"
                       : status >= 500 ? "server_error"
                                       : "invalid_request_error";
    json_decref(a->json);
    a->status = status;
    a->json = json_pack("{s:{s:s, s:s, s:s?, s:n}}", "error", "message", text, "type", type,
                        "param", param != NULL ? name : NULL, "code");
    a->retry_after = status == 503 ? 2 : status == 429 ? 1 : 0;
}

void cvx_answer_status(cvx_http_answer *a, cvx_status st, const char *param)
{
    bool asker = st == CVX_EINVAL || st == CVX_EUNSUPPORTED;

    cvx_answer_error(a, st == CVX_EIO ? 503 : asker ? 400 : 500, param, "%s", cvx_error());
}

/* Digits and nothing else, up to `end`; what no file is as long as is all the same. */
static bool digits(const char *p, const char *end, uint64_t *out)
{
    *out = 0;
    for (const char *c = p; c < end; c++) {
        if (*c < '0' || *c > '9') {
            return false;
        }
        *out = *out > INT64_MAX / 20 ? INT64_MAX : *out * 10 + (uint64_t)(*c - '0');
    }
    return end > p;
}

typedef enum range { RANGE_NONE, RANGE_PART, RANGE_BEYOND } range;

/* "bytes=a-b", "bytes=a-", "bytes=-n" within size. What is no range, or several, is none: the whole is the answer. */
static range parse_range(const char *h, uint64_t size, uint64_t *from, uint64_t *n)
{
    uint64_t a, b;

    if (h == NULL || strncasecmp(h, "bytes=", 6) != 0) {
        return RANGE_NONE;
    }
    const char *p = h + 6, *dash = strchr(p, '-'), *end = p + strlen(p);
    if (dash == NULL) {
        return RANGE_NONE;
    }
    if (dash == p) { /* the last n bytes */
        if (!digits(p + 1, end, &b)) {
            return RANGE_NONE;
        }
        *n = b < size ? b : size;
        *from = size - *n;
        return *n > 0 ? RANGE_PART : RANGE_BEYOND;
    }
    if (!digits(p, dash, &a) || (dash + 1 < end && !digits(dash + 1, end, &b))) {
        return RANGE_NONE;
    }
    b = dash + 1 < end ? b : UINT64_MAX;
    if (b < a) {
        return RANGE_NONE;
    }
    if (a >= size) {
        return RANGE_BEYOND;
    }
    *from = a;
    *n = (b < size - 1 ? b : size - 1) - a + 1;
    return RANGE_PART;
}

/* Whether a header's list of tags holds this one. */
static bool holds_tag(const char *list, const char *tag)
{
    return list != NULL && (strcmp(list, "*") == 0 || strstr(list, tag) != NULL);
}

/* NULL: the answer is no file any more. */
static struct MHD_Response *file_response(struct MHD_Connection *c, cvx_http_answer *a)
{
    const char *only_if = cvx_http_header(c, "If-Range");
    struct stat sb;
    uint64_t from = 0, n;
    char tag[60];
    int fd = open(a->file, O_RDONLY | O_CLOEXEC);

    if (fd < 0 || fstat(fd, &sb) != 0 || !S_ISREG(sb.st_mode)) {
        if (fd >= 0) {
            close(fd);
        }
        cvx_answer_error(a, 404, NULL, "the file is no longer there");
        return NULL;
    }
    n = (uint64_t)sb.st_size;
    snprintf(tag, sizeof tag, "\"%llx-%llx-%llx\"", (unsigned long long)sb.st_ino,
             (unsigned long long)sb.st_size,
             (unsigned long long)sb.st_mtim.tv_sec * 1000000000ULL +
                 (unsigned long long)sb.st_mtim.tv_nsec);
    bool same = holds_tag(cvx_http_header(c, "If-None-Match"), tag);
    bool whole = same || a->head || (only_if != NULL && strcmp(only_if, tag) != 0);
    range r = whole ? RANGE_NONE : parse_range(cvx_http_header(c, "Range"), n, &from, &n);
    if (r == RANGE_BEYOND) {
        close(fd);
        cvx_answer_error(a, 416, NULL, "the range begins behind the file's %lld bytes",
                         (long long)sb.st_size);
        snprintf(a->content_range, sizeof a->content_range, "bytes */%lld", (long long)sb.st_size);
        return NULL;
    }
    if (r == RANGE_PART) {
        snprintf(a->content_range, sizeof a->content_range, "bytes %llu-%llu/%lld",
                 (unsigned long long)from, (unsigned long long)(from + n - 1),
                 (long long)sb.st_size);
    }
    a->status = same ? 304 : r == RANGE_PART ? 206 : 200;
    struct MHD_Response *out = MHD_create_response_from_fd_at_offset64(n, fd, from);
    if (out == NULL) {
        close(fd);
        cvx_answer_error(a, 500, NULL, "no memory for the answer");
        return NULL;
    }
    MHD_add_response_header(out, "Content-Type", a->type);
    MHD_add_response_header(out, "Accept-Ranges", "bytes");
    MHD_add_response_header(out, "ETag", tag);
    return out;
}

void cvx_answer_write(cvx_http_answer *a, const char *accept_encoding)
{
    if (a->events != NULL || a->file != NULL) {
        return;
    }
    if (a->text != NULL) {
        a->bytes = a->text;
        a->text = NULL;
    } else {
        if (a->json == NULL) {
            cvx_answer_error(a, 500, NULL, "the answer cannot be written");
        }
        a->type = "application/json";
        a->bytes = json_dumps(a->json, JSON_COMPACT | JSON_PRESERVE_ORDER);
    }
    a->len = a->bytes != NULL ? strlen(a->bytes) : 0;
    char *small = cvx_gzip_wanted(accept_encoding) ? cvx_gzip(a->bytes, &a->len) : NULL;
    if (small != NULL) {
        free(a->bytes);
        a->bytes = small;
        a->gzip = true;
    }
}

static struct MHD_Response *response_of(struct MHD_Connection *c, cvx_http_answer *a)
{
    struct MHD_Response *r = NULL;

    if (a->events != NULL) {
        return cvx_events_response(c, a->events, cvx_http_header(c, "Last-Event-ID"));
    }
    if (a->file != NULL) {
        r = file_response(c, a);
        free(a->file);
        a->file = NULL;
    }
    if (r != NULL) {
        return r;
    }
    if (a->bytes == NULL) {
        cvx_answer_write(a, cvx_http_header(c, "Accept-Encoding"));
    }
    if (a->bytes == NULL ||
        (r = MHD_create_response_from_buffer(a->len, a->bytes, MHD_RESPMEM_MUST_FREE)) == NULL) {
        return NULL;
    }
    a->bytes = NULL; /* the response's */
    MHD_add_response_header(r, "Content-Type", a->type);
    MHD_add_response_header(r, "Vary", "Accept-Encoding");
    if (a->gzip) {
        MHD_add_response_header(r, "Content-Encoding", "gzip");
    }
    return r;
}

static void add_number(struct MHD_Response *r, const char *name, int value)
{
    char text[24];

    if (value > 0) {
        snprintf(text, sizeof text, "%d", value);
        MHD_add_response_header(r, name, text);
    }
}

enum MHD_Result cvx_reply(struct MHD_Connection *c, cvx_http_answer *a)
{
    struct MHD_Response *r = response_of(c, a);

    if (r == NULL) {
        return MHD_NO;
    }
    add_number(r, "openai-poll-after-ms", a->poll_after_ms);
    add_number(r, "Retry-After", a->retry_after);
    if (a->allow != NULL) {
        MHD_add_response_header(r, "Allow", a->allow);
    }
    if (a->content_range[0] != 0) {
        MHD_add_response_header(r, "Content-Range", a->content_range);
    }
    if (a->status == 401) {
        MHD_add_response_header(r, "WWW-Authenticate", "Bearer");
    }
    MHD_add_response_header(r, "X-Content-Type-Options", "nosniff");
    MHD_add_response_header(r, "Content-Security-Policy",
                            "default-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
                            "media-src 'self' blob:; frame-ancestors 'none'");
    enum MHD_Result res = MHD_queue_response(c, a->status, r);
    MHD_destroy_response(r);
    return res;
}
