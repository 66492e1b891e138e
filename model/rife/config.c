#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "model/rife/rife.h"

/* A list of four positive numbers; absent: *out stays. */
static cvx_status read_four(const json_t *j, const char *what, const char *key, double out[4],
                            double most)
{
    const json_t *list = json_object_get(j, key);

    if (list == NULL) {
        return CVX_OK;
    }
    if (!json_is_array(list) || json_array_size(list) != CVX_RIFE_BLOCKS) {
        return cvx_fail(CVX_EUNSUPPORTED, "%s: \"%s\" must be a list of %d numbers", what, key,
                        CVX_RIFE_BLOCKS);
    }
    for (size_t i = 0; i < CVX_RIFE_BLOCKS; i++) {
        const json_t *v = json_array_get(list, i);
        if (!json_is_number(v) || !(json_number_value(v) >= 1 && json_number_value(v) <= most)) {
            return cvx_fail(CVX_EFORMAT, "%s: \"%s\" holds something that is not in 1 .. %g", what,
                            key, most);
        }
        out[i] = json_number_value(v);
    }
    return CVX_OK;
}

static cvx_status read_config(cvx_rife_config *c, const json_t *j, const char *path)
{
    const char *arch = "";
    bool timestep = true;
    double channels[4] = {192, 128, 96, 64}, inputs[4] = {7, 12, 12, 12};

    *c = (cvx_rife_config){.scales = {8, 4, 2, 1}, .convs = 8, .pad = 64};
    CVX_RETURN_IF(cvx_json_str(j, path, "architecture", &arch));
    CVX_RETURN_IF(cvx_json_bool(j, path, "timestep", &timestep));
    if (strncmp(arch, "IFNet", 5) != 0 || !timestep) {
        return cvx_fail(CVX_EUNSUPPORTED,
                        "%s: architecture \"%s\"%s; IFNet_HDv3 with a timestep (RIFE 3.9 to 4.6) "
                        "is needed",
                        path, arch, timestep ? "" : " without a timestep");
    }
    CVX_RETURN_IF(read_four(j, path, "block_channels", channels, 4096));
    CVX_RETURN_IF(read_four(j, path, "block_in", inputs, 64));
    CVX_RETURN_IF(read_four(j, path, "scale_list", c->scales, 64));
    CVX_RETURN_IF(cvx_json_int(j, path, "convs_per_block", &c->convs));
    CVX_RETURN_IF(cvx_json_double(j, path, "flow_doubling_threshold", &c->doubling));
    CVX_RETURN_IF(cvx_json_int(j, path, "pad_multiple", &c->pad));
    for (int i = 0; i < CVX_RIFE_BLOCKS; i++) {
        double step = 4 * c->scales[i];
        c->channels[i] = (int64_t)channels[i];
        c->inputs[i] = (int64_t)inputs[i];
        if (c->channels[i] % 4 != 0 || c->inputs[i] != (i == 0 ? 7 : 12)) {
            return cvx_fail(CVX_EUNSUPPORTED,
                            "%s: block %d has %lld input and %lld inner channels; 7 (12 from the "
                            "second block on) and a multiple of 4 are needed",
                            path, i, (long long)c->inputs[i], (long long)c->channels[i]);
        }
        if (c->pad < 4 || c->pad > 4096 ||
            (double)(int64_t)((double)c->pad / step) * step != (double)c->pad) {
            return cvx_fail(CVX_EFORMAT,
                            "%s: \"pad_multiple\" %lld; it must be a multiple of 4 times every "
                            "scale of \"scale_list\", at most 4096",
                            path, (long long)c->pad);
        }
    }
    if (c->convs < 1 || c->convs > 64) {
        return cvx_fail(CVX_EFORMAT, "%s: \"convs_per_block\" %lld; it goes from 1 to 64", path,
                        (long long)c->convs);
    }
    return CVX_OK;
}

cvx_status cvx_rife_config_load(cvx_rife_config *out, const char *dir)
{
    char path[CVX_PATH_MAX];
    json_t *j = NULL;

    CVX_RETURN_IF(cvx_path_join(path, dir, "config.json"));
    CVX_RETURN_IF(cvx_json_load(&j, path));
    cvx_status st = read_config(out, j, path);
    json_decref(j);
    return st;
}
