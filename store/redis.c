#include "store/redis.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

struct cvx_redis {
    redisContext *c; /* NULL: not connected */
    char host[256], user[128], password[256];
    bool local; /* host is a socket's path */
    int port, db;
    double timeout;
};

static cvx_status number(int *out, const char *text, int max, const char *what)
{
    char *end;
    long v = strtol(text, &end, 10);

    if (end == text || *end != 0 || v < 0 || v > max) {
        return cvx_fail(CVX_EINVAL, "--redis: %s '%.20s' is not a number from 0 to %d", what, text,
                        max);
    }
    *out = (int)v;
    return CVX_OK;
}

static cvx_status copy(char *to, size_t size, const char *from, size_t n, const char *what)
{
    if (n == 0 || n >= size) {
        return cvx_fail(CVX_EINVAL, "--redis: the %s has %zu bytes; 1 to %zu are taken", what, n,
                        size - 1);
    }
    memcpy(to, from, n);
    to[n] = 0;
    return CVX_OK;
}

/* user:password@ in front of the host. */
static cvx_status credentials(cvx_redis *r, const char *s, size_t n)
{
    const char *colon = memchr(s, ':', n);
    size_t user = colon != NULL ? (size_t)(colon - s) : 0;

    if (user > 0) {
        CVX_RETURN_IF(copy(r->user, sizeof r->user, s, user, "user"));
    }
    const char *password = colon != NULL ? colon + 1 : s;
    return copy(r->password, sizeof r->password, password, n - (size_t)(password - s), "password");
}

static cvx_status parse_tcp(cvx_redis *r, const char *s)
{
    const char *at = strrchr(s, '@'), *slash;

    if (at != NULL) {
        CVX_RETURN_IF(credentials(r, s, (size_t)(at - s)));
        s = at + 1;
    }
    size_t n = strcspn(s, "/");
    slash = s[n] == '/' ? s + n + 1 : "";
    bool v6 = s[0] == '[';
    size_t host = v6 ? strcspn(s, "]") : strcspn(s, ":/");
    CVX_RETURN_IF(copy(r->host, sizeof r->host, s + v6, host - v6, "host"));
    host += v6 && s[host] == ']';
    char port[16] = "6379";
    if (s[host] == ':') {
        CVX_RETURN_IF(copy(port, sizeof port, s + host + 1, n - host - 1, "port"));
    }
    CVX_RETURN_IF(number(&r->port, port, 65535, "port"));
    return *slash != 0 ? number(&r->db, slash, 65535, "database") : CVX_OK;
}

static cvx_status parse(cvx_redis *r, const char *url)
{
    if (strncmp(url, "redis://", 8) == 0) {
        return parse_tcp(r, url + 8);
    }
    if (strncmp(url, "unix://", 7) == 0) {
        size_t n = strcspn(url + 7, "?");
        const char *query = url + 7 + n;
        r->local = true;
        CVX_RETURN_IF(copy(r->host, sizeof r->host, url + 7, n, "socket's path"));
        if (strncmp(query, "?db=", 4) == 0) {
            return number(&r->db, query + 4, 65535, "database");
        }
        if (*query == 0) {
            return CVX_OK;
        }
    }
    return cvx_fail(CVX_EINVAL, "--redis: not an address; redis://[:password@]host:port/db or "
                                "unix:///path/to/socket is meant (TLS: through stunnel)");
}

static struct timeval seconds(double s)
{
    return (struct timeval){(time_t)s, (suseconds_t)((s - (double)(time_t)s) * 1e6)};
}

/* Where it is, for messages. */
static const char *address(const cvx_redis *r, char out[300])
{
    if (r->local) {
        return r->host;
    }
    snprintf(out, 300, strchr(r->host, ':') != NULL ? "[%s]:%d" : "%s:%d", r->host, r->port);
    return out;
}

static cvx_status lost(cvx_redis *r)
{
    char text[160], at[300];
    bool late = r->c != NULL && r->c->err == REDIS_ERR_IO && errno == EAGAIN;

    snprintf(text, sizeof text, "%s",
             r->c == NULL ? "no memory"
             : late       ? "no answer in time"
                          : r->c->errstr);
    if (r->c != NULL) {
        redisFree(r->c);
        r->c = NULL;
    }
    return cvx_fail(CVX_EIO, "Redis at %s: %s", address(r, at), text);
}

/* A command of the handshake. */
static cvx_status greet(cvx_redis *r, int argc, const char **argv)
{
    redisReply *reply = redisCommandArgv(r->c, argc, argv, NULL);

    if (reply == NULL) {
        return lost(r);
    }
    bool ok = reply->type != REDIS_REPLY_ERROR;
    char at[300];
    if (!ok) {
        cvx_status st = cvx_fail(CVX_EIO, "Redis at %s refuses %s: %.120s", address(r, at), argv[0],
                                 reply->str);
        freeReplyObject(reply);
        redisFree(r->c);
        r->c = NULL;
        return st;
    }
    freeReplyObject(reply);
    return CVX_OK;
}

static cvx_status dial(cvx_redis *r)
{
    struct timeval t = seconds(r->timeout < 3 ? r->timeout : 3);
    char db[12];

    r->c = r->local ? redisConnectUnixWithTimeout(r->host, t)
                    : redisConnectWithTimeout(r->host, r->port, t);
    if (r->c == NULL || r->c->err != 0) {
        return lost(r);
    }
    (void)fcntl(r->c->fd, F_SETFD, FD_CLOEXEC); /* pools and plans that we start have their own */
    if (redisSetTimeout(r->c, seconds(r->timeout)) != REDIS_OK) {
        return lost(r);
    }
    if (!r->local) {
        (void)redisEnableKeepAlive(r->c);
    }
    if (r->password[0] != 0) {
        const char *with[] = {"AUTH", r->user[0] != 0 ? r->user : r->password, r->password};
        CVX_RETURN_IF(greet(r, r->user[0] != 0 ? 3 : 2, with));
    }
    if (r->db != 0) {
        snprintf(db, sizeof db, "%d", r->db);
        const char *select[] = {"SELECT", db};
        CVX_RETURN_IF(greet(r, 2, select));
    }
    return CVX_OK;
}

cvx_status cvx_redis_open(cvx_redis **out, const char *url)
{
    cvx_redis *r = calloc(1, sizeof *r);

    if (r == NULL) {
        return cvx_fail(CVX_ENOMEM, "no memory for a connection");
    }
    r->timeout = 5;
    cvx_status st = parse(r, url);
    if (st == CVX_OK) {
        st = dial(r);
    }
    if (st != CVX_OK) {
        cvx_redis_close(r);
        return st;
    }
    *out = r;
    return CVX_OK;
}

void cvx_redis_close(cvx_redis *r)
{
    if (r != NULL) {
        if (r->c != NULL) {
            redisFree(r->c);
        }
        free(r);
    }
}

void cvx_redis_timeout(cvx_redis *r, double s)
{
    r->timeout = s;
    if (r->c != NULL) {
        (void)redisSetTimeout(r->c, seconds(s));
    }
}

/* Redis closes connections when it restarts: seen before anything is sent, a new one is made without a word. */
static cvx_status be_connected(cvx_redis *r)
{
    char byte;

    ssize_t n = r->c != NULL ? recv(r->c->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) : -1;
    if (r->c != NULL && (n == 0 || (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK))) {
        redisFree(r->c);
        r->c = NULL;
    }
    return r->c != NULL ? CVX_OK : dial(r);
}

static cvx_status take(cvx_redis *r, redisReply **out, redisReply *reply)
{
    if (reply == NULL) {
        return lost(r);
    }
    if (reply->type == REDIS_REPLY_ERROR) {
        /* while it reads its files, cannot write them, has no memory, is full, hands over or knows us no more, Redis is as good
         * as away: nothing has been done */
        static const char *const words[] = {"LOADING",
                                            "MASTERDOWN",
                                            "MISCONF",
                                            "OOM",
                                            "BUSY ",
                                            "READONLY",
                                            "TRYAGAIN",
                                            "NOREPLICAS",
                                            "UNBLOCKED",
                                            "NOAUTH",
                                            "NOPERM",
                                            "ERR max number of clients",
                                            "ERR The user executing the script"};
        bool away = false;
        char at[300];
        for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
            away |= strncmp(reply->str, words[i], strlen(words[i])) == 0;
        }
        cvx_status st = cvx_fail(away ? CVX_EIO : CVX_EFORMAT, "Redis at %s: %.160s",
                                 address(r, at), reply->str);
        freeReplyObject(reply);
        return st;
    }
    *out = reply;
    return CVX_OK;
}

cvx_status cvx_redis_argv(cvx_redis *r, redisReply **out, int argc, const char **argv,
                          const size_t *len)
{
    CVX_RETURN_IF(be_connected(r));
    return take(r, out, redisCommandArgv(r->c, argc, argv, len));
}

cvx_status cvx_redis_command(cvx_redis *r, redisReply **out, const char *format, ...)
{
    va_list ap;

    CVX_RETURN_IF(be_connected(r));
    va_start(ap, format);
    redisReply *reply = redisvCommand(r->c, format, ap);
    va_end(ap);
    return take(r, out, reply);
}
