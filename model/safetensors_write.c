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

/* The header's text, padded with spaces so that the data begins at a multiple of 8. Caller frees. */
static char *make_header(const cvx_tensor *t, const char *const *names, int n,
                         const char *const *meta, int n_meta, size_t *len)
{
    json_t *h = json_object();
    int64_t at = 0;

    if (n_meta > 0) {
        json_t *m = json_object();
        for (int i = 0; i < n_meta; i++) {
            json_object_set_new(m, meta[2 * i], json_string(meta[2 * i + 1]));
        }
        json_object_set_new(h, "__metadata__", m);
    }
    for (int i = 0; i < n; i++) {
        int64_t end = at + cvx_numel(&t[i]) * (int64_t)cvx_dtype_size(t[i].dtype);
        json_object_set_new(h, names != NULL ? names[i] : t[i].name, describe(&t[i], at, end));
        at = end;
    }
    char *text = json_dumps(h, JSON_COMPACT);
    json_decref(h);
    if (text == NULL) {
        return NULL;
    }
    *len = (strlen(text) + 7) / 8 * 8;
    char *padded = realloc(text, *len + 1);
    if (padded == NULL) {
        free(text);
        return NULL;
    }
    memset(padded + strlen(padded), ' ', *len - strlen(padded));
    padded[*len] = 0;
    return padded;
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
        for (int64_t k = 0; k < t->dim[last]; k++) {
            const char *p = (const char *)t->data + (at + k * t->stride[last]) * (int64_t)size;
            if (fwrite(p, size, 1, f) != 1) {
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
    char *header = make_header(t, names, n, meta, n_meta, &len);

    if (header == NULL) {
        return cvx_fail(CVX_ENOMEM, "%s: no memory for the header", path);
    }
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
