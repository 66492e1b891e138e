/* Attention and convolution by cuDNN (CVX_CUDA_ATTENTION=cudnn, CVX_CUDA_CONV=cudnn) beside ref, and who it is that computes: the
 * library where it can, the program's own kernels elsewhere. Without a device, or without cuDNN, every case says SKIP. */
#include "values.h"

#ifdef CVX_HAVE_CUDA
#include "kernels/cuda/cudnn.h"

/* NULL, with a line saying so, where there is no device or no cuDNN. */
static cvx_ctx *open_cudnn(cvx_dtype compute)
{
    char what[160];

    unsetenv("CVX_EMULATED_CUDNN");
    setenv("CVX_CUDA_ATTENTION", "cudnn", 1);
    setenv("CVX_CUDA_CONV", "cudnn", 1);
    if (cvx_cuda_usable(what) && !cvx_cudnn_usable(what)) {
        print_message("SKIP cudnn: %s\n", what);
        return NULL;
    }
    return test_open("cuda", "cuda", 1, compute);
}

static int64_t runs(cvx_ctx *ctx)
{
    cvx_cudnn *c = NULL;

    TEST_OK(cvx_cudnn_of(cvx_cuda_of(ctx), &c));
    return cvx_cudnn_runs(c);
}

/* --- attention --- */

typedef struct attention_case {
    int64_t b, sq, sk, h, d;
    cvx_dtype t;
    bool lse, theirs;
} attention_case;

static const attention_case attentions[] = {
    {1, 1, 1, 1, 64, CVX_BF16, true, true},     {2, 65, 129, 3, 64, CVX_BF16, true, true},
    {1, 193, 64, 2, 64, CVX_BF16, false, true}, {1, 70, 333, 2, 128, CVX_BF16, true, true},
    {2, 33, 33, 2, 40, CVX_BF16, true, true},   {1, 40, 40, 2, 36, CVX_BF16, true, false},
    {1, 40, 40, 2, 64, CVX_F32, true, false},
};

/* As in op_flash.c: the output is rounded to t and so are the weights, scores of d products are within two units. */
static double attention_bound(const attention_case *c)
{
    double u = c->t == CVX_BF16 ? 0x1p-9 : 0x1p-22;
    return 2 * u + (double)c->sk * 0x1p-23 + sqrt((double)c->d) * 0x1p-20;
}

static void attention(void **state)
{
    cvx_ctx *ctx = open_cudnn(CVX_BF16), *ref = test_open("ref", NULL, 1, CVX_F32);

    (void)state;
    for (size_t i = 0; ctx != NULL && i < sizeof attentions / sizeof *attentions; i++) {
        const attention_case *c = &attentions[i];
        /* three projections side by side, as the model has them */
        cvx_tensor qkv = MAKE(c->t, 1, c->b, c->sq > c->sk ? c->sq : c->sk, 3 * c->h, c->d), t[4],
                   f[4];
        cvx_tensor lse = MAKE(CVX_F32, 2, c->b, c->h, c->sq),
                   want = MAKE(CVX_F32, 3, c->b, c->h, c->sq);
        for (int j = 0; j < 3; j++) {
            cvx_tensor part = cvx_slice(&qkv, 2, j * c->h, c->h);
            t[j] = cvx_slice(&part, 1, 0, j == 0 ? c->sq : c->sk);
        }
        t[3] = MAKE(c->t, 4, c->b, c->sq, c->h, c->d);
        cvx_tensor all = widen(&qkv);
        for (int j = 0; j < 3; j++) {
            cvx_tensor part = cvx_slice(&all, 2, j * c->h, c->h);
            f[j] = cvx_slice(&part, 1, 0, j == 0 ? c->sq : c->sk);
        }
        f[3] = MAKE(CVX_F32, 5, c->b, c->sq, c->h, c->d);
        cvx_attention_args a = {.q = &t[0], .k = &t[1], .v = &t[2], .o = &t[3], .scale = 0.11};
        cvx_attention_args r = {
            .q = &f[0], .k = &f[1], .v = &f[2], .o = &f[3], .lse = &want, .scale = 0.11};
        a.lse = c->lse ? &lse : NULL;
        int64_t before = runs(ctx);
        TEST_OK(cvx_op_attention(ctx, &a));
        TEST_OK(cvx_op_attention(ref, &r));
        assert_int_equal(runs(ctx) - before, c->theirs ? 1 : 0);
        double e = difference(&t[3], &f[3]), l = c->lse ? difference(&lse, &want) : 0;
        if (!(e <= attention_bound(c)) || !(l <= attention_bound(c))) {
            fail_msg("case %zu: error %g, of lse %g, bound %g", i, e, l, attention_bound(c));
        }
        cvx_tensor *mine[] = {&qkv, &all, &t[3], &f[3], &lse, &want};
        for (size_t j = 0; j < sizeof mine / sizeof *mine; j++) {
            free(mine[j]->data);
        }
    }
    cvx_ctx_close(ref);
    cvx_ctx_close(ctx);
}

/* --- convolution --- */

typedef struct conv_case {
    int64_t frames, x0, t, h, w, cin, cout, kt, k;
    int stride;
    bool bias, residual, in_place, up2;
    int theirs; /* plans that are run */
} conv_case;

static const conv_case convs[] = {
    {5, 0, 3, 4, 6, 64, 72, 3, 3, 1, true, true, false, false, 1},
    {5, 0, 3, 4, 6, 64, 72, 3, 3, 1, true, true, true, false, 1},
    {5, 3, 3, 4, 6, 64, 72, 3, 3, 1, true, false, false, false,
     1}, /* two frames across the end, one behind it */
    {9, 4, 6, 3, 5, 64, 8, 3, 3, 1, false, true, false, false, 2},   /* on both sides */
    {4, 3, 2, 3, 5, 64, 8, 3, 3, 1, false, false, false, false, 1},  /* across, then behind */
    {4, 2, 1, 3, 5, 64, 8, 3, 3, 1, true, false, false, false, 0},   /* across alone */
    {2, 0, 2, 4, 6, 128, 64, 1, 3, 2, true, false, false, false, 1}, /* downsampling */
    {1, 0, 1, 5, 3, 64, 128, 1, 1, 1, true, false, false, false, 1},
    {5, 0, 3, 4, 6, 64, 3, 3, 3, 1, true, false, false, false, 1},
    {5, 1, 3, 4, 6, 16, 64, 3, 3, 1, true, false, false, false, 0}, /* weights are padded */
    {1, 0, 1, 4, 6, 64, 64, 1, 3, 1, true, false, false, true, 0},  /* nearest upsampling */
};

/* op_linear.c derives it: sums of so many products of deviation 1/3, operands rounded to bf16; and sums in f32. */
static double conv_bound(const conv_case *c, cvx_dtype compute)
{
    double k = (double)(c->cin * c->kt * c->k * c->k);
    return 6 * 0x1p-24 / 3 * k + (compute == CVX_BF16 ? 6 * 0x1p-9 * sqrt(k) / 3 : 0);
}

static void check_conv(cvx_ctx *ctx, cvx_ctx *ref, const conv_case *c, size_t i)
{
    int64_t hi = c->up2 ? c->h / 2 + 2 : (c->h - 1) * c->stride + c->k;
    int64_t wi = c->up2 ? c->w / 2 + 2 : (c->w - 1) * c->stride + c->k;
    cvx_tensor x = MAKE(CVX_F32, 1, c->frames, hi, wi, c->cin), b = MAKE(CVX_F32, 3, c->cout);
    cvx_tensor w = MAKE(CVX_F32, 2, c->cout, c->cin, c->kt, c->k, c->k);
    cvx_tensor res = MAKE(CVX_F32, 4, c->t, c->h, c->w, c->cout),
               want = MAKE(CVX_F32, 5, c->t, c->h, c->w, c->cout);
    cvx_tensor room =
        MAKE(CVX_F32, 6, c->t, c->h + 2, c->w + 2, c->cout); /* y is the inside of it */
    cvx_tensor rows = cvx_slice(&room, 1, 1, c->h), y = cvx_slice(&rows, 2, 1, c->w);
    cvx_conv3d_args r = {
        .y = &want, .x = &x, .w = &w, .x0 = c->x0, .stride = c->stride, .up2 = c->up2};

    r.b = c->bias ? &b : NULL;
    r.residual = c->residual ? &res : NULL;
    TEST_OK(cvx_op_conv3d(ref, &r));
    r.y = c->in_place ? &res : &y;
    int64_t before = runs(ctx);
    TEST_OK(cvx_op_conv3d(ctx, &r));
    assert_int_equal(runs(ctx) - before, ctx->compute == CVX_BF16 ? c->theirs : 0);
    for (int64_t j = 0; j < c->t * c->h; j++) {
        cvx_tensor got = cvx_slice(r.y, 0, j / c->h, 1), should = cvx_slice(&want, 0, j / c->h, 1);
        cvx_tensor g = cvx_slice(&got, 1, j % c->h, 1), s = cvx_slice(&should, 1, j % c->h, 1);
        double e = difference(&g, &s);
        if (!(e <= conv_bound(c, ctx->compute))) {
            fail_msg("case %zu, row %lld: error %g, bound %g", i, (long long)j, e,
                     conv_bound(c, ctx->compute));
        }
    }
    cvx_tensor *mine[] = {&x, &b, &w, &res, &want, &room};
    for (size_t j = 0; j < sizeof mine / sizeof *mine; j++) {
        free(mine[j]->data);
    }
}

static void convolution(void **state)
{
    (void)state;
    for (int f32 = 0; f32 < 2; f32++) {
        cvx_ctx *ctx = open_cudnn(f32 ? CVX_F32 : CVX_BF16),
                *ref = test_open("ref", NULL, 1, CVX_F32);
        for (size_t i = 0; ctx != NULL && i < sizeof convs / sizeof *convs; i++) {
            check_conv(ctx, ref, &convs[i], i);
        }
        cvx_ctx_close(ref);
        cvx_ctx_close(ctx);
    }
}

/* A convolution's product stands in scratch memory until its activation: not where the library's workspace is. */
static void pictures(void **state)
{
    (void)state;
    const conv_case bound = {.cin = 64, .kt = 1, .k = 3};
    cvx_ctx *ctx = open_cudnn(CVX_BF16), *ref = test_open("ref", NULL, 1, CVX_F32);
    cvx_tensor x = MAKE(CVX_F32, 1, 2, 6, 8, 64), w = MAKE(CVX_F32, 2, 72, 64, 1, 3, 3);
    cvx_tensor slope = MAKE(CVX_F32, 3, 72), y = MAKE(CVX_F32, 4, 2, 4, 6, 72),
               want = MAKE(CVX_F32, 5, 2, 4, 6, 72);
    cvx_conv2d_args a = {.y = &want, .x = &x, .w = &w, .slope = &slope, .stride = 1};

    if (ctx != NULL) {
        TEST_OK(cvx_op_conv2d(ref, &a));
        a.y = &y;
        int64_t before = runs(ctx);
        TEST_OK(cvx_op_conv2d(ctx, &a));
        assert_int_equal(runs(ctx) - before, 1);
        double e = difference(&y, &want);
        if (!(e <= conv_bound(&bound, CVX_BF16))) {
            fail_msg("conv2d: error %g, bound %g", e, conv_bound(&bound, CVX_BF16));
        }
    }
    cvx_tensor *mine[] = {&x, &w, &slope, &y, &want};
    for (size_t j = 0; j < sizeof mine / sizeof *mine; j++) {
        free(mine[j]->data);
    }
    cvx_ctx_close(ref);
    cvx_ctx_close(ctx);
}

/* --- what may be asked for --- */

static void expect_refused(cvx_status code, const char *text)
{
    cvx_ctx *ctx = NULL;

    assert_int_equal(cvx_ctx_open(&ctx, &(cvx_ctx_options){.backend = "cuda", .compute = CVX_BF16}),
                     code);
    if (strstr(cvx_error(), text) == NULL) {
        fail_msg("\"%s\" lacks \"%s\"", cvx_error(), text);
    }
}

static void choices(void **state)
{
    char what[160];

    (void)state;
    if (!cvx_cuda_usable(what)) {
        print_message("SKIP cuda: %s\n", what);
        return;
    }
    unsetenv("CVX_CUDA_ATTENTION");
    setenv("CVX_CUDA_CONV", "cudn", 1);
    expect_refused(CVX_EINVAL, "CVX_CUDA_CONV=cudn: one of own, cudnn is possible");
    if (getenv("CVX_EMULATED_SM") != NULL) { /* an old library, asked for and not */
        setenv("CVX_EMULATED_CUDNN", "91002", 1);
        setenv("CVX_CUDA_CONV", "cudnn", 1);
        expect_refused(CVX_EUNSUPPORTED, "is version 9.10.2, 9.13.1 or newer is needed");
        unsetenv("CVX_CUDA_CONV");
        setenv("CVX_CUDA_ATTENTION", "cudnn", 1);
        expect_refused(CVX_EUNSUPPORTED, "is version 9.10.2, 9.13.1 or newer is needed");
        unsetenv("CVX_CUDA_ATTENTION");
        cvx_ctx_close(test_open("cuda", "cuda", 1, CVX_BF16));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(attention), cmocka_unit_test(convolution),
                                       cmocka_unit_test(pictures), cmocka_unit_test(choices)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#else

int main(void)
{
    printf("SKIP cudnn: this build has no backend \"cuda\"\n");
    return 0;
}

#endif
