#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "coordinator/http.h"

#define LEAST ((size_t)512) /* less does not get smaller by more than the headers' cost */
#define MOST ((size_t)16 << 20)

/* The q of a coding among `accept`; -1: not named. */
static double quality(const char *accept, const char *coding)
{
    size_t n = strlen(coding);

    for (const char *p = accept; *p != 0; p += strcspn(p, ","), p += *p == ',') {
        p += strspn(p, " \t");
        if (strncasecmp(p, coding, n) != 0 || strchr(" \t;,", p[n]) == NULL) { /* or the end */
            continue;
        }
        const char *q = p + n + strspn(p + n, " \t");
        if (*q != ';') {
            return 1;
        }
        q += 1 + strspn(q + 1, " \t");
        return (q[0] | 32) == 'q' && q[1] == '=' ? strtod(q + 2, NULL) : 1;
    }
    return -1;
}

bool cvx_gzip_wanted(const char *accept)
{
    if (accept == NULL) {
        return false;
    }
    double gzip = quality(accept, "gzip"), plain = quality(accept, "identity");

    gzip = gzip < 0 ? quality(accept, "*") : gzip;
    return gzip > 0 && gzip >= plain;
}

char *cvx_gzip(const char *data, size_t *len)
{
    z_stream z = {0};

    if (*len < LEAST || *len > MOST ||
        deflateInit2(&z, 5, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY) != Z_OK) {
        return NULL;
    }
    size_t room = deflateBound(&z, *len);
    char *out = malloc(room);
    z.next_in = (Bytef *)data;
    z.avail_in = (uInt)*len;
    z.next_out = (Bytef *)out;
    z.avail_out = (uInt)room;
    bool done = out != NULL && deflate(&z, Z_FINISH) == Z_STREAM_END;
    size_t made = z.total_out;
    deflateEnd(&z);
    if (!done || made >= *len) {
        free(out);
        return NULL;
    }
    *len = made;
    return out;
}
