/* The coordinator's HTTP API from the other side: what `cvx submit` and its kin speak. Errors are one line with the server's own
 * words. Not for several threads at once. */
#ifndef CVX_CLIENT_CLIENT_H
#define CVX_CLIENT_CLIENT_H

#include "base/json.h"
#include "base/opts.h"
#include "base/progress.h"

typedef struct cvx_client cvx_client;

typedef struct cvx_client_options {
    const char *
        server; /* http://HOST:PORT; NULL: CVX_SERVER of the environment, or http://127.0.0.1:8080 */
    const char *api_key_file; /* holds the key; NULL: CVX_API_KEY of the environment, or none */
    const char *
        cacert; /* PEM file of who may vouch for an https server; NULL: CVX_CACERT of the environment, or the system's */
} cvx_client_options;

/* Options for a command's table, of an object that has a cvx_client_options `client`. */
#define CVX_CLIENT_OPTS(type)                                                                          \
    {"server",                                                                                         \
     CVX_OPT_STR,                                                                                      \
     offsetof(type, client.server),                                                                    \
     "URL",                                                                                            \
     "the coordinator (default: CVX_SERVER of the environment, or http://127.0.0.1:8080)",             \
     0,                                                                                                \
     0,                                                                                                \
     NULL},                                                                                            \
        {"cacert",                                                                                     \
         CVX_OPT_STR,                                                                                  \
         offsetof(type, client.cacert),                                                                \
         "FILE",                                                                                       \
         "PEM certificates that an https server is trusted by (default: CVX_CACERT, or the system's)", \
         0,                                                                                            \
         0,                                                                                            \
         NULL},                                                                                        \
    {                                                                                                  \
        "api-key-file", CVX_OPT_STR, offsetof(type, client.api_key_file), "FILE",                      \
            "a file with the API key (default: CVX_API_KEY of the environment)", 0, 0, NULL            \
    }

/* Nothing is sent yet. CVX_EINVAL, CVX_EIO (key file). Caller closes. */
cvx_status cvx_client_open(cvx_client **out, const cvx_client_options *opt) CVX_CHECK;
void cvx_client_close(cvx_client *c); /* accepts NULL */

/* One request and its JSON answer (new reference). body: JSON, NULL for none; file: a picture that goes with it as input_reference (then
 * body's fields go as a form), NULL for none; once: an idempotency key, NULL for none. A server that is away or asks to wait is tried
 * again for up to a minute, where that cannot make two jobs. CVX_EIO (nobody answers), CVX_EINVAL (the server refuses: its
 * message). */
cvx_status cvx_client_call(cvx_client *c, const char *method, const char *path, const json_t *body,
                           const char *file, const char *once, json_t **answer) CVX_CHECK;

/* The file at `path` of the server as `out`: into a temporary first, which a broken connection does not lose. */
cvx_status cvx_client_download(cvx_client *c, const char *path, const char *out) CVX_CHECK;

/* Called for each event of a job: its name ("state", "progress", "scores") and data. */
typedef cvx_status (*cvx_client_event_fn)(void *payload, const char *event, const json_t *data);

/* Tells a job's events until it has ended, going on where a broken connection left off. */
cvx_status cvx_client_follow(cvx_client *c, const char *job, cvx_client_event_fn fn,
                             void *payload) CVX_CHECK;

#endif
