#include "model/pipeline/places.h"

#include <string.h>

#include "model/pipeline/output.h"

static cvx_status numbered(char out[CVX_PATH_MAX], const cvx_request *r, const char *path,
                           int64_t k)
{
    if (r->num_videos_per_prompt > 1) {
        return cvx_output_numbered(out, path, k);
    }
    if (snprintf(out, CVX_PATH_MAX, "%s", path) >= CVX_PATH_MAX) {
        return cvx_fail(CVX_EINVAL, "path too long: %.200s...", path);
    }
    return CVX_OK;
}

cvx_status cvx_places_of(cvx_places *out, const cvx_request *r, int64_t k)
{
    out->manifest[0] = out->latents[0] = 0;
    CVX_RETURN_IF(numbered(out->output, r, r->output, k));
    if (r->save_latents != NULL) {
        CVX_RETURN_IF(numbered(out->latents, r, r->save_latents, k));
    }
    if (r->manifest != NULL) {
        return strcmp(r->manifest, "none") == 0 ? CVX_OK
                                                : numbered(out->manifest, r, r->manifest, k);
    }
    size_t n = strlen(out->output);
    while (n > 1 && out->output[n - 1] == '/') {
        n--;
    }
    if (snprintf(out->manifest, sizeof out->manifest, "%.*s.json", (int)n, out->output) >=
        CVX_PATH_MAX) {
        return cvx_fail(CVX_EINVAL, "path too long: %.200s...", out->output);
    }
    return CVX_OK;
}

/* The manifest and the saved latents. */
static cvx_status check_side_file(const char *path)
{
    if (cvx_is_dir(path)) {
        return cvx_fail(CVX_EIO, "cannot write %s: it is a folder", path);
    }
    return path[0] != 0 ? cvx_output_check_place(path) : CVX_OK;
}

/* No output may take another's place, or an input's. */
static cvx_status check_distinct(const cvx_request *r, const cvx_places *p)
{
    const struct {
        const char *flag, *path;
    } place[] = {{"output", p->output},  {"manifest", p->manifest}, {"save-latents", p->latents},
                 {"image", r->image},    {"video", r->video},       {"extend", r->extend},
                 {"latents", r->latents}};

    for (size_t i = 0; i < 3; i++) {
        for (size_t k = i + 1; k < sizeof place / sizeof *place; k++) {
            if (place[i].path[0] != 0 && place[k].path != NULL && place[k].path[0] != 0 &&
                cvx_same_file(place[i].path, place[k].path)) {
                return cvx_fail(CVX_EINVAL, "--%s and --%s are the same file: %s", place[i].flag,
                                place[k].flag, place[k].path);
            }
        }
    }
    return CVX_OK;
}

cvx_status cvx_places_check(const cvx_request *r, int64_t w, int64_t h, double fps)
{
    const int64_t last = r->num_videos_per_prompt - 1; /* has the longest names */
    cvx_places p;

    for (int64_t k = 0; k <= last; k += last > 0 ? last : 1) {
        CVX_RETURN_IF(cvx_places_of(&p, r, k));
        CVX_RETURN_IF(cvx_output_check(p.output, w, h, fps));
        CVX_RETURN_IF(check_side_file(p.manifest));
        CVX_RETURN_IF(check_side_file(p.latents));
        CVX_RETURN_IF(check_distinct(r, &p));
    }
    return CVX_OK;
}

void cvx_places_clean(const cvx_places *p)
{
    const char *const path[] = {p->output, p->manifest, p->latents};

    for (size_t i = 0; i < sizeof path / sizeof *path; i++) {
        if (path[i][0] != 0) {
            cvx_writer_clean(path[i]);
        }
    }
}
