/* Ops layer_norm, rms_norm, qk_norm_rope: every level against ref, and the bits of a row.
 *
 * Inputs are uniform in [-1, 1) plus an offset of at most 3. Sums of c values in f32 go through at
 * least four partial sums: relative error of mean and deviation below 2^-24·(c / 4 + 8); the
 * result, of values below 4, then takes a handful of roundings. An offset o costs o / deviation in
 * the difference x - mean: below 6. With c <= 3072 a typical error is far smaller, as roundings
 * cancel: the square root of c / 4 is used, times six. */
#include "op_test.h"

static double bound_of(int64_t c)
{
    return 6 * 0x1p-24 * (sqrt((double)c / 4) + 8) * 6;
}

typedef struct norm_case {
    int64_t m, c;
    bool gamma, beta, modulation, in_place;
} norm_case;

static const norm_case norms[] = {
    {1, 1, true, true, false, false},    {5, 3, false, false, false, false},
    {7, 17, true, false, true, false},   {40, 64, true, true, true, true},
    {33, 127, false, true, true, false}, {20, 1920, true, true, true, true},
    {9, 3072, true, true, false, false}, {3, 4098, true, true, true, false},
};

static void run_layer_norm(cvx_ctx *ctx, const norm_case *n, const test_buf *y)
{
    test_buf x = TEST_RAND(1, 2, n->m, n->c), gamma = TEST_RAND(2, 0, n->c);
    test_buf beta = TEST_RAND(3, 0, n->c), scale = TEST_RAND(4, 0, 2, n->c);
    test_buf shift = TEST_RAND(5, 0, 2, n->c);
    uint32_t seed = 1;

    if (n->in_place) {
        test_each(&y->t, set_rnd, &seed);
    }
    TEST_OK(cvx_op_layer_norm(ctx, &(cvx_layer_norm_args){.y = &y->t,
                                                          .x = n->in_place ? &y->t : &x.t,
                                                          .gamma = n->gamma ? &gamma.t : NULL,
                                                          .beta = n->beta ? &beta.t : NULL,
                                                          .scale = n->modulation ? &scale.t : NULL,
                                                          .shift = n->modulation ? &shift.t : NULL,
                                                          .text_rows = 2,
                                                          .period = 6,
                                                          .eps = 1e-5}));
    free_buf(&x);
    free_buf(&gamma);
    free_buf(&beta);
    free_buf(&scale);
    free_buf(&shift);
}

static void run_rms_norm(cvx_ctx *ctx, const norm_case *n, const test_buf *y)
{
    test_buf x = TEST_RAND(6, 2, n->m, n->c), gamma = TEST_RAND(7, 0, n->c);

    TEST_OK(cvx_op_rms_norm(
        ctx, &(cvx_rms_norm_args){.y = &y->t, .x = &x.t, .gamma = &gamma.t, .eps = 1e-6}));
    free_buf(&x);
    free_buf(&gamma);
}

static void against(cvx_ctx *ctx, const norm_case *n, const test_buf *want,
                    void (*run)(cvx_ctx *, const norm_case *, const test_buf *), const char *op)
{
    test_buf y = TEST_NEW(3, n->m, n->c);

    run(ctx, n, &y);
    double diff = test_diff(&y.t, &want->t), bound = bound_of(n->c);
    if (n->c == 1) { /* a single value: x - mean is 0 on both sides, or x·rsqrt(x²) */
        bound = 0x1p-20;
    }
    if (!(diff <= bound)) {
        fail_msg("%s %s m %lld c %lld: error %g, bound %g", ctx->ops->name, op, (long long)n->m,
                 (long long)n->c, diff, bound);
    }
    free_buf(&y);
}

static void rows_against_ref(void **state)
{
    (void)state;
    cvx_ctx *ref = test_open("ref", NULL, 1, CVX_F32);
    for (size_t i = 0; i < sizeof norms / sizeof *norms; i++) {
        const norm_case *n = &norms[i];
        test_buf layer = TEST_NEW(0, n->m, n->c), rms = TEST_NEW(0, n->m, n->c);
        run_layer_norm(ref, n, &layer);
        run_rms_norm(ref, n, &rms);
        for (int level = 0; level < TEST_LEVELS; level++) {
            cvx_ctx *ctx = test_open("cpu", test_levels[level], 3, CVX_F32);
            if (ctx != NULL) {
                against(ctx, n, &layer, run_layer_norm, "layer_norm");
                against(ctx, n, &rms, run_rms_norm, "rms_norm");
                cvx_ctx_close(ctx);
            }
        }
        free_buf(&layer);
        free_buf(&rms);
    }
    cvx_ctx_close(ref);
}

/* What ref itself computes, from a row worked out by hand: mean 2, variance 1. */
static void ref_by_hand(void **state)
{
    (void)state;
    cvx_ctx *ref = test_open("ref", NULL, 1, CVX_F32);
    float x[4] = {1, 3, 1, 3}, y[4], g[4] = {1, 2, 3, 4}, b[4] = {0, 0, 1, 1}, mod[8];
    cvx_tensor tx = CVX_VIEW(x, CVX_F32, 1, 4), ty = CVX_VIEW(y, CVX_F32, 1, 4);
    cvx_tensor tg = CVX_VIEW(g, CVX_F32, 4), tb = CVX_VIEW(b, CVX_F32, 4);
    cvx_tensor tm = CVX_VIEW(mod, CVX_F32, 2, 4);

    for (int i = 0; i < 8; i++) {
        mod[i] = i < 4 ? 1.0f : -1.0f; /* text: doubled plus 1; video: 0 plus -1 */
    }
    TEST_OK(cvx_op_layer_norm(ref, &(cvx_layer_norm_args){.y = &ty,
                                                          .x = &tx,
                                                          .gamma = &tg,
                                                          .beta = &tb,
                                                          .scale = &tm,
                                                          .shift = &tm,
                                                          .text_rows = 1,
                                                          .period = 1,
                                                          .eps = 0}));
    const float want[4] = {-1, 5, -3, 11};
    assert_memory_equal(y, want, sizeof y);
    TEST_OK(cvx_op_rms_norm(ref, &(cvx_rms_norm_args){.y = &ty, .x = &tx, .gamma = &tg, .eps = 4}));
    for (int i = 0; i < 4; i++) { /* mean of squares 5, plus 4: a third */
        assert_true(fabsf(y[i] - x[i] * g[i] / 3.0f) < 1e-6f);
    }
    cvx_ctx_close(ref);
}

typedef struct rope_case {
    int64_t b, s, h, d, text, row0;
    bool rope;
} rope_case;

static const rope_case ropes[] = {
    {1, 1, 1, 2, 0, 0, true},    {2, 9, 3, 8, 4, 2, true},   {1, 20, 2, 64, 5, 0, true},
    {2, 7, 2, 64, 3, 0, false},  {1, 6, 3, 33, 2, 0, false}, {1, 11, 2, 40, 20, 0, true},
    {1, 13, 2, 128, 0, 7, true},
};

static void run_rope(cvx_ctx *ctx, const rope_case *c, const test_buf *x)
{
    int64_t rows = c->s + c->row0;
    test_buf gamma = TEST_RAND(2, 0, c->d), beta = TEST_RAND(3, 0, c->d);
    test_buf cs = TEST_RAND(4, 0, rows, c->d), sn = TEST_RAND(5, 0, rows, c->d);

    TEST_OK(cvx_op_qk_norm_rope(ctx, &(cvx_qk_norm_rope_args){.x = &x->t,
                                                              .gamma = &gamma.t,
                                                              .beta = &beta.t,
                                                              .cos = c->rope ? &cs.t : NULL,
                                                              .sin = c->rope ? &sn.t : NULL,
                                                              .text_rows = c->text,
                                                              .rope_row0 = c->row0,
                                                              .eps = 1e-6}));
    free_buf(&gamma);
    free_buf(&beta);
    free_buf(&cs);
    free_buf(&sn);
}

static void rope_against_ref(void **state)
{
    (void)state;
    cvx_ctx *ref = test_open("ref", NULL, 1, CVX_F32);
    for (size_t i = 0; i < sizeof ropes / sizeof *ropes; i++) {
        const rope_case *c = &ropes[i];
        test_buf want = TEST_RAND(1, 0, c->b, c->s, c->h, c->d);
        run_rope(ref, c, &want);
        for (int level = 0; level < TEST_LEVELS; level++) {
            cvx_ctx *ctx = test_open("cpu", test_levels[level], 2, CVX_F32);
            if (ctx != NULL) {
                test_buf x = TEST_RAND(1, 3, c->b, c->s, c->h, c->d);
                run_rope(ctx, c, &x);
                double diff = test_diff(&x.t, &want.t);
                /* d = 2 has values close to each other: (x - mean) / deviation is ±1 to a rounding
                 */
                assert_true(diff <= bound_of(c->d));
                free_buf(&x);
                cvx_ctx_close(ctx);
            }
        }
        free_buf(&want);
    }
    cvx_ctx_close(ref);
}

/* Pairs turn by the angle of their row, text rows do not; from diffusers' formula. */
static void rope_by_hand(void **state)
{
    (void)state;
    cvx_ctx *ref = test_open("ref", NULL, 1, CVX_F32);
    float x[4] = {1, 3, 1, 3}, g[2] = {1, 1}, b[2] = {1, 1}, cs[2] = {0, 0}, sn[2] = {1, 1};
    cvx_tensor tx = CVX_VIEW(x, CVX_F32, 1, 2, 1, 2), tg = CVX_VIEW(g, CVX_F32, 2);
    cvx_tensor tb = CVX_VIEW(b, CVX_F32, 2), tc = CVX_VIEW(cs, CVX_F32, 1, 2);
    cvx_tensor ts = CVX_VIEW(sn, CVX_F32, 1, 2);

    TEST_OK(cvx_op_qk_norm_rope(ref, &(cvx_qk_norm_rope_args){.x = &tx,
                                                              .gamma = &tg,
                                                              .beta = &tb,
                                                              .cos = &tc,
                                                              .sin = &ts,
                                                              .text_rows = 1,
                                                              .eps = 0}));
    const float want[4] = {0, 2, -2, 0}; /* normed to (0, 2); a quarter turn gives (-2, 0) */
    assert_memory_equal(x, want, sizeof x);
    cvx_ctx_close(ref);
}

static void row_bits(void **state)
{
    (void)state;
    const int64_t m = 50, c = 203;
    for (int level = 0; level < TEST_LEVELS; level++) {
        cvx_ctx *ctx = test_open("cpu", test_levels[level], 4, CVX_F32);
        if (ctx == NULL) {
            continue;
        }
        test_buf x = TEST_RAND(1, 0, m, c), all = TEST_NEW(0, m, c), y = TEST_NEW(0, m, c);
        TEST_OK(
            cvx_op_layer_norm(ctx, &(cvx_layer_norm_args){.y = &all.t, .x = &x.t, .eps = 1e-5}));
        ctx->threads = 1;
        for (int64_t i = 0; i < m; i++) {
            cvx_tensor xs = cvx_slice(&x.t, 0, i, 1), ys = cvx_slice(&y.t, 0, i, 1);
            TEST_OK(
                cvx_op_layer_norm(ctx, &(cvx_layer_norm_args){.y = &ys, .x = &xs, .eps = 1e-5}));
        }
        assert_true(test_same(&y.t, &all.t));
        free_buf(&x);
        free_buf(&all);
        free_buf(&y);
        cvx_ctx_close(ctx);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_against_ref), cmocka_unit_test(ref_by_hand),
        cmocka_unit_test(rope_against_ref), cmocka_unit_test(rope_by_hand),
        cmocka_unit_test(row_bits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
