/* Bodies: JSON, and forms with a picture. */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "coordinator/http.h"

#define FIELD_MAX 40000
#define FIELDS_MAX 64
#define DROP_MAX ((int64_t)64 << 20)      /* of a refused body, so that the answer arrives */
#define TOGETHER_MAX ((int64_t)128 << 20) /* JSON of all requests that come in */

static _Atomic int64_t together;

static void refuse(cvx_body *b, unsigned status, const char *param, const char *fmt, ...)
    CVX_PRINTF(4, 5);
static void refuse(cvx_body *b, unsigned status, const char *param, const char *fmt, ...)
{
    char text[600];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    cvx_answer_error(b->answer, status, param, "%s", text);
    b->refused = true;
}

/* A picture's bytes go to a file of their own name; nothing of the name that came is used. */
static cvx_status take_image(cvx_body *b, const char *data, size_t n)
{
    char id[CVX_ID_MAX];

    if (b->image_fd < 0) {
        cvx_job_id(id);
        snprintf(b->image, sizeof b->image, "%.4000s/uploads", b->s->data_dir);
        CVX_RETURN_IF(cvx_mkdirs(b->image));
        snprintf(b->image, sizeof b->image, "%.4000s/uploads/%s", b->s->data_dir, id);
        b->image_fd = open(b->image, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0640);
    }
    while (b->image_fd >= 0 && n > 0) {
        ssize_t k = write(b->image_fd, data, n);
        if (k < 0) {
            break;
        }
        data += k;
        n -= (size_t)k;
    }
    return b->image_fd >= 0 && n == 0
               ? CVX_OK
               : cvx_fail(CVX_EINTERNAL, "cannot write the picture: %s", strerror(errno));
}

/* The same, and its size is looked at. */
static void take_bytes(cvx_body *b, const char *data, size_t n)
{
    b->image_bytes += (int64_t)n;
    if (b->image_bytes > (int64_t)CVX_UPLOAD_MAX) {
        refuse(b, 413, "input_reference", "input_reference: more than %zu bytes", CVX_UPLOAD_MAX);
    } else if (take_image(b, data, n) != CVX_OK) {
        cvx_answer_status(b->answer, CVX_EINTERNAL, NULL);
        b->refused = true;
    }
}

static void refuse_url(cvx_body *b)
{
    refuse(b, 400, "input_reference",
           "input_reference: a picture is meant, as a form's file or as a whole data:image/...;"
           "base64,... (nothing is fetched from elsewhere)");
}

/* A piece of a picture that comes as a text. */
static void take_url(cvx_body *b, const char *text, size_t n)
{
    unsigned char out[CVX_DATA_URL_ROOM(4096)];
    size_t len;

    for (size_t at = 0; at < n && !b->refused; at += 4096) {
        size_t piece = n - at < 4096 ? n - at : 4096;
        if (!cvx_data_url_take(&b->url, text + at, piece, out, &len)) {
            refuse_url(b);
            return;
        }
        take_bytes(b, (const char *)out, len);
    }
}

/* A file without a name and a byte is a browser's way to send none. */
static void take_file(cvx_body *b, const char *key, const char *filename, const char *data,
                      uint64_t off, size_t size)
{
    if (filename[0] == 0 && size == 0) {
        return;
    }
    if (strcmp(key, "input_reference") != 0) {
        refuse(b, 400, key, "%.60s: no file is meant here", key);
    } else if (off == 0 && (b->image_bytes > 0 || b->url.n > 0)) { /* the first may be empty */
        refuse(b, 400, "input_reference", "input_reference: given twice");
    } else {
        take_bytes(b, data, size);
    }
}

/* As OpenAI's SDK writes {"image_url": URL} in a form. */
static bool is_url(const char *key)
{
    return strcmp(key, "input_reference") == 0 || strcmp(key, "input_reference[image_url]") == 0;
}

/* The text so far with a piece more; NULL where it gets too long. A piece may end within a character: that is checked when
 * all is there. */
static json_t *longer(const json_t *old, const char *data, size_t n)
{
    size_t have = old != NULL ? json_string_length(old) : 0;
    char *all = have + n <= FIELD_MAX ? malloc(have + n + 1) : NULL;

    if (all == NULL) {
        return NULL;
    }
    if (have > 0) {
        memcpy(all, json_string_value(old), have);
    }
    if (n > 0) {
        memcpy(all + have, data, n);
    }
    json_t *text = json_stringn_nocheck(all, have + n);
    free(all);
    return text;
}

/* A piece of a text field; the first may be empty, and told again. "NAME[]", as some clients write lists, and the lists themselves may come several times. */
static void take_text(cvx_body *b, const char *key, const char *data, size_t n, bool first)
{
    char name[80];
    size_t len = strlen(key);
    bool marked = len > 2 && strcmp(key + len - 2, "[]") == 0;
    bool list = marked || strcmp(key, "lora") == 0 || strcmp(key, "timeline") == 0;

    snprintf(name, sizeof name, "%.*s", (int)(len - (marked ? 2 : 0)), key);
    json_t *old = json_object_get(b->fields, name);
    size_t at = json_is_array(old) ? json_array_size(old) : 0;
    if (json_object_size(b->fields) >= FIELDS_MAX || at >= FIELDS_MAX) {
        refuse(b, 400, NULL, "the form has more than %d fields", FIELDS_MAX);
        return;
    }
    if (first && json_string_length(old) > 0) {
        refuse(b, 400, name, "%.60s: given twice", name);
        return;
    }
    json_t *text = longer(first ? NULL : list ? json_array_get(old, at - 1) : old, data, n);
    if (text == NULL) {
        refuse(b, 400, name, "%.60s: more than %d bytes", name, FIELD_MAX);
    } else if (!list) {
        json_object_set_new_nocheck(b->fields, name, text);
    } else if (old == NULL) {
        json_object_set_new_nocheck(b->fields, name, json_pack("[o]", text));
    } else if (first) {
        json_array_append_new(old, text);
    } else {
        json_array_set_new(old, at - 1, text);
    }
}

static enum MHD_Result form_piece(void *cls, enum MHD_ValueKind kind, const char *key,
                                  const char *filename, const char *type, const char *encoding,
                                  const char *data, uint64_t off, size_t size)
{
    cvx_body *b = cls;
    (void)kind;
    (void)type;
    (void)encoding;

    if (b->refused) {
        return MHD_YES;
    }
    if (key == NULL || key[0] == 0) {
        refuse(b, 400, NULL, "a part of the form has no name");
    } else if (filename != NULL) {
        take_file(b, key, filename, data, off, size);
    } else if (is_url(key) && off == 0 && (b->image_fd >= 0 || b->url.n > 0)) {
        refuse(b, 400, "input_reference", "input_reference: given twice");
    } else if (is_url(key)) {
        take_url(b, data, size);
    } else {
        take_text(b, key, data, size, off == 0);
    }
    return MHD_YES;
}

/* Whether a Content-Type is this one, with or without parameters. */
static bool is_type(const char *type, const char *wanted)
{
    size_t n = strlen(wanted);

    return type != NULL && strncasecmp(type, wanted, n) == 0 &&
           (type[n] == 0 || strchr("; \t", type[n]) != NULL);
}

void cvx_body_begin(cvx_body *b, const cvx_server *s, cvx_http_answer *a, struct MHD_Connection *c,
                    bool wanted)
{
    const char *type = cvx_http_header(c, "Content-Type");
    const char *length = cvx_http_header(c, "Content-Length");

    *b = (cvx_body){.s = s, .answer = a, .image_fd = -1, .wanted = wanted};
    if (!wanted) {
        return;
    }
    b->json = is_type(type, "application/json");
    bool form = is_type(type, "multipart/form-data");
    size_t most = form ? CVX_UPLOAD_MAX + CVX_BODY_MAX : CVX_BODY_MAX;
    if (length != NULL && strtoull(length, NULL, 10) > most) {
        refuse(b, 413, NULL, "the body has more than %zu bytes", most);
        return;
    }
    if (form) {
        b->fields = json_object();
        b->form = MHD_create_post_processor(c, 16384, form_piece, b);
        if (b->form == NULL) {
            refuse(b, 400, NULL, "the form's boundary is missing, or a single character");
        }
    }
}

static void take_json(cvx_body *b, const char *data, size_t n)
{
    if (!b->json) {
        refuse(b, 415, NULL,
               "the body's Content-Type: application/json or multipart/form-data is meant");
        return;
    }
    char *more = b->len + n <= CVX_BODY_MAX ? realloc(b->text, b->len + n + 1) : NULL;
    if (more == NULL) {
        refuse(b, 413, NULL, "the body has more than %zu bytes", CVX_BODY_MAX);
        return;
    }
    memcpy(more + b->len, data, n);
    b->text = more;
    b->len += n;
    b->counted += (int64_t)n;
    if (atomic_fetch_add(&together, (int64_t)n) > TOGETHER_MAX) {
        refuse(b, 503, NULL, "too many large requests at once");
    }
}

bool cvx_body_take(cvx_body *b, const char *data, size_t n)
{
    b->came += (int64_t)n;
    if (b->refused || !b->wanted) {
        return b->came <= DROP_MAX;
    }
    if (b->form == NULL) {
        take_json(b, data, n);
    } else if (b->came > (int64_t)(CVX_UPLOAD_MAX + CVX_BODY_MAX)) {
        refuse(b, 413, NULL, "the body has more than %zu bytes", CVX_UPLOAD_MAX + CVX_BODY_MAX);
    } else if (MHD_post_process(b->form, data, n) != MHD_YES && !b->refused) {
        refuse(b, 400, NULL, "the form cannot be read");
    }
    return true;
}

static bool is_utf8(const json_t *v)
{
    json_t *checked = json_stringn(json_string_value(v), json_string_length(v));
    bool good = checked != NULL && json_string_length(v) == strlen(json_string_value(v));

    json_decref(checked);
    return good;
}

/* The form's last pieces, and whether all of it is text. */
static void end_form(cvx_body *b)
{
    const char *key;
    json_t *v, *one;
    size_t i;

    /* the last field is told when the processor ends, which also knows whether the form did */
    if (MHD_destroy_post_processor(b->form) != MHD_YES && !b->refused) {
        refuse(b, 400, NULL, "the form is cut short");
    }
    b->form = NULL;
    json_object_foreach(b->fields, key, v)
    {
        bool good = json_is_array(v) || is_utf8(v);
        json_array_foreach(v, i, one)
        {
            good = good && is_utf8(one);
        }
        if (!good && !b->refused) {
            refuse(b, 400, key, "%.60s: a text in UTF-8 without zeros is meant", key);
        }
    }
}

/* JSON's picture: "input_reference": URL or {"image_url": URL}. It leaves the fields. */
static void end_json(cvx_body *b)
{
    json_t *v = json_object_get(b->fields, "input_reference");
    const json_t *url = json_is_object(v) ? json_object_get(v, "image_url") : v;

    if (v == NULL || json_is_null(v)) {
        (void)json_object_del(b->fields, "input_reference");
        return;
    }
    if (!json_is_string(url) || (json_is_object(v) && json_object_size(v) != 1)) {
        refuse(
            b, 400, "input_reference",
            "input_reference: {\"image_url\": \"data:image/...;base64,...\"} is meant, or a form's "
            "file");
        return;
    }
    take_url(b, json_string_value(url), json_string_length(url));
    json_object_del(b->fields, "input_reference");
}

/* Whether a picture begins as one of the kinds that are taken; the rest of it is looked at by whoever plans the job. */
static void check_image(cvx_body *b)
{
    unsigned char h[12] = {0};
    int fd = open(b->image, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd >= 0 ? read(fd, h, sizeof h) : 0;

    if (fd >= 0) {
        close(fd);
    }
    bool png = memcmp(h, "\x89PNG\r\n\x1a\n", 8) == 0, jpeg = memcmp(h, "\xff\xd8\xff", 3) == 0;
    bool webp = memcmp(h, "RIFF", 4) == 0 && memcmp(h + 8, "WEBP", 4) == 0;
    if (n < (ssize_t)sizeof h || !(png || jpeg || webp)) {
        refuse(b, 400, "input_reference", "input_reference: a PNG, JPEG or WebP is meant");
    }
}

void cvx_body_end(cvx_body *b)
{
    if (b->form != NULL) {
        end_form(b);
    } else if (!b->refused && b->len > 0 &&
               cvx_json_parse(&b->fields, b->text, b->len, "the body") != CVX_OK) {
        refuse(b, 400, NULL, "%s", cvx_error());
    }
    if (!b->refused && b->json) {
        end_json(b);
    }
    if (!b->refused && b->url.n > 0 && (!cvx_data_url_whole(&b->url) || b->image_fd < 0)) {
        refuse_url(b);
    }
    if (b->image_fd >= 0) {
        close(b->image_fd);
        b->image_fd = -1;
        if (!b->refused) {
            check_image(b);
        }
    }
}

void cvx_body_settle(cvx_body *b, bool keep_image)
{
    if (b->image_fd >= 0) {
        close(b->image_fd);
        b->image_fd = -1;
    }
    if (b->image[0] != 0 && !keep_image) {
        unlink(b->image);
    }
    b->image[0] = 0;
}

void cvx_body_close(cvx_body *b)
{
    if (b->form != NULL) {
        MHD_destroy_post_processor(b->form);
    }
    cvx_body_settle(b, false);
    atomic_fetch_sub(&together, b->counted);
    json_decref(b->fields);
    free(b->text);
    b->text = NULL;
}
