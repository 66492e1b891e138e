/* torch.randn of several dtypes, counts and seeds, and draws in a row. */
#include <string.h>

#include "../golden/golden.h"
#include "base/hash.h"
#include "base/rng.h"

static cvx_rng_kind kind_of(cvx_dtype t)
{
    return t == CVX_BF16 ? CVX_RNG_BF16 : t == CVX_F16 ? CVX_RNG_F16 : CVX_RNG_F32;
}

/* Every bit: the polynomials are torch's own. */
static void draw_matches(cvx_rng *r, cvx_weights *w, int64_t i)
{
    cvx_tensor t = cvx_weights_at(w, i);
    int64_t n = cvx_numel(&t);
    float *out = malloc((size_t)n * sizeof *out);

    cvx_rng_randn(r, out, kind_of(t.dtype), n);
    for (int64_t k = 0; k < n; k++) {
        float want = cvx_get_f32(&t, k);
        if (memcmp(&out[k], &want, sizeof want) != 0) {
            fail_msg("%s value %lld: %.9g, torch has %.9g", cvx_weights_name(w, i), (long long)k,
                     (double)out[k], (double)want);
        }
    }
    free(out);
}

static void single_draws(void **state)
{
    cvx_weights *w = NULL;
    int seen = 0;

    (void)state;
    OK(cvx_weights_open(&w, DATA "rng.safetensors"));
    for (int64_t i = 0; i < cvx_weights_count(w); i++) {
        const char *name = cvx_weights_name(w, i);
        cvx_rng r;
        if (strncmp(name, "randn.", 6) != 0) {
            continue;
        }
        cvx_rng_seed(&r, strtoull(name + 6, NULL, 10));
        draw_matches(&r, w, i);
        seen++;
    }
    assert_true(seen >= 60);
    cvx_weights_close(w);
}

static void draws_in_a_row(void **state)
{
    cvx_weights *w = NULL;

    (void)state;
    OK(cvx_weights_open(&w, DATA "rng.safetensors"));
    for (int64_t i = 0; i < cvx_weights_count(w); i++) {
        const char *name = cvx_weights_name(w, i);
        size_t n = strlen(name);
        cvx_rng r;
        if (strncmp(name, "seq.", 4) != 0 || strcmp(name + n - 2, ".a") != 0) {
            continue;
        }
        cvx_rng_seed(&r, strtoull(name + 4, NULL, 10));
        draw_matches(&r, w, i);
        draw_matches(&r, w, i + 1);
        cvx_rng copy = r; /* a snapshot goes on alike */
        draw_matches(&r, w, i + 2);
        draw_matches(&copy, w, i + 2);
    }
    cvx_weights_close(w);
}

/* SHA-256 of the bits of five draws in a row, widened to f32, as torch 2.15 makes them on a CPU with AVX2:
 * another library's cosine shows once in some 300,000 values of bf16, so it takes many. */
static void long_draws(void **state)
{
    static const int64_t counts[] = {200003, 5, 640000, 16, 3};
    static const struct {
        int64_t seed;
        cvx_rng_kind kind;
        const char *sha;
    } rows[] = {
        {0, CVX_RNG_F32, "dd17ebb96ad5820b71d6a0e6b8daf3321e43da1096fb6536dcfe86ab2eb689e8"},
        {0, CVX_RNG_F16, "133531a053803b51bf5f3c73035181baaed580a739bd50adcb8e4c71f8c5f18a"},
        {0, CVX_RNG_BF16, "82efe092911f7bd189b500ddebc51509ffad9716ee5ff999c00df63606021fe0"},
        {-1, CVX_RNG_F32, "4321f22a271815d0b559927250a7546815801f1513370dbe3ffb32271c1bbe2e"},
        {7, CVX_RNG_F16, "0ecf077c4aecaf3e82424c33d54ad364a4ac35c37f104a26a07a3b715cd57024"},
        {7, CVX_RNG_BF16, "4522b6a10d812ec6b4bcd9192a919551d2d4b131a73c4f72fa693b7d5d6ae6d8"},
        {INT64_MAX, CVX_RNG_BF16,
         "a8b6236f50fe888c0ac3c2c9a94183e9fec287c223f106ce7d8f8d7d6e14d27a"},
    };
    float *out = malloc(640000 * sizeof *out);

    (void)state;
    assert_non_null(out);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        cvx_rng r;
        cvx_sha256 h;
        char hex[65];
        cvx_rng_seed(&r, (uint64_t)rows[i].seed);
        cvx_sha256_init(&h);
        for (size_t k = 0; k < sizeof counts / sizeof *counts; k++) {
            cvx_rng_randn(&r, out, rows[i].kind, counts[k]);
            cvx_sha256_add(&h, out, (size_t)counts[k] * sizeof *out);
        }
        cvx_sha256_hex(&h, hex);
        assert_string_equal(hex, rows[i].sha);
    }
    free(out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(single_draws),
                                       cmocka_unit_test(draws_in_a_row),
                                       cmocka_unit_test(long_draws)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
