#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "model/esrgan/esrgan.h"

static cvx_status read_int(const json_t *j, const char *path, const char *key, int64_t *out,
                           int64_t least, int64_t most)
{
    CVX_RETURN_IF(cvx_json_int(j, path, key, out));
    if (*out < least || *out > most) {
        return cvx_fail(CVX_EUNSUPPORTED, "%s: \"%s\" is %lld; it goes from %lld to %lld", path,
                        key, (long long)*out, (long long)least, (long long)most);
    }
    return CVX_OK;
}

static cvx_status read_config(cvx_esrgan_config *c, const json_t *j, const char *path)
{
    const char *arch = "", *act = "";
    int64_t in = 3, out = 3;

    *c = (cvx_esrgan_config){.feat = 64, .convs = 16, .blocks = 23, .grow = 32, .factor = 4};
    CVX_RETURN_IF(cvx_json_str(j, path, "architecture", &arch));
    CVX_RETURN_IF(cvx_json_str(j, path, "act_type", &act));
    CVX_RETURN_IF(read_int(j, path, "num_in_ch", &in, 3, 3));
    CVX_RETURN_IF(read_int(j, path, "num_out_ch", &out, 3, 3));
    CVX_RETURN_IF(read_int(j, path, "num_feat", &c->feat, 4, 1024));
    if (strcmp(arch, "SRVGGNetCompact") == 0) {
        c->kind = CVX_ESRGAN_SRVGG;
        CVX_RETURN_IF(read_int(j, path, "num_conv", &c->convs, 1, 256));
        CVX_RETURN_IF(read_int(j, path, "upscale", &c->factor, 1, 8));
    } else if (strcmp(arch, "RRDBNet") == 0) {
        c->kind = CVX_ESRGAN_RRDB;
        CVX_RETURN_IF(read_int(j, path, "num_block", &c->blocks, 1, 256));
        CVX_RETURN_IF(read_int(j, path, "num_grow_ch", &c->grow, 4, 256));
        CVX_RETURN_IF(read_int(j, path, "scale", &c->factor, 4, 4));
    } else {
        return cvx_fail(CVX_EUNSUPPORTED,
                        "%s: architecture \"%s\"; SRVGGNetCompact or RRDBNet is needed", path,
                        arch);
    }
    if (act[0] != 0 && strcmp(act, "prelu") != 0 && strncmp(act, "leaky_relu", 10) != 0) {
        return cvx_fail(CVX_EUNSUPPORTED, "%s: act_type \"%s\"; prelu or leaky_relu_0.2 is needed",
                        path, act);
    }
    c->scale = (double)c->factor;
    CVX_RETURN_IF(cvx_json_double(j, path, "out_scale", &c->scale));
    if (!(c->scale >= 1 && c->scale <= (double)c->factor)) {
        return cvx_fail(CVX_EFORMAT, "%s: \"out_scale\" %g; it goes from 1 to %lld", path, c->scale,
                        (long long)c->factor);
    }
    return CVX_OK;
}

cvx_status cvx_esrgan_config_load(cvx_esrgan_config *out, const char *dir)
{
    char path[CVX_PATH_MAX];
    json_t *j = NULL;

    CVX_RETURN_IF(cvx_path_join(path, dir, "config.json"));
    CVX_RETURN_IF(cvx_json_load(&j, path));
    cvx_status st = read_config(out, j, path);
    json_decref(j);
    return st;
}
