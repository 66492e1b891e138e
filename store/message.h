/* Messages to bytes and back. Internal to store/. */
#ifndef CVX_STORE_MESSAGE_H
#define CVX_STORE_MESSAGE_H

#include <stdlib.h>
#include <string.h>

#include "proto/cvx.pb-c.h"
#include "store/redis.h"

typedef struct cvx_packed {
    uint8_t *data;
    size_t len;
} cvx_packed;

/* Caller frees with cvx_packed_free. */
static inline cvx_status cvx_pack(cvx_packed *out, const ProtobufCMessage *m)
{
    out->len = protobuf_c_message_get_packed_size(m);
    out->data = malloc(out->len + 1);
    if (out->data == NULL) {
        return cvx_fail(CVX_ENOMEM, "no memory for a message of %zu bytes", out->len);
    }
    protobuf_c_message_pack(m, out->data);
    return CVX_OK;
}

static inline void cvx_packed_free(cvx_packed *p)
{
    free(p->data);
    *p = (cvx_packed){0};
}

/* The message in a reply; NULL where it holds none. */
#define CVX_UNPACK(kind, reply)                                                                    \
    ((reply)->type == REDIS_REPLY_STRING                                                           \
         ? kind##__unpack(NULL, (reply)->len, (const uint8_t *)(reply)->str)                       \
         : NULL)

#define CVX_TEXT(s)                                                                                \
    {                                                                                              \
        (s), strlen(s)                                                                             \
    }

#endif
