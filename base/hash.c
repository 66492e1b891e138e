#include "base/hash.h"

#include <stdio.h>
#include <string.h>

#include "base/file.h"

/* First 32 bits of the fractional parts of the cube roots of the first 64 primes. */
static const uint32_t k[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

static uint32_t rot(uint32_t v, int n)
{
    return v >> n | v << (32 - n);
}

static void compress(uint32_t state[8], const unsigned char *p)
{
    uint32_t w[64], s[8];

    for (int i = 0; i < 16; i++) {
        w[i] = (uint32_t)p[4 * i] << 24 | (uint32_t)p[4 * i + 1] << 16 |
               (uint32_t)p[4 * i + 2] << 8 | p[4 * i + 3];
    }
    for (int i = 16; i < 64; i++) {
        uint32_t a = w[i - 15], b = w[i - 2];
        w[i] = w[i - 16] + (rot(a, 7) ^ rot(a, 18) ^ a >> 3) + w[i - 7] +
               (rot(b, 17) ^ rot(b, 19) ^ b >> 10);
    }
    memcpy(s, state, sizeof s);
    for (int i = 0; i < 64; i++) {
        uint32_t e = s[4], a = s[0];
        uint32_t t1 =
            s[7] + (rot(e, 6) ^ rot(e, 11) ^ rot(e, 25)) + ((e & s[5]) ^ (~e & s[6])) + k[i] + w[i];
        uint32_t t2 =
            (rot(a, 2) ^ rot(a, 13) ^ rot(a, 22)) + ((a & s[1]) ^ (a & s[2]) ^ (s[1] & s[2]));
        memmove(s + 1, s, 7 * sizeof *s);
        s[4] += t1;
        s[0] = t1 + t2;
    }
    for (int i = 0; i < 8; i++) {
        state[i] += s[i];
    }
}

void cvx_sha256_init(cvx_sha256 *h)
{
    *h = (cvx_sha256){.state = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f,
                                0x9b05688c, 0x1f83d9ab, 0x5be0cd19}};
}

void cvx_sha256_add(cvx_sha256 *h, const void *data, size_t n)
{
    const unsigned char *p = data;

    while (n > 0) {
        size_t at = h->bytes % 64, take = 64 - at < n ? 64 - at : n;
        memcpy(h->block + at, p, take);
        h->bytes += take;
        p += take;
        n -= take;
        if (at + take == 64) {
            compress(h->state, h->block);
        }
    }
}

void cvx_sha256_hex(cvx_sha256 *h, char hex[65])
{
    static const unsigned char pad[64] = {0x80};
    unsigned char len[8];
    uint64_t bits = h->bytes * 8;

    for (int i = 0; i < 8; i++) {
        len[i] = (unsigned char)(bits >> (56 - 8 * i));
    }
    cvx_sha256_add(h, pad, 1 + (119 - h->bytes % 64) % 64);
    cvx_sha256_add(h, len, 8);
    for (int i = 0; i < 8; i++) {
        snprintf(hex + 8 * i, 9, "%08x", h->state[i]);
    }
}

cvx_status cvx_sha256_file(const char *path, char hex[65])
{
    cvx_map m;
    cvx_sha256 h;

    CVX_RETURN_IF(cvx_map_open(&m, path));
    cvx_sha256_init(&h);
    cvx_sha256_add(&h, m.data, m.size);
    cvx_sha256_hex(&h, hex);
    cvx_map_close(&m);
    return CVX_OK;
}
