/* op linear (and pack): every level against ref, and the bits of a row. */
#include "op_test.h"

#include "kernels/memory.h"

/* A weight of random values in the given dtype. */
static cvx_tensor make_weight(uint32_t seed, cvx_dtype dtype, int64_t n, int64_t k)
{
    cvx_tensor w = CVX_VIEW(NULL, dtype, n, k);
    float *f = malloc((size_t)(n * k) * sizeof *f);

    w.data = malloc((size_t)(n * k) * cvx_dtype_size(dtype));
    assert_non_null(f);
    assert_non_null(w.data);
    for (int64_t i = 0; i < n * k; i++) {
        f[i] = test_rnd(&seed);
    }
    cvx_from_f32(w.data, dtype, f, n * k);
    free(f);
    return w;
}

static cvx_tensor pack_weight(cvx_ctx *ctx, const cvx_tensor *w)
{
    cvx_tensor p = *w;
    size_t bytes = (cvx_packed_bytes(ctx, w, CVX_PACKED_LINEAR) + 63) / 64 * 64;

    p.layout = CVX_PACKED_LINEAR;
    p.data = aligned_alloc(64, bytes);
    assert_non_null(p.data);
    TEST_OK(cvx_op_pack(ctx, &(cvx_pack_args){.dst = &p, .src = w}));
    return p;
}

typedef struct linear_case {
    int64_t m, n, k;
    cvx_dtype w;
    cvx_act act;
    bool bias, residual, gate, in_place;
} linear_case;

static const linear_case cases[] = {
    {1, 1, 1, CVX_F32, CVX_ACT_NONE, false, false, false, false},
    {1, 64, 48, CVX_BF16, CVX_ACT_SILU, true, false, false, false},
    {3, 5, 7, CVX_F16, CVX_ACT_NONE, true, true, false, false},
    {17, 33, 31, CVX_F32, CVX_ACT_GELU, true, false, false, false},
    {61, 129, 255, CVX_BF16, CVX_ACT_GELU_TANH, true, true, true, false},
    {48, 96, 257, CVX_F16, CVX_ACT_QUICK_GELU, false, true, true, true},
    {250, 70, 513, CVX_BF16, CVX_ACT_NONE, true, true, true, true},
    {130, 200, 1100, CVX_F32, CVX_ACT_NONE, false, false, false, false},
    {77, 40, 4200, CVX_BF16, CVX_ACT_NONE, true, false, false, false},
    {300, 1100, 64, CVX_F16, CVX_ACT_NONE, true, false, false, false},
};

/* x and w are uniform in [-1, 1): a product has deviation s = 1/3, a sum of p products s·sqrt(p).
 * Rounding it to f32 errs with deviation 2^-24·s·sqrt(p/3); over a block of B products, then k / B
 * blocks, that comes to 2^-24·s·sqrt(B·k/6), with B = 256 at most on every CPU level; cuBLAS's threads add up all k
 * in a row. Six of them for
 * the sum; then four roundings of values below 2·sqrt(k) + 2. bf16 rounds both operands by at most
 * 2^-9 of themselves, deviation 2^-9·sqrt(2/3)·s·sqrt(k). A device stores such a product in bf16 before what follows: at
 * most 2^-9 of the largest, five deviations of sqrt(k)/3. Activations have slopes below 1.2. */
static double bound_of(const linear_case *c, cvx_dtype compute, bool device)
{
    double k = (double)c->k, block = device ? k : fmin(k, 256);
    double sum = 6 * 0x1p-24 / 3 * sqrt(block * k / 6);
    double after = 4 * 0x1p-24 * (2 * sqrt(k) + 2);

    double operands = compute == CVX_BF16 ? 6 * 0x1p-9 / 3 * sqrt(k * 2 / 3) : 0;
    double stored = compute == CVX_BF16 && device ? 0x1p-9 * 5 * sqrt(k) / 3 : 0;

    return 1.2 * (sum + after + operands + stored);
}

static void run_case(cvx_ctx *ctx, const linear_case *c, const cvx_tensor *w, const test_buf *y,
                     const test_buf *res)
{
    test_buf x = TEST_RAND(1, 3, c->m, c->k), b = TEST_RAND(2, 0, c->n),
             g = TEST_RAND(4, 0, 2, c->n);
    const cvx_tensor *r = c->in_place ? &y->t : &res->t;
    cvx_linear_args a = {
        .y = &y->t, .x = &x.t, .w = w, .act = c->act, .text_rows = 3, .period = 29};

    a.b = c->bias ? &b.t : NULL;
    a.gate = c->gate ? &g.t : NULL;
    a.residual = c->residual ? r : NULL;
    if (c->in_place) {
        uint32_t seed = 3;
        test_each(&y->t, set_rnd, &seed);
    }
    TEST_OK(cvx_op_linear(ctx, &a));
    free_buf(&x);
    free_buf(&b);
    free_buf(&g);
}

static void check_case(cvx_ctx *ctx, const linear_case *c, const test_buf *want, cvx_dtype compute)
{
    cvx_tensor w = make_weight(5, c->w, c->n, c->k), p = pack_weight(ctx, &w);
    test_buf res = TEST_RAND(3, 2, c->m, c->n), y = TEST_NEW(5, c->m, c->n);
    test_buf packed = TEST_NEW(1, c->m, c->n);

    run_case(ctx, c, &w, &y, &res);
    run_case(ctx, c, &p, &packed, &res);
    double diff = test_diff(&y.t, &want->t), bound = bound_of(c, compute, cvx_ctx_has_device(ctx));
    if (getenv("CVX_TEST_VERBOSE") != NULL) {
        print_message("%s %s m %lld n %lld k %lld w %s: error %.3g, bound %.3g\n", ctx->ops->name,
                      cvx_dtype_name(compute), (long long)c->m, (long long)c->n, (long long)c->k,
                      cvx_dtype_name(c->w), diff, bound);
    }
    if (!(diff <= bound)) {
        fail_msg("%s m %lld n %lld k %lld: error %g, bound %g", ctx->ops->name, (long long)c->m,
                 (long long)c->n, (long long)c->k, diff, bound);
    }
    assert_true(test_same(&y.t, &packed.t)); /* packed or plain: the same bits */
    free(w.data);
    free(p.data);
    free_buf(&res);
    free_buf(&y);
    free_buf(&packed);
}

static void against_ref(void **state)
{
    (void)state;
    cvx_ctx *ref = test_open("ref", NULL, 2, CVX_F32);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const linear_case *c = &cases[i];
        cvx_tensor w = make_weight(5, c->w, c->n, c->k);
        test_buf res = TEST_RAND(3, 2, c->m, c->n), want = TEST_NEW(0, c->m, c->n);
        run_case(ref, c, &w, &want, &res);
        for (int level = 0; level < 2 * TEST_LEVELS; level++) {
            cvx_dtype compute = level < TEST_LEVELS ? CVX_F32 : CVX_BF16;
            cvx_ctx *ctx = test_open("cpu", test_levels[level % TEST_LEVELS], 2, compute);
            if (ctx != NULL) {
                check_case(ctx, c, &want, compute);
                cvx_ctx_close(ctx);
            }
        }
        free(w.data);
        free_buf(&res);
        free_buf(&want);
    }
    cvx_ctx_close(ref);
}

/* f32 means all 24 bits of both operands: the great parts cancel, what remains is in the last bits.
 * Partial sums stay below 2, where a rounding errs by at most 2^-24, deviation 2^-24 / sqrt(3). */
static void low_bits(void **state)
{
    (void)state;
    enum { K = 512 };
    for (int level = 0; level < TEST_LEVELS; level++) {
        cvx_ctx *ctx = test_open("cpu", test_levels[level], 1, CVX_F32);
        for (int swap = 0; ctx != NULL && swap < 2; swap++) {
            test_buf x = TEST_RAND(1, 0, 1, K), w = TEST_RAND(2, 0, 1, K), y = TEST_NEW(0, 1, 1);
            float *fine = swap ? w.t.data : x.t.data, *sign = swap ? x.t.data : w.t.data;
            double want = 0;
            for (int i = 0; i < K; i++) {
                fine[i] = 1 + fine[i] * 0x1p-8f; /* the last 15 bits are random */
                sign[i] = i % 2 ? -1.0f : 1.0f;
                want += (double)fine[i] * (double)sign[i];
            }
            TEST_OK(cvx_op_linear(ctx, &(cvx_linear_args){.y = &y.t, .x = &x.t, .w = &w.t}));
            double error = fabs((double)*(float *)y.t.data - want);
            if (!(error <= 6 * 0x1p-24 * sqrt(K / 3.0))) {
                fail_msg("%s: error %g", ctx->ops->name, error);
            }
            free_buf(&x);
            free_buf(&w);
            free_buf(&y);
        }
        cvx_ctx_close(ctx);
    }
}

/* Rows of a call with m rows have the bits they have among 300, for every m and thread count. */
static void check_rows(const char *isa, cvx_dtype compute, cvx_dtype dtype, int64_t n, int64_t k)
{
    cvx_ctx *one = test_open("cpu", isa, 1, compute), *three = test_open("cpu", isa, 3, compute);
    if (one == NULL || three == NULL) {
        cvx_ctx_close(one);
        cvx_ctx_close(three);
        return;
    }
    cvx_tensor w = make_weight(7, dtype, n, k), p = pack_weight(one, &w);
    test_buf x = TEST_RAND(8, 0, 300, k), all = TEST_NEW(0, 300, n), y = TEST_NEW(0, 300, n);

    TEST_OK(cvx_op_linear(one, &(cvx_linear_args){.y = &all.t, .x = &x.t, .w = &w}));
    for (int64_t m = 1; m <= 300; m++) {
        int64_t at =
            m % 2 == 0 ? 0 : 300 - m; /* the rows' place in the call does not matter either */
        cvx_tensor xs = cvx_slice(&x.t, 0, at, m), ys = cvx_slice(&y.t, 0, at, m);
        cvx_tensor want = cvx_slice(&all.t, 0, at, m);
        test_each(&y.t, set_nan, NULL);
        TEST_OK(cvx_op_linear(m % 3 == 0 ? one : three,
                              &(cvx_linear_args){.y = &ys, .x = &xs, .w = m % 2 ? &p : &w}));
        if (!test_same(&ys, &want)) {
            fail_msg("%s: rows of a call with %lld rows differ", isa, (long long)m);
        }
    }
    free(w.data);
    free(p.data);
    free_buf(&x);
    free_buf(&all);
    free_buf(&y);
    cvx_ctx_close(one);
    cvx_ctx_close(three);
}

static void row_bits(void **state)
{
    (void)state;
    for (int i = 0; i < TEST_LEVELS; i++) {
        check_rows(test_levels[i], CVX_F32, CVX_BF16, 100, 600);
        check_rows(test_levels[i], CVX_F32, CVX_F32, 40, 70);
        check_rows(test_levels[i], CVX_BF16, CVX_F16, 70, 140);
    }
}

static void wrong_shapes(void **state)
{
    (void)state;
    cvx_ctx *ctx = test_open("cpu", NULL, 1, CVX_F32);
    test_buf x = TEST_RAND(1, 0, 4, 6), w = TEST_RAND(2, 0, 5, 6), y = TEST_NEW(0, 4, 5);
    cvx_tensor narrow = cvx_slice(&x.t, 1, 0, 5), turned = x.t;

    TEST_OK(cvx_op_linear(ctx, &(cvx_linear_args){.y = &y.t, .x = &x.t, .w = &w.t}));
    assert_int_equal(cvx_op_linear(ctx, &(cvx_linear_args){.y = &y.t, .x = &narrow, .w = &w.t}),
                     CVX_EINTERNAL);
    assert_non_null(strstr(cvx_error(), "linear"));
    assert_non_null(strstr(cvx_error(), "[4, 5]"));
    turned.stride[1] = 2;
    assert_int_equal(cvx_op_linear(ctx, &(cvx_linear_args){.y = &y.t, .x = &turned, .w = &w.t}),
                     CVX_EINTERNAL);
    assert_int_equal(cvx_op_linear(ctx,
                                   &(cvx_linear_args){.y = &y.t, .x = &x.t, .w = &w.t, .b = &x.t}),
                     CVX_EINTERNAL);
    free_buf(&x);
    free_buf(&w);
    free_buf(&y);
    cvx_ctx_close(ctx);
}

static void measure_and_counters(void **state)
{
    (void)state;
    cvx_ctx *ctx = test_open("cpu", NULL, 1, CVX_F32);
    cvx_tensor x = CVX_VIEW(NULL, CVX_F32, 4, 6), w = CVX_VIEW(NULL, CVX_BF16, 5, 6);
    cvx_tensor y = CVX_VIEW(NULL, CVX_F32, 4, 5);

    ctx->measure = true; /* nothing may be touched: all data pointers are NULL */
    TEST_OK(cvx_op_linear(ctx, &(cvx_linear_args){.y = &y, .x = &x, .w = &w}));
    assert_int_equal(ctx->stat[CVX_OP_ID_linear].calls, 1);
    assert_true(ctx->stat[CVX_OP_ID_linear].flops == 2.0 * 4 * 5 * 6);
    assert_true(ctx->stat[CVX_OP_ID_linear].bytes == 4.0 * (4 * 6 + 4 * 5) + 2.0 * 5 * 6);
    assert_string_equal(cvx_op_names[CVX_OP_ID_linear], "linear");
    cvx_ctx_close(ctx);
}

static void open_errors(void **state)
{
    (void)state;
    const struct {
        cvx_ctx_options opt;
        cvx_status want;
    } bad[] = {{{.backend = "tpu"}, CVX_EINVAL},
               {{.isa = "avx1024"}, CVX_EINVAL},
               {{.threads = -1}, CVX_EINVAL},
               {{.backend = "cpu", .compute = CVX_F16}, CVX_EINVAL}};

    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        cvx_ctx *ctx = NULL;
        assert_int_equal(cvx_ctx_open(&ctx, &bad[i].opt), bad[i].want);
        assert_null(ctx);
    }
    assert_non_null(cvx_cpu_ops(cvx_cpu_isa()));

    char what[160];
    cvx_ctx *ctx = NULL;
    bool usable = cvx_cuda_usable(what);
    assert_true(what[0] != 0);
    assert_int_equal(cvx_ctx_open(&ctx, &(cvx_ctx_options){.backend = "cuda"}),
                     usable ? CVX_OK : CVX_EUNSUPPORTED);
    assert_true(usable == (ctx != NULL));
    cvx_ctx_close(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(against_ref),  cmocka_unit_test(row_bits),
        cmocka_unit_test(wrong_shapes), cmocka_unit_test(measure_and_counters),
        cmocka_unit_test(open_errors),  cmocka_unit_test(low_bits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
