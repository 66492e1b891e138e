#include "client/client.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "client/wire.h"

#define ANSWER_MAX ((size_t)64 << 20)

static cvx_status read_key(cvx_client *c, const char *file)
{
    const char *key = getenv("CVX_API_KEY");
    char *text = NULL;
    size_t len = 0;

    if (file != NULL) {
        CVX_RETURN_IF(cvx_file_read(&text, &len, file, 4096));
        text[strcspn(text, "\r\n")] = 0;
        key = text;
    }
    bool fits = key == NULL || snprintf(c->key, sizeof c->key, "Authorization: Bearer %s", key) <
                                   (int)sizeof c->key;
    if (key != NULL && key[0] == 0) {
        c->key[0] = 0;
    }
    free(text);
    return fits ? CVX_OK : cvx_fail(CVX_EINVAL, "the API key is too long");
}

cvx_status cvx_client_open(cvx_client **out, const cvx_client_options *opt)
{
    cvx_client *c = calloc(1, sizeof *c);
    const char *server = opt->server != NULL ? opt->server : getenv("CVX_SERVER");

    if (c == NULL) {
        return cvx_fail(CVX_ENOMEM, "no memory for a connection");
    }
    server = server != NULL ? server : "http://127.0.0.1:8080";
    size_t n = strlen(server);
    while (n > 0 && server[n - 1] == '/') {
        n--;
    }
    cvx_status st = CVX_OK;
    if ((strncmp(server, "http://", 7) != 0 && strncmp(server, "https://", 8) != 0) ||
        n >= sizeof c->server) {
        st = cvx_fail(CVX_EINVAL, "--server %.200s: http://HOST:PORT or https://HOST is meant",
                      server);
    }
    snprintf(c->server, sizeof c->server, "%.*s", (int)(n < 500 ? n : 500), server);
    if (st == CVX_OK) {
        st = read_key(c, opt->api_key_file);
    }
    const char *cacert = opt->cacert != NULL ? opt->cacert : getenv("CVX_CACERT");
    if (st == CVX_OK && cacert != NULL && !cvx_is_file(cacert)) {
        st = cvx_fail(CVX_EIO, "--cacert %.200s: no such file", cacert);
    }
    snprintf(c->cacert, sizeof c->cacert, "%s", cacert != NULL ? cacert : "");
    curl_global_init(CURL_GLOBAL_DEFAULT);
    c->curl = curl_easy_init();
    if (st == CVX_OK && c->curl == NULL) {
        st = cvx_fail(CVX_ENOMEM, "no memory for a connection");
    }
    if (st != CVX_OK) {
        cvx_client_close(c);
        return st;
    }
    *out = c;
    return CVX_OK;
}

void cvx_client_close(cvx_client *c)
{
    if (c != NULL) {
        curl_easy_cleanup(c->curl);
        curl_global_cleanup();
        free(c);
    }
}

static size_t take(char *data, size_t size, size_t n, void *payload)
{
    cvx_exchange *x = payload;
    size_t len = size * n;

    if (x->len + len > ANSWER_MAX) {
        return 0;
    }
    char *more = realloc(x->text, x->len + len + 1);
    if (more == NULL) {
        return 0;
    }
    x->text = more;
    memcpy(x->text + x->len, data, len);
    x->len += len;
    x->text[x->len] = 0;
    return len;
}

static void add_field(curl_mime *m, const char *key, const json_t *v)
{
    char number[40];
    const char *text = number;
    curl_mimepart *part = curl_mime_addpart(m);

    if (json_is_string(v)) {
        text = json_string_value(v);
    } else if (json_is_boolean(v)) {
        text = json_is_true(v) ? "true" : "false";
    } else {
        snprintf(number, sizeof number, "%.17g", json_number_value(v));
    }
    curl_mime_name(part, key);
    curl_mime_data(part, text, CURL_ZERO_TERMINATED);
}

/* The fields of a JSON object as a form, a list as one for each of its entries, and the file. Caller frees with curl_mime_free. */
static curl_mime *form(CURL *curl, const json_t *body, const char *file)
{
    curl_mime *m = curl_mime_init(curl);
    const char *key;
    json_t *v, *one;
    size_t i;

    json_object_foreach((json_t *)body, key, v)
    {
        if (!json_is_array(v) && !json_is_null(v)) {
            add_field(m, key, v);
        }
        json_array_foreach(v, i, one)
        {
            add_field(m, key, one);
        }
    }
    curl_mimepart *part = curl_mime_addpart(m);
    curl_mime_name(part, "input_reference");
    curl_mime_filedata(part, file);
    return m;
}

void cvx_wire_prepare(cvx_client *c, cvx_exchange *x, const char *path, struct curl_slist **headers)
{
    char url[1200];

    curl_easy_reset(c->curl);
    *x = (cvx_exchange){0};
    snprintf(url, sizeof url, "%s%.600s", c->server, path);
    curl_easy_setopt(c->curl, CURLOPT_URL, url);
    curl_easy_setopt(c->curl, CURLOPT_ERRORBUFFER, x->why);
    curl_easy_setopt(c->curl, CURLOPT_CONNECTTIMEOUT, 10L);
    curl_easy_setopt(c->curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(c->curl, CURLOPT_ACCEPT_ENCODING, "");
    curl_easy_setopt(c->curl, CURLOPT_USERAGENT, "cvx/" CVX_VERSION);
    curl_easy_setopt(c->curl, CURLOPT_WRITEFUNCTION, take);
    curl_easy_setopt(c->curl, CURLOPT_WRITEDATA, x);
    if (c->cacert[0] != 0) {
        curl_easy_setopt(c->curl, CURLOPT_CAINFO, c->cacert);
    }
    if (c->key[0] != 0) {
        *headers = curl_slist_append(*headers, c->key);
    }
}

CURLcode cvx_wire_perform(cvx_client *c, cvx_exchange *x, struct curl_slist *headers)
{
    curl_off_t wait = 0;

    curl_easy_setopt(c->curl, CURLOPT_HTTPHEADER, headers);
    CURLcode code = curl_easy_perform(c->curl);
    curl_easy_getinfo(c->curl, CURLINFO_RESPONSE_CODE, &x->status);
    curl_easy_getinfo(c->curl, CURLINFO_RETRY_AFTER, &wait);
    c->met |= x->status > 0;
    x->wait = (double)wait;
    return code;
}

cvx_status cvx_wire_refused(const cvx_client *c, const cvx_exchange *x, CURLcode code)
{
    json_t *j = NULL;

    if (code != CURLE_OK) {
        return cvx_fail(
            CVX_EIO,
            "no coordinator answers at %s (%s); cvx serve starts one, --server names another",
            c->server, x->why[0] != 0 ? x->why : curl_easy_strerror(code));
    }
    if (x->len > 0 && x->len < 65536 && cvx_json_parse(&j, x->text, x->len, "answer") == CVX_OK) {
        const char *text =
            json_string_value(json_object_get(json_object_get(j, "error"), "message"));
        cvx_status st = cvx_fail(CVX_EINVAL, "%s: %s", c->server,
                                 text != NULL ? text : "an answer without a message");
        json_decref(j);
        return st;
    }
    return cvx_fail(CVX_EINVAL, "%s: HTTP status %ld", c->server, x->status);
}

static CURLcode once_over(cvx_client *c, cvx_exchange *x, const char *method, const char *path,
                          const char *body, curl_mime *mime, const char *once)
{
    struct curl_slist *headers = NULL;
    char key[256];

    cvx_wire_prepare(c, x, path, &headers);
    curl_easy_setopt(c->curl, CURLOPT_TIMEOUT, 60L);
    if (mime != NULL) {
        curl_easy_setopt(c->curl, CURLOPT_MIMEPOST, mime);
    } else if (body != NULL) {
        headers = curl_slist_append(headers, "Content-Type: application/json");
        curl_easy_setopt(c->curl, CURLOPT_POSTFIELDS, body);
    }
    if (once != NULL) {
        snprintf(key, sizeof key, "Idempotency-Key: %.200s", once);
        headers = curl_slist_append(headers, key);
    }
    curl_easy_setopt(c->curl, CURLOPT_CUSTOMREQUEST, method);
    CURLcode code = cvx_wire_perform(c, x, headers);
    curl_slist_free_all(headers);
    return code;
}

bool cvx_wire_broken(const cvx_client *c, CURLcode code)
{
    bool stranger = code == CURLE_PEER_FAILED_VERIFICATION || code == CURLE_SSL_CACERT_BADFILE ||
                    code == CURLE_SSL_CONNECT_ERROR;
    bool absent = code == CURLE_COULDNT_CONNECT || code == CURLE_COULDNT_RESOLVE_HOST;

    return code != CURLE_OK && !stranger && (c->met || !absent);
}

/* Whether to ask again, after a pause. */
static bool again(const cvx_client *c, const cvx_exchange *x, CURLcode code, bool safe,
                  double begin)
{
    bool busy = code == CURLE_OK && (x->status == 503 || x->status == 429) && x->wait > 0;
    bool broken = cvx_wire_broken(c, code) && (safe || code == CURLE_COULDNT_CONNECT);

    if (!(busy || broken) || cvx_now() - begin > CVX_CLIENT_PATIENCE) {
        return false;
    }
    double pause = busy && x->wait < 30 ? x->wait : 1;
    usleep((useconds_t)(pause * 1e6));
    return true;
}

cvx_status cvx_client_call(cvx_client *c, const char *method, const char *path, const json_t *body,
                           const char *file, const char *once, json_t **answer)
{
    char *text = body != NULL ? json_dumps(body, JSON_COMPACT) : NULL;
    bool safe = once != NULL || strcmp(method, "POST") != 0;
    double begin = cvx_now();
    cvx_exchange x = {0};
    CURLcode code;

    *answer = NULL;
    do {
        free(x.text);
        curl_mime *mime = file != NULL ? form(c->curl, body, file) : NULL;
        code = once_over(c, &x, method, path, text, mime, once);
        curl_mime_free(mime);
    } while (again(c, &x, code, safe, begin));
    free(text);
    cvx_status st = code == CURLE_OK && x.status < 300
                        ? cvx_json_parse(answer, x.text != NULL ? x.text : "", x.len, c->server)
                        : cvx_wire_refused(c, &x, code);
    free(x.text);
    return st;
}
