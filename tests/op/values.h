/* Dense tensors of any type with values in [-1, 1), for tests of one op on two backends. */
#ifndef CVX_TESTS_OP_VALUES_H
#define CVX_TESTS_OP_VALUES_H

#include "op_test.h"

/* A value of either kind. */
static inline void fill(const cvx_tensor *t, uint32_t seed)
{
    int64_t n = cvx_numel(t);
    float *f = malloc((size_t)n * sizeof *f);

    assert_non_null(f);
    for (int64_t i = 0; i < n; i++) {
        f[i] = test_rnd(&seed);
    }
    cvx_from_f32(t->data, t->dtype, f, n);
    free(f);
}

static inline cvx_tensor make(cvx_dtype dtype, uint32_t seed, int ndim, const int64_t *dim)
{
    cvx_tensor t = cvx_view(NULL, dtype, ndim, dim);

    t.data = malloc((size_t)cvx_numel(&t) * cvx_dtype_size(dtype));
    assert_non_null(t.data);
    fill(&t, seed);
    return t;
}
#define MAKE(dtype, seed, ...) make((dtype), (seed), CVX_NDIM(__VA_ARGS__), CVX_DIMS(__VA_ARGS__))

/* The same values in f32. */
static inline cvx_tensor widen(const cvx_tensor *t)
{
    cvx_tensor f = cvx_view(NULL, CVX_F32, t->ndim, t->dim);

    f.data = malloc((size_t)cvx_numel(t) * sizeof(float));
    assert_non_null(f.data);
    cvx_to_f32(f.data, t->data, t->dtype, cvx_numel(t));
    return f;
}

/* Greatest difference, each divided by 1 + |want|. */
static inline double difference(const cvx_tensor *got, const cvx_tensor *want)
{
    cvx_tensor g = widen(got);
    double most = 0;

    for (int64_t i = 0; i < cvx_numel(want); i++) {
        double w = ((float *)want->data)[i],
               d = fabs((double)((float *)g.data)[i] - w) / (1 + fabs(w));
        most = d == d ? fmax(most, d) : INFINITY;
    }
    free(g.data);
    return most;
}

#endif
