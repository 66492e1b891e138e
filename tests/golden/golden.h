/* Helpers of the golden tests: reading reference tensors and comparing against them. */
#ifndef CVX_TESTS_GOLDEN_H
#define CVX_TESTS_GOLDEN_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "kernels/memory.h"
#include "model/weights.h"

#include "../shared_memory.h"

#define DATA CVX_SOURCE_DIR "/tests/data/"

#define OK(expr)                                                                                   \
    do {                                                                                           \
        if ((expr) != CVX_OK) {                                                                    \
            fail_msg("%s: %s", #expr, cvx_error());                                                \
        }                                                                                          \
    } while (0)

/* A reference tensor of any float or integer dtype, widened; the caller frees data. */
static inline cvx_tensor golden(cvx_weights *w, const char *name)
{
    int64_t i = cvx_weights_find(w, name);
    if (i < 0) {
        fail_msg("no tensor %s in the golden file", name);
    }
    cvx_tensor t = cvx_weights_at(w, i), out = t;
    out.data = malloc((size_t)cvx_numel(&t) * sizeof(float));
    out.dtype = CVX_F32;
    cvx_to_f32(out.data, t.data, t.dtype, cvx_numel(&t));
    return out;
}

/* sqrt(sum (a - b)^2 / sum b^2); NaN and infinity make it infinite. */
static inline double relative_rms(const float *a, const float *b, int64_t n)
{
    double diff = 0, ref = 0;
    for (int64_t i = 0; i < n; i++) {
        double d = (double)a[i] - (double)b[i];
        diff += d * d;
        ref += (double)b[i] * (double)b[i];
    }
    double r = sqrt(diff / (ref > 0 ? ref : 1));
    return isfinite(r) ? r : INFINITY;
}

/* Fails unless relative_rms(a, golden name) <= bound; prints what was measured. */
static inline void close_to(cvx_weights *w, const char *name, const float *a, int64_t n,
                            double bound)
{
    cvx_tensor g = golden(w, name);
    if (cvx_numel(&g) != n) {
        fail_msg("%s: %lld values, the golden has %lld", name, (long long)n,
                 (long long)cvx_numel(&g));
    }
    double r = relative_rms(a, g.data, n);
    free(g.data);
    print_message("  %-28s relative RMS %.2e (bound %.0e)\n", name, r, bound);
    if (!(r <= bound)) {
        fail_msg("%s: relative RMS %.3e above %.0e", name, r, bound);
    }
}

/* A test for each backend and level, which calls each(backend, isa); and their entries in a list of tests. */
#define LEVEL_TEST(each, name, backend, isa)                                                       \
    static void test_##name(void **state)                                                          \
    {                                                                                              \
        (void)state;                                                                               \
        each(backend, isa);                                                                        \
    }
#define LEVEL_TESTS(each)                                                                          \
    LEVEL_TEST(each, ref, "ref", NULL)                                                             \
    LEVEL_TEST(each, portable, "cpu", "portable")                                                  \
    LEVEL_TEST(each, avx2, "cpu", "avx2")                                                          \
    LEVEL_TEST(each, avx512, "cpu", "avx512")                                                      \
    LEVEL_TEST(each, avx512_bf16, "cpu", "avx512_bf16")                                            \
    LEVEL_TEST(each, amx, "cpu", "amx")
#define LEVEL_TEST_LIST                                                                            \
    cmocka_unit_test(test_ref), cmocka_unit_test(test_portable), cmocka_unit_test(test_avx2),      \
        cmocka_unit_test(test_avx512), cmocka_unit_test(test_avx512_bf16),                         \
        cmocka_unit_test(test_amx)

#endif
