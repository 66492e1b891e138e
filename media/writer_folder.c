/* A folder of PNG frames.
 *
 * A new folder is written beside its place and renamed, so it appears complete or not at all. An
 * existing one may be a mount point, which cannot be renamed over: frames are collected in a hidden
 * folder inside it and moved out at commit. */
#include "media/writer.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct folder {
    char tmp[CVX_PATH_MAX];
    bool existing;
    bool made; /* tmp is there and ours */
} folder;

static cvx_status io(const char *verb, const char *path)
{
    return cvx_fail(CVX_EIO, "cannot %s %s: %s", verb, path, strerror(errno));
}

/* "0000.png": four digits or more. */
static bool is_frame_name(const char *name)
{
    size_t digits = strspn(name, "0123456789");

    return digits >= 4 && strcmp(name + digits, ".png") == 0;
}

/* Calls `each` with the path of every entry but dot files, until one fails. */
static cvx_status walk(const char *path, cvx_status (*each)(const char *dir, const char *name))
{
    cvx_status st = CVX_OK;
    DIR *dir = opendir(path);
    struct dirent *e;

    if (dir == NULL) {
        return io("read the folder", path);
    }
    while (st == CVX_OK && (e = readdir(dir)) != NULL) {
        if (e->d_name[0] != '.') {
            st = each(path, e->d_name);
        }
    }
    closedir(dir);
    return st;
}

static cvx_status refuse_others(const char *dir, const char *name)
{
    if (is_frame_name(name)) {
        return CVX_OK;
    }
    return cvx_fail(CVX_EINVAL,
                    "output %s: the folder holds other things ('%s'); choose an empty or a new one",
                    dir, name);
}

cvx_status cvx_media_folder_check(const char *path)
{
    if (cvx_is_dir(path)) {
        return walk(path, refuse_others);
    }
    if (access(path, F_OK) == 0) {
        return cvx_fail(CVX_EINVAL, "output %s exists and is not a folder", path);
    }
    return CVX_OK;
}

static cvx_status remove_frame(const char *dir, const char *name)
{
    char path[CVX_PATH_MAX];

    if (!is_frame_name(name)) {
        return CVX_OK;
    }
    CVX_RETURN_IF(cvx_path_join(path, dir, name));
    return unlink(path) == 0 ? CVX_OK : io("remove", path);
}

static cvx_status frame_path(char *out, const char *dir, int64_t i)
{
    char name[32];

    snprintf(name, sizeof name, "%04lld.png", (long long)i);
    return cvx_path_join(out, dir, name);
}

static cvx_status open_folder(cvx_media_writer *w)
{
    folder *f = calloc(1, sizeof *f);

    if (f == NULL) {
        return cvx_fail(CVX_ENOMEM, "output %s: out of memory", w->path);
    }
    w->self = f;
    f->existing = cvx_is_dir(w->path);
    if (snprintf(f->tmp, sizeof f->tmp, f->existing ? "%s/.part-%ld" : "%s.part-%ld", w->path,
                 (long)getpid()) >= (int)sizeof f->tmp) {
        return cvx_fail(CVX_EINVAL, "path too long: %.200s...", w->path);
    }
    if (mkdir(f->tmp, 0777) != 0) {
        return io("write the folder", w->path);
    }
    f->made = true;
    return CVX_OK;
}

static cvx_status frame_folder(cvx_media_writer *w, const uint8_t *rgb)
{
    folder *f = w->self;
    char path[CVX_PATH_MAX];

    CVX_RETURN_IF(frame_path(path, f->tmp, w->n));
    return cvx_image_write_png(path, rgb, w->opts.w, w->opts.h);
}

static cvx_status sync_folder(const char *path)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool ok = fd >= 0 && fsync(fd) == 0;
    cvx_status st = ok ? CVX_OK : io("write the folder", path);

    if (fd >= 0) {
        close(fd);
    }
    return st;
}

static cvx_status move_into(const cvx_media_writer *w, const char *tmp)
{
    char from[CVX_PATH_MAX], to[CVX_PATH_MAX];

    /* Checked again: something may have been put there since open. */
    CVX_RETURN_IF(walk(w->path, refuse_others));
    CVX_RETURN_IF(walk(w->path, remove_frame));
    for (int64_t i = 0; i < w->n; i++) {
        CVX_RETURN_IF(frame_path(from, tmp, i));
        CVX_RETURN_IF(frame_path(to, w->path, i));
        if (rename(from, to) != 0) {
            return io("write", to);
        }
    }
    return rmdir(tmp) == 0 ? CVX_OK : io("remove", tmp);
}

static cvx_status commit_folder(cvx_media_writer *w)
{
    folder *f = w->self;

    CVX_RETURN_IF(sync_folder(f->tmp));
    if (f->existing) {
        CVX_RETURN_IF(move_into(w, f->tmp));
    } else if (rename(f->tmp, w->path) != 0) {
        return io("write the folder", w->path);
    }
    f->made = false;
    return CVX_OK;
}

static void close_folder(cvx_media_writer *w)
{
    folder *f = w->self;

    if (f->made) {
        cvx_status st = walk(f->tmp, remove_frame);
        (void)
            st; /* nothing more can be done about a leftover, and the first error is what counts */
        (void)rmdir(f->tmp);
    }
    free(f);
    w->self = NULL;
}

const cvx_media_kind cvx_media_folder = {NULL, open_folder, frame_folder, commit_folder,
                                         close_folder};
