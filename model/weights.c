/* safetensors: 8 bytes of header length (little endian), a JSON header {name: {dtype, shape,
 * data_offsets}}, then the data. Everything the header says is checked before any of it is used. */
#include "model/weights.h"

#include <dirent.h>
#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/json.h"

#define HEADER_MAX ((uint64_t)100 << 20)
#define TENSORS_MAX 1000000

typedef struct file {
    char path[CVX_PATH_MAX];
    cvx_map map;
    json_t *header;
    const unsigned char *data; /* after the header */
    size_t data_bytes;
} file;

typedef struct entry {
    const char *name;      /* borrowed from the file's header */
    const char *listed_as; /* the dtype's name where it can only be listed, else NULL */
    cvx_tensor view;
    int64_t bytes, begin;
    void *aligned; /* owned copy of data that is not aligned to its element */
    int file;
    cvx_weights_change *changes;
    int n_changes;
} entry;

struct cvx_weights {
    char path[CVX_PATH_MAX];
    file *files;
    int n_files;
    entry *entries;
    int64_t n, in_place;
    cvx_weights **kept;
    int n_kept;
};

static const struct {
    const char *name;
    int64_t size;
    cvx_dtype dtype;
    const char *listed_as; /* no cvx_dtype: seen as bytes */
} dtypes[] = {{"F32", 4, CVX_F32, NULL},        {"F16", 2, CVX_F16, NULL},
              {"BF16", 2, CVX_BF16, NULL},      {"F64", 8, CVX_F64, NULL},
              {"U8", 1, CVX_U8, NULL},          {"I32", 4, CVX_I32, NULL},
              {"I64", 8, CVX_I64, NULL},        {"I8", 1, CVX_U8, "i8"},
              {"I16", 2, CVX_U8, "i16"},        {"U16", 2, CVX_U8, "u16"},
              {"U32", 4, CVX_U8, "u32"},        {"U64", 8, CVX_U8, "u64"},
              {"BOOL", 1, CVX_U8, "bool"},      {"F8_E4M3", 1, CVX_U8, "f8_e4m3"},
              {"F8_E5M2", 1, CVX_U8, "f8_e5m2"}};

static cvx_status bad(const file *f, const char *name, const char *what)
{
    return cvx_fail(CVX_EFORMAT, "%s: tensor %.200s: %s", f->path, name, what);
}

static cvx_status read_dtype(const file *f, entry *e, const json_t *j, int64_t *size)
{
    const char *d = json_string_value(json_object_get(j, "dtype"));

    if (d == NULL) {
        return bad(f, e->name, "no \"dtype\" string");
    }
    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++) {
        if (strcmp(d, dtypes[i].name) == 0) {
            e->view.dtype = dtypes[i].dtype;
            e->listed_as = dtypes[i].listed_as;
            *size = dtypes[i].size;
            return CVX_OK;
        }
    }
    return cvx_fail(CVX_EFORMAT, "%s: tensor %.200s: dtype \"%.32s\" is none of safetensors'",
                    f->path, e->name, d);
}

static cvx_status read_shape(const file *f, entry *e, const json_t *j, int64_t size)
{
    const json_t *shape = json_object_get(j, "shape");
    int64_t dim[CVX_MAX_DIMS], n = 1;
    size_t nd = json_array_size(shape);
    bool empty = false;

    if (!json_is_array(shape) || nd > CVX_MAX_DIMS) {
        return bad(f, e->name, "\"shape\" must be a list of at most 6 sizes");
    }
    for (size_t i = 0; i < nd; i++) {
        const json_t *v = json_array_get(shape, i);
        dim[i] = json_integer_value(v);
        /* a size of 0 excuses no other from fitting: strides are products of the rest */
        empty = empty || dim[i] == 0;
        if (!json_is_integer(v) || dim[i] < 0 ||
            __builtin_mul_overflow(n, dim[i] > 0 ? dim[i] : 1, &n)) {
            return bad(f, e->name,
                       "\"shape\" must hold sizes of 0 or more whose product fits 63 bits");
        }
    }
    cvx_dtype t = e->view.dtype;
    e->view = cvx_view(NULL, t, (int)nd, dim);
    snprintf(e->view.name, sizeof e->view.name, "%s", e->name);
    if (__builtin_mul_overflow(n, size, &e->bytes)) {
        return bad(f, e->name, "its size in bytes overflows");
    }
    e->bytes = empty ? 0 : e->bytes;
    return CVX_OK;
}

static cvx_status read_place(const file *f, entry *e, const json_t *j)
{
    const json_t *o = json_object_get(j, "data_offsets");
    const json_t *b = json_array_get(o, 0), *x = json_array_get(o, 1);

    if (json_array_size(o) != 2 || !json_is_integer(b) || !json_is_integer(x)) {
        return bad(f, e->name, "\"data_offsets\" must be two whole numbers");
    }
    int64_t begin = json_integer_value(b), end = json_integer_value(x);
    if (begin < 0 || end < begin || (uint64_t)end > f->data_bytes) {
        return cvx_fail(CVX_EFORMAT,
                        "%s: tensor %.200s: data_offsets %lld to %lld leave the file's %zu bytes "
                        "of data (truncated?)",
                        f->path, e->name, (long long)begin, (long long)end, f->data_bytes);
    }
    if (end - begin != e->bytes) {
        char text[96];
        return cvx_fail(CVX_EFORMAT,
                        "%s: tensor %.200s: %s needs %lld bytes, its data_offsets hold %lld",
                        f->path, e->name, cvx_tensor_describe(&e->view, text, sizeof text),
                        (long long)e->bytes, (long long)(end - begin));
    }
    e->begin = begin;
    e->view.data = (void *)(f->data + begin);
    return CVX_OK;
}

static int by_begin(const void *a, const void *b)
{
    const entry *x = a, *y = b;
    if (x->begin != y->begin) {
        return x->begin < y->begin ? -1 : 1;
    }
    return (x->bytes > y->bytes) - (x->bytes < y->bytes); /* empty ones first */
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const entry *)a)->name, ((const entry *)b)->name);
}

/* The tensors of one file must lie one after the other, from the first byte to the last. */
static cvx_status check_layout(const file *f, entry *e, int64_t n)
{
    int64_t at = 0;

    qsort(e, (size_t)n, sizeof *e, by_begin);
    for (int64_t i = 0; i < n; i++) {
        if (e[i].begin != at) {
            return cvx_fail(CVX_EFORMAT,
                            "%s: tensor %.200s begins at byte %lld of the data, %lld is right "
                            "(tensors must neither overlap nor leave gaps)",
                            f->path, e[i].name, (long long)e[i].begin, (long long)at);
        }
        at += e[i].bytes;
    }
    if ((uint64_t)at != f->data_bytes) {
        return cvx_fail(CVX_EFORMAT, "%s: %zu bytes of data, the header describes %lld", f->path,
                        f->data_bytes, (long long)at);
    }
    return CVX_OK;
}

/* Data that does not lie at a multiple of its element size is copied: kernels load whole elements. */
static cvx_status align(entry *e)
{
    size_t size = cvx_dtype_size(e->view.dtype);

    if (e->listed_as != NULL || (uintptr_t)e->view.data % size == 0) {
        return CVX_OK;
    }
    e->aligned = malloc((size_t)e->bytes);
    if (e->aligned == NULL) {
        return cvx_fail(CVX_ENOMEM, "tensor %.200s: no memory for an aligned copy", e->name);
    }
    memcpy(e->aligned, e->view.data, (size_t)e->bytes);
    e->view.data = e->aligned;
    return CVX_OK;
}

static cvx_status open_header(file *f)
{
    uint64_t len = 0;

    if (f->map.size < 8) {
        return cvx_fail(CVX_EFORMAT, "%s: %zu bytes are too few for a safetensors file", f->path,
                        f->map.size);
    }
    for (int i = 7; i >= 0; i--) {
        len = len << 8 | f->map.data[i];
    }
    if (len > HEADER_MAX || len > f->map.size - 8) {
        return cvx_fail(CVX_EFORMAT,
                        "%s: header length %llu, the file has %zu bytes after it and 100 MiB are "
                        "allowed (truncated, or not safetensors?)",
                        f->path, (unsigned long long)len, f->map.size - 8);
    }
    f->data = f->map.data + 8 + len;
    f->data_bytes = f->map.size - 8 - (size_t)len;
    return cvx_json_parse(&f->header, (const char *)f->map.data + 8, (size_t)len, f->path);
}

/* {"__metadata__": {key: text, ...}}, as the format has it. */
static cvx_status check_metadata(const file *f, const json_t *meta)
{
    const char *key;
    json_t *v;

    if (!json_is_object(meta)) {
        return cvx_fail(CVX_EFORMAT, "%s: \"__metadata__\" must be an object", f->path);
    }
    json_object_foreach((json_t *)meta, key, v)
    {
        if (!json_is_string(v)) {
            return cvx_fail(CVX_EFORMAT, "%s: \"__metadata__\": \"%.200s\" must be a string",
                            f->path, key);
        }
    }
    return CVX_OK;
}

/* Appends a file's tensors to the list. */
static cvx_status read_file(cvx_weights *w, int index)
{
    file *f = &w->files[index];
    const char *name;
    json_t *j;

    CVX_RETURN_IF(cvx_map_open(&f->map, f->path));
    CVX_RETURN_IF(open_header(f));
    size_t n = json_object_size(f->header), first = (size_t)w->n;
    if (n > TENSORS_MAX) {
        return cvx_fail(CVX_EFORMAT, "%s: %zu tensors, %d are allowed", f->path, n, TENSORS_MAX);
    }
    entry *grown = realloc(w->entries, (first + n + 1) * sizeof *grown);
    if (grown == NULL) {
        return cvx_fail(CVX_ENOMEM, "%s: no memory for %zu tensors", f->path, n);
    }
    w->entries = grown;
    json_object_foreach(f->header, name, j)
    {
        entry e = {.name = name, .file = index};
        int64_t size = 0;
        if (strcmp(name, "__metadata__") == 0) {
            CVX_RETURN_IF(check_metadata(f, j));
            continue;
        }
        CVX_RETURN_IF(read_dtype(f, &e, j, &size));
        CVX_RETURN_IF(read_shape(f, &e, j, size));
        CVX_RETURN_IF(read_place(f, &e, j));
        w->entries[w->n++] = e;
    }
    CVX_RETURN_IF(check_layout(f, w->entries + first, w->n - (int64_t)first));
    for (int64_t i = (int64_t)first; i < w->n; i++) {
        CVX_RETURN_IF(align(&w->entries[i]));
    }
    return CVX_OK;
}

static cvx_status add_file(cvx_weights *w, const char *path)
{
    file *grown = realloc(w->files, (size_t)(w->n_files + 1) * sizeof *grown);

    if (grown == NULL) {
        return cvx_fail(CVX_ENOMEM, "%s: no memory", path);
    }
    w->files = grown;
    w->files[w->n_files] = (file){0};
    if (snprintf(w->files[w->n_files].path, CVX_PATH_MAX, "%s", path) >= CVX_PATH_MAX) {
        return cvx_fail(CVX_EINVAL, "path too long: %.200s...", path);
    }
    w->n_files++;
    return read_file(w, w->n_files - 1);
}

static cvx_status finish(cvx_weights *w)
{
    qsort(w->entries, (size_t)w->n, sizeof *w->entries, by_name);
    for (int64_t i = 1; i < w->n; i++) {
        if (strcmp(w->entries[i - 1].name, w->entries[i].name) == 0) {
            return cvx_fail(CVX_EFORMAT, "%s: tensor %.200s stands in more than one file", w->path,
                            w->entries[i].name);
        }
    }
    return CVX_OK;
}

static bool shard_open(const cvx_weights *w, const char *path)
{
    for (int i = 0; i < w->n_files; i++) {
        if (strcmp(w->files[i].path, path) == 0) {
            return true;
        }
    }
    return false;
}

/* Every shard that the index names, and every tensor where the index says. */
static cvx_status open_shards(cvx_weights *w, const char *dir, const char *index, const json_t *map)
{
    const char *name;
    char path[CVX_PATH_MAX];
    json_t *v;

    if (!json_is_object(map) || json_object_size(map) == 0) {
        return cvx_fail(CVX_EFORMAT, "%s: no \"weight_map\" object", index);
    }
    json_object_foreach((json_t *)map, name, v)
    {
        const char *shard = json_string_value(v);
        if (shard == NULL || strchr(shard, '/') != NULL) {
            return cvx_fail(CVX_EFORMAT, "%s: tensor %.200s: its shard must be a file name", index,
                            name);
        }
        CVX_RETURN_IF(cvx_path_join(path, dir, shard));
        if (shard_open(w, path)) {
            continue;
        }
        if (!cvx_is_file(path)) {
            return cvx_fail(CVX_EIO, "%s: missing; %s names it for tensor %.200s", path, index,
                            name);
        }
        CVX_RETURN_IF(add_file(w, path));
    }
    CVX_RETURN_IF(finish(w));
    json_object_foreach((json_t *)map, name, v)
    {
        int64_t i = cvx_weights_find(w, name);
        const char *shard = json_string_value(v);
        const char *where = i >= 0 ? strrchr(w->files[w->entries[i].file].path, '/') + 1 : "";
        if (strcmp(where, shard) != 0) {
            return cvx_fail(CVX_EFORMAT, "%s: tensor %.200s is not in %s", index, name, shard);
        }
    }
    return CVX_OK;
}

static bool ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), m = strlen(end);
    return n >= m && strcmp(s + n - m, end) == 0;
}

/* The folder's only index, or else its only file, under whatever name (".fp16" and other variants):
 * diffusers puts the variant of an index before ".json", older versions before ".safetensors". */
static cvx_status pick_only(char out[CVX_PATH_MAX], bool *index, const char *dir)
{
    char only[2][256] = {"", ""}; /* file, index */
    int n[2] = {0, 0};
    DIR *d = opendir(dir);

    if (d == NULL) {
        return cvx_fail(CVX_EIO, "cannot open %s: %s", dir, strerror(errno));
    }
    for (struct dirent *e = readdir(d); e != NULL; e = readdir(d)) {
        bool is_index =
            strstr(e->d_name, ".safetensors.index.") != NULL && ends_with(e->d_name, ".json");
        if (is_index || ends_with(e->d_name, ".safetensors")) {
            snprintf(only[is_index], sizeof only[0], "%s", e->d_name);
            n[is_index]++;
        }
    }
    closedir(d);
    *index = n[1] > 0;
    if (n[*index] != 1) {
        return cvx_fail(CVX_EIO,
                        n[1] > 1 ? "%s: several .index.json files; which one is meant?"
                        : n[0] == 0
                            ? "%s: no .safetensors file; diffusion_pytorch_model.safetensors or "
                              "model.safetensors (or their .index.json) is needed"
                            : "%s: several .safetensors files and no index; which one is meant?",
                        dir);
    }
    return cvx_path_join(out, dir, only[*index]);
}

/* The folder's index or single file: diffusers' and transformers' names, a variant only when it is the
 * only one. */
static cvx_status pick(char out[CVX_PATH_MAX], bool *index, const char *dir)
{
    static const char *const names[] = {"diffusion_pytorch_model.safetensors.index.json",
                                        "model.safetensors.index.json",
                                        "diffusion_pytorch_model.safetensors", "model.safetensors"};
    for (size_t i = 0; i < 4; i++) {
        CVX_RETURN_IF(cvx_path_join(out, dir, names[i]));
        if (cvx_is_file(out)) {
            *index = i < 2;
            return CVX_OK;
        }
    }
    return pick_only(out, index, dir);
}

static cvx_status open_index(cvx_weights *w, const char *dir, const char *path)
{
    json_t *j = NULL;

    CVX_RETURN_IF(cvx_json_load(&j, path));
    cvx_status st = open_shards(w, dir, path, json_object_get(j, "weight_map"));
    json_decref(j);
    return st;
}

cvx_status cvx_weights_open(cvx_weights **out, const char *path)
{
    char name[CVX_PATH_MAX];
    cvx_weights *w = calloc(1, sizeof *w);
    cvx_status st = CVX_OK;
    bool index = false;

    if (w == NULL) {
        return cvx_fail(CVX_ENOMEM, "%s: no memory", path);
    }
    if (snprintf(w->path, sizeof w->path, "%s", path) >= (int)sizeof w->path) {
        st = cvx_fail(CVX_EINVAL, "path too long: %.200s...", path);
        goto done;
    }
    if (cvx_is_dir(path)) {
        CVX_TRY(st, pick(name, &index, path), done);
    } else {
        snprintf(name, sizeof name, "%s", path);
    }
    if (index) {
        CVX_TRY(st, open_index(w, path, name), done);
    } else {
        CVX_TRY(st, add_file(w, name), done);
        CVX_TRY(st, finish(w), done);
    }
    *out = w;
    w = NULL;
done:
    cvx_weights_close(w);
    return st;
}

void cvx_weights_close(cvx_weights *w)
{
    if (w == NULL) {
        return;
    }
    for (int64_t i = 0; i < w->n; i++) {
        free(w->entries[i].aligned);
        free(w->entries[i].changes);
    }
    for (int i = 0; i < w->n_files; i++) {
        json_decref(w->files[i].header);
        cvx_map_close(&w->files[i].map);
    }
    for (int i = 0; i < w->n_kept; i++) {
        cvx_weights_close(w->kept[i]);
    }
    free(w->kept);
    free(w->entries);
    free(w->files);
    free(w);
}

int64_t cvx_weights_count(const cvx_weights *w)
{
    return w->n;
}

const char *cvx_weights_name(const cvx_weights *w, int64_t i)
{
    return w->entries[i].name;
}

cvx_tensor cvx_weights_at(const cvx_weights *w, int64_t i)
{
    return w->entries[i].view;
}

const char *cvx_weights_file(const cvx_weights *w, int64_t i)
{
    return w->files[w->entries[i].file].path;
}

const char *cvx_weights_dtype(const cvx_weights *w, int64_t i)
{
    const entry *e = &w->entries[i];
    return e->listed_as != NULL ? e->listed_as : cvx_dtype_name(e->view.dtype);
}

int64_t cvx_weights_find(const cvx_weights *w, const char *name)
{
    const entry key = {.name = name};
    const entry *e =
        w->n == 0 ? NULL : bsearch(&key, w->entries, (size_t)w->n, sizeof key, by_name);
    return e == NULL ? -1 : e - w->entries;
}

bool cvx_weights_has(const cvx_weights *w, const char *name)
{
    return cvx_weights_find(w, name) >= 0;
}

static bool same_dims(const cvx_tensor *t, int ndim, const int64_t *dim)
{
    if (t->ndim != ndim) {
        return false;
    }
    for (int i = 0; i < ndim; i++) {
        if (dim[i] >= 0 && t->dim[i] != dim[i]) {
            return false;
        }
    }
    return true;
}

/* The tensor as the file has it. */
static cvx_status find_checked(cvx_weights *w, cvx_tensor *out, const char *name, int ndim,
                               const int64_t *dim)
{
    int64_t i = cvx_weights_find(w, name);
    char have[96], want[96];

    if (i < 0) {
        return cvx_fail(CVX_EFORMAT, "%s: no tensor %s", w->path, name);
    }
    const entry *e = &w->entries[i];
    cvx_tensor wish = cvx_view(NULL, e->view.dtype, ndim, dim);
    if (!same_dims(&e->view, ndim, dim)) {
        return cvx_fail(CVX_EFORMAT, "%s: tensor %s is %s, %s is needed", cvx_weights_file(w, i),
                        name, cvx_tensor_describe(&e->view, have, sizeof have),
                        cvx_tensor_describe(&wish, want, sizeof want));
    }
    if (e->view.dtype > CVX_BF16) { /* all that can only be listed are U8 */
        return cvx_fail(CVX_EFORMAT, "%s: tensor %s is %s; F32, F16 or BF16 is needed",
                        cvx_weights_file(w, i), name, cvx_weights_dtype(w, i));
    }
    *out = e->view;
    return CVX_OK;
}

cvx_status cvx_weights_get(cvx_weights *w, cvx_tensor *out, const char *name, int ndim,
                           const int64_t *dim)
{
    CVX_RETURN_IF(find_checked(w, out, name, ndim, dim));
    if (cvx_weights_changes(w, name) > 0) {
        return cvx_fail(CVX_EINTERNAL, "%s: tensor %s has changes and can only be read in parts",
                        w->path, name);
    }
    return CVX_OK;
}

/* The whole of t in f32; the caller frees. */
static float *widened(const cvx_tensor *t)
{
    float *f = malloc((size_t)cvx_numel(t) * sizeof *f + 1);
    if (f != NULL) {
        cvx_to_f32(f, t->data, t->dtype, cvx_numel(t));
    }
    return f;
}

cvx_status cvx_weights_widen(cvx_arena *arena, const cvx_tensor *to, const cvx_tensor *from)
{
    if (arena->measure) {
        return CVX_OK;
    }
    float *f = widened(from);
    if (f == NULL) {
        return cvx_fail(CVX_ENOMEM, "no memory to widen %s", from->name);
    }
    cvx_arena_write(arena, to->data, f, (size_t)cvx_numel(to) * sizeof *f);
    free(f);
    return CVX_OK;
}

cvx_status cvx_weights_get_f32(cvx_weights *w, cvx_arena *arena, cvx_tensor *out, const char *name,
                               int ndim, const int64_t *dim)
{
    cvx_tensor t, f;

    CVX_RETURN_IF(cvx_weights_get(w, &t, name, ndim, dim));
    CVX_RETURN_IF(cvx_tensor_alloc(arena, &f, CVX_F32, t.ndim, t.dim));
    memcpy(f.name, t.name, sizeof f.name);
    CVX_RETURN_IF(cvx_weights_widen(arena, &f, &t));
    *out = f;
    return CVX_OK;
}

cvx_status cvx_weights_add_change(cvx_weights *w, const char *name, const cvx_weights_change *c)
{
    int64_t i = cvx_weights_find(w, name);

    if (i < 0 || w->entries[i].view.ndim != 2) {
        return cvx_fail(CVX_EFORMAT, "%s: no matrix %s to change", w->path, name);
    }
    entry *e = &w->entries[i];
    CVX_ASSERT(c->up.dim[0] == e->view.dim[0] && c->down.dim[1] == e->view.dim[1] &&
               c->up.dim[1] == c->down.dim[0]);
    cvx_weights_change *more = realloc(e->changes, (size_t)(e->n_changes + 1) * sizeof *e->changes);
    if (more == NULL) {
        return cvx_fail(CVX_ENOMEM, "no memory for a change of %s", name);
    }
    more[e->n_changes++] = *c;
    e->changes = more;
    return CVX_OK;
}

int cvx_weights_changes(const cvx_weights *w, const char *name)
{
    int64_t i = cvx_weights_find(w, name);
    return i < 0 ? 0 : w->entries[i].n_changes;
}

cvx_status cvx_weights_keep(cvx_weights *w, cvx_weights *other)
{
    cvx_weights **more = realloc(w->kept, (size_t)(w->n_kept + 1) * sizeof *w->kept);

    if (more == NULL) {
        return cvx_fail(CVX_ENOMEM, "no memory for one more file of changes");
    }
    more[w->n_kept++] = other;
    w->kept = more;
    return CVX_OK;
}

cvx_status cvx_weights_get_part(cvx_weights *w, cvx_tensor *out, const char *name, int64_t n,
                                int64_t k, const cvx_weights_part *p)
{
    cvx_tensor t;

    CVX_RETURN_IF(find_checked(w, &t, name, 2, CVX_DIMS(n, k)));
    t = cvx_slice(&t, 0, p->row0, p->rows);
    *out = cvx_slice(&t, 1, p->col0, p->cols);
    return CVX_OK;
}

/* out [rows, cols] += scale · the part of up·down, each element summed in double. */
static cvx_status add_change(float *out, const cvx_weights_change *c, const cvx_weights_part *p)
{
    int64_t r = c->down.dim[0], k = c->down.dim[1];
    float *up = widened(&c->up), *down = widened(&c->down);

    if (up == NULL || down == NULL) {
        free(up);
        free(down);
        return cvx_fail(CVX_ENOMEM, "no memory to merge %s", c->up.name);
    }
#pragma omp parallel for
    for (int64_t i = 0; i < p->rows; i++) {
        for (int64_t j = 0; j < p->cols; j++) {
            double sum = 0;
            for (int64_t q = 0; q < r; q++) {
                sum += (double)up[(p->row0 + i) * r + q] * (double)down[q * k + p->col0 + j];
            }
            float *to = out + i * p->cols + j;
            *to = (float)((double)*to + c->scale * sum);
        }
    }
    free(up);
    free(down);
    return CVX_OK;
}

cvx_status cvx_weights_changed_part(cvx_weights *w, const cvx_tensor *out, const char *name,
                                    int64_t n, int64_t k, const cvx_weights_part *p)
{
    cvx_tensor t;
    float *f = out->data;

    CVX_RETURN_IF(cvx_weights_get_part(w, &t, name, n, k, p));
    for (int64_t i = 0; i < p->rows; i++) {
        cvx_tensor row = cvx_slice(&t, 0, i, 1);
        cvx_to_f32(f + i * p->cols, row.data, t.dtype, p->cols);
    }
    const entry *e = &w->entries[cvx_weights_find(w, name)];
    for (int i = 0; i < e->n_changes; i++) {
        CVX_RETURN_IF(add_change(f, &e->changes[i], p));
    }
    return CVX_OK;
}

void cvx_weights_count_in_place(cvx_weights *w, const cvx_tensor *t)
{
    w->in_place += cvx_numel(t) * (int64_t)cvx_dtype_size(t->dtype);
}

int64_t cvx_weights_in_place(const cvx_weights *w)
{
    return w->in_place;
}

void cvx_weights_release(const cvx_weights *w, const cvx_tensor *t)
{
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t from = (uintptr_t)t->data;
    uintptr_t to = from;

    for (int i = 0; i < t->ndim; i++) { /* to the last element, whatever the strides */
        to += (uintptr_t)((t->dim[i] - 1) * t->stride[i]) * cvx_dtype_size(t->dtype);
    }
    to += cvx_dtype_size(t->dtype);
    if (cvx_numel(t) == 0) {
        return;
    }
    for (int i = 0; i < w->n_files; i++) {
        uintptr_t lo = (uintptr_t)w->files[i].map.data, hi = lo + w->files[i].map.size;
        if (from < lo || to > hi) {
            continue;
        }
        /* whole pages, the shared ones at both ends included: the file still holds them */
        from = from / page * page;
        to = (to + page - 1) / page * page;
        madvise((void *)from, to - from, MADV_DONTNEED);
        return;
    }
}

const char *cvx_weights_meta(const cvx_weights *w, const char *key)
{
    const json_t *m = w->n_files > 0 ? json_object_get(w->files[0].header, "__metadata__") : NULL;
    return json_string_value(json_object_get(m, key));
}

int64_t cvx_weights_bytes(const cvx_weights *w)
{
    int64_t n = 0;
    for (int i = 0; i < w->n_files; i++) {
        n += (int64_t)w->files[i].data_bytes;
    }
    return n;
}

cvx_status cvx_weights_hash(const cvx_weights *w, char hex[65])
{
    const size_t block = (size_t)1 << 20;
    cvx_sha256 h;

    cvx_sha256_init(&h);
    for (int i = 0; i < w->n_files; i++) {
        const file *f = &w->files[i];
        const char *slash = strrchr(f->path, '/');
        const char *base = slash != NULL ? slash + 1 : f->path;
        size_t header = (size_t)(f->data - f->map.data);
        size_t blocks = (f->data_bytes + block - 1) / block;
        cvx_sha256_add(&h, base, strlen(base) + 1);
        cvx_sha256_add(&h, &f->map.size, sizeof f->map.size);
        cvx_sha256_add(&h, f->map.data, header);
        for (size_t b = 0; b < blocks; b++) {
            if (b % 64 == 0 || b + 1 == blocks) {
                size_t at = b * block, n = f->data_bytes - at < block ? f->data_bytes - at : block;
                cvx_sha256_add(&h, f->data + at, n);
            }
        }
    }
    cvx_sha256_hex(&h, hex);
    return CVX_OK;
}
