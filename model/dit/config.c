#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "model/dit/dit.h"

static cvx_status read_sizes(cvx_dit_config *c, const json_t *j, const char *path)
{
    const struct {
        const char *key;
        int64_t *out, min, max;
    } ints[] = {{"num_attention_heads", &c->num_attention_heads, 1, 4096},
                {"attention_head_dim", &c->attention_head_dim, 8, 128},
                {"num_layers", &c->num_layers, 1, 4096},
                {"in_channels", &c->in_channels, 1, 4096},
                {"out_channels", &c->out_channels, 1, 4096},
                {"text_embed_dim", &c->text_embed_dim, 1, 1 << 20},
                {"time_embed_dim", &c->time_embed_dim, 1, 1 << 20},
                {"ofs_embed_dim", &c->ofs_embed_dim, 0, 1 << 20},
                {"patch_size", &c->patch_size, 1, 64},
                {"patch_size_t", &c->patch_size_t, 0, 64},
                {"sample_width", &c->sample_width, 1, 1 << 20},
                {"sample_height", &c->sample_height, 1, 1 << 20},
                {"sample_frames", &c->sample_frames, 1, 1 << 20},
                {"max_text_seq_length", &c->max_text_seq_length, 1, 1 << 20},
                {"temporal_compression_ratio", &c->temporal_compression_ratio, 1, 64},
                {"freq_shift", &c->freq_shift, 0, 64}};

    for (size_t i = 0; i < sizeof ints / sizeof *ints; i++) {
        CVX_RETURN_IF(cvx_json_int(j, path, ints[i].key, ints[i].out));
        if (*ints[i].out < ints[i].min || *ints[i].out > ints[i].max) {
            return cvx_fail(CVX_EFORMAT, "%s: \"%s\" is %lld; it must be from %lld to %lld", path,
                            ints[i].key, (long long)*ints[i].out, (long long)ints[i].min,
                            (long long)ints[i].max);
        }
    }
    if (c->attention_head_dim % 8 != 0 || c->time_embed_dim % 2 != 0) {
        return cvx_fail(CVX_EFORMAT,
                        "%s: attention_head_dim must be a multiple of 8, time_embed_dim even",
                        path);
    }
    return CVX_OK;
}

static cvx_status read_config(cvx_dit_config *c, const json_t *j, const char *path)
{
    const char *act = "gelu-approximate", *time_act = "silu";

    CVX_RETURN_IF(read_sizes(c, j, path));
    CVX_RETURN_IF(cvx_json_double(j, path, "norm_eps", &c->norm_eps));
    CVX_RETURN_IF(
        cvx_json_double(j, path, "spatial_interpolation_scale", &c->spatial_interpolation_scale));
    CVX_RETURN_IF(
        cvx_json_double(j, path, "temporal_interpolation_scale", &c->temporal_interpolation_scale));
    CVX_RETURN_IF(cvx_json_bool(j, path, "use_rotary_positional_embeddings", &c->use_rotary));
    CVX_RETURN_IF(cvx_json_bool(j, path, "use_learned_positional_embeddings", &c->use_learned));
    CVX_RETURN_IF(cvx_json_bool(j, path, "patch_bias", &c->patch_bias));
    CVX_RETURN_IF(cvx_json_bool(j, path, "flip_sin_to_cos", &c->flip_sin_to_cos));
    CVX_RETURN_IF(cvx_json_bool(j, path, "norm_elementwise_affine", &c->norm_affine));
    CVX_RETURN_IF(cvx_json_bool(j, path, "attention_bias", &c->attention_bias));
    CVX_RETURN_IF(cvx_json_str(j, path, "activation_fn", &act));
    CVX_RETURN_IF(cvx_json_str(j, path, "timestep_activation_fn", &time_act));
    if (strcmp(act, "gelu-approximate") != 0 || strcmp(time_act, "silu") != 0) {
        return cvx_fail(CVX_EUNSUPPORTED,
                        "%s: activation_fn must be \"gelu-approximate\" and "
                        "timestep_activation_fn \"silu\", here \"%s\" and \"%s\"",
                        path, act, time_act);
    }
    if (c->use_learned && !c->use_rotary) {
        return cvx_fail(CVX_EUNSUPPORTED,
                        "%s: learned positions without rotary ones: no CogVideoX "
                        "checkpoint has them",
                        path);
    }
    if (!(c->norm_eps > 0) || !(c->spatial_interpolation_scale > 0) ||
        !(c->temporal_interpolation_scale > 0)) {
        return cvx_fail(CVX_EFORMAT, "%s: norm_eps and the interpolation scales must be above 0",
                        path);
    }
    return CVX_OK;
}

cvx_status cvx_dit_config_load(cvx_dit_config *out, const char *dir)
{
    char path[CVX_PATH_MAX];
    json_t *j = NULL;
    cvx_dit_config c = {.num_attention_heads = 30,
                        .attention_head_dim = 64,
                        .num_layers = 30,
                        .in_channels = 16,
                        .out_channels = 16,
                        .text_embed_dim = 4096,
                        .time_embed_dim = 512,
                        .patch_size = 2,
                        .sample_width = 90,
                        .sample_height = 60,
                        .sample_frames = 49,
                        .max_text_seq_length = 226,
                        .temporal_compression_ratio = 4,
                        .norm_eps = 1e-5,
                        .spatial_interpolation_scale = 1.875,
                        .temporal_interpolation_scale = 1.0,
                        .patch_bias = true,
                        .flip_sin_to_cos = true,
                        .norm_affine = true,
                        .attention_bias = true};

    CVX_RETURN_IF(cvx_path_join(path, dir, "config.json"));
    CVX_RETURN_IF(cvx_json_load(&j, path));
    cvx_status st = read_config(&c, j, path);
    json_decref(j);
    if (st == CVX_OK) {
        *out = c;
    }
    return st;
}

cvx_status cvx_dit_check(const cvx_dit_config *c, const cvx_dit_shape *s, int64_t scale)
{
    int64_t p = c->patch_size;

    if (s->height % p != 0 || s->width % p != 0 || s->height < p || s->width < p) {
        return cvx_fail(CVX_EINVAL,
                        "size %lldx%lld (height x width): both must be multiples of %lld",
                        (long long)(s->height * scale), (long long)(s->width * scale),
                        (long long)(p * scale));
    }
    bool table = !c->use_rotary || c->use_learned;
    if (table && s->text_len != c->max_text_seq_length) {
        return cvx_fail(CVX_EINVAL,
                        "max_sequence_length %lld: this checkpoint's position table needs "
                        "exactly %lld",
                        (long long)s->text_len, (long long)c->max_text_seq_length);
    }
    if (c->use_learned && (s->height != c->sample_height || s->width != c->sample_width)) {
        return cvx_fail(CVX_EINVAL,
                        "size %lldx%lld (height x width): this checkpoint's positions are "
                        "learned for %lldx%lld only",
                        (long long)(s->height * scale), (long long)(s->width * scale),
                        (long long)(c->sample_height * scale),
                        (long long)(c->sample_width * scale));
    }
    if (c->patch_size_t > 0 &&
        (s->height > c->sample_height / p * p || s->width > c->sample_width / p * p)) {
        return cvx_fail(CVX_EINVAL,
                        "size %lldx%lld (height x width): this checkpoint's positions end "
                        "at %lldx%lld",
                        (long long)(s->height * scale), (long long)(s->width * scale),
                        (long long)(c->sample_height / p * p * scale),
                        (long long)(c->sample_width / p * p * scale));
    }
    return CVX_OK;
}
