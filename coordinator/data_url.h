/* A picture as a text: data:image/png;base64,... (RFC 2397, 4648), read piece by piece. */
#ifndef CVX_COORDINATOR_DATA_URL_H
#define CVX_COORDINATOR_DATA_URL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* All zero before the first piece. */
typedef struct cvx_data_url {
    char head[64]; /* what stands in front of the data */
    size_t n;
    bool data;     /* the data have begun */
    uint32_t bits; /* of the digits that are no whole byte yet */
    int digits, pads;
} cvx_data_url;

/* Bytes that n characters decode to at most. */
#define CVX_DATA_URL_ROOM(n) ((n) / 4 * 3 + 3)

/* Takes n more characters. out gets *len bytes, CVX_DATA_URL_ROOM(n) at most. False: it is no such URL of a picture. */
bool cvx_data_url_take(cvx_data_url *u, const char *text, size_t n, unsigned char *out,
                       size_t *len);
/* Whether it may end here. */
bool cvx_data_url_whole(const cvx_data_url *u);

#endif
