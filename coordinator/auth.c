#include "coordinator/auth.h"

#include <netdb.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/hash.h"
#include "coordinator/http.h"

/* A line's words; limits that it does not name stay as they are. */
static bool parse(const char *l, cvx_api_key *k)
{
    char word[2][40] = {"", ""}, tail;
    int n = sscanf(l, "%63s %64s %39s %39s %c", k->name, k->sha256, word[0], word[1], &tail);

    for (int i = 0; i + 2 < n && i < 2; i++) {
        long long x;
        bool waiting = sscanf(word[i], "waiting=%9lld%c", &x, &tail) == 1;
        if (!waiting && sscanf(word[i], "per_minute=%9lld%c", &x, &tail) != 1) {
            return false;
        }
        if (x < 1) {
            return false;
        }
        *(waiting ? &k->limits.waiting : &k->limits.per_minute) = x;
    }
    return n >= 2 && n <= 4;
}

cvx_status cvx_auth_load(cvx_server *s, const char *path)
{
    char *text, *save = NULL;
    size_t len;
    int line = 0;

    CVX_RETURN_IF(cvx_file_read(&text, &len, path, 1 << 20));
    cvx_status st = CVX_OK;
    for (char *l = strtok_r(text, "\n", &save); l != NULL && st == CVX_OK;
         l = strtok_r(NULL, "\n", &save)) {
        cvx_api_key one = {.limits = s->limits}, *k = &one;
        line++;
        if (l[0] == '#' || l[strspn(l, " \t\r")] == 0) {
            continue;
        }
        if (s->keys == CVX_KEYS_MAX) {
            st = cvx_fail(CVX_EFORMAT, "%s: more than %d keys", path, CVX_KEYS_MAX);
        } else if (!parse(l, k) || strspn(k->sha256, "0123456789abcdef") != 64 ||
                   strspn(k->name,
                          "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") !=
                       strlen(k->name)) {
            st = cvx_fail(
                CVX_EFORMAT,
                "%s: entry %d is not `NAME SHA256 [waiting=N] [per_minute=N]` (letters, digits, ._- "
                "and 64 hex digits: printf %%s KEY | sha256sum)",
                path, line);
        } else {
            s->key[s->keys++] = one;
        }
    }
    free(text);
    if (st == CVX_OK && s->keys == 0) {
        st = cvx_fail(CVX_EFORMAT, "%s: no key in it", path);
    }
    return st;
}

bool cvx_auth_check(const cvx_server *s, const char *authorization, char *owner, size_t size)
{
    cvx_sha256 h;
    char hex[65];
    bool any = false;

    snprintf(owner, size, "local");
    if (s->keys == 0) {
        return true;
    }
    if (authorization == NULL || strncasecmp(authorization, "Bearer ", 7) != 0) {
        return false;
    }
    cvx_sha256_init(&h);
    cvx_sha256_add(&h, authorization + 7, strlen(authorization + 7));
    cvx_sha256_hex(&h, hex);
    for (int i = 0; i < s->keys; i++) {
        unsigned char differ = 0;
        for (int k = 0; k < 64; k++) {
            differ |= (unsigned char)(hex[k] ^ s->key[i].sha256[k]);
        }
        if (differ == 0) {
            snprintf(owner, size, "%s", s->key[i].name);
            any = true;
        }
    }
    return any;
}

cvx_status cvx_http_address(struct sockaddr_storage *out, const char *host, int port)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE}, *found = NULL;
    char service[16];

    snprintf(service, sizeof service, "%d", port);
    int err = getaddrinfo(host, service, &hints, &found);
    if (err != 0) {
        return cvx_fail(CVX_EINVAL, "--host %s: %s", host, gai_strerror(err));
    }
    memset(out, 0, sizeof *out);
    memcpy(out, found->ai_addr, found->ai_addrlen);
    freeaddrinfo(found);
    return CVX_OK;
}
