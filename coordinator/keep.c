/* Jobs that are forgotten: by their owners, or when they have been kept long enough. */
#include <dirent.h>
#include <ftw.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "coordinator/server.h"

#define SWEEP 100           /* jobs a round */
#define ORPHAN_SECONDS 3600 /* an upload is a job's long before */

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

/* Whether a job begins with this upload. */
static cvx_status is_used(cvx_redis *r, const char *path, bool *used)
{
    redisReply *reply;

    CVX_RETURN_IF(cvx_redis_command(r, &reply, "HEXISTS cvx:images %s", path));
    *used = reply->type != REDIS_REPLY_INTEGER || reply->integer != 0;
    freeReplyObject(reply);
    return CVX_OK;
}

cvx_status cvx_keep_orphans(const cvx_server *s, cvx_redis *r)
{
    char folder[CVX_PATH_MAX], path[CVX_PATH_MAX];
    cvx_status st = CVX_OK;
    struct dirent *e;
    struct stat file;

    snprintf(folder, sizeof folder, "%.4000s/uploads", s->data_dir);
    DIR *d = opendir(folder);
    while (d != NULL && st == CVX_OK && (e = readdir(d)) != NULL) {
        bool used = true;
        if (cvx_job_id_valid(e->d_name) && cvx_path_join(path, folder, e->d_name) == CVX_OK &&
            lstat(path, &file) == 0 && file.st_mtime < cvx_now_ms() / 1000 - ORPHAN_SECONDS) {
            st = is_used(r, path, &used);
        }
        if (!used) {
            cvx_log(CVX_LOG_INFO, NULL, "deleted %s: an upload of no job", path);
            (void)unlink(path);
        }
    }
    if (d != NULL) {
        closedir(d);
    }
    return st;
}
