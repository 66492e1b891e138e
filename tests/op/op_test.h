/* What the op tests share: levels of this machine, guarded and poisoned tensors, bounds. */
#ifndef CVX_TESTS_OP_OP_TEST_H
#define CVX_TESTS_OP_OP_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/ops.h"

#include "../shared_memory.h"

/* Instruction sets, and the GPU as one more. */
static const char *const test_levels[] = {"portable",    "avx2", "avx512",
                                          "avx512_bf16", "amx",  "cuda"};
#define TEST_LEVELS ((int)(sizeof test_levels / sizeof *test_levels))

/* NULL, with a line saying so, where the machine lacks the level. */
static inline cvx_ctx *test_open(const char *backend, const char *isa, int threads,
                                 cvx_dtype compute)
{
    cvx_ctx *ctx = NULL;
    cvx_ctx_options opt = {.backend = backend, .isa = isa, .threads = threads, .compute = compute};

    char what[160];

    if (isa != NULL && strcmp(isa, "cuda") == 0) {
        if (!cvx_cuda_usable(what)) {
            print_message("SKIP cuda: %s\n", what);
            return NULL;
        }
        opt.backend = "cuda";
        opt.isa = NULL;
    } else if (isa != NULL && cvx_cpu_ops(isa) == NULL) {
        print_message("SKIP %s: this machine has no such level\n", isa);
        return NULL;
    }
    if (cvx_ctx_open(&ctx, &opt) != CVX_OK) {
        fail_msg("%s", cvx_error());
    }
    return ctx;
}

#define TEST_OK(expr)                                                                              \
    do {                                                                                           \
        if ((expr) != CVX_OK) {                                                                    \
            fail_msg("%s", cvx_error());                                                           \
        }                                                                                          \
    } while (0)

/* Uniform in [-1, 1), the same every time. */
static inline float test_rnd(uint32_t *seed)
{
    *seed = *seed * 1664525u + 1013904223u;
    return (float)((int32_t)(*seed >> 8) - (1 << 23)) * 0x1p-23f;
}

/* A tensor in memory of its own. Rows may lie `gap` elements further apart than needed. Everything
 * that is not an element (gaps, 64 floats at each end) holds GUARD; elements start as NaN. */
#define GUARD 12345.5f
#define GUARD_LEN 64
typedef struct test_buf {
    cvx_tensor t;
    float *mem;
    int64_t len;
} test_buf;

static inline void test_each(const cvx_tensor *t, void (*fn)(float *, void *), void *payload)
{
    int64_t at[CVX_MAX_DIMS] = {0}, n = cvx_numel(t);

    for (int64_t i = 0; i < n; i++) {
        int64_t offset = 0, rest = i;
        for (int d = t->ndim - 1; d >= 0; d--) {
            at[d] = rest % t->dim[d];
            rest /= t->dim[d];
            offset += at[d] * t->stride[d];
        }
        fn((float *)t->data + offset, payload);
    }
}

static inline void set_nan(float *p, void *payload)
{
    (void)payload;
    *p = NAN;
}

static inline void set_rnd(float *p, void *payload)
{
    *p = test_rnd(payload);
}

static inline test_buf new_buf(int64_t gap, int ndim, const int64_t *dim)
{
    test_buf b = {.t = cvx_view(NULL, CVX_F32, ndim, dim)};
    int64_t n = dim[ndim - 1] + gap;

    for (int d = ndim - 2; d >= 0; d--) {
        b.t.stride[d] = n;
        n *= dim[d];
    }
    b.len = n + 2 * GUARD_LEN;
    b.mem = malloc((size_t)b.len * sizeof *b.mem);
    assert_non_null(b.mem);
    for (int64_t i = 0; i < b.len; i++) {
        b.mem[i] = GUARD;
    }
    b.t.data = b.mem + GUARD_LEN;
    test_each(&b.t, set_nan, NULL);
    return b;
}
#define TEST_NEW(gap, ...) new_buf((gap), CVX_NDIM(__VA_ARGS__), CVX_DIMS(__VA_ARGS__))

static inline test_buf test_rand(uint32_t seed, int64_t gap, int ndim, const int64_t *dim)
{
    test_buf b = new_buf(gap, ndim, dim);
    test_each(&b.t, set_rnd, &seed);
    return b;
}
#define TEST_RAND(seed, gap, ...)                                                                  \
    test_rand((seed), (gap), CVX_NDIM(__VA_ARGS__), CVX_DIMS(__VA_ARGS__))

static inline void set_guard(float *p, void *payload)
{
    (void)payload;
    *p = GUARD;
}

/* Frees; fails if anything outside of the elements was written. */
static inline void free_buf(test_buf *b)
{
    test_each(&b->t, set_guard, NULL);
    for (int64_t i = 0; i < b->len; i++) {
        if (b->mem[i] != GUARD) {
            fail_msg("element %lld outside of the tensor was written", (long long)(i - GUARD_LEN));
        }
    }
    free(b->mem);
}

typedef struct gather {
    float *to;
} gather;

static inline void take(float *p, void *payload)
{
    gather *g = payload;
    *g->to++ = *p;
}

/* Greatest difference of two tensors of the same dims; infinity if an element is NaN. */
static inline double test_diff(const cvx_tensor *a, const cvx_tensor *b)
{
    int64_t n = cvx_numel(a);
    float *u = malloc((size_t)n * sizeof *u + 1), *v = malloc((size_t)n * sizeof *v + 1);
    double most = 0;

    assert_non_null(u);
    assert_non_null(v);
    test_each(a, take, &(gather){u});
    test_each(b, take, &(gather){v});
    for (int64_t i = 0; i < n; i++) {
        double d = fabs((double)u[i] - (double)v[i]);
        most = d == d ? fmax(most, d) : INFINITY;
    }
    free(u);
    free(v);
    return most;
}

/* The bits of two tensors of the same dims are the same. */
static inline bool test_same(const cvx_tensor *a, const cvx_tensor *b)
{
    int64_t n = cvx_numel(a);
    float *u = malloc((size_t)n * sizeof *u + 1), *v = malloc((size_t)n * sizeof *v + 1);

    assert_non_null(u);
    assert_non_null(v);
    test_each(a, take, &(gather){u});
    test_each(b, take, &(gather){v});
    bool same = memcmp(u, v, (size_t)n * sizeof *u) == 0;
    free(u);
    free(v);
    return same;
}

#endif
