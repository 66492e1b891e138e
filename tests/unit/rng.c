/* torch.randn of several dtypes, counts and seeds, and draws in a row. */
#include <string.h>

#include "../golden/golden.h"
#include "base/rng.h"

static cvx_rng_kind kind_of(cvx_dtype t)
{
    return t == CVX_BF16 ? CVX_RNG_BF16 : t == CVX_F16 ? CVX_RNG_F16 : CVX_RNG_F32;
}

/* f32: log, cos and sin of other libraries differ by an ulp or two of values up to about 6, so 1e-6;
 * f16 and bf16 round that away. */
static void draw_matches(cvx_rng *r, cvx_weights *w, int64_t i)
{
    cvx_tensor t = cvx_weights_at(w, i);
    int64_t n = cvx_numel(&t);
    float *out = malloc((size_t)n * sizeof *out);

    cvx_rng_randn(r, out, kind_of(t.dtype), n);
    for (int64_t k = 0; k < n; k++) {
        double bound = t.dtype == CVX_F32 ? 1e-6 : 0;
        if (!(fabs((double)out[k] - (double)cvx_get_f32(&t, k)) <= bound)) {
            fail_msg("%s value %lld: %.9g, torch has %.9g", cvx_weights_name(w, i), (long long)k,
                     (double)out[k], (double)cvx_get_f32(&t, k));
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

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(single_draws),
                                       cmocka_unit_test(draws_in_a_row)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
