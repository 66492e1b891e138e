/* Inside client/: one exchange over libcurl. */
#ifndef CVX_CLIENT_WIRE_H
#define CVX_CLIENT_WIRE_H

#include <curl/curl.h>

#include "base/file.h"
#include "client/client.h"

#define CVX_CLIENT_PATIENCE 60.0 /* s for a server that is away */

struct cvx_client {
    CURL *curl;
    char server[512], key[1024]; /* key: the whole header, or "" */
    char cacert[CVX_PATH_MAX];   /* "": the system's */
    bool met; /* it has answered before: where it does no more it is waited for */
};

/* What comes back of one request. */
typedef struct cvx_exchange {
    char *text; /* owned by whoever performs it */
    size_t len;
    long status;
    double wait; /* Retry-After; 0: none */
    char why[CURL_ERROR_SIZE];
} cvx_exchange;

/* A handle ready for a request to path, whose answer goes to x; headers grow by the key's. */
void cvx_wire_prepare(cvx_client *c, cvx_exchange *x, const char *path,
                      struct curl_slist **headers);
CURLcode cvx_wire_perform(cvx_client *c, cvx_exchange *x, struct curl_slist *headers);
/* Whether a request that came to nothing may be made again: a server that nobody has met yet, or that nobody vouches for, is not
 * waited for. */
bool cvx_wire_broken(const cvx_client *c, CURLcode code);
/* A request that did not succeed, in one line: the server's own words where there are any. */
cvx_status cvx_wire_refused(const cvx_client *c, const cvx_exchange *x, CURLcode code) CVX_CHECK;

#endif
