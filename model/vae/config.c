#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "model/vae/vae.h"

static cvx_status read_blocks(cvx_vae_config *c, const json_t *j, const char *path)
{
    const json_t *list = json_object_get(j, "block_out_channels"), *item;
    size_t i;

    if (!json_is_array(list) || json_array_size(list) < 1 ||
        json_array_size(list) > CVX_VAE_MAX_BLOCKS) {
        return cvx_fail(CVX_EFORMAT, "%s: \"block_out_channels\" must be a list of 1 to %d numbers",
                        path, CVX_VAE_MAX_BLOCKS);
    }
    c->n_blocks = (int)json_array_size(list);
    json_array_foreach(list, i, item)
    {
        int64_t n = json_is_integer(item) ? json_integer_value(item) : 0;
        if (n < 1 || n > 65536 || n % c->norm_num_groups != 0) {
            return cvx_fail(CVX_EFORMAT,
                            "%s: \"block_out_channels\"[%zu] must be a multiple of "
                            "norm_num_groups (%lld) up to 65536",
                            path, i, (long long)c->norm_num_groups);
        }
        c->block_out_channels[i] = n;
    }
    return CVX_OK;
}

/* "down_block_types", "up_block_types": one known name per block. */
static cvx_status check_types(const cvx_vae_config *c, const json_t *j, const char *path,
                              const char *key, const char *type)
{
    const json_t *list = json_object_get(j, key), *item;
    size_t i;

    if (list == NULL) {
        return CVX_OK;
    }
    if (!json_is_array(list) || json_array_size(list) != (size_t)c->n_blocks) {
        return cvx_fail(CVX_EFORMAT,
                        "%s: \"%s\" must be a list of %d names, as many as "
                        "block_out_channels",
                        path, key, c->n_blocks);
    }
    json_array_foreach(list, i, item)
    {
        if (!json_is_string(item) || strcmp(json_string_value(item), type) != 0) {
            return cvx_fail(CVX_EUNSUPPORTED, "%s: \"%s\"[%zu] must be \"%s\"", path, key, i, type);
        }
    }
    return CVX_OK;
}

static cvx_status read_sizes(cvx_vae_config *c, const json_t *j, const char *path)
{
    const struct {
        const char *key;
        int64_t *out, min, max;
    } ints[] = {{"in_channels", &c->in_channels, 3, 3},
                {"out_channels", &c->out_channels, 3, 3},
                {"latent_channels", &c->latent_channels, 1, 1024},
                {"layers_per_block", &c->layers_per_block, 1, 64},
                {"norm_num_groups", &c->norm_num_groups, 1, 4096},
                {"sample_height", &c->sample_height, 16, 1 << 20},
                {"sample_width", &c->sample_width, 16, 1 << 20}};

    for (size_t i = 0; i < sizeof ints / sizeof *ints; i++) {
        CVX_RETURN_IF(cvx_json_int(j, path, ints[i].key, ints[i].out));
        if (*ints[i].out < ints[i].min || *ints[i].out > ints[i].max) {
            return cvx_fail(CVX_EFORMAT, "%s: \"%s\" is %lld; it must be from %lld to %lld", path,
                            ints[i].key, (long long)*ints[i].out, (long long)ints[i].min,
                            (long long)ints[i].max);
        }
    }
    return CVX_OK;
}

static cvx_status read_time(cvx_vae_config *c, const json_t *j, const char *path)
{
    double ratio = 4; /* diffusers' type is float */
    int64_t r;

    CVX_RETURN_IF(cvx_json_double(j, path, "temporal_compression_ratio", &ratio));
    r = ratio >= 1 && ratio <= 128 ? (int64_t)ratio : 0;
    if (r < 1 || (double)r != ratio || (r & (r - 1)) != 0 || r > 1LL << (c->n_blocks - 1)) {
        return cvx_fail(CVX_EFORMAT,
                        "%s: \"temporal_compression_ratio\" is %g; it must be a power of "
                        "two up to %lld",
                        path, ratio, 1LL << (c->n_blocks - 1));
    }
    c->temporal_compression_ratio = r;
    return CVX_OK;
}

static cvx_status read_config(cvx_vae_config *c, const json_t *j, const char *path)
{
    const char *act = "silu";

    CVX_RETURN_IF(read_sizes(c, j, path));
    CVX_RETURN_IF(read_blocks(c, j, path));
    CVX_RETURN_IF(read_time(c, j, path));
    CVX_RETURN_IF(check_types(c, j, path, "down_block_types", "CogVideoXDownBlock3D"));
    CVX_RETURN_IF(check_types(c, j, path, "up_block_types", "CogVideoXUpBlock3D"));
    CVX_RETURN_IF(cvx_json_double(j, path, "norm_eps", &c->norm_eps));
    CVX_RETURN_IF(cvx_json_double(j, path, "scaling_factor", &c->scaling_factor));
    CVX_RETURN_IF(cvx_json_bool(j, path, "use_quant_conv", &c->use_quant_conv));
    CVX_RETURN_IF(cvx_json_bool(j, path, "use_post_quant_conv", &c->use_post_quant_conv));
    CVX_RETURN_IF(cvx_json_bool(j, path, "invert_scale_latents", &c->invert_scale_latents));
    CVX_RETURN_IF(cvx_json_str(j, path, "act_fn", &act));
    if (strcmp(act, "silu") != 0 && strcmp(act, "swish") != 0) {
        return cvx_fail(CVX_EUNSUPPORTED, "%s: \"act_fn\" is \"%s\"; it must be \"silu\"", path,
                        act);
    }
    if (!(c->norm_eps > 0) || !(c->scaling_factor > 0)) {
        return cvx_fail(CVX_EFORMAT, "%s: norm_eps and scaling_factor must be above 0", path);
    }
    if ((c->use_quant_conv || c->use_post_quant_conv) && c->latent_channels != c->out_channels) {
        /* diffusers makes these convolutions with out_channels, and fails in them otherwise */
        return cvx_fail(CVX_EUNSUPPORTED,
                        "%s: use_quant_conv and use_post_quant_conv need "
                        "latent_channels = out_channels, here %lld and %lld",
                        path, (long long)c->latent_channels, (long long)c->out_channels);
    }
    return CVX_OK;
}

cvx_status cvx_vae_config_load(cvx_vae_config *out, const char *dir)
{
    char path[CVX_PATH_MAX];
    json_t *j = NULL;
    cvx_vae_config c = {.in_channels = 3,
                        .out_channels = 3,
                        .latent_channels = 16,
                        .layers_per_block = 3,
                        .norm_num_groups = 32,
                        .sample_height = 480,
                        .sample_width = 720,
                        .norm_eps = 1e-6,
                        .scaling_factor = 1.15258426};

    CVX_RETURN_IF(cvx_path_join(path, dir, "config.json"));
    CVX_RETURN_IF(cvx_json_load(&j, path));
    cvx_status st = read_config(&c, j, path);
    json_decref(j);
    if (st == CVX_OK) {
        *out = c;
    }
    return st;
}

int64_t cvx_vae_spatial(const cvx_vae_config *cfg)
{
    return (int64_t)1 << (cfg->n_blocks - 1);
}
