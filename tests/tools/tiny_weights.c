/* Makes the weight files of the tests' tiny checkpoints, which are random numbers, from seeds: tests/data need not
 * hold them. The files are bit for bit those with which the goldens beside them were computed; a file whose
 * SHA-256 is another is refused.
 *
 *     tiny_weights DATA_DIR OUT_DIR
 *
 * DATA_DIR/recipes/all has lines `seed N`, which seeds torch's generator, and `file PATH LIST SHA256`, which writes
 * OUT_DIR/PATH with the tensors of DATA_DIR/recipes/LIST, drawn in that order and rounded to f16. A line of a list:
 *
 *     NAME DIMS...              two and more dims: normal, 1.2 / sqrt(numbers of one output); a name that ends with
 *                               "bias": normal, 0.1; other vectors: 1 + 0.2 x normal
 *     NAME DIMS... std S        normal, S; a name that came before is drawn anew
 *     NAME DIMS... sincos Z F H W    no draw: Z rows of zeros, then the position table of F x H x W patches
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/rng.h"
#include "model/dit/positions.h"
#include "model/weights.h"

#define TENSORS_MAX 512
#define DIMS 5

typedef struct entry {
    char name[128]; /* longer than a cvx_tensor's */
    cvx_tensor t;
} entry;

typedef struct list {
    entry e[TENSORS_MAX];
    int n;
} list;

/* NAME's place in the list, new if it was not there; its memory holds `dims`. */
static cvx_status place(list *l, const char *name, const int64_t *dim, int ndim, cvx_tensor **out)
{
    int i = 0;

    *out = NULL;
    while (i < l->n && strcmp(l->e[i].name, name) != 0) {
        i++;
    }
    if (i == TENSORS_MAX) {
        return cvx_fail(CVX_EINVAL, "%s: more than %d tensors", name, TENSORS_MAX);
    }
    cvx_tensor *t = &l->e[i].t;
    if (i == l->n) {
        snprintf(l->e[i].name, sizeof l->e[i].name, "%s", name);
        *t = cvx_view(NULL, CVX_F16, ndim, dim);
        t->data = malloc((size_t)cvx_numel(t) * sizeof(uint16_t));
        l->n++;
    }
    *out = t;
    return t->data != NULL ? CVX_OK : cvx_fail(CVX_ENOMEM, "%s: no memory", name);
}

static bool ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), m = strlen(end);

    return n >= m && strcmp(s + n - m, end) == 0;
}

/* As the goldens' program drew it: a vector that is no bias through torch.randn, all else through normal_. */
static void draw(float *v, const cvx_tensor *t, const char *name, double std, cvx_rng *r)
{
    int64_t n = cvx_numel(t);

    if (std == 0 && t->ndim < 2 && !ends_with(name, "bias")) {
        cvx_rng_randn(r, v, CVX_RNG_F32, n);
        for (int64_t i = 0; i < n; i++) {
            float part = 0.2f * v[i];
            v[i] = 1 + part;
        }
        return;
    }
    std = std > 0 ? std : t->ndim < 2 ? 0.1 : 1.2 / sqrt((double)(n / t->dim[0]));
    cvx_rng_normal(r, v, n, std);
}

static cvx_status make_tensor(list *l, const char *line, cvx_rng *r)
{
    char name[128], word[16] = "";
    int64_t dim[DIMS];
    long long d, p[4];
    int at = 0, ndim = 0, used;
    double std = 0;
    cvx_tensor *t = NULL;

    if (sscanf(line, "%127s%n", name, &at) != 1) {
        return cvx_fail(CVX_EFORMAT, "no name in the line '%s'", line);
    }
    while (ndim < DIMS && sscanf(line + at, "%lld%n", &d, &used) == 1) {
        dim[ndim++] = d;
        at += used;
    }
    CVX_RETURN_IF(place(l, name, dim, ndim, &t));
    int64_t n = cvx_numel(t);
    float *v = calloc((size_t)n, sizeof *v);
    if (v == NULL) {
        return cvx_fail(CVX_ENOMEM, "%s: no memory", name);
    }
    if (sscanf(line + at, "%15s %lld %lld %lld %lld", word, p, p + 1, p + 2, p + 3) == 5) {
        int64_t c = t->dim[t->ndim - 1];
        cvx_sincos_3d(v + p[0] * c, c, p[1], p[2], p[3], 1.875, 1.0);
    } else if (word[0] == 0 || sscanf(line + at, " std %lf", &std) == 1) {
        draw(v, t, name, std, r);
    }
    cvx_from_f32(t->data, CVX_F16, v, n);
    free(v);
    return CVX_OK;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const entry *)a)->name, ((const entry *)b)->name);
}

/* Sorted by name, as safetensors' own writer has it. */
static cvx_status write_list(list *l, const char *path, const char *sha256)
{
    static const char *const meta[] = {"format", "pt"};
    static cvx_tensor tensors[TENSORS_MAX];
    static const char *names[TENSORS_MAX];
    char folder[CVX_PATH_MAX], hex[65];

    snprintf(folder, sizeof folder, "%.*s", (int)(strrchr(path, '/') - path), path);
    CVX_RETURN_IF(cvx_mkdirs(folder));
    qsort(l->e, (size_t)l->n, sizeof *l->e, by_name);
    for (int i = 0; i < l->n; i++) {
        names[i] = l->e[i].name;
        tensors[i] = l->e[i].t;
    }
    CVX_RETURN_IF(cvx_safetensors_write(path, tensors, names, l->n, meta, 1));
    CVX_RETURN_IF(cvx_sha256_file(path, hex));
    if (strcmp(hex, sha256) != 0) {
        remove(path);
        return cvx_fail(CVX_EINTERNAL, "%s: SHA-256 %s, the goldens' file had %s", path, hex,
                        sha256);
    }
    return CVX_OK;
}

static cvx_status make_file(const char *recipe, const char *path, const char *sha256, cvx_rng *r)
{
    static list l;
    char line[256];
    cvx_status st = CVX_OK;
    FILE *f = fopen(recipe, "r");

    if (f == NULL) {
        return cvx_fail(CVX_EIO, "cannot read %s", recipe);
    }
    l.n = 0;
    while (st == CVX_OK && fgets(line, sizeof line, f) != NULL) {
        st = make_tensor(&l, line, r);
    }
    fclose(f);
    if (st == CVX_OK) {
        st = write_list(&l, path, sha256);
    }
    for (int i = 0; i < l.n; i++) {
        free(l.e[i].t.data);
    }
    return st;
}

static cvx_status make_all(const char *data, const char *out)
{
    char path[CVX_PATH_MAX], line[512], name[256], recipe[64], sha256[65];
    unsigned long long seed;
    cvx_rng rng;
    cvx_status st = CVX_OK;

    snprintf(path, sizeof path, "%s/recipes/all", data);
    FILE *f = fopen(path, "r");
    if (f == NULL) {
        return cvx_fail(CVX_EIO, "cannot read %s", path);
    }
    cvx_rng_seed(&rng, 0);
    while (st == CVX_OK && fgets(line, sizeof line, f) != NULL) {
        char to[CVX_PATH_MAX];
        if (sscanf(line, "seed %llu", &seed) == 1) {
            cvx_rng_seed(&rng, seed);
        } else if (sscanf(line, "file %255s %63s %64s", name, recipe, sha256) == 3) {
            snprintf(path, sizeof path, "%s/recipes/%s", data, recipe);
            snprintf(to, sizeof to, "%s/%s", out, name);
            st = make_file(path, to, sha256, &rng);
        } else {
            st = cvx_fail(CVX_EFORMAT, "recipes/all: cannot read the line '%s'", line);
        }
    }
    fclose(f);
    return st;
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        fprintf(stderr, "usage: tiny_weights DATA_DIR OUT_DIR\n");
        return 2;
    }
    if (make_all(argv[1], argv[2]) != CVX_OK) {
        fprintf(stderr, "tiny_weights: %s\n", cvx_error());
        return 1;
    }
    return 0;
}
