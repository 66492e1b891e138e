/* Whole-file reads, mappings, and writes that leave nothing half-written: write to a temporary in
 * the same folder, fsync, rename. */
#ifndef CVX_BASE_FILE_H
#define CVX_BASE_FILE_H

#include <stdio.h>

#include "base/status.h"

#define CVX_PATH_MAX 4096

/* Where the caller has closed descriptors 0, 1 or 2 they become /dev/null: else a file gets the number, and what is printed goes into
 * it. The first thing that a program does. */
void cvx_open_standard(void);
/* The last: CVX_EIO where something that was printed to stdout did not get there (a full disk). */
cvx_status cvx_close_standard(void) CVX_CHECK;

/* Reads a regular file of at most `max` bytes, adds a terminating NUL that *len leaves out.
 * Caller frees *out. CVX_EIO / CVX_EFORMAT (too large). */
cvx_status cvx_file_read(char **out, size_t *len, const char *path, size_t max) CVX_CHECK;

/* A read-only private mapping of a whole file; close gives it back. Empty files map to NULL/0. */
typedef struct cvx_map {
    const unsigned char *data;
    size_t size;
} cvx_map;
cvx_status cvx_map_open(cvx_map *out, const char *path) CVX_CHECK;
void cvx_map_close(cvx_map *m);

/* Joins "dir/name" into out[CVX_PATH_MAX]; CVX_EINVAL when too long. */
cvx_status cvx_path_join(char *out, const char *dir, const char *name) CVX_CHECK;

/* CVX_EIO, saying why, where `path` is not a regular file that is there. */
cvx_status cvx_check_file(const char *path) CVX_CHECK;

bool cvx_is_dir(const char *path);
bool cvx_is_file(const char *path);
/* Whether the last part of `path` ends with `extension` (".png"), in either case. */
bool cvx_has_extension(const char *path, const char *extension);
/* Whether two names stand for one file: the same file, by whatever names, or, where one is not there yet, the same name in
 * the same folder. */
bool cvx_same_file(const char *a, const char *b);

/* mkdir -p. */
cvx_status cvx_mkdirs(const char *path) CVX_CHECK;

/* An output being written: `tmp` is "PATH.part-PID" (same folder, so rename is atomic). Writers that
 * need a file name (libav) write to w.tmp themselves; others use fopen on it. commit fsyncs and
 * renames; abort unlinks. */
typedef struct cvx_writer {
    char path[CVX_PATH_MAX];
    char tmp[CVX_PATH_MAX];
} cvx_writer;
/* Checks that the folder exists and is writable by creating the temporary. What is there under that name must be a regular
 * file: a device or a pipe would be gone after the rename. */
cvx_status cvx_writer_open(cvx_writer *w, const char *path) CVX_CHECK;
/* The errors that cvx_writer_open would give, before the work: the temporary is made and removed. */
cvx_status cvx_writer_check(const char *path) CVX_CHECK;
cvx_status cvx_writer_commit(cvx_writer *w) CVX_CHECK;
void cvx_writer_abort(cvx_writer *w);

/* Removes temporaries of `path` that writers left which were killed. For whoever alone writes `path`. */
void cvx_writer_clean(const char *path);

/* The whole of `data` into `path` through a cvx_writer. */
cvx_status cvx_file_write(const char *path, const void *data, size_t len) CVX_CHECK;

#endif
