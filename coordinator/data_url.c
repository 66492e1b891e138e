#include "coordinator/data_url.h"

#include <string.h>
#include <strings.h>

static int digit(char c)
{
    return c >= 'A' && c <= 'Z'   ? c - 'A'
           : c >= 'a' && c <= 'z' ? c - 'a' + 26
           : c >= '0' && c <= '9' ? c - '0' + 52
           : c == '+'             ? 62
           : c == '/'             ? 63
                                  : -1;
}

/* Whether the head, which is whole, speaks of a picture in base64. */
static bool good_head(const cvx_data_url *u)
{
    static const char begin[] = "data:image/", end[] = ";base64";
    size_t a = strlen(begin), b = strlen(end);

    return u->n > a + b && strncasecmp(u->head, begin, a) == 0 &&
           strncasecmp(u->head + u->n - b, end, b) == 0;
}

/* One character of the data. */
static bool take_digit(cvx_data_url *u, char c, unsigned char *out, size_t *len)
{
    int v = digit(c);

    if (c == '=') {
        u->pads++;
        return u->digits + u->pads <= 4 && u->digits >= 2;
    }
    if (v < 0 || u->pads > 0) {
        return false;
    }
    u->bits = u->bits << 6 | (uint32_t)v;
    u->digits = (u->digits + 1) % 4;
    if (u->digits != 1) { /* two digits hold the first byte, three the second, four the third */
        int left = u->digits == 0 ? 0 : 6 - 2 * (u->digits - 1);
        out[(*len)++] = (unsigned char)(u->bits >> left);
    }
    return true;
}

bool cvx_data_url_take(cvx_data_url *u, const char *text, size_t n, unsigned char *out, size_t *len)
{
    *len = 0;
    for (size_t i = 0; i < n; i++) {
        if (u->data) {
            if (!take_digit(u, text[i], out, len)) {
                return false;
            }
        } else if (text[i] == ',') {
            u->data = good_head(u);
            if (!u->data) {
                return false;
            }
        } else if (u->n < sizeof u->head) {
            u->head[u->n++] = text[i];
        } else {
            return false;
        }
    }
    return true;
}

bool cvx_data_url_whole(const cvx_data_url *u)
{
    return u->data && u->digits != 1 && (u->pads == 0 || u->digits + u->pads == 4);
}
