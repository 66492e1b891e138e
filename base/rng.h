/* torch's CPU generator (at::CPUGeneratorImpl: mt19937) and torch.randn on it, bit for bit as torch draws on
 * an x86 CPU with AVX2; the machine that runs this does not matter. */
#ifndef CVX_BASE_RNG_H
#define CVX_BASE_RNG_H

#include "base/status.h"

/* A plain struct: a copy is a snapshot. */
typedef struct cvx_rng {
    uint32_t state[624];
    int next;        /* words of `state` already used */
    bool has_normal; /* a second normal of the pairwise path waits */
    double normal;
} cvx_rng;

/* torch.Generator("cpu").manual_seed(seed); negative seeds wrap as torch's do. */
void cvx_rng_seed(cvx_rng *r, uint64_t seed);

/* The generator's state as bytes of a fixed layout, the same on every machine; and back. CVX_EFORMAT if the
 * bytes are no state. */
#define CVX_RNG_BYTES (4 * 624 + 4 + 4 + 8)
void cvx_rng_save(const cvx_rng *r, unsigned char out[CVX_RNG_BYTES]);
cvx_status cvx_rng_load(cvx_rng *r, const unsigned char in[CVX_RNG_BYTES]) CVX_CHECK;

/* The next 32 random bits. */
uint32_t cvx_rng_u32(cvx_rng *r);

typedef enum cvx_rng_kind { CVX_RNG_F32, CVX_RNG_F16, CVX_RNG_BF16 } cvx_rng_kind;

/* torch.randn(n, generator, dtype) widened to f32 (exact: every f16 and bf16 is an f32). n >= 16 draws n
 * uniforms (and 16 more for the tail when 16 does not divide n); fewer are drawn pair by pair. */
void cvx_rng_randn(cvx_rng *r, float *out, cvx_rng_kind kind, int64_t n);

/* torch.empty(n).normal_(0, std, generator=...) in f32. */
void cvx_rng_normal(cvx_rng *r, float *out, int64_t n, double std);

#endif
