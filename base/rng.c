/* mt19937 as Matsumoto and Nishimura defined it; uniforms and normals as ATen draws them
 * (aten/src/ATen/core/DistributionsHelper.h, native/cpu/DistributionTemplates.h: normal_fill). */
#include "base/rng.h"

#include <math.h>
#include <string.h>

#define N 624
#define M 397

void cvx_rng_seed(cvx_rng *r, uint64_t seed)
{
    *r = (cvx_rng){.next = N};
    r->state[0] = (uint32_t)seed;
    for (uint32_t i = 1; i < N; i++) {
        uint32_t p = r->state[i - 1];
        r->state[i] = 1812433253u * (p ^ p >> 30) + i;
    }
}

static unsigned char *put(unsigned char *p, uint64_t v, int n)
{
    for (int i = 0; i < n; i++) {
        *p++ = (unsigned char)(v >> 8 * i);
    }
    return p;
}

static const unsigned char *get(const unsigned char *p, uint64_t *v, int n)
{
    *v = 0;
    for (int i = 0; i < n; i++) {
        *v |= (uint64_t)*p++ << 8 * i;
    }
    return p;
}

void cvx_rng_save(const cvx_rng *r, unsigned char out[CVX_RNG_BYTES])
{
    uint64_t normal;

    memcpy(&normal, &r->normal, sizeof normal);
    for (int i = 0; i < N; i++) {
        out = put(out, r->state[i], 4);
    }
    out = put(out, (uint64_t)r->next, 4);
    out = put(out, r->has_normal, 4);
    put(out, normal, 8);
}

cvx_status cvx_rng_load(cvx_rng *r, const unsigned char in[CVX_RNG_BYTES])
{
    cvx_rng g;
    uint64_t v, next, has_normal, normal;

    for (int i = 0; i < N; i++) {
        in = get(in, &v, 4);
        g.state[i] = (uint32_t)v;
    }
    in = get(in, &next, 4);
    in = get(in, &has_normal, 4);
    get(in, &normal, 8);
    if (next > N || has_normal > 1) {
        return cvx_fail(CVX_EFORMAT, "generator state: %lld words used of %d", (long long)next, N);
    }
    g.next = (int)next;
    g.has_normal = has_normal != 0;
    memcpy(&g.normal, &normal, sizeof normal);
    *r = g;
    return CVX_OK;
}

static void refill(cvx_rng *r)
{
    uint32_t *s = r->state;

    for (int i = 0; i < N; i++) {
        uint32_t y = (s[i] & 0x80000000u) | (s[(i + 1) % N] & 0x7fffffffu);
        s[i] = s[(i + M) % N] ^ y >> 1 ^ (y & 1 ? 0x9908b0dfu : 0);
    }
    r->next = 0;
}

uint32_t cvx_rng_u32(cvx_rng *r)
{
    if (r->next == N) {
        refill(r);
    }
    uint32_t y = r->state[r->next++];
    y ^= y >> 11;
    y ^= y << 7 & 0x9d2c5680u;
    y ^= y << 15 & 0xefc60000u;
    return y ^ y >> 18;
}

static float uniform_f32(cvx_rng *r)
{
    return (float)(cvx_rng_u32(r) & 0xffffff) * 0x1p-24f;
}

static double uniform_f64(cvx_rng *r)
{
    uint64_t hi = cvx_rng_u32(r), lo = cvx_rng_u32(r);
    return (double)((hi << 32 | lo) & ((1ull << 53) - 1)) * 0x1p-53;
}

/* torch's vector path takes logarithm, sine and cosine from Cephes' single precision polynomials, with
 * every a * b + c fused. libm's values differ by an ulp now and then, and after rounding to f16 or bf16
 * that is another number once in some 50,000 or 300,000 draws: so the same polynomials here. */

/* ln x for x in [2^-24, 1]. */
static float log_f32(float x)
{
    static const float p[9] = {7.0376836292e-2f,  -1.1514610310e-1f, 1.1676998740e-1f,
                               -1.2420140846e-1f, 1.4249322787e-1f,  -1.6668057665e-1f,
                               2.0000714765e-1f,  -2.4999993993e-1f, 3.3333331174e-1f};
    int e;
    float m = frexpf(x, &e); /* in [0.5, 1) */

    if (m < 0.707106781186547524f) {
        m += m;
        e--;
    }
    m -= 1;
    float z = m * m, y = p[0], fe = (float)e;
    for (int i = 1; i < 9; i++) {
        y = fmaf(y, m, p[i]);
    }
    y = fmaf(y * m, z, fe * -2.12194440e-4f); /* ln 2 in two parts */
    y = fmaf(z, -0.5f, y);
    return fmaf(fe, 0.693359375f, m + y);
}

/* Sine and cosine of x in [0, 2 pi]. */
static void sincos_f32(float x, float *sine, float *cosine)
{
    /* the nearest even multiple of pi/4 is taken off in three parts */
    int j = ((int)(x * 1.27323954473516f) + 1) & ~1;
    float q = (float)j;
    x = fmaf(q, -0.78515625f, x);
    x = fmaf(q, -2.4187564849853515625e-4f, x);
    x = fmaf(q, -3.77489497744594108e-8f, x);
    float z = x * x;
    float c = fmaf(2.443315711809948e-5f, z, -1.388731625493765e-3f);
    c = fmaf(c, z, 4.166664568298827e-2f) * z;
    c = fmaf(c, z, -0.5f * z) + 1;
    float s = fmaf(-1.9515295891e-4f, z, 8.3321608736e-3f);
    s = fmaf(s, z, -1.6666654611e-1f) * z;
    s = fmaf(s, x, x);
    bool swap = (j & 2) != 0;
    *sine = (j & 4 ? -1.0f : 1.0f) * (swap ? c : s);
    *cosine = ((j + 2) & 4 ? -1.0f : 1.0f) * (swap ? s : c);
}

/* Box-Muller on 16 uniforms in place: the first eight give cosines, the others sines. */
static void fill_16(float *d)
{
    for (int j = 0; j < 8; j++) {
        float radius = sqrtf(-2.0f * log_f32(1.0f - d[j])), sine, cosine;
        sincos_f32(6.283185307179586f * d[j + 8], &sine, &cosine);
        d[j] = radius * cosine + 0.0f; /* torch adds its mean: no negative zeros */
        d[j + 8] = radius * sine + 0.0f;
    }
}

/* f32 draws all n uniforms before the tail's 16; f16 and bf16 go block by block and never draw the odd
 * ones that the tail replaces. */
static void fill_blocks(cvx_rng *r, float *out, int64_t n, bool whole_blocks)
{
    for (int64_t i = 0; i < (whole_blocks ? n / 16 * 16 : n); i++) {
        out[i] = uniform_f32(r);
    }
    for (int64_t i = 0; i + 16 <= n; i += 16) {
        fill_16(out + i);
    }
    if (n % 16 != 0) { /* the last 16 are drawn anew */
        for (int64_t i = n - 16; i < n; i++) {
            out[i] = uniform_f32(r);
        }
        fill_16(out + n - 16);
    }
}

static double normal_f64(cvx_rng *r)
{
    if (r->has_normal) {
        r->has_normal = false;
        return r->normal;
    }
    double u1 = uniform_f64(r), u2 = uniform_f64(r);
    double radius = sqrt(-2.0 * log1p(-u2)), theta = 6.283185307179586 * u1;
    r->normal = radius * sin(theta);
    r->has_normal = true;
    return radius * cos(theta);
}

static float round_bf16(float v)
{
    uint32_t u;
    memcpy(&u, &v, sizeof u);
    u = (u + 0x7fff + (u >> 16 & 1)) & 0xffff0000u;
    memcpy(&v, &u, sizeof v);
    return v;
}

/* Normals lie far inside f16's range; below its smallest normal number the step is 2^-24. */
static float round_f16(float v)
{
    int e;
    frexpf(v, &e);
    int step = e - 11 < -24 ? -24 : e - 11;
    return ldexpf(rintf(ldexpf(v, -step)), step);
}

void cvx_rng_randn(cvx_rng *r, float *out, cvx_rng_kind kind, int64_t n)
{
    if (n >= 16) {
        fill_blocks(r, out, n, kind != CVX_RNG_F32);
    } else {
        for (int64_t i = 0; i < n; i++) {
            out[i] = (float)normal_f64(r);
        }
    }
    for (int64_t i = 0; i < n && kind != CVX_RNG_F32; i++) {
        out[i] = kind == CVX_RNG_BF16 ? round_bf16(out[i]) : round_f16(out[i]);
    }
}

void cvx_rng_normal(cvx_rng *r, float *out, int64_t n, double std)
{
    if (n >= 16) { /* torch scales in single precision here, below in double */
        fill_blocks(r, out, n, false);
        for (int64_t i = 0; i < n; i++) {
            out[i] = out[i] * (float)std + 0.0f;
        }
        return;
    }
    for (int64_t i = 0; i < n; i++) {
        out[i] = (float)(normal_f64(r) * std);
    }
}
