/* Jobs that are forgotten: by their owners, or when they have been kept long enough. */
#include <ftw.h>
#include <string.h>

#include "coordinator/server.h"

#define SWEEP 100 /* jobs a round */

static int remove_one(const char *path, const struct stat *sb, int kind, struct FTW *at)
{
    (void)sb;
    (void)kind;
    (void)at;
    return remove(path) != 0; /* what cannot go now stays, and is nobody's any more */
}

cvx_status cvx_keep_remove(const cvx_server *s, cvx_redis *r, const char *id, bool *removed)
{
    char path[CVX_PATH_MAX], image[CVX_PATH_MAX];

    CVX_RETURN_IF(cvx_jobs_remove(r, id, removed, image));
    if (!*removed) {
        return CVX_OK;
    }
    snprintf(path, sizeof path, "%.4000s/jobs/%.38s", s->data_dir, id);
    (void)nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    snprintf(path, sizeof path, "%.4000s/uploads/", s->data_dir);
    if (image[0] != 0 && strncmp(image, path, strlen(path)) == 0) {
        (void)remove(image);
    }
    return CVX_OK;
}

cvx_status cvx_keep_sweep(const cvx_server *s, cvx_redis *r)
{
    char ids[SWEEP][CVX_ID_MAX];
    int64_t n = 0;
    bool removed;

    if (s->retention_ms == 0) {
        return CVX_OK;
    }
    CVX_RETURN_IF(cvx_jobs_ended(r, cvx_now_ms() - s->retention_ms, SWEEP, ids, &n));
    for (int64_t i = 0; i < n; i++) {
        CVX_RETURN_IF(cvx_keep_remove(s, r, ids[i], &removed));
    }
    return CVX_OK;
}
