/* What takes long: files, and events as they come. */
#include <curl/curl.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "client/wire.h"

/* ---- files ----------------------------------------------------------------------------------- */

typedef struct download {
    cvx_client *c;
    FILE *f;
    int64_t got;
    bool fresh; /* nothing of the present answer has come yet */
    bool full;  /* the disk, or whatever else the file lacks */
} download;

static size_t to_file(char *data, size_t size, size_t n, void *payload)
{
    download *d = payload;
    long status = 0;

    curl_easy_getinfo(d->c->curl, CURLINFO_RESPONSE_CODE, &status);
    if (status >= 300) { /* an error's text */
        return size * n;
    }
    if (d->fresh && status == 200) { /* the whole, perhaps once more */
        rewind(d->f);
        d->got = 0;
    }
    d->fresh = false;
    size_t wrote = fwrite(data, size, n, d->f);
    d->full = wrote < n;
    d->got += (int64_t)(wrote * size);
    return wrote * size;
}

/* One request for what is missing yet. */
static CURLcode fetch_rest(download *d, cvx_exchange *x, const char *path)
{
    struct curl_slist *headers = NULL;
    char range[40];

    d->fresh = true;

    cvx_wire_prepare(d->c, x, path, &headers);
    curl_easy_setopt(d->c->curl, CURLOPT_ACCEPT_ENCODING, NULL);
    curl_easy_setopt(d->c->curl, CURLOPT_WRITEFUNCTION, to_file);
    curl_easy_setopt(d->c->curl, CURLOPT_WRITEDATA, d);
    curl_easy_setopt(d->c->curl, CURLOPT_LOW_SPEED_LIMIT, 1L);
    curl_easy_setopt(d->c->curl, CURLOPT_LOW_SPEED_TIME, 30L);
    if (d->got > 0) {
        snprintf(range, sizeof range, "%lld-", (long long)d->got);
        curl_easy_setopt(d->c->curl, CURLOPT_RANGE, range);
    }
    CURLcode code = cvx_wire_perform(d->c, x, headers);
    curl_slist_free_all(headers);
    return code;
}

/* The message of a refusal, which went nowhere. */
static cvx_status refusal(cvx_client *c, const char *path)
{
    json_t *none = NULL;
    cvx_status st = cvx_client_call(c, "GET", path, NULL, NULL, NULL, &none);

    json_decref(none);
    return st != CVX_OK ? st : cvx_fail(CVX_EIO, "%s%s: no file", c->server, path);
}

static cvx_status fetch(download *d, const char *path)
{
    double heard = cvx_now();
    cvx_exchange x;

    for (;;) {
        int64_t before = d->got;
        CURLcode code = fetch_rest(d, &x, path);
        if (d->full) {
            return cvx_fail(CVX_EIO, "cannot write: %s", strerror(errno));
        }
        if (code == CURLE_OK && x.status != 503) {
            return x.status < 300 ? CVX_OK : refusal(d->c, path);
        }
        heard = d->got > before ? cvx_now() : heard;
        if ((code != CURLE_OK && !cvx_wire_broken(d->c, code)) ||
            cvx_now() - heard > CVX_CLIENT_PATIENCE) {
            return code == CURLE_OK ? refusal(d->c, path) : cvx_wire_refused(d->c, &x, code);
        }
        usleep(500000);
    }
}

cvx_status cvx_client_download(cvx_client *c, const char *path, const char *out)
{
    download d = {.c = c};
    cvx_writer w;

    CVX_RETURN_IF(cvx_writer_open(&w, out));
    d.f = fopen(w.tmp, "wb");
    cvx_status st = d.f != NULL ? fetch(&d, path)
                                : cvx_fail(CVX_EIO, "cannot write %s: %s", out, strerror(errno));
    if (d.f != NULL && fclose(d.f) != 0 && st == CVX_OK) {
        st = cvx_fail(CVX_EIO, "cannot write %s: %s", out, strerror(errno));
    }
    if (st != CVX_OK) {
        cvx_writer_abort(&w);
        return st;
    }
    return cvx_writer_commit(&w);
}

/* ---- events ---------------------------------------------------------------------------------- */

typedef struct stream {
    cvx_client *c;
    cvx_client_event_fn fn;
    void *payload;
    char last[48]; /* the last event's id */
    char *text;    /* what has come and is no whole event yet */
    size_t len;
    bool over;
    cvx_status st; /* of fn */
    double heard;
} stream;

static bool ends(const char *state)
{
    return state != NULL && (strcmp(state, "completed") == 0 || strcmp(state, "failed") == 0 ||
                             strcmp(state, "cancelled") == 0);
}

/* The value of a line "NAME: value" of a block; of static room for `size` bytes. */
static const char *line_of(const char *block, const char *name, char *out, size_t size)
{
    size_t n = strlen(name);

    out[0] = 0;
    for (const char *l = block; *l != 0; l += strcspn(l, "\n"), l += *l == '\n') {
        if (strncmp(l, name, n) == 0 && l[n] == ':') {
            const char *v = l + n + 1 + (l[n + 1] == ' ');
            snprintf(out, size, "%.*s", (int)strcspn(v, "\n"), v);
        }
    }
    return out;
}

static cvx_status tell(stream *s, const char *block)
{
    static char data[1 << 20];
    char event[40];
    json_t *j = NULL;

    if (block[0] == ':') { /* a sign of life */
        return CVX_OK;
    }
    line_of(block, "event", event, sizeof event);
    line_of(block, "data", data, sizeof data);
    line_of(block, "id", s->last, sizeof s->last);
    CVX_RETURN_IF(cvx_json_parse(&j, data, strlen(data), s->c->server));
    s->over |= strcmp(event, "state") == 0 && ends(json_string_value(json_object_get(j, "status")));
    cvx_status st = s->fn(s->payload, event, j);
    json_decref(j);
    return st;
}

static size_t to_events(char *bytes, size_t size, size_t n, void *payload)
{
    stream *s = payload;
    size_t len = size * n;
    long status = 0;

    curl_easy_getinfo(s->c->curl, CURLINFO_RESPONSE_CODE, &status);
    if (status != 200) {
        return len;
    }
    char *more = s->len + len < (4u << 20) ? realloc(s->text, s->len + len + 1) : NULL;
    if (more == NULL) {
        return 0;
    }
    s->text = more;
    memcpy(s->text + s->len, bytes, len);
    s->len += len;
    s->text[s->len] = 0;
    s->heard = cvx_now();
    for (char *end; s->st == CVX_OK && (end = strstr(s->text, "\n\n")) != NULL;) {
        end[1] = 0;
        s->st = tell(s, s->text);
        s->len -= (size_t)(end + 2 - s->text);
        memmove(s->text, end + 2, s->len + 1);
    }
    return s->st == CVX_OK ? len : 0;
}

/* One connection, until it breaks or the job has ended. */
static CURLcode listen_once(stream *s, cvx_exchange *x, const char *path)
{
    struct curl_slist *headers = NULL;
    char last[80];

    cvx_wire_prepare(s->c, x, path, &headers);
    curl_easy_setopt(s->c->curl, CURLOPT_WRITEFUNCTION, to_events);
    curl_easy_setopt(s->c->curl, CURLOPT_WRITEDATA, s);
    curl_easy_setopt(s->c->curl, CURLOPT_LOW_SPEED_LIMIT, 1L); /* a ping comes every 15 s */
    curl_easy_setopt(s->c->curl, CURLOPT_LOW_SPEED_TIME, 40L);
    headers = curl_slist_append(headers, "Accept: text/event-stream");
    if (s->last[0] != 0) {
        snprintf(last, sizeof last, "Last-Event-ID: %s", s->last);
        headers = curl_slist_append(headers, last);
    }
    s->len = 0;
    CURLcode code = cvx_wire_perform(s->c, x, headers);
    curl_slist_free_all(headers);
    return code;
}

cvx_status cvx_client_follow(cvx_client *c, const char *job, cvx_client_event_fn fn, void *payload)
{
    stream s = {.c = c, .fn = fn, .payload = payload, .heard = cvx_now()};
    cvx_exchange x;
    char path[160];
    cvx_status st = CVX_OK;

    snprintf(path, sizeof path, "/v1/jobs/%.60s/events", job);
    while (st == CVX_OK && !s.over && s.st == CVX_OK) {
        CURLcode code = listen_once(&s, &x, path);
        if (s.over || s.st != CVX_OK) {
            break;
        }
        if (code == CURLE_OK && x.status != 200 && x.status != 503) {
            st = refusal(c, path);
        } else if ((code != CURLE_OK && !cvx_wire_broken(c, code)) ||
                   cvx_now() - s.heard > CVX_CLIENT_PATIENCE) {
            st = cvx_wire_refused(c, &x, code);
        } else {
            usleep(500000);
        }
    }
    free(s.text);
    return st != CVX_OK ? st : s.st;
}
