#include "model/pipeline/checkpoint.h"

#include <string.h>

#include "base/hash.h"

cvx_status cvx_checkpoint_part(const cvx_checkpoint *c, char out[CVX_PATH_MAX], const char *part)
{
    return cvx_path_join(out, c->dir, part);
}

static cvx_status check_index(const char *dir)
{
    char path[CVX_PATH_MAX];
    json_t *j = NULL;

    if (!cvx_is_dir(dir)) {
        return cvx_fail(CVX_EIO, "%s: no such checkpoint folder", dir);
    }
    CVX_RETURN_IF(cvx_path_join(path, dir, "model_index.json"));
    if (!cvx_is_file(path)) {
        return cvx_fail(CVX_EIO,
                        "%s: no model_index.json; a CogVideoX checkpoint in diffusers' folder "
                        "layout is needed",
                        dir);
    }
    CVX_RETURN_IF(cvx_json_load(&j, path));
    const char *cls = "CogVideoXPipeline";
    cvx_status st = cvx_json_str(j, path, "_class_name", &cls);
    if (st == CVX_OK && strncmp(cls, "CogVideoX", strlen("CogVideoX")) != 0) {
        st = cvx_fail(CVX_EUNSUPPORTED, "%s: _class_name is \"%s\"; a CogVideoX pipeline is needed",
                      path, cls);
    }
    json_decref(j);
    return st;
}

/* Parts that must agree with each other. */
static cvx_status check_parts(cvx_checkpoint *c)
{
    const cvx_dit_config *d = &c->dit;

    c->image_to_video = d->in_channels == 2 * d->out_channels;
    if (!c->image_to_video && d->in_channels != d->out_channels) {
        return cvx_fail(CVX_EFORMAT,
                        "%s/transformer/config.json: in_channels %lld must be out_channels "
                        "%lld, or twice that (image-to-video)",
                        c->dir, (long long)d->in_channels, (long long)d->out_channels);
    }
    if (d->text_embed_dim != c->t5.d_model) {
        return cvx_fail(CVX_EFORMAT,
                        "%s: transformer text_embed_dim %lld and text_encoder d_model %lld "
                        "must be equal",
                        c->dir, (long long)d->text_embed_dim, (long long)c->t5.d_model);
    }
    if (d->out_channels != c->vae.latent_channels) {
        return cvx_fail(CVX_EFORMAT,
                        "%s: transformer out_channels %lld and vae latent_channels %lld must "
                        "be equal",
                        c->dir, (long long)d->out_channels, (long long)c->vae.latent_channels);
    }
    return CVX_OK;
}

cvx_status cvx_checkpoint_open(cvx_checkpoint *out, const char *dir)
{
    static const char *const parts[] = {"transformer", "text_encoder", "vae", "scheduler"};
    char path[4][CVX_PATH_MAX];
    cvx_checkpoint c = {.spatial = 8, .temporal = 4};

    CVX_RETURN_IF(check_index(dir));
    if (snprintf(c.dir, sizeof c.dir, "%s", dir) >= (int)sizeof c.dir) {
        return cvx_fail(CVX_EINVAL, "path too long: %.200s...", dir);
    }
    for (int i = 0; i < 4; i++) {
        CVX_RETURN_IF(cvx_checkpoint_part(&c, path[i], parts[i]));
    }
    CVX_RETURN_IF(cvx_dit_config_load(&c.dit, path[0]));
    CVX_RETURN_IF(cvx_t5_config_load(&c.t5, path[1]));
    CVX_RETURN_IF(cvx_vae_config_load(&c.vae, path[2]));
    CVX_RETURN_IF(cvx_sched_config_load(&c.sched, path[3]));
    c.spatial = cvx_vae_spatial(&c.vae);
    c.temporal = c.vae.temporal_compression_ratio;
    CVX_RETURN_IF(check_parts(&c));
    *out = c;
    return CVX_OK;
}

char *cvx_checkpoint_describe(const cvx_checkpoint *c, char *buf, size_t size)
{
    snprintf(buf, size, "CogVideoX%s %s, %lld layers x %lld heads of %lld, %s positions",
             c->dit.patch_size_t > 0 ? "-1.5" : "",
             c->image_to_video ? "image-to-video" : "text-to-video", (long long)c->dit.num_layers,
             (long long)c->dit.num_attention_heads, (long long)c->dit.attention_head_dim,
             !c->dit.use_rotary   ? "sincos"
             : c->dit.use_learned ? "rotary and learned"
                                  : "rotary");
    return buf;
}

cvx_status cvx_checkpoint_print(const cvx_checkpoint *c, json_t *out)
{
    static const char *const files[] = {"model_index.json", "transformer/config.json",
                                        "text_encoder/config.json", "vae/config.json",
                                        "scheduler/scheduler_config.json"};
    char path[CVX_PATH_MAX], hex[65], key[64];

    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        CVX_RETURN_IF(cvx_path_join(path, c->dir, files[i]));
        CVX_RETURN_IF(cvx_sha256_file(path, hex));
        snprintf(key, sizeof key, "SHA-256 of %s", files[i]);
        json_object_set_new(out, key, json_string(hex));
    }
    return CVX_OK;
}
