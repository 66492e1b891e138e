/* Writing safetensors: header first, tensors in the given order, through a temporary file. */
#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "model/weights.h"

static const char *dtype_name(cvx_dtype t)
{
    static const char *const names[] = {"F32", "F16", "BF16", "F64", "U8", "I32", "I64"};
    CVX_ASSERT((size_t)t < sizeof names / sizeof *names); /* BF16X3 never leaves a kernel */
    return names[t];
}

static json_t *describe(const cvx_tensor *t, int64_t begin, int64_t end)
{
    json_t *shape = json_array();
    for (int i = 0; i < t->ndim; i++) {
        json_array_append_new(shape, json_integer(t->dim[i]));
    }
    return json_pack("{s:s, s:o, s:[I, I]}", "dtype", dtype_name(t->dtype), "shape", shape,
                     "data_offsets", (json_int_t)begin, (json_int_t)end);
}

/* Sets a key that must be new and valid UTF-8; takes v. */
static cvx_status set(json_t *obj, const char *key, json_t *v, const char *path)
{
    if (json_object_get(obj, key) != NULL) {
        json_decref(v);
        return cvx_fail(CVX_EINVAL, "%s: two entries named %.200s", path, key);
    }
    if (json_object_set_new(obj, key, v) != 0) {
        return cvx_fail(CVX_EINVAL, "%s: %.200s: names and metadata must be UTF-8", path, key);
    }
    return CVX_OK;
}

static cvx_status fill_header(json_t *h, const cvx_tensor *t, const char *const *names, int n,
                              const char *const *meta, int n_meta, const char *path)
{
    int64_t at = 0;

    if (n_meta > 0) {
        json_t *m = json_object();
        CVX_RETURN_IF(set(h, "__metadata__", m, path));
        for (int i = 0; i < n_meta; i++) {
            CVX_RETURN_IF(set(m, meta[2 * i], json_string(meta[2 * i + 1]), path));
        }
    }
    for (int i = 0; i < n; i++) {
        int64_t end = at + cvx_numel(&t[i]) * (int64_t)cvx_dtype_size(t[i].dtype);
        CVX_RETURN_IF(set(h, names != NULL ? names[i] : t[i].name, describe(&t[i], at, end), path));
        at = end;
    }
    return CVX_OK;
}

/* The header's text, padded with spaces so that the data begins at a multiple of 8. Caller frees. */
static cvx_status make_header(char **out, size_t *len, const cvx_tensor *t,
                              const char *const *names, int n, const char *const *meta, int n_meta,
                              const char *path)
{
    json_t *h = json_object();
    cvx_status st = fill_header(h, t, names, n, meta, n_meta, path);
    char *text = st == CVX_OK ? json_dumps(h, JSON_COMPACT) : NULL;
    size_t used = text != NULL ? strlen(text) : 0;

    json_decref(h);
    CVX_RETURN_IF(st);
    *len = (used + 7) / 8 * 8;
    char *padded = text != NULL ? realloc(text, *len + 1) : NULL;
    if (padded == NULL) {
        free(text);
        return cvx_fail(CVX_ENOMEM, "%s: no memory for the header", path);
    }
    memset(padded + used, ' ', *len - used);
    padded[*len] = 0;
    *out = padded;
    return CVX_OK;
}

/* Rows of the innermost dimension, whatever the strides of the others. */
static bool write_tensor(FILE *f, const cvx_tensor *t)
{
    int64_t idx[CVX_MAX_DIMS] = {0}, n = cvx_numel(t);
    size_t size = cvx_dtype_size(t->dtype);

    if (n == 0 || cvx_is_dense(t)) {
        return fwrite(t->data, size, (size_t)n, f) == (size_t)n;
    }
    int last = t->ndim - 1;
    for (int64_t done = 0; done < n; done += t->dim[last]) {
        int64_t at = 0;
        for (int i = 0; i < last; i++) {
            at += idx[i] * t->stride[i];
        }
        /* a row at a time where it lies together */
        int64_t run = t->stride[last] == 1 ? t->dim[last] : 1;
        for (int64_t k = 0; k < t->dim[last]; k += run) {
            const char *p = (const char *)t->data + (at + k * t->stride[last]) * (int64_t)size;
            if (fwrite(p, size, (size_t)run, f) != (size_t)run) {
                return false;
            }
        }
        for (int i = last - 1; i >= 0 && ++idx[i] == t->dim[i]; i--) {
            idx[i] = 0;
        }
    }
    return true;
}

cvx_status cvx_safetensors_write(const char *path, const cvx_tensor *t, const char *const *names,
                                 int n, const char *const *meta, int n_meta)
{
    cvx_writer w;
    size_t len = 0;
    char *header = NULL;

    CVX_RETURN_IF(make_header(&header, &len, t, names, n, meta, n_meta, path));
    cvx_status st = cvx_writer_open(&w, path);
    if (st != CVX_OK) {
        free(header);
        return st;
    }
    FILE *f = fopen(w.tmp, "wb");
    unsigned char le[8];
    for (int i = 0; i < 8; i++) {
        le[i] = (unsigned char)((uint64_t)len >> 8 * i);
    }
    bool ok = f != NULL && fwrite(le, 1, 8, f) == 8 && fwrite(header, 1, len, f) == len;
    for (int i = 0; ok && i < n; i++) {
        ok = write_tensor(f, &t[i]);
    }
    int error = errno;
    if (f != NULL && fclose(f) != 0) {
        error = ok ? errno : error;
        ok = false;
    }
    free(header);
    if (!ok) {
        cvx_writer_abort(&w);
        return cvx_fail(CVX_EIO, "cannot write %s: %s", path, strerror(error));
    }
    return cvx_writer_commit(&w);
}
