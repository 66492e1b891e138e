/* SHA-256 (FIPS 180-4), for telling checkpoints and inputs apart. */
#ifndef CVX_BASE_HASH_H
#define CVX_BASE_HASH_H

#include "base/status.h"

typedef struct cvx_sha256 {
    uint32_t state[8];
    uint64_t bytes;
    unsigned char block[64];
} cvx_sha256;

void cvx_sha256_init(cvx_sha256 *h);
void cvx_sha256_add(cvx_sha256 *h, const void *data, size_t n);
/* Lower-case hexadecimal with a terminating NUL. */
void cvx_sha256_hex(cvx_sha256 *h, char hex[65]);
/* Of a whole file. */
cvx_status cvx_sha256_file(const char *path, char hex[65]) CVX_CHECK;

#endif
