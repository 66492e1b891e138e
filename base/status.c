#include "base/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MESSAGE_MAX 1024

static _Thread_local char message[MESSAGE_MAX];
static _Thread_local bool of_peer;

void cvx_clean_line(char *s)
{
    unsigned char *p = (unsigned char *)s;
    while (*p != 0) {
        int tail = *p < 0x80                   ? 0
                   : (*p >= 0xc2 && *p < 0xe0) ? 1
                   : (*p & 0xf0) == 0xe0       ? 2
                   : (*p >= 0xf0 && *p < 0xf5) ? 3
                                               : -1;
        bool good = tail >= 0;
        for (int i = 1; good && i <= tail; i++) {
            good = (p[i] & 0xc0) == 0x80;
        }
        /* overlong forms, surrogates, beyond U+10FFFF, and control characters of Latin-1, which a
         * terminal obeys */
        good = good && !(*p == 0xe0 && p[1] < 0xa0) && !(*p == 0xed && p[1] > 0x9f) &&
               !(*p == 0xf0 && p[1] < 0x90) && !(*p == 0xf4 && p[1] > 0x8f) &&
               !(*p == 0xc2 && p[1] < 0xa0);
        if (!good) {
            *p++ = '?';
            continue;
        }
        if (*p < 0x20 || *p == 0x7f) {
            *p = ' ';
        }
        p += tail + 1;
    }
}

cvx_status cvx_fail(cvx_status code, const char *fmt, ...)
{
    char text[MESSAGE_MAX];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    cvx_clean_line(text);
    memcpy(message, text, sizeof message);
    of_peer = false;
    return code;
}

cvx_status cvx_fail_peer(cvx_status code, int rank)
{
    cvx_status st = cvx_fail(code, "rank %d failed: %s", rank, cvx_status_name(code));
    of_peer = true;
    return st;
}

bool cvx_error_is_peer(void)
{
    return of_peer;
}

cvx_status cvx_fail_prefix(cvx_status code, const char *fmt, ...)
{
    char old[MESSAGE_MAX], prefix[256];
    va_list ap;

    memcpy(old, message, sizeof old);
    va_start(ap, fmt);
    vsnprintf(prefix, sizeof prefix, fmt, ap);
    va_end(ap);
    return cvx_fail(code, "%s: %s", prefix, old);
}

const char *cvx_error(void)
{
    return message;
}

const char *cvx_status_name(cvx_status code)
{
    switch (code) {
    case CVX_OK: return "ok";
    case CVX_EINVAL: return "invalid argument";
    case CVX_EIO: return "I/O error";
    case CVX_EFORMAT: return "bad file";
    case CVX_ENOMEM: return "out of memory";
    case CVX_EUNSUPPORTED: return "unsupported";
    case CVX_EPEER: return "another rank is gone";
    case CVX_ECANCELLED: return "cancelled";
    case CVX_EINTERNAL: return "internal error";
    case CVX_EREQUEUE: return "stopped, to be started again";
    }
    return "unknown status";
}

int cvx_status_exit(cvx_status code)
{
    switch (code) {
    case CVX_OK: return 0;
    case CVX_EINVAL: return 2;
    case CVX_EIO: return 3;
    case CVX_EFORMAT: return 4;
    case CVX_ENOMEM: return 5;
    case CVX_EUNSUPPORTED: return 6;
    case CVX_EPEER: return 7;
    case CVX_ECANCELLED: return 8;
    case CVX_EREQUEUE: return 75;
    case CVX_EINTERNAL: break;
    }
    return 70;
}

void cvx_assert_failed(const char *cond, const char *file, int line)
{
    fprintf(stderr, "cvx: assertion failed at %s:%d: %s\n", file, line, cond);
    abort();
}
