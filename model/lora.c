#include "model/lora.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

cvx_status cvx_lora_parse(const char *item, char path[CVX_PATH_MAX], double *scale)
{
    const char *colon = strrchr(item, ':');
    size_t n = strlen(item);

    *scale = 1;
    if (colon != NULL && colon[1] != 0) {
        char *end;
        double v = strtod(colon + 1, &end);
        if (*end == 0 && isfinite(v)) {
            *scale = v;
            n = (size_t)(colon - item);
        }
    }
    if (n == 0 || n >= CVX_PATH_MAX) {
        return cvx_fail(CVX_EINVAL, "--lora %.200s: FILE or FILE:SCALE is needed", item);
    }
    memcpy(path, item, n);
    path[n] = 0;
    return CVX_OK;
}

typedef enum half { HALF_A, HALF_B, HALF_ALPHA, HALF_NONE } half;

/* Splits a key into its layer ("transformer_blocks.0.attn1.to_q") and which half it is. */
static half split_key(const char *key, char layer[512])
{
    static const struct {
        const char *end;
        half half;
    } ends[] = {{".lora_A.weight", HALF_A},
                {".lora_B.weight", HALF_B},
                {".lora.down.weight", HALF_A},
                {".lora.up.weight", HALF_B},
                {".lora_down.weight", HALF_A},
                {".lora_up.weight", HALF_B},
                {".lora_A.default.weight", HALF_A},
                {".lora_B.default.weight", HALF_B},
                {".alpha", HALF_ALPHA}};
    static const char *const prefixes[] = {"base_model.model.", "transformer."};

    for (int i = 0; i < 2; i++) {
        size_t n = strlen(prefixes[i]);
        key += strncmp(key, prefixes[i], n) == 0 ? n : 0;
    }
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        size_t n = strlen(key), m = strlen(ends[i].end);
        if (n > m && n - m < 512 && strcmp(key + n - m, ends[i].end) == 0) {
            memcpy(layer, key, n - m);
            layer[n - m] = 0;
            return ends[i].half;
        }
    }
    return HALF_NONE;
}

static int64_t find_half(const cvx_weights *lora, const char *layer, half want)
{
    char other[512];

    for (int64_t i = 0; i < cvx_weights_count(lora); i++) {
        if (split_key(cvx_weights_name(lora, i), other) == want && strcmp(other, layer) == 0) {
            return i;
        }
    }
    return -1;
}

/* out [n, k] += s · b [n, r] · a [r, k], each element summed in double. */
static void add_product(float *out, const float *a, const float *b, int64_t n, int64_t k, int64_t r,
                        double s)
{
#pragma omp parallel for
    for (int64_t i = 0; i < n; i++) {
        for (int64_t j = 0; j < k; j++) {
            double sum = 0;
            for (int64_t q = 0; q < r; q++) {
                sum += (double)b[i * r + q] * (double)a[q * k + j];
            }
            out[i * k + j] = (float)((double)out[i * k + j] + s * sum);
        }
    }
}

static float *widen(const cvx_tensor *t)
{
    float *f = malloc((size_t)cvx_numel(t) * sizeof *f + 1);
    if (f != NULL) {
        cvx_to_f32(f, t->data, t->dtype, cvx_numel(t));
    }
    return f;
}

static cvx_status merge_layer(cvx_weights *w, cvx_arena *arena, cvx_weights *lora, int64_t ia,
                              const char *layer, double scale)
{
    char name[640];
    cvx_tensor base, merged, a = cvx_weights_at(lora, ia), b;
    int64_t ib = find_half(lora, layer, HALF_B), alpha = find_half(lora, layer, HALF_ALPHA);
    const char *file = cvx_weights_file(lora, ia);

    snprintf(name, sizeof name, "%s.weight", layer);
    if (ib < 0 || !cvx_weights_has(w, name)) {
        return cvx_fail(CVX_EFORMAT,
                        ib < 0 ? "%s: %s has no second half (lora_B)"
                               : "%s: key %s belongs to no layer of this transformer",
                        file, cvx_weights_name(lora, ia));
    }
    b = cvx_weights_at(lora, ib);
    CVX_RETURN_IF(CVX_WEIGHT(w, &base, name, -1, -1));
    int64_t n = base.dim[0], k = base.dim[1], r = a.dim[0];
    if (a.ndim != 2 || b.ndim != 2 || a.dim[1] != k || b.dim[0] != n || b.dim[1] != r || r < 1) {
        char ta[96], tb[96], tw[96];
        return cvx_fail(CVX_EFORMAT, "%s: %s is %s and its second half %s; the layer is %s", file,
                        cvx_weights_name(lora, ia), cvx_tensor_describe(&a, ta, sizeof ta),
                        cvx_tensor_describe(&b, tb, sizeof tb),
                        cvx_tensor_describe(&base, tw, sizeof tw));
    }
    CVX_RETURN_IF(CVX_ALLOC(arena, &merged, CVX_F32, n, k));
    if (!arena->measure) {
        float *fa = widen(&a), *fb = widen(&b);
        cvx_tensor t = alpha >= 0 ? cvx_weights_at(lora, alpha) : a;
        double s = scale * (alpha >= 0 && cvx_numel(&t) == 1 ? cvx_get_f32(&t, 0) / (double)r : 1);
        cvx_status st = CVX_OK;
        if (fa == NULL || fb == NULL) {
            st = cvx_fail(CVX_ENOMEM, "%s: no memory to merge %s", file, layer);
        } else {
            cvx_to_f32(merged.data, base.data, base.dtype, n * k);
            add_product(merged.data, fa, fb, n, k, r, s);
        }
        free(fa);
        free(fb);
        CVX_RETURN_IF(st);
    }
    return arena->measure ? CVX_OK : cvx_weights_override(w, name, &merged);
}

cvx_status cvx_lora_merge(cvx_weights *w, cvx_arena *arena, const char *item)
{
    char path[CVX_PATH_MAX], layer[512];
    cvx_weights *lora = NULL;
    double scale;
    cvx_status st = CVX_OK;

    CVX_RETURN_IF(cvx_lora_parse(item, path, &scale));
    CVX_RETURN_IF(cvx_weights_open(&lora, path));
    for (int64_t i = 0; i < cvx_weights_count(lora); i++) {
        const char *key = cvx_weights_name(lora, i);
        half h = split_key(key, layer);
        if (h == HALF_NONE || (h != HALF_A && find_half(lora, layer, HALF_A) < 0)) {
            st = cvx_fail(CVX_EFORMAT, "%s: key %s is no LoRA half of a transformer layer", path,
                          key);
            goto done;
        }
        if (cvx_weights_at(lora, i).dtype > CVX_BF16) {
            st = cvx_fail(CVX_EFORMAT, "%s: key %s must be F32, F16 or BF16", path, key);
            goto done;
        }
        if (h == HALF_A) {
            CVX_TRY(st, merge_layer(w, arena, lora, i, layer, scale), done);
        }
    }
done:
    cvx_weights_close(lora);
    return st;
}
