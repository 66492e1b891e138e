#include "model/text/added.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"

/* The token of this text, NULL if there is none. */
static const cvx_added_token *find(const cvx_added *a, const char *text, size_t len)
{
    for (int64_t i = 0; i < a->n; i++) {
        if (a->item[i].len == len && memcmp(a->item[i].text, text, len) == 0) {
            return &a->item[i];
        }
    }
    return NULL;
}

cvx_status cvx_added_push(cvx_added *a, const char *text, size_t len, int32_t id)
{
    if (find(a, text, len) != NULL) {
        return CVX_OK;
    }
    if (len == 0) {
        return cvx_fail(CVX_EFORMAT, "added token %d has no text", id);
    }
    if (a->n == a->cap) {
        int64_t cap = a->cap == 0 ? 128 : a->cap * 2;
        cvx_added_token *item = realloc(a->item, (size_t)cap * sizeof *item);
        if (item == NULL) {
            return cvx_fail(CVX_ENOMEM, "no memory for %lld added tokens", (long long)cap);
        }
        a->item = item;
        a->cap = cap;
    }
    char *copy = strndup(text, len);
    if (copy == NULL) {
        return cvx_fail(CVX_ENOMEM, "no memory for an added token of %zu bytes", len);
    }
    a->item[a->n++] = (cvx_added_token){copy, len, id};
    return CVX_OK;
}

void cvx_added_close(cvx_added *a)
{
    for (int64_t i = 0; i < a->n; i++) {
        free(a->item[i].text);
    }
    free(a->item);
    *a = (cvx_added){0};
}

const cvx_added_token *cvx_added_next(const cvx_added *a, const char *text, size_t len, size_t from,
                                      size_t *at)
{
    for (size_t i = from; i < len; i++) {
        const cvx_added_token *best = NULL;
        for (int64_t k = 0; k < a->n; k++) {
            const cvx_added_token *t = &a->item[k];
            if (t->text[0] == text[i] && t->len <= len - i &&
                (best == NULL || t->len > best->len) && memcmp(t->text, text + i, t->len) == 0) {
                best = t;
            }
        }
        if (best != NULL) {
            *at = i;
            return best;
        }
    }
    return NULL;
}

static cvx_status load_if_there(json_t **out, char path[4096], const char *dir, const char *name)
{
    CVX_RETURN_IF(cvx_path_join(path, dir, name));
    return cvx_is_file(path) ? cvx_json_load(out, path) : CVX_OK;
}

cvx_status cvx_tokenizer_files_open(cvx_tokenizer_files *out, const char *dir)
{
    cvx_status st = CVX_OK;

    *out = (cvx_tokenizer_files){0};
    CVX_TRY(st, load_if_there(&out->config, out->config_path, dir, "tokenizer_config.json"), done);
    CVX_TRY(st, load_if_there(&out->map, out->map_path, dir, "special_tokens_map.json"), done);
    CVX_TRY(st, load_if_there(&out->added, out->added_path, dir, "added_tokens.json"), done);
done:
    if (st != CVX_OK) {
        cvx_tokenizer_files_close(out);
    }
    return st;
}

void cvx_tokenizer_files_close(cvx_tokenizer_files *f)
{
    json_decref(f->config);
    json_decref(f->map);
    json_decref(f->added);
    f->config = f->map = f->added = NULL;
}

static cvx_status name_in(const json_t *j, const char *path, const char *key, const char **out)
{
    const json_t *v = j == NULL ? NULL : json_object_get(j, key);

    if (json_is_object(v)) {
        v = json_object_get(v, "content");
        if (!json_is_string(v)) {
            return cvx_fail(CVX_EFORMAT, "%s: \"%s\" must be a string or have a \"content\"", path,
                            key);
        }
        *out = json_string_value(v);
        return CVX_OK;
    }
    return j == NULL ? CVX_OK : cvx_json_str(j, path, key, out);
}

cvx_status cvx_tokenizer_files_name(const cvx_tokenizer_files *f, const char *key, const char **out)
{
    CVX_RETURN_IF(name_in(f->config, f->config_path, key, out));
    if (f->config != NULL && cvx_json_has(f->config, "added_tokens_decoder")) {
        return CVX_OK;
    }
    return name_in(f->map, f->map_path, key, out);
}

typedef struct entry {
    const char *text;
    long long id;
} entry;

static int by_id(const void *a, const void *b)
{
    const entry *x = a, *y = b;
    return x->id < y->id ? -1 : x->id > y->id;
}

/* One member of added_tokens_decoder: "32000": {"content": "<extra_id_99>",
 * ...}. */
static cvx_status decoder_entry(const char *path, const char *key, const json_t *v, entry *out)
{
    bool normalized = false, single_word = false;
    char *end;

    out->id = strtoll(key, &end, 10);
    out->text = json_string_value(json_object_get(v, "content"));
    if (*key == '\0' || *end != '\0' || out->text == NULL) {
        return cvx_fail(CVX_EFORMAT,
                        "%s: added_tokens_decoder \"%s\" must be a number with an object "
                        "that has a \"content\"",
                        path, key);
    }
    CVX_RETURN_IF(cvx_json_bool(v, path, "normalized", &normalized));
    CVX_RETURN_IF(cvx_json_bool(v, path, "single_word", &single_word));
    if (normalized || single_word) {
        return cvx_fail(CVX_EUNSUPPORTED,
                        "%s: added token \"%s\" is \"%s\"; only plain added tokens "
                        "are read",
                        path, out->text, normalized ? "normalized" : "single_word");
    }
    return CVX_OK;
}

static cvx_status place(const char *path, cvx_added *out, const entry *e, int64_t known,
                        int64_t *vocab_size)
{
    const cvx_added_token *already = find(out, e->text, strlen(e->text));
    int64_t id = known >= 0 ? known : already != NULL ? already->id : *vocab_size;

    if (id != e->id) {
        return cvx_fail(CVX_EFORMAT,
                        "%s: token \"%s\" has id %lld there, but the vocabulary makes it "
                        "%lld",
                        path, e->text, e->id, (long long)id);
    }
    if (known < 0 && already == NULL) {
        (*vocab_size)++;
    }
    return cvx_added_push(out, e->text, strlen(e->text), (int32_t)id);
}

cvx_status cvx_tokenizer_files_added(const cvx_tokenizer_files *f, cvx_added *out,
                                     int64_t (*lookup)(const void *vocab, const char *text,
                                                       size_t len),
                                     const void *vocab, int64_t *vocab_size)
{
    json_t *list = f->config == NULL ? NULL : json_object_get(f->config, "added_tokens_decoder");
    bool decoder = list != NULL;
    const char *path = decoder ? f->config_path : f->added_path, *key;
    cvx_status st = CVX_OK;
    size_t n = 0;
    json_t *v;

    list = decoder ? list : f->added;
    entry *e = calloc(json_object_size(list) + 1, sizeof *e);
    if (e == NULL) {
        return cvx_fail(CVX_ENOMEM, "%s: no memory for its added tokens", path);
    }
    json_object_foreach(list, key, v)
    {
        if (decoder) {
            CVX_TRY(st, decoder_entry(path, key, v, &e[n]), done);
        } else if (json_is_integer(v)) {
            e[n] = (entry){key, json_integer_value(v)};
        } else {
            CVX_TRY(st, cvx_fail(CVX_EFORMAT, "%s: the id of \"%s\" must be a number", path, key),
                    done);
        }
        n++;
    }
    qsort(e, n, sizeof *e, by_id);
    for (size_t i = 0; i < n; i++) {
        int64_t known = lookup(vocab, e[i].text, strlen(e[i].text));
        CVX_TRY(st, place(path, out, &e[i], known, vocab_size), done);
    }
done:
    free(e);
    return st;
}
