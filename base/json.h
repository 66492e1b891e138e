/* Reading JSON files with messages that name the file, the key and what would be right; jansson's
 * json_t is used as it is (json_decref by the owner). */
#ifndef CVX_BASE_JSON_H
#define CVX_BASE_JSON_H

#include <jansson.h>

#include "base/status.h"

/* Parses a whole file (at most 64 MiB) whose top level must be an object. Caller json_decref's. */
cvx_status cvx_json_load(json_t **out, const char *path) CVX_CHECK;

/* Parses bytes; `what` names them in messages. Top level must be an object. */
cvx_status cvx_json_parse(json_t **out, const char *text, size_t len, const char *what) CVX_CHECK;

/* Getters: a missing key or null leaves *out unchanged (set the default before); a value of another
 * type is CVX_EFORMAT naming `what` (the file) and the key. Strings are borrowed from `obj`. */
cvx_status cvx_json_int(const json_t *obj, const char *what, const char *key,
                        int64_t *out) CVX_CHECK;
cvx_status cvx_json_double(const json_t *obj, const char *what, const char *key,
                           double *out) CVX_CHECK;
cvx_status cvx_json_bool(const json_t *obj, const char *what, const char *key, bool *out) CVX_CHECK;
cvx_status cvx_json_str(const json_t *obj, const char *what, const char *key,
                        const char **out) CVX_CHECK;
/* True if the key is there and not null. */
bool cvx_json_has(const json_t *obj, const char *key);

/* The first key, in a's order and then b's, whose values differ or that one of the objects lacks, as its object has it; NULL: none. */
const char *cvx_json_difference(const json_t *a, const json_t *b);

/* A value for a message: on one line, cut after 80 bytes; NULL: "none". */
void cvx_json_text(char out[100], const json_t *v);

#endif
