#include "base/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static cvx_status io(const char *verb, const char *path)
{
    return cvx_fail(CVX_EIO, "cannot %s %s: %s", verb, path, strerror(errno));
}

void cvx_open_standard(void)
{
    for (int fd = 0; fd <= 2; fd++) {
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", O_RDWR) < 0) {
            return;
        }
    }
}

cvx_status cvx_close_standard(void)
{
    errno = 0;
    if (fflush(stdout) == 0 && !ferror(stdout)) {
        return CVX_OK;
    }
    return cvx_fail(CVX_EIO, "cannot write to standard output: %s",
                    errno != 0 ? strerror(errno) : "some of it is lost");
}

static cvx_status open_regular(int *fd, struct stat *sb, const char *path)
{
    *fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO must not block us */
    if (*fd < 0) {
        return io("open", path);
    }
    if (fstat(*fd, sb) != 0 || !S_ISREG(sb->st_mode)) {
        close(*fd);
        return cvx_fail(CVX_EIO, "cannot open %s: not a regular file", path);
    }
    return CVX_OK;
}

cvx_status cvx_file_read(char **out, size_t *len, const char *path, size_t max)
{
    int fd;
    struct stat sb;
    cvx_status st = CVX_OK;
    char *buf = NULL;
    size_t got = 0;

    CVX_RETURN_IF(open_regular(&fd, &sb, path));
    size_t size = (size_t)sb.st_size;
    if (size > max) {
        st =
            cvx_fail(CVX_EFORMAT, "%s: %zu bytes, more than the %zu allowed here", path, size, max);
        goto done;
    }
    buf = malloc(size + 1);
    if (buf == NULL) {
        st = cvx_fail(CVX_ENOMEM, "%s: no memory for %zu bytes", path, size);
        goto done;
    }
    while (got < size) {
        ssize_t n = read(fd, buf + got, size - got);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            st = io("read", path);
            goto done;
        }
        if (n == 0) {
            break;
        }
        got += (size_t)n;
    }
    buf[got] = 0;
    *out = buf;
    *len = got;
    buf = NULL;
done:
    free(buf);
    close(fd);
    return st;
}

cvx_status cvx_map_open(cvx_map *out, const char *path)
{
    int fd;
    struct stat sb;

    CVX_RETURN_IF(open_regular(&fd, &sb, path));
    *out = (cvx_map){0};
    if (sb.st_size > 0) {
        void *p = mmap(NULL, (size_t)sb.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (p == MAP_FAILED) {
            cvx_status st = io("map", path);
            close(fd);
            return st;
        }
        *out = (cvx_map){p, (size_t)sb.st_size};
    }
    close(fd);
    return CVX_OK;
}

void cvx_map_close(cvx_map *m)
{
    if (m->data != NULL) {
        munmap((void *)m->data, m->size);
    }
    *m = (cvx_map){0};
}

cvx_status cvx_path_join(char *out, const char *dir, const char *name)
{
    if (snprintf(out, CVX_PATH_MAX, "%s/%s", dir, name) >= CVX_PATH_MAX) {
        return cvx_fail(CVX_EINVAL, "path too long: %.200s.../%.200s", dir, name);
    }
    return CVX_OK;
}

cvx_status cvx_check_file(const char *path)
{
    struct stat sb;

    if (stat(path, &sb) != 0) {
        return io("read", path);
    }
    return S_ISREG(sb.st_mode)
               ? CVX_OK
               : cvx_fail(CVX_EIO, "cannot read %s: %s", path,
                          S_ISDIR(sb.st_mode) ? "it is a folder"
                                              : "it is no regular file (a pipe or a device)");
}

bool cvx_is_dir(const char *path)
{
    struct stat sb;
    return stat(path, &sb) == 0 && S_ISDIR(sb.st_mode);
}

bool cvx_is_file(const char *path)
{
    struct stat sb;
    return stat(path, &sb) == 0 && S_ISREG(sb.st_mode);
}

bool cvx_has_extension(const char *path, const char *extension)
{
    size_t n = strlen(path), m = strlen(extension);
    return n > m && path[n - m - 1] != '/' && strcasecmp(path + n - m, extension) == 0;
}

/* The folder that `path` lies in, into dir[CVX_PATH_MAX], and its last part; slashes at the end do not count. */
static bool split(char *dir, const char **name, const char *path)
{
    size_t n = strlen(path);

    while (n > 1 && path[n - 1] == '/') {
        n--;
    }
    if (n >= CVX_PATH_MAX) {
        return false;
    }
    const char *slash = memrchr(path, '/', n);
    *name = slash != NULL ? slash + 1 : path;
    snprintf(dir, CVX_PATH_MAX, "%.*s", slash != NULL ? (int)(slash - path) + 1 : 1,
             slash != NULL ? path : ".");
    return true;
}

bool cvx_same_file(const char *a, const char *b)
{
    char dir_a[CVX_PATH_MAX], dir_b[CVX_PATH_MAX];
    const char *name_a, *name_b;
    struct stat sa, sb;

    if (stat(a, &sa) == 0 && stat(b, &sb) == 0) {
        return sa.st_dev == sb.st_dev && sa.st_ino == sb.st_ino;
    }
    return split(dir_a, &name_a, a) && split(dir_b, &name_b, b) &&
           strcspn(name_a, "/") == strcspn(name_b, "/") &&
           strncmp(name_a, name_b, strcspn(name_a, "/")) == 0 && stat(dir_a, &sa) == 0 &&
           stat(dir_b, &sb) == 0 && sa.st_dev == sb.st_dev && sa.st_ino == sb.st_ino;
}

cvx_status cvx_mkdirs(const char *path)
{
    char buf[CVX_PATH_MAX];

    if (snprintf(buf, sizeof buf, "%s", path) >= (int)sizeof buf) {
        return cvx_fail(CVX_EINVAL, "path too long: %.200s...", path);
    }
    for (char *p = buf + 1;; p++) {
        if (*p != '/' && *p != 0) {
            continue;
        }
        char c = *p;
        *p = 0;
        if (mkdir(buf, 0777) != 0 && errno != EEXIST) {
            return io("create folder", buf);
        }
        *p = c;
        if (c == 0) {
            break;
        }
    }
    return cvx_is_dir(path) ? CVX_OK : cvx_fail(CVX_EIO, "%s exists and is not a folder", path);
}

cvx_status cvx_writer_open(cvx_writer *w, const char *path)
{
    struct stat sb;

    if (snprintf(w->path, sizeof w->path, "%s", path) >= (int)sizeof w->path ||
        snprintf(w->tmp, sizeof w->tmp, "%s.part-%ld", path, (long)getpid()) >=
            (int)sizeof w->tmp) {
        return cvx_fail(CVX_EINVAL, "path too long: %.200s...", path);
    }
    if (stat(path, &sb) == 0 && !S_ISREG(sb.st_mode)) {
        return cvx_fail(CVX_EIO, "cannot write %s: it is %s", path,
                        S_ISDIR(sb.st_mode) ? "a folder" : "no regular file");
    }
    int fd = open(w->tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0) {
        return io("write", path);
    }
    close(fd);
    return CVX_OK;
}

cvx_status cvx_writer_check(const char *path)
{
    cvx_writer w;

    CVX_RETURN_IF(cvx_writer_open(&w, path));
    cvx_writer_abort(&w);
    return CVX_OK;
}

cvx_status cvx_writer_commit(cvx_writer *w)
{
    int fd = open(w->tmp, O_WRONLY | O_CLOEXEC);
    cvx_status st = CVX_OK;

    if (fd < 0 || fsync(fd) != 0) {
        st = io("write", w->path);
    }
    if (fd >= 0 && close(fd) != 0 && st == CVX_OK) {
        st = io("write", w->path);
    }
    if (st == CVX_OK && rename(w->tmp, w->path) != 0) {
        st = io("rename to", w->path);
    }
    if (st != CVX_OK) {
        cvx_writer_abort(w);
    }
    return st;
}

void cvx_writer_abort(cvx_writer *w)
{
    if (w->tmp[0] != 0) {
        unlink(w->tmp);
    }
    w->tmp[0] = 0;
}

static int remove_one(const char *path, const struct stat *sb, int type, struct FTW *ftw)
{
    (void)sb;
    (void)type;
    (void)ftw;
    return remove(path);
}

/* Removes "DIR/BASE.part-NUMBER". */
static void clean_in(const char *dir, const char *base)
{
    char victim[CVX_PATH_MAX];
    size_t n = strlen(base);
    DIR *d = opendir(dir);

    for (struct dirent *e; d != NULL && (e = readdir(d)) != NULL;) {
        const char *rest = e->d_name + n;
        if (strncmp(e->d_name, base, n) == 0 && strncmp(rest, ".part-", 6) == 0 && rest[6] != 0 &&
            strspn(rest + 6, "0123456789") == strlen(rest + 6) &&
            cvx_path_join(victim, dir, e->d_name) == CVX_OK) {
            nftw(victim, remove_one, 16, FTW_DEPTH | FTW_PHYS); /* frames are a folder */
        }
    }
    if (d != NULL) {
        closedir(d);
    }
}

void cvx_writer_clean(const char *path)
{
    char dir[CVX_PATH_MAX];

    if (snprintf(dir, sizeof dir, "%s", path) >= (int)sizeof dir) {
        return;
    }
    if (cvx_is_dir(path)) { /* frames for a folder that was there gather inside it */
        clean_in(path, "");
    }
    size_t n = strlen(dir);
    while (n > 1 && dir[n - 1] == '/') {
        dir[--n] = 0;
    }
    char *slash = strrchr(dir, '/');
    if (slash == NULL) {
        clean_in(".", dir);
    } else {
        *slash = 0;
        clean_in(dir[0] != 0 ? dir : "/", slash + 1);
    }
}

cvx_status cvx_file_write(const char *path, const void *data, size_t len)
{
    cvx_writer w;

    CVX_RETURN_IF(cvx_writer_open(&w, path));
    FILE *f = fopen(w.tmp, "wb");
    bool ok = f != NULL && fwrite(data, 1, len, f) == len;
    if (f != NULL && fclose(f) != 0) {
        ok = false;
    }
    if (!ok) {
        cvx_status st = io("write", path);
        cvx_writer_abort(&w);
        return st;
    }
    return cvx_writer_commit(&w);
}
