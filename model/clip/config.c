#include "model/clip/config.h"

#include <string.h>

#include "base/file.h"
#include "base/json.h"

typedef struct int_key {
    const char *key;
    int64_t *out;
} int_key;

static cvx_status read_ints(const json_t *j, const char *what, const int_key *k, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        CVX_RETURN_IF(cvx_json_int(j, what, k[i].key, k[i].out));
        if (*k[i].out < 1 || *k[i].out > 1 << 24) {
            return cvx_fail(CVX_EFORMAT, "%s: \"%s\" is %lld; it must be positive", what, k[i].key,
                            (long long)*k[i].out);
        }
    }
    return CVX_OK;
}

static cvx_status read_act(const json_t *j, const char *what, cvx_act *out)
{
    static const struct {
        const char *name;
        cvx_act act;
    } acts[] = {{"quick_gelu", CVX_ACT_QUICK_GELU},
                {"gelu", CVX_ACT_GELU},
                {"gelu_new", CVX_ACT_GELU_TANH},
                {"gelu_pytorch_tanh", CVX_ACT_GELU_TANH}};
    const char *name = "quick_gelu";

    CVX_RETURN_IF(cvx_json_str(j, what, "hidden_act", &name));
    for (size_t i = 0; i < sizeof acts / sizeof *acts; i++) {
        if (strcmp(acts[i].name, name) == 0) {
            *out = acts[i].act;
            return CVX_OK;
        }
    }
    return cvx_fail(CVX_EUNSUPPORTED,
                    "%s: hidden_act is \"%s\"; quick_gelu, gelu, gelu_new or "
                    "gelu_pytorch_tanh is "
                    "needed",
                    what, name);
}

static cvx_status read_tower(const json_t *j, const char *what, cvx_clip_tower *t)
{
    const int_key keys[] = {{"hidden_size", &t->hidden_size},
                            {"intermediate_size", &t->intermediate_size},
                            {"num_hidden_layers", &t->num_hidden_layers},
                            {"num_attention_heads", &t->num_attention_heads}};

    CVX_RETURN_IF(read_ints(j, what, keys, sizeof keys / sizeof *keys));
    CVX_RETURN_IF(cvx_json_double(j, what, "layer_norm_eps", &t->layer_norm_eps));
    if (t->hidden_size % t->num_attention_heads != 0 ||
        t->hidden_size / t->num_attention_heads > 128 || t->num_hidden_layers > 1024) {
        return cvx_fail(CVX_EFORMAT,
                        "%s: hidden_size %lld with %lld heads and %lld layers; "
                        "heads must divide "
                        "hidden_size into at most 128 each, layers be at most 1024",
                        what, (long long)t->hidden_size, (long long)t->num_attention_heads,
                        (long long)t->num_hidden_layers);
    }
    return read_act(j, what, &t->act);
}

static cvx_status read_model(const json_t *j, const char *path, cvx_clip_config *c)
{
    const json_t *text = json_object_get(j, "text_config");
    const json_t *vision = json_object_get(j, "vision_config");
    const char *type = "clip";
    int64_t channels = 3;
    const int_key text_keys[] = {{"vocab_size", &c->vocab_size},
                                 {"max_position_embeddings", &c->max_position_embeddings}};
    const int_key vision_keys[] = {{"image_size", &c->image_size},
                                   {"patch_size", &c->patch_size},
                                   {"num_channels", &channels}};
    const int_key keys[] = {{"projection_dim", &c->projection_dim}};

    CVX_RETURN_IF(cvx_json_str(j, path, "model_type", &type));
    if (strcmp(type, "clip") != 0) {
        return cvx_fail(CVX_EUNSUPPORTED, "%s: model_type is \"%s\"; \"clip\" is needed", path,
                        type);
    }
    if (!json_is_object(text) || !json_is_object(vision)) {
        return cvx_fail(CVX_EFORMAT, "%s: \"text_config\" and \"vision_config\" must be objects",
                        path);
    }
    CVX_RETURN_IF(read_ints(j, path, keys, 1));
    CVX_RETURN_IF(read_tower(text, path, &c->text));
    CVX_RETURN_IF(read_ints(text, path, text_keys, 2));
    CVX_RETURN_IF(cvx_json_int(text, path, "eos_token_id", &c->eos_token_id));
    CVX_RETURN_IF(read_tower(vision, path, &c->vision));
    CVX_RETURN_IF(read_ints(vision, path, vision_keys, 3));
    if (channels != 3 || c->image_size % c->patch_size != 0 || c->image_size > CVX_MEDIA_MAX_SIDE ||
        c->max_position_embeddings < 2) {
        return cvx_fail(CVX_EFORMAT,
                        "%s: image_size %lld, patch_size %lld, num_channels %lld, "
                        "max_position_embeddings %lld; the patch must divide the "
                        "image, of 3 channels, "
                        "and there must be at least 2 positions",
                        path, (long long)c->image_size, (long long)c->patch_size,
                        (long long)channels, (long long)c->max_position_embeddings);
    }
    return CVX_OK;
}

/* A size: a number (old files), {"shortest_edge": n} or {"height": n, "width":
 * n}. edge NULL: a number means a square. */
static cvx_status read_size(const json_t *j, const char *path, const char *key, int64_t *edge,
                            int64_t *h, int64_t *w)
{
    const json_t *v = json_object_get(j, key);
    int64_t n = json_integer_value(v);

    if (v == NULL || json_is_null(v)) {
        return CVX_OK;
    }
    if (json_is_integer(v) && n >= 1 && n <= CVX_MEDIA_MAX_SIDE) {
        *h = *w = n;
        if (edge != NULL) {
            *edge = n;
        }
        return CVX_OK;
    }
    if (json_is_object(v) && edge != NULL && json_object_size(v) == 1 &&
        json_is_integer(json_object_get(v, "shortest_edge"))) {
        n = json_integer_value(json_object_get(v, "shortest_edge"));
        if (n >= 1 && n <= CVX_MEDIA_MAX_SIDE) {
            *edge = n;
            return CVX_OK;
        }
    }
    *h = json_integer_value(json_object_get(v, "height"));
    *w = json_integer_value(json_object_get(v, "width"));
    if (*h < 1 || *w < 1 || *h > CVX_MEDIA_MAX_SIDE || *w > CVX_MEDIA_MAX_SIDE) {
        return cvx_fail(CVX_EFORMAT,
                        "%s: \"%s\" must be a number%s or have height and width, 1 to %d", path,
                        key, edge != NULL ? ", have a shortest_edge," : "", CVX_MEDIA_MAX_SIDE);
    }
    if (edge != NULL) {
        *edge = 0;
    }
    return CVX_OK;
}

static cvx_status read_three(const json_t *j, const char *path, const char *key, double out[3])
{
    const json_t *v = json_object_get(j, key);

    if (v == NULL || json_is_null(v)) {
        return CVX_OK;
    }
    for (size_t i = 0; i < 3; i++) {
        const json_t *x = json_array_get(v, i);
        if (!json_is_number(x) || json_array_size(v) != 3) {
            return cvx_fail(CVX_EFORMAT, "%s: \"%s\" must be three numbers", path, key);
        }
        out[i] = json_number_value(x);
    }
    return CVX_OK;
}

static cvx_status read_filter(const json_t *j, const char *path, cvx_filter *out)
{
    int64_t resample = 3; /* Pillow's numbers */

    CVX_RETURN_IF(cvx_json_int(j, path, "resample", &resample));
    switch (resample) {
    case 1: *out = CVX_FILTER_LANCZOS; return CVX_OK;
    case 2: *out = CVX_FILTER_BILINEAR; return CVX_OK;
    case 3: *out = CVX_FILTER_BICUBIC; return CVX_OK;
    default:
        return cvx_fail(CVX_EUNSUPPORTED,
                        "%s: resample is %lld; 1 (Lanczos), 2 (bilinear) or 3 "
                        "(bicubic) is needed",
                        path, (long long)resample);
    }
}

static cvx_status read_image(const json_t *j, const char *path, cvx_clip_image_config *c)
{
    const struct {
        const char *key;
        bool *out;
    } flags[] = {{"do_resize", &c->do_resize},
                 {"do_center_crop", &c->do_center_crop},
                 {"do_rescale", &c->do_rescale},
                 {"do_normalize", &c->do_normalize}};

    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
        CVX_RETURN_IF(cvx_json_bool(j, path, flags[i].key, flags[i].out));
    }
    CVX_RETURN_IF(read_size(j, path, "size", &c->shortest_edge, &c->size_h, &c->size_w));
    CVX_RETURN_IF(read_size(j, path, "crop_size", NULL, &c->crop_h, &c->crop_w));
    CVX_RETURN_IF(read_filter(j, path, &c->filter));
    CVX_RETURN_IF(cvx_json_double(j, path, "rescale_factor", &c->rescale_factor));
    CVX_RETURN_IF(read_three(j, path, "image_mean", c->mean));
    CVX_RETURN_IF(read_three(j, path, "image_std", c->std));
    for (int i = 0; i < 3; i++) {
        if (!(c->std[i] > 0)) {
            return cvx_fail(CVX_EFORMAT, "%s: image_std[%d] is %g; it must be positive", path, i,
                            c->std[i]);
        }
    }
    return CVX_OK;
}

static cvx_status load_image_config(const char *dir, cvx_clip_image_config *c)
{
    char path[CVX_PATH_MAX], nested[CVX_PATH_MAX];
    json_t *j = NULL;
    cvx_status st;

    CVX_RETURN_IF(cvx_path_join(path, dir, "preprocessor_config.json"));
    CVX_RETURN_IF(cvx_path_join(nested, dir, "processor_config.json"));
    if (!cvx_is_file(path) && cvx_is_file(nested)) {
        CVX_RETURN_IF(cvx_json_load(&j, nested));
        const json_t *p = json_object_get(j, "image_processor");
        st = json_is_object(p)
                 ? read_image(p, nested, c)
                 : cvx_fail(CVX_EFORMAT, "%s: \"image_processor\" must be an object", nested);
    } else {
        CVX_RETURN_IF(cvx_json_load(&j, path));
        st = read_image(j, path, c);
    }
    json_decref(j);
    return st;
}

cvx_status cvx_clip_config_load(cvx_clip_config *out, const char *dir)
{
    char path[CVX_PATH_MAX];
    json_t *j = NULL;
    cvx_clip_config c = {
        .text = {512, 2048, 12, 8, 1e-5, CVX_ACT_QUICK_GELU},
        .vision = {768, 3072, 12, 12, 1e-5, CVX_ACT_QUICK_GELU},
        .vocab_size = 49408,
        .max_position_embeddings = 77,
        .eos_token_id = 49407,
        .image_size = 224,
        .patch_size = 32,
        .projection_dim = 512,
        .image = {.do_resize = true,
                  .shortest_edge = 224,
                  .filter = CVX_FILTER_BICUBIC,
                  .do_center_crop = true,
                  .crop_h = 224,
                  .crop_w = 224,
                  .do_rescale = true,
                  .rescale_factor = 1.0 / 255.0,
                  .do_normalize = true,
                  .mean = {0.48145466, 0.4578275, 0.40821073},
                  .std = {0.26862954, 0.26130258, 0.27577711}},
    };

    CVX_RETURN_IF(cvx_path_join(path, dir, "config.json"));
    CVX_RETURN_IF(cvx_json_load(&j, path));
    cvx_status st = read_model(j, path, &c);
    json_decref(j);
    CVX_RETURN_IF(st);
    CVX_RETURN_IF(load_image_config(dir, &c.image));
    *out = c;
    return CVX_OK;
}
