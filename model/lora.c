#include "model/lora.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"

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

/* An open LoRA file. */
typedef struct adapter {
    cvx_weights *w;
    json_t *config; /* peft's settings beside the weights; NULL where the file has none */
    const char *file;
    double scale;
} adapter;

/* diffusers keeps a peft LoraConfig as JSON in the file's metadata, each key with the component's name in
 * front, and goes by it instead of taking alpha = rank. */
static cvx_status load_config(adapter *l)
{
    static const char prefix[] = "transformer.";
    const char *text = cvx_weights_meta(l->w, "lora_adapter_metadata"), *key;
    json_t *all = NULL, *own, *v;

    if (text == NULL) {
        return CVX_OK;
    }
    CVX_RETURN_IF(cvx_json_parse(&all, text, strlen(text), l->file));
    own = json_object();
    json_object_foreach(all, key, v)
    {
        if (strncmp(key, prefix, sizeof prefix - 1) == 0) {
            json_object_set(own, key + sizeof prefix - 1, v);
        }
    }
    l->config = json_object_size(own) > 0 ? own : json_incref(all);
    if (l->config != own) {
        json_decref(own);
    }
    json_decref(all);
    return CVX_OK;
}

/* peft matches a pattern as the regular expression (.*\.)?(PATTERN)$: here a whole layer name, or its end
 * after a dot; '^' asks for the whole, '.' stands for any character. */
static bool pattern_fits(const char *pattern, const char *layer)
{
    bool whole = *pattern == '^';
    pattern += whole;
    size_t n = strlen(layer), m = strlen(pattern);

    if (m > n || (m < n && (whole || layer[n - m - 1] != '.'))) {
        return false;
    }
    for (size_t i = 0; i < m; i++) {
        if (pattern[i] != '.' && pattern[i] != layer[n - m + i]) {
            return false;
        }
    }
    return true;
}

/* The number that config[key], an object {pattern: number}, has for the layer; *out stays if none. */
static cvx_status from_pattern(const adapter *l, const char *key, const char *layer, double *out)
{
    json_t *map = json_object_get(l->config, key), *v;
    const char *pattern;

    if (map != NULL && !json_is_null(map) && !json_is_object(map)) {
        return cvx_fail(CVX_EFORMAT, "%s: \"%s\" must be an object", l->file, key);
    }
    json_object_foreach(map, pattern, v)
    {
        if (strpbrk(pattern + (*pattern == '^'), "\\^$*+?()[]{}|") != NULL) {
            return cvx_fail(CVX_EUNSUPPORTED,
                            "%s: \"%s\": the pattern %.200s is none of layer names and dots",
                            l->file, key, pattern);
        }
        if (pattern_fits(pattern, layer)) {
            return cvx_json_double(map, l->file, pattern, out);
        }
    }
    return CVX_OK;
}

/* alpha / rank as the settings have it, peft's defaults where they say nothing. */
static cvx_status configured_scale(const adapter *l, const char *layer, int64_t rank, double *out)
{
    double r = 8, alpha = 8;
    bool root = false, dora = false;

    CVX_RETURN_IF(cvx_json_double(l->config, l->file, "r", &r));
    CVX_RETURN_IF(cvx_json_double(l->config, l->file, "lora_alpha", &alpha));
    CVX_RETURN_IF(cvx_json_bool(l->config, l->file, "use_rslora", &root));
    CVX_RETURN_IF(cvx_json_bool(l->config, l->file, "use_dora", &dora));
    CVX_RETURN_IF(from_pattern(l, "rank_pattern", layer, &r));
    CVX_RETURN_IF(from_pattern(l, "alpha_pattern", layer, &alpha));
    if (dora) {
        return cvx_fail(CVX_EUNSUPPORTED, "%s: \"use_dora\": DoRA is not merged, only LoRA",
                        l->file);
    }
    if (r != (double)rank) {
        return cvx_fail(CVX_EFORMAT, "%s: %s has rank %lld, its lora_adapter_metadata say %g",
                        l->file, layer, (long long)rank, r);
    }
    *out = alpha / (root ? sqrt(r) : r);
    return CVX_OK;
}

/* What B·A is multiplied by: the user's scale times alpha / rank; alpha >= 0 is the index of its tensor. */
static cvx_status layer_scale(const adapter *l, const char *layer, int64_t alpha, int64_t rank,
                              double *out)
{
    double own = 1;

    if (alpha >= 0 && l->config != NULL) {
        return cvx_fail(CVX_EFORMAT, "%s: %s and lora_adapter_metadata both give an alpha", l->file,
                        cvx_weights_name(l->w, alpha));
    }
    if (alpha >= 0) {
        cvx_tensor t = cvx_weights_at(l->w, alpha);
        own = cvx_numel(&t) == 1 ? (double)cvx_get_f32(&t, 0) / (double)rank : NAN;
    } else if (l->config != NULL) {
        CVX_RETURN_IF(configured_scale(l, layer, rank, &own));
    }
    if (!isfinite(own)) {
        return cvx_fail(CVX_EFORMAT, "%s: the alpha of %s must be one finite number", l->file,
                        layer);
    }
    *out = l->scale * own;
    return CVX_OK;
}

static cvx_status merge_layer(cvx_weights *w, const adapter *l, int64_t ia, const char *layer)
{
    char name[640];
    cvx_tensor base, a = cvx_weights_at(l->w, ia), b;
    cvx_weights_change change = {.down = a};
    int64_t ib = find_half(l->w, layer, HALF_B), alpha = find_half(l->w, layer, HALF_ALPHA);

    snprintf(name, sizeof name, "%s.weight", layer);
    if (ib < 0 || !cvx_weights_has(w, name)) {
        return cvx_fail(CVX_EFORMAT,
                        ib < 0 ? "%s: %s has no second half (lora_B)"
                               : "%s: key %s belongs to no layer of this transformer",
                        l->file, cvx_weights_name(l->w, ia));
    }
    change.up = b = cvx_weights_at(l->w, ib);
    base = cvx_weights_at(w, cvx_weights_find(w, name));
    int64_t n = base.dim[0], k = base.dim[1], r = a.dim[0];
    if (base.ndim != 2 || a.ndim != 2 || b.ndim != 2 || a.dim[1] != k || b.dim[0] != n ||
        b.dim[1] != r || r < 1) {
        char ta[96], tb[96], tw[96];
        return cvx_fail(CVX_EFORMAT, "%s: %s is %s and its second half %s; the layer is %s",
                        l->file, cvx_weights_name(l->w, ia), cvx_tensor_describe(&a, ta, sizeof ta),
                        cvx_tensor_describe(&b, tb, sizeof tb),
                        cvx_tensor_describe(&base, tw, sizeof tw));
    }
    CVX_RETURN_IF(layer_scale(l, layer, alpha, r, &change.scale));
    const cvx_weights_part all = {0, n, 0, k};
    CVX_RETURN_IF(
        cvx_weights_get_part(w, &base, name, n, k, &all)); /* a dtype that can be merged */
    return cvx_weights_add_change(w, name, &change);
}

/* Key i, which is half h of `layer`: known, of a float dtype, paired, and there once. */
static cvx_status check_key(const cvx_weights *lora, int64_t i, half h, const char *layer)
{
    const char *file = cvx_weights_file(lora, i), *key = cvx_weights_name(lora, i);

    if (h == HALF_NONE) {
        return cvx_fail(CVX_EFORMAT, "%s: key %s is no LoRA half of a transformer layer", file,
                        key);
    }
    if (cvx_weights_at(lora, i).dtype > CVX_BF16) {
        return cvx_fail(CVX_EFORMAT, "%s: key %s must be F32, F16 or BF16", file, key);
    }
    if (h != HALF_A && find_half(lora, layer, HALF_A) < 0) {
        return cvx_fail(CVX_EFORMAT, "%s: %s has no first half (lora_A)", file, key);
    }
    int64_t first = find_half(lora, layer, h);
    if (first != i) { /* the same layer in two spellings would be merged twice */
        return cvx_fail(CVX_EFORMAT, "%s: keys %s and %s are the same half of one layer", file,
                        cvx_weights_name(lora, first), key);
    }
    return CVX_OK;
}

cvx_status cvx_lora_merge(cvx_weights *w, const char *item)
{
    char path[CVX_PATH_MAX], layer[512];
    adapter l = {.file = path};
    cvx_status st = CVX_OK;

    CVX_RETURN_IF(cvx_lora_parse(item, path, &l.scale));
    CVX_RETURN_IF(cvx_weights_open(&l.w, path));
    st = cvx_weights_keep(w, l.w);
    if (st != CVX_OK) {
        cvx_weights_close(l.w);
        return st;
    }
    CVX_TRY(st, load_config(&l), done);
    for (int64_t i = 0; i < cvx_weights_count(l.w); i++) {
        half h = split_key(cvx_weights_name(l.w, i), layer);
        CVX_TRY(st, check_key(l.w, i, h, layer), done);
        if (h == HALF_A) {
            CVX_TRY(st, merge_layer(w, &l, i, layer), done);
        }
    }
    if (cvx_weights_count(l.w) == 0) {
        st = cvx_fail(CVX_EFORMAT, "%s: no LoRA keys in it", path);
    }
done:
    json_decref(l.config);
    return st;
}
