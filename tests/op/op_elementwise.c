/* Ops gated_act, add, embed, patchify, unpatchify, sched_step, combine, row_change. */
#include "op_test.h"

static const cvx_act acts[] = {CVX_ACT_NONE, CVX_ACT_GELU_TANH, CVX_ACT_GELU, CVX_ACT_QUICK_GELU,
                               CVX_ACT_SILU};

/* x / (1 + exp(-z)): exp is good to 1.2e-7, its argument z is rounded twice: relative |z|·2^-23,
 * and |z| grows as the result falls. Absolute: |x|·exp(-|z|)·|z|·2^-23 never exceeds 2^-23·|x|;
 * plus six roundings of the result. */
static double act_bound(double x, double y)
{
    return 6 * 0x1p-24 * fabs(y) + 0x1p-23 * fmin(fabs(x), 1) + 0x1p-140;
}

static void activations(void **state)
{
    (void)state;
    enum { N = 40007 };
    cvx_ctx *ref = test_open("ref", NULL, 1, CVX_F32);
    for (int level = 0; level < TEST_LEVELS; level++) {
        cvx_ctx *ctx = test_open("cpu", test_levels[level], 3, CVX_F32);
        for (size_t k = 0; ctx != NULL && k < sizeof acts / sizeof *acts; k++) {
            test_buf x = TEST_NEW(0, N), one = TEST_NEW(0, N), y = TEST_NEW(0, N),
                     want = TEST_NEW(0, N);
            float *px = x.t.data, *py = y.t.data, *pw = want.t.data;
            for (int i = 0; i < N; i++) { /* -100 .. 100, dense around 0 */
                double u = 2.0 * i / (N - 1) - 1;
                px[i] = (float)(100 * u * u * u);
                ((float *)one.t.data)[i] = 1;
            }
            TEST_OK(cvx_op_gated_act(
                ref, &(cvx_gated_act_args){.y = &want.t, .a = &x.t, .b = &one.t, .act = acts[k]}));
            TEST_OK(cvx_op_gated_act(
                ctx, &(cvx_gated_act_args){.y = &y.t, .a = &x.t, .b = &one.t, .act = acts[k]}));
            for (int i = 0; i < N; i++) {
                double e = fabs((double)py[i] - (double)pw[i]);
                if (!(e <= act_bound(px[i], pw[i]))) {
                    fail_msg("%s act %d at %g: %g, wanted %g", ctx->ops->name, (int)acts[k], px[i],
                             py[i], pw[i]);
                }
            }
            /* in place over the second operand */
            TEST_OK(cvx_op_gated_act(
                ctx, &(cvx_gated_act_args){.y = &one.t, .a = &x.t, .b = &one.t, .act = acts[k]}));
            assert_true(test_same(&one.t, &y.t));
            free_buf(&x);
            free_buf(&one);
            free_buf(&y);
            free_buf(&want);
        }
        cvx_ctx_close(ctx);
    }
    cvx_ctx_close(ref);
}

/* Values of the activations known to many digits (torch.nn.functional, f64). */
static void activations_by_hand(void **state)
{
    (void)state;
    cvx_ctx *ref = test_open("ref", NULL, 1, CVX_F32);
    const double want[5] = {1.5, 1.399572, 1.399789, 1.391662, 1.226362};
    float x = 1.5f, one = 1, y;
    cvx_tensor tx = CVX_VIEW(&x, CVX_F32, 1), to = CVX_VIEW(&one, CVX_F32, 1);
    cvx_tensor ty = CVX_VIEW(&y, CVX_F32, 1);

    for (int i = 0; i < 5; i++) {
        TEST_OK(cvx_op_gated_act(
            ref, &(cvx_gated_act_args){.y = &ty, .a = &tx, .b = &to, .act = acts[i]}));
        assert_true(fabs((double)y - want[i]) < 1e-5);
    }
    cvx_ctx_close(ref);
}

/* One addition has one right result: all levels give ref's bits. */
static void additions(void **state)
{
    (void)state;
    cvx_ctx *ref = test_open("ref", NULL, 1, CVX_F32);
    for (int level = 0; level < TEST_LEVELS; level++) {
        cvx_ctx *ctx = test_open("cpu", test_levels[level], 3, CVX_F32);
        if (ctx == NULL) {
            continue;
        }
        test_buf a = TEST_RAND(1, 0, 3, 4000, 7), y = TEST_NEW(0, 3, 4000, 7);
        test_buf want = TEST_NEW(0, 3, 4000, 7), b[3];
        b[0] = TEST_RAND(2, 0, 7);
        b[1] = TEST_RAND(3, 0, 4000, 7);
        b[2] = TEST_RAND(4, 0, 3, 4000, 7);
        for (int i = 0; i < 3; i++) {
            TEST_OK(cvx_op_add(ref, &(cvx_add_args){.y = &want.t, .a = &a.t, .b = &b[i].t}));
            TEST_OK(cvx_op_add(ctx, &(cvx_add_args){.y = &y.t, .a = &a.t, .b = &b[i].t}));
            assert_true(test_same(&y.t, &want.t));
            const float *pa = a.t.data, *pb = b[i].t.data, *pw = want.t.data;
            assert_true(pw[40005] == pa[40005] + pb[40005 % cvx_numel(&b[i].t)]);
            free_buf(&b[i]);
        }
        cvx_tensor bad = CVX_VIEW(a.t.data, CVX_F32, 3, 1, 7);
        assert_int_equal(cvx_op_add(ctx, &(cvx_add_args){.y = &y.t, .a = &a.t, .b = &bad}),
                         CVX_EINTERNAL);
        free_buf(&a);
        free_buf(&y);
        free_buf(&want);
        cvx_ctx_close(ctx);
    }
    cvx_ctx_close(ref);
}

static void embeddings(void **state)
{
    (void)state;
    cvx_ctx *ctx = test_open("cpu", NULL, 2, CVX_F32);
    uint16_t table[6];
    float y[6];
    cvx_tensor t = CVX_VIEW(table, CVX_BF16, 3, 2), ty = CVX_VIEW(y, CVX_F32, 3, 2);

    for (int i = 0; i < 6; i++) {
        table[i] = cvx_f32_to_bf16((float)i);
    }
    TEST_OK(cvx_op_embed(
        ctx, &(cvx_embed_args){.y = &ty, .table = &t, .ids = (const int32_t[]){2, 0, 2}}));
    const float want[6] = {4, 5, 0, 1, 4, 5};
    assert_memory_equal(y, want, sizeof y);
    assert_int_equal(cvx_op_embed(ctx, &(cvx_embed_args){.y = &ty,
                                                         .table = &t,
                                                         .ids = (const int32_t[]){2, 3, 2}}),
                     CVX_EINVAL);
    assert_string_equal(cvx_error(), "token id 3 at position 1 is not in 0 .. 2");
    cvx_ctx_close(ctx);
}

/* Where element (f, c, y, x) of the latents stands in the patch rows, from the contract. */
static void check_patches(cvx_ctx *ctx, int64_t p, int64_t pt)
{
    const int64_t f = 4, c = 3, h = 6, w = 4, t = pt > 0 ? pt : 1;
    const int64_t gh = h / p, gw = w / p, rows = f / t * gh * gw, k = c * t * p * p;
    test_buf x = TEST_RAND(1, 0, 2, f, c, h, w), y = TEST_NEW(2, 2, rows, k);
    test_buf back = TEST_NEW(0, 2, f, c, h, w);

    /* in two calls, the second from row 5 */
    for (int i = 0; i < 2; i++) {
        int64_t r0 = i * 5;
        cvx_tensor part = cvx_slice(&y.t, 1, r0, i == 0 ? 5 : rows - 5);
        TEST_OK(cvx_op_patchify(
            ctx, &(cvx_patchify_args){.y = &part, .x = &x.t, .p = p, .pt = pt, .row0 = r0}));
    }
    const float *px = x.t.data;
    for (int64_t n = 0; n < 2 * f * c * h * w; n++) {
        int64_t ix = n % w, iy = n / w % h, ic = n / (w * h) % c, it = n / (w * h * c) % f;
        int64_t b = n / (w * h * c * f), row = (it / t * gh + iy / p) * gw + ix / p;
        int64_t col = ((ic * t + it % t) * p + iy % p) * p + ix % p;
        const float *py = (const float *)y.t.data + b * y.t.stride[0] + row * y.t.stride[1] + col;
        assert_true(*py == px[n]);
    }
    TEST_OK(
        cvx_op_unpatchify(ctx, &(cvx_unpatchify_args){.y = &back.t, .x = &y.t, .p = p, .pt = pt}));
    assert_true(test_same(&back.t, &x.t));
    free_buf(&x);
    free_buf(&y);
    free_buf(&back);
}

static void patches(void **state)
{
    (void)state;
    cvx_ctx *ctx = test_open("cpu", NULL, 2, CVX_F32);
    check_patches(ctx, 2, 0);
    check_patches(ctx, 2, 2);
    check_patches(ctx, 1, 1);
    cvx_ctx_close(ctx);
}

static void scheduler(void **state)
{
    (void)state;
    cvx_ctx *ctx = test_open("cpu", NULL, 2, CVX_F32);
    float sample[1] = {0.3f}, u[1] = {0.7f}, c[1] = {-0.2f}, old[1] = {0.9f}, noise[1] = {1.1f},
          x0[1];
    cvx_tensor ts = CVX_VIEW(sample, CVX_F32, 1), tu = CVX_VIEW(u, CVX_F32, 1);
    cvx_tensor tc = CVX_VIEW(c, CVX_F32, 1), to = CVX_VIEW(old, CVX_F32, 1);
    cvx_tensor tn = CVX_VIEW(noise, CVX_F32, 1), t0 = CVX_VIEW(x0, CVX_F32, 1);
    const float k[7] = {0.1f, 0.2f, 0.3f, 0.4f, 0.5f, 0.6f, 0.7f};

    /* each intermediate in a volatile: rounded to f32, and nothing fused */
    volatile float d = c[0] - u[0], gd = 6.0f * d, v = u[0] + gd;
    volatile float a0 = k[0] * sample[0], a1 = k[1] * v, w0 = a0 + a1;
    volatile float p0 = k[2] * sample[0], p1 = k[3] * w0, p2 = k[4] * v, p3 = k[5] * old[0];
    volatile float p4 = k[6] * noise[0], p = p0 + p1;
    p = p + p2;
    p = p + p3;
    p = p + p4;
    cvx_sched_step_args a = {.prev = &ts,
                             .x0_out = &to,
                             .sample = &ts,
                             .uncond = &tu,
                             .cond = &tc,
                             .old_x0 = &to,
                             .noise = &tn,
                             .guidance = 6.0};
    memcpy(a.c, k, sizeof k);
    TEST_OK(cvx_op_sched_step(ctx, &a)); /* in place twice */
    assert_true(sample[0] == p && old[0] == w0);

    sample[0] = 2;
    TEST_OK(cvx_op_sched_step(ctx, &(cvx_sched_step_args){.prev = &ts,
                                                          .x0_out = &t0,
                                                          .sample = &ts,
                                                          .cond = &tc,
                                                          .c = {1, 0, 1, 1, 0, 9, 9}}));
    assert_true(x0[0] == 2 && sample[0] == 4);
    cvx_ctx_close(ctx);
}

static void combinations(void **state)
{
    (void)state;
    cvx_ctx *ctx = test_open("cpu", NULL, 2, CVX_F32);
    float x[4][3] = {{0.3f, -1, 7}, {0.7f, 2, 1e-9f}, {1e6f, -3, 0}, {-0.2f, 4, 5}};
    const float k[4] = {0.1f, -0.2f, 3e-7f, 0.4f};
    cvx_tensor t[4];
    cvx_combine_args a = {.y = &t[1], .n = 4};
    float want[3];

    memcpy(a.c, k, sizeof k);
    for (int i = 0; i < 4; i++) {
        t[i] = CVX_VIEW(x[i], CVX_F32, 3);
        a.x[i] = &t[i];
    }
    for (int i = 0; i < 3; i++) { /* volatile: each product and sum rounded to f32, nothing fused */
        volatile float sum = k[0] * x[0][i];
        for (int j = 1; j < 4; j++) {
            volatile float product = k[j] * x[j][i];
            sum = sum + product;
        }
        want[i] = sum;
    }
    TEST_OK(cvx_op_combine(ctx, &a)); /* y is one of x */
    assert_memory_equal(x[1], want, sizeof want);
    a.n = 5;
    assert_int_equal(cvx_op_combine(ctx, &a), CVX_EINTERNAL);
    a.n = 2;
    t[0] = CVX_VIEW(x[0], CVX_F32, 2);
    assert_int_equal(cvx_op_combine(ctx, &a), CVX_EINTERNAL);
    cvx_ctx_close(ctx);
}

/* By hand, then every level beside ref: a sum of n values below 2 in f32 errs by at most n·2^-24 of itself. */
static void changes(void **state)
{
    (void)state;
    const int64_t widths[] = {1, 5, 64, 1923};
    float x[2][3] = {{1, -2, 3}, {0, 0.5f, -1}}, z[2][3] = {{2, -2, -1}, {0, 0, 0}}, out[2][2];
    cvx_tensor a = CVX_VIEW(x, CVX_F32, 2, 3), b = CVX_VIEW(z, CVX_F32, 2, 3);
    cvx_tensor y = CVX_VIEW(out, CVX_F32, 2, 2);
    cvx_ctx *ref = test_open("ref", NULL, 2, CVX_F32);

    TEST_OK(cvx_op_row_change(ref, &(cvx_row_change_args){.y = &y, .a = &a, .b = &b}));
    assert_true(out[0][0] == 5 && out[0][1] == 5 && out[1][0] == 1.5f && out[1][1] == 0);
    y.dim[1] = 1;
    assert_int_equal(cvx_op_row_change(ref, &(cvx_row_change_args){.y = &y, .a = &a, .b = &b}),
                     CVX_EINTERNAL);
    for (int level = 0; level < TEST_LEVELS; level++) {
        cvx_ctx *ctx = test_open("cpu", test_levels[level], 3, CVX_F32);
        for (size_t w = 0; ctx != NULL && w < sizeof widths / sizeof *widths; w++) {
            int64_t n = widths[w];
            test_buf u = TEST_RAND(1, 0, 37, n), v = TEST_RAND(2, 0, 37, n);
            test_buf got = TEST_NEW(0, 37, 2), want = TEST_NEW(0, 37, 2), one = TEST_NEW(0, 1, 2);
            TEST_OK(
                cvx_op_row_change(ref, &(cvx_row_change_args){.y = &want.t, .a = &u.t, .b = &v.t}));
            TEST_OK(
                cvx_op_row_change(ctx, &(cvx_row_change_args){.y = &got.t, .a = &u.t, .b = &v.t}));
            double bound = 2 * (double)n * (double)(n + 2) * 0x1p-24,
                   d = test_diff(&got.t, &want.t);
            if (!(d <= bound)) {
                fail_msg("%s n %lld: error %g, bound %g", ctx->ops->name, (long long)n, d, bound);
            }
            cvx_tensor ul = cvx_slice(&u.t, 0, 36, 1), vl = cvx_slice(&v.t, 0, 36, 1);
            TEST_OK(
                cvx_op_row_change(ctx, &(cvx_row_change_args){.y = &one.t, .a = &ul, .b = &vl}));
            assert_memory_equal(one.t.data, (float *)got.t.data + 72, 2 * sizeof(float));
            free_buf(&u), free_buf(&v), free_buf(&got), free_buf(&want), free_buf(&one);
        }
        if (ctx != NULL) {
            cvx_ctx_close(ctx);
        }
    }
    cvx_ctx_close(ref);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(activations),  cmocka_unit_test(activations_by_hand),
        cmocka_unit_test(additions),    cmocka_unit_test(embeddings),
        cmocka_unit_test(patches),      cmocka_unit_test(scheduler),
        cmocka_unit_test(combinations), cmocka_unit_test(changes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
