#include "base/json.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"

#define JSON_FILE_MAX ((size_t)64 << 20)

/* Python writes "no limit" as an integer of 31 digits (model_max_length); jansson refuses integers of more
 * than 64 bits. A copy of the text in which integers of 19 digits or more end in ".0", so that they are
 * read as reals; NULL without memory. *len is updated. */
static char *long_integers_as_reals(const char *text, size_t *len)
{
    char *out = malloc(*len + *len / 19 * 2 + 1);
    size_t n = 0, digits = 0;
    bool string = false, fraction = false;

    for (size_t i = 0; out != NULL && i < *len; i++) {
        char c = text[i];
        bool digit = !string && c >= '0' && c <= '9';
        if (!digit && digits >= 19 && !fraction && c != '.' && c != 'e' && c != 'E') {
            out[n++] = '.';
            out[n++] = '0';
        }
        digits = digit ? digits + 1 : 0;
        fraction = !string && (c == '.' || c == 'e' || c == 'E' ||
                               (fraction && (digit || c == '-' || c == '+')));
        if (c == '"') {
            string = !string;
        } else if (string && c == '\\' && i + 1 < *len) {
            out[n++] = c;
            c = text[++i];
        }
        out[n++] = c;
    }
    *len = n;
    return out;
}

cvx_status cvx_json_parse(json_t **out, const char *text, size_t len, const char *what)
{
    json_error_t err;
    json_t *j = json_loadb(text, len, JSON_REJECT_DUPLICATES, &err);

    if (j == NULL && json_error_code(&err) == json_error_numeric_overflow) {
        char *wide = long_integers_as_reals(text, &len);
        if (wide == NULL) {
            return cvx_fail(CVX_ENOMEM, "%s: no memory to read it", what);
        }
        j = json_loadb(wide, len, JSON_REJECT_DUPLICATES, &err);
        free(wide);
    }
    if (j == NULL) {
        return cvx_fail(CVX_EFORMAT, "%s: not JSON at line %d column %d: %s", what, err.line,
                        err.column, err.text);
    }
    if (!json_is_object(j)) {
        json_decref(j);
        return cvx_fail(CVX_EFORMAT, "%s: the top level must be a JSON object", what);
    }
    *out = j;
    return CVX_OK;
}

cvx_status cvx_json_load(json_t **out, const char *path)
{
    char *text = NULL;
    size_t len = 0;

    CVX_RETURN_IF(cvx_file_read(&text, &len, path, JSON_FILE_MAX));
    cvx_status st = cvx_json_parse(out, text, len, path);
    free(text);
    return st;
}

static const json_t *get(const json_t *obj, const char *key)
{
    const json_t *v = json_object_get(obj, key);
    return json_is_null(v) ? NULL : v;
}

bool cvx_json_has(const json_t *obj, const char *key)
{
    return get(obj, key) != NULL;
}

static cvx_status bad(const char *what, const char *key, const char *want)
{
    return cvx_fail(CVX_EFORMAT, "%s: \"%s\" must be %s", what, key, want);
}

cvx_status cvx_json_int(const json_t *obj, const char *what, const char *key, int64_t *out)
{
    const json_t *v = get(obj, key);
    if (v == NULL) {
        return CVX_OK;
    }
    if (!json_is_integer(v)) {
        return bad(what, key, "a whole number");
    }
    *out = json_integer_value(v);
    return CVX_OK;
}

cvx_status cvx_json_double(const json_t *obj, const char *what, const char *key, double *out)
{
    const json_t *v = get(obj, key);
    if (v == NULL) {
        return CVX_OK;
    }
    if (!json_is_number(v)) {
        return bad(what, key, "a number");
    }
    *out = json_number_value(v);
    return CVX_OK;
}

cvx_status cvx_json_bool(const json_t *obj, const char *what, const char *key, bool *out)
{
    const json_t *v = get(obj, key);
    if (v == NULL) {
        return CVX_OK;
    }
    if (!json_is_boolean(v)) {
        return bad(what, key, "true or false");
    }
    *out = json_is_true(v);
    return CVX_OK;
}

cvx_status cvx_json_str(const json_t *obj, const char *what, const char *key, const char **out)
{
    const json_t *v = get(obj, key);
    if (v == NULL) {
        return CVX_OK;
    }
    if (!json_is_string(v)) {
        return bad(what, key, "a string");
    }
    *out = json_string_value(v);
    return CVX_OK;
}

const char *cvx_json_difference(const json_t *a, const json_t *b)
{
    const char *key;
    json_t *v;

    json_object_foreach((json_t *)a, key, v)
    {
        if (!json_equal(v, json_object_get(b, key))) {
            return key;
        }
    }
    json_object_foreach((json_t *)b, key, v)
    {
        if (json_object_get(a, key) == NULL) {
            return key;
        }
    }
    return NULL;
}

void cvx_json_text(char out[100], const json_t *v)
{
    char *text =
        v != NULL ? json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(12)) : NULL;

    snprintf(out, 100, "%.80s%s", text != NULL ? text : "none",
             text != NULL && strlen(text) > 80 ? "..." : "");
    free(text);
}
