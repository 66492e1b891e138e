/* The GPU's attention kernels for 16-bit operands, each by its name (CVX_CUDA_ATTENTION), beside ref: the lengths at the
 * edges of their tiles and CogVideoX's, head sizes of their tiles and between, bits of rows and heads, and what they
 * leave to the plain kernel. Without a device every case says SKIP; on the stand-in for one (tests/device) those run that
 * do not take long, and bits of shares are looked at by tests/unit/flash.cc. */
#include "values.h"

#include "kernels/cuda/cuda.h"

static const char *const kernels[] = {"plain", "mma", "hopper", "cudnn"};
/* The program's own: whose bits do not depend on the call's size. */
#define OWN 3

static cvx_ctx *open_with(const char *kernel)
{
    char what[160];

    unsetenv("CVX_CUDA_ATTENTION");
    if (strcmp(kernel, "cudnn") == 0 && cvx_cuda_usable(what) && !cvx_cudnn_usable(what)) {
        print_message("SKIP cudnn: %s\n", what);
        return NULL;
    }
    cvx_ctx *ctx = test_open("cuda", "cuda", 1, CVX_BF16);

    setenv("CVX_CUDA_ATTENTION", kernel, 1);
    return ctx;
}

typedef struct flash_case {
    int64_t b, sq, sk, h, d;
} flash_case;

static const flash_case cases[] = {
    {1, 1, 1, 1, 64},
    {1, 63, 63, 2, 64},
    {2, 64, 64, 1, 64},
    {1, 65, 65, 3, 64},
    {1, 129, 127, 1, 64},
    {1, 193, 129, 2, 64},
    {2, 226 + 1350, 226 + 1350, 3, 64},
    {1, 17776, 17776, 2, 64},
    {1, 1, 1, 1, 128},
    {1, 63, 64, 2, 128},
    {2, 65, 65, 2, 128},
    {1, 226 + 1350, 226 + 1350, 2, 128},
    {1, 17776, 17776, 1, 128},
    {1, 70, 333, 3, 40},
    {1, 70, 333, 3, 96},
};

/* Values lie in [-1, 1): so do outputs, averages of them. Weights are rounded to t (u of each), their sum is not, and the
 * output is rounded: 2·u. Tensor cores cut off what falls below a sum's last place, 2^-23 of it for each of the sk / 16
 * sums. The weights' own error is that of the score, as of lse: d products of at most 1 in d / 16 sums, cut off too,
 * times scale (below sqrt(d) in all), two units of the power of two, and sums of sk weights, four or more apart. */
static double lse_bound(const flash_case *c)
{
    return sqrt((double)c->d) * (double)(c->d / 16 + 4) * 0x1p-23 + 0x1p-20 +
           (double)c->sk * 0x1p-26;
}

static double bound(const flash_case *c)
{
    return 2 * 0x1p-9 + (double)(c->sk / 16 + 1) * 0x1p-23 + 2 * lse_bound(c);
}

/* q, k, v, o of a case. */
static void make_case(cvx_tensor t[4], const flash_case *c)
{
    for (int i = 0; i < 4; i++) {
        t[i] = MAKE(CVX_BF16, (uint32_t)i + 1, c->b, i % 3 == 0 ? c->sq : c->sk, c->h, c->d);
    }
}

static void free_all(cvx_tensor *t, int n)
{
    for (int i = 0; i < n; i++) {
        free(t[i].data);
    }
}

/* Fails unless rows r0 .. r0 + n of the GPU's o and lse are ref's. */
static void compare_rows(cvx_ctx *ref, const char *kernel, const flash_case *c,
                         const cvx_tensor t[4], const cvx_tensor *lse, int64_t r0, int64_t n)
{
    cvx_tensor f[4], all = widen(&t[0]), got = widen(&t[3]);
    cvx_tensor want = MAKE(CVX_F32, 9, c->b, n, c->h, c->d), sum = MAKE(CVX_F32, 9, c->b, c->h, n);

    f[0] = cvx_slice(&all, 1, r0, n);
    f[1] = widen(&t[1]);
    f[2] = widen(&t[2]);
    f[3] = cvx_slice(&got, 1, r0, n);
    TEST_OK(cvx_op_attention(ref, &(cvx_attention_args){.q = &f[0],
                                                        .k = &f[1],
                                                        .v = &f[2],
                                                        .o = &want,
                                                        .lse = &sum,
                                                        .scale = 1 / sqrt((double)c->d)}));
    cvx_tensor part = cvx_slice(lse, 2, r0, n);
    double e = test_diff(&f[3], &want), l = test_diff(&part, &sum);
    if (!(e <= bound(c)) || !(l <= lse_bound(c))) {
        fail_msg("%s sq %lld sk %lld d %lld: error %g, bound %g; lse %g, bound %g", kernel,
                 (long long)c->sq, (long long)c->sk, (long long)c->d, e, bound(c), l, lse_bound(c));
    }
    cvx_tensor mine[] = {all, got, f[1], f[2], want, sum};
    free_all(mine, 6);
}

/* Whether a case takes minutes on the stand-in for a GPU. */
static bool too_long(int64_t products)
{
    return getenv("CVX_EMULATED_SM") != NULL && products > 80000;
}

static void beside_ref(void **state)
{
    (void)state;
    for (size_t k = 0; k < sizeof kernels / sizeof *kernels; k++) {
        cvx_ctx *ctx = open_with(kernels[k]), *ref = test_open("ref", NULL, 4, CVX_F32);
        for (size_t i = 0; ctx != NULL && i < sizeof cases / sizeof *cases; i++) {
            const flash_case *c = &cases[i];
            if (too_long(c->b * c->h * c->sq * c->sk)) {
                continue;
            }
            cvx_tensor t[4], lse = MAKE(CVX_F32, 5, c->b, c->h, c->sq);
            make_case(t, c);
            TEST_OK(cvx_op_attention(ctx, &(cvx_attention_args){.q = &t[0],
                                                                .k = &t[1],
                                                                .v = &t[2],
                                                                .o = &t[3],
                                                                .lse = &lse,
                                                                .scale = 1 / sqrt((double)c->d)}));
            if (c->sq <= 2000) {
                compare_rows(ref, kernels[k], c, t, &lse, 0, c->sq);
            } else { /* all of it takes ref minutes */
                compare_rows(ref, kernels[k], c, t, &lse, 0, 5);
                compare_rows(ref, kernels[k], c, t, &lse, c->sq / 2, 5);
                compare_rows(ref, kernels[k], c, t, &lse, c->sq - 5, 5);
            }
            free_all(t, 4);
            free(lse.data);
        }
        cvx_ctx_close(ref);
        cvx_ctx_close(ctx);
    }
}

/* Rows and heads alone, in uneven shares, give the bits of the whole. */
static void shares(void **state)
{
    static const flash_case of[] = {{1, 226 + 1350, 226 + 1350, 3, 64},
                                    {1, 400, 226 + 1350, 3, 128}};
    static const int64_t cut[] = {0, 1, 64, 127, 300, 400};
    (void)state;
    for (size_t k = 0; k < 2 * OWN; k++) {
        const flash_case *c = &of[k % 2];
        cvx_ctx *ctx = too_long(c->h * c->sq * c->sk) ? NULL : open_with(kernels[k / 2]);
        cvx_tensor t[4], lse = MAKE(CVX_F32, 5, 1, c->h, c->sq), part[4], o, l;
        make_case(t, c);
        o = MAKE(CVX_BF16, 6, 1, c->sq, c->h, c->d);
        l = MAKE(CVX_F32, 7, 1, c->h, c->sq);
        cvx_attention_args a = {
            .q = &t[0], .k = &t[1], .v = &t[2], .o = &t[3], .lse = &lse, .scale = 0.125};
        if (ctx != NULL) {
            TEST_OK(cvx_op_attention(ctx, &a));
        }
        for (int i = 0; ctx != NULL && i < 5; i++) {
            int64_t n = (i == 4 ? c->sq : cut[i + 1]) - cut[i];
            for (int64_t h = 0; h < c->h; h++) {
                cvx_tensor rows[] = {cvx_slice(&t[0], 1, cut[i], n), t[1], t[2],
                                     cvx_slice(&o, 1, cut[i], n)};
                cvx_tensor sums = cvx_slice(&l, 2, cut[i], n);
                for (int j = 0; j < 4; j++) {
                    part[j] = cvx_slice(&rows[j], 2, h, 1);
                }
                sums = cvx_slice(&sums, 1, h, 1);
                cvx_attention_args p = {.q = &part[0],
                                        .k = &part[1],
                                        .v = &part[2],
                                        .o = &part[3],
                                        .lse = &sums,
                                        .scale = 0.125};
                TEST_OK(cvx_op_attention(ctx, &p));
            }
        }
        if (ctx != NULL) {
            size_t bytes = (size_t)cvx_numel(&o) * sizeof(uint16_t);
            assert_memory_equal(o.data, t[3].data, bytes);
            assert_memory_equal(l.data, lse.data, (size_t)cvx_numel(&l) * sizeof(float));
        }
        free_all(t, 4);
        free(lse.data), free(o.data), free(l.data);
        cvx_ctx_close(ctx);
    }
}

/* What only the plain kernel takes comes to it, whichever is asked for: a bias (keys that it hides by -infinity have no
 * weight and make no NaN), a scale below 0, operands that are not aligned. */
static void left_to_plain(void **state)
{
    const flash_case c = {1, 70, 150, 2, 72}, used = {1, 70, 150, 2, 64};
    (void)state;
    for (size_t k = 0; k < 3 * sizeof kernels / sizeof *kernels; k++) {
        cvx_ctx *ctx = open_with(kernels[k / 3]), *ref = test_open("ref", NULL, 2, CVX_F32);
        cvx_tensor t[4], f[4], u[4], v[4], bias = MAKE(CVX_F32, 8, c.h, c.sq, c.sk);

        make_case(t, &c);
        for (int64_t i = 0; i < cvx_numel(&bias); i++) {
            ((float *)bias.data)[i] = i % c.sk < 70 || i % 7 == 0 ? -INFINITY : (float)(i % 5);
        }
        for (int i = 0; i < 4; i++) { /* columns 0 or 1 .. of 72 */
            f[i] = widen(&t[i]);
            u[i] = cvx_slice(&t[i], 3, k % 3 == 2, 64);
            v[i] = cvx_slice(&f[i], 3, k % 3 == 2, 64);
        }
        cvx_attention_args a = {.q = &u[0], .k = &u[1], .v = &u[2], .o = &u[3]}, b = a;
        b.q = &v[0], b.k = &v[1], b.v = &v[2], b.o = &v[3];
        a.scale = b.scale = k % 3 == 1 ? -0.125 : 0.125;
        a.bias = b.bias = k % 3 == 0 ? &bias : NULL;
        if (ctx != NULL) {
            TEST_OK(cvx_op_attention(ctx, &a));
            TEST_OK(cvx_op_attention(ref, &b));
            cvx_tensor all = widen(&t[3]), got = cvx_slice(&all, 3, k % 3 == 2, 64);
            assert_true(test_diff(&got, &v[3]) <= bound(&used));
            free(all.data);
        }
        free_all(t, 4);
        free_all(f, 4);
        free(bias.data);
        cvx_ctx_close(ref);
        cvx_ctx_close(ctx);
    }
}

static void refused(cvx_status got)
{
    assert_int_equal(got, CVX_EUNSUPPORTED);
    assert_non_null(strstr(cvx_error(), "needs compute capability 9.0 and a build for 90a; "));
}

/* Hopper's kernels are there on Hopper, in a build that has code of theirs; elsewhere whoever asks for them is told. */
static void asked_for(void **state)
{
    (void)state;
#ifdef CVX_NO_HOPPER
    const bool built = false;
#else
    const bool built = true;
#endif
    cvx_ctx *ctx = open_with("hopper");

    if (ctx == NULL) {
        return;
    }
    bool there = cvx_cuda_of(ctx)->hopper;
    assert_int_equal(there, built && cvx_cuda_of(ctx)->sm == 90);
    cvx_ctx_close(ctx);
    if (there) {
        TEST_OK(cvx_ctx_open(&ctx, &(cvx_ctx_options){.backend = "cuda"}));
        cvx_ctx_close(ctx);
    } else {
        refused(cvx_ctx_open(&ctx, &(cvx_ctx_options){.backend = "cuda"}));
    }
}

/* In 8 bits, on Hopper: tests/unit/flash.cc derives a relative error of 0.038 (root mean square) of values as spread as
 * these, and 0.0075 of a score, here a quarter as great. Rows alone have the same bits; elsewhere it is refused. */
static void sage(void **state)
{
    static const int64_t sizes[][3] = {
        {1, 1, 1}, {63, 65, 2}, {226 + 1350, 226 + 1350, 2}, {17776, 17776, 1}};
    (void)state;
    cvx_ctx *ctx = open_with("hopper"), *ref = test_open("ref", NULL, 4, CVX_F32);
    for (size_t n = 0; ctx != NULL && n < sizeof sizes / sizeof *sizes; n++) {
        const flash_case c = {1, sizes[n][0], sizes[n][1], sizes[n][2], 64};
        int64_t few = c.sq < 100 ? c.sq : 100;
        if (too_long(c.h * c.sq * c.sk)) {
            continue;
        }
        cvx_tensor t[4], f[4], lse = MAKE(CVX_F32, 5, 1, c.h, c.sq),
                               o = MAKE(CVX_BF16, 6, 1, few, c.h, 64);
        cvx_tensor want = MAKE(CVX_F32, 7, 1, few, c.h, 64), sums = MAKE(CVX_F32, 8, 1, c.h, few);
        double error = 0, all = 0;
        make_case(t, &c);
        cvx_attention_args a = {.q = &t[0], .k = &t[1], .v = &t[2], .o = &t[3], .lse = &lse};
        a.scale = 0.125, a.sage = true;
        if (!cvx_cuda_of(ctx)->hopper) {
            refused(cvx_op_attention(ctx, &a));
        } else {
            TEST_OK(cvx_op_attention(ctx, &a));
            for (int i = 0; i < 4; i++) {
                f[i] = widen(&t[i]);
            }
            cvx_tensor q = cvx_slice(&t[0], 1, c.sq - few, few),
                       g = cvx_slice(&f[0], 1, c.sq - few, few);
            cvx_tensor whole = cvx_slice(&lse, 2, c.sq - few, few),
                       got = cvx_slice(&f[3], 1, c.sq - few, few);
            TEST_OK(cvx_op_attention(
                ref,
                &(cvx_attention_args){
                    .q = &g, .k = &f[1], .v = &f[2], .o = &want, .lse = &sums, .scale = 0.125}));
            for (int64_t i = 0; i < cvx_numel(&want); i++) { /* got is dense: one item */
                double w = ((float *)want.data)[i], d = ((float *)got.data)[i] - w;
                error += d * d;
                all += w * w;
            }
            assert_true(sqrt(error / all) <= 1.25 * 0.038);
            assert_true(test_diff(&whole, &sums) <= 6 * 0.0075 / 4);
            a.q = &q, a.o = &o, a.lse = &sums;
            TEST_OK(cvx_op_attention(ctx, &a));
            assert_memory_equal(o.data, (char *)t[3].data + (c.sq - few) * c.h * 128,
                                (size_t)(few * c.h * 128));
            assert_true(test_same(&whole, &sums));
            free_all(f, 4);
        }
        free_all(t, 4);
        free(lse.data), free(o.data), free(want.data), free(sums.data);
    }
    cvx_ctx_close(ref);
    cvx_ctx_close(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(beside_ref), cmocka_unit_test(shares),
                                       cmocka_unit_test(left_to_plain), cmocka_unit_test(asked_for),
                                       cmocka_unit_test(sage)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
