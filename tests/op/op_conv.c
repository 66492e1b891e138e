/* Ops of the VAE: conv3d, group_norm_*, avg_pool_time, strided_copy, blend. Every level against
 * ref, and the bits of a part of the picture, which must not depend on the rest of it.
 *
 * conv3d: inputs and weights are uniform in [-1, 1); K products of variance 1/9 are added in f32,
 * so the sums stay below 2·sqrt(K) and K roundings of at most 2^-24 of that, most of which cancel,
 * plus what splitting into bf16 parts leaves out (2^-24 of a product), stay below 2^-24·(K + 64).
 * With compute == BF16 each operand is rounded by at most 2^-9: 2^-8 of a product of 1/3, K of them
 * at random: below 2^-8·sqrt(K)·1.5, which is more than six deviations. */
#include "op_test.h"

typedef struct conv_case {
    int64_t t, h, w, cin, cout, kt, k;
    int stride;
    bool up2, bias, residual, in_place;
    int64_t x0, ring; /* ring: frames of x beyond those needed */
    cvx_dtype wd;
} conv_case;

static const conv_case convs[] = {
    {1, 1, 1, 1, 1, 1, 1, 1, false, false, false, false, 0, 0, CVX_F32},
    {2, 3, 5, 3, 8, 3, 3, 1, false, true, false, false, 0, 0, CVX_F32},
    {3, 4, 13, 16, 33, 3, 3, 1, false, true, true, false, 4, 1, CVX_F16},
    {1, 5, 12, 16, 64, 1, 1, 1, false, true, false, false, 0, 0, CVX_BF16},
    {2, 3, 16, 32, 32, 3, 3, 1, false, true, false, false, 2, 0, CVX_BF16},
    {2, 5, 19, 64, 40, 3, 3, 1, false, true, true, true, 3, 2, CVX_F16},
    {1, 9, 35, 96, 3, 3, 3, 1, false, false, false, false, 0, 0, CVX_F32},
    {2, 3, 7, 64, 64, 1, 1, 1, false, true, true, false, 0, 0, CVX_BF16},
    {1, 4, 10, 32, 24, 1, 3, 2, false, true, false, false, 0, 0, CVX_BF16},
    {2, 5, 17, 8, 12, 1, 3, 2, false, true, false, false, 0, 0, CVX_F32},
    {1, 6, 26, 32, 35, 1, 3, 1, true, true, false, false, 0, 0, CVX_BF16},
    {2, 4, 34, 64, 32, 1, 3, 1, true, true, true, false, 1, 0, CVX_F16},
    {1, 2, 6, 5, 7, 1, 3, 1, true, false, false, false, 0, 0, CVX_F32},
    {1, 20, 40, 128, 64, 3, 3, 1, false, true, false, false, 0, 0, CVX_BF16},
    {1, 70, 18, 32, 32, 3, 3, 1, false, true, false, false, 0, 0, CVX_F32},
};
#define CONVS ((int)(sizeof convs / sizeof *convs))

/* The input with borders; also as the dtype that the level reads best. */
typedef struct conv_data {
    test_buf x, b, res;
    cvx_tensor w, packed, split;
    void *w_mem, *packed_mem, *split_mem;
} conv_data;

static void *aligned(size_t bytes)
{
    void *p = aligned_alloc(64, (bytes + 127) / 64 * 64);

    assert_non_null(p);
    return p;
}

static conv_data make_data(cvx_ctx *ctx, const conv_case *c)
{
    conv_data d;
    int64_t h = c->up2 ? c->h / 2 + 2 : (c->h - 1) * c->stride + c->k;
    int64_t w = c->up2 ? c->w / 2 + 2 : (c->w - 1) * c->stride + c->k;
    int64_t n = c->cout * c->cin * c->kt * c->k * c->k, gap = c->cin % 32 == 0 ? 0 : 3;

    d.x = TEST_RAND(1, gap, c->t + c->kt - 1 + c->ring, h, w, c->cin);
    d.b = TEST_RAND(2, 0, c->cout);
    d.res = TEST_RAND(3, 1, c->t, c->h, c->w, c->cout);
    test_buf f = TEST_RAND(4, 0, n);
    d.w_mem = aligned((size_t)n * sizeof(float));
    cvx_from_f32(d.w_mem, c->wd, f.t.data, n);
    free_buf(&f);
    d.w = CVX_VIEW(d.w_mem, c->wd, c->cout, c->cin, c->kt, c->k, c->k);
    d.packed = d.w;
    d.packed.layout = c->up2 ? CVX_PACKED_CONV_UP2 : CVX_PACKED_CONV;
    d.packed.data = d.packed_mem = aligned(cvx_packed_bytes(ctx, &d.w, d.packed.layout));
    TEST_OK(cvx_op_pack(ctx, &(cvx_pack_args){.dst = &d.packed, .src = &d.w}));
    d.split = d.x.t;
    d.split_mem = NULL;
    cvx_dtype best = cvx_conv_input(ctx, &d.packed);
    if (best != CVX_F32) {
        int64_t size = (int64_t)cvx_dtype_size(best), rows = cvx_numel(&d.x.t) / c->cin;
        d.split_mem = aligned((size_t)(rows * c->cin * size));
        d.split = cvx_view(d.split_mem, best, 4, d.x.t.dim);
        for (int64_t i = 0; i < rows; i++) {
            cvx_from_f32((char *)d.split_mem + i * c->cin * size, best,
                         (float *)d.x.t.data + i * d.x.t.stride[2], c->cin);
        }
    }
    return d;
}

static void free_data(conv_data *d)
{
    free_buf(&d->x);
    free_buf(&d->b);
    free_buf(&d->res);
    free(d->w_mem);
    free(d->packed_mem);
    free(d->split_mem);
}

static void copy_values(const cvx_tensor *to, const cvx_tensor *from)
{
    int64_t n = cvx_numel(from);

    for (int64_t i = 0; i < n; i++) {
        const int64_t *d = from->dim;
        int64_t at[4] = {i / d[3] / d[2] / d[1], i / d[3] / d[2] % d[1], i / d[3] % d[2], i % d[3]};
        int64_t u = 0, v = 0;
        for (int k = 0; k < 4; k++) {
            u += at[k] * to->stride[k];
            v += at[k] * from->stride[k];
        }
        ((float *)to->data)[u] = ((const float *)from->data)[v];
    }
}

static test_buf run_conv(cvx_ctx *ctx, const conv_case *c, const conv_data *d, const cvx_tensor *x,
                         const cvx_tensor *w)
{
    test_buf y = TEST_NEW(2, c->t, c->h, c->w, c->cout);

    if (c->in_place) {
        copy_values(&y.t, &d->res.t);
    }
    TEST_OK(cvx_op_conv3d(ctx, &(cvx_conv3d_args){.y = &y.t,
                                                  .x = x,
                                                  .w = w,
                                                  .b = c->bias ? &d->b.t : NULL,
                                                  .residual = c->in_place   ? &y.t
                                                              : c->residual ? &d->res.t
                                                                            : NULL,
                                                  .x0 = c->x0,
                                                  .stride = c->stride,
                                                  .up2 = c->up2}));
    return y;
}

static double conv_bound(const conv_case *c, cvx_dtype compute)
{
    double k = (double)(c->cin * c->kt * c->k * c->k);

    return compute == CVX_BF16 ? 0x1p-8 * sqrt(k) * 1.5 : 0x1p-24 * (k + 64);
}

static void check_close(cvx_ctx *ctx, const conv_case *c, int i, test_buf *y, const test_buf *want,
                        const char *what)
{
    double diff = test_diff(&y->t, &want->t), bound = conv_bound(c, ctx->compute);

    if (!(diff <= bound)) {
        fail_msg("%s conv case %d (%s): error %g, bound %g", ctx->ops->name, i, what, diff, bound);
    }
    free_buf(y);
}

static void conv_level(cvx_ctx *ctx, cvx_ctx *ref)
{
    for (int i = 0; i < CONVS; i++) {
        const conv_case *c = &convs[i];
        conv_data d = make_data(ctx, c);
        test_buf want = run_conv(ref, c, &d, &d.x.t, &d.w), y;

        y = run_conv(ctx, c, &d, &d.x.t, &d.packed);
        check_close(ctx, c, i, &y, &want, "packed");
        y = run_conv(ctx, c, &d, &d.x.t, &d.w);
        check_close(ctx, c, i, &y, &want, "plain");
        if (d.split_mem != NULL) {
            y = run_conv(ctx, c, &d, &d.split, &d.packed);
            check_close(ctx, c, i, &y, &want, "split");
        }
        free_buf(&want);
        free_data(&d);
    }
}

static void conv_against_ref(void **state)
{
    cvx_ctx *ref = test_open("ref", NULL, 1, CVX_F32);

    (void)state;
    for (int l = -1; l < 2 * TEST_LEVELS;
         l++) { /* ref's own packed form too; the levels in f32 and bf16 */
        cvx_ctx *ctx = l < 0 ? test_open("ref", NULL, 2, CVX_F32)
                             : test_open("cpu", test_levels[l % TEST_LEVELS], 2,
                                         l < TEST_LEVELS ? CVX_F32 : CVX_BF16);
        if (ctx != NULL) {
            conv_level(ctx, ref);
            cvx_ctx_close(ctx);
        }
    }
    cvx_ctx_close(ref);
}

/* Rows r .. r + n of the output computed alone have the bits they have in the whole. */
static void conv_bands(cvx_ctx *ctx, cvx_ctx *other, const conv_case *c, int i, bool split)
{
    conv_data d = make_data(ctx, c);
    const cvx_tensor *x = split ? &d.split : &d.x.t;
    test_buf all = run_conv(ctx, c, &d, x, &d.packed);

    for (int64_t n = c->up2 ? 2 : 1; n < c->h; n += c->up2 ? 2 : 3) {
        int64_t r = c->up2 ? (c->h - n) / 4 * 2 : (c->h - n) / 2;
        conv_case part = *c;
        conv_data e = d;
        cvx_tensor xs = cvx_slice(x, 1, c->up2 ? r / 2 : r * c->stride,
                                  c->up2 ? n / 2 + 2 : (n - 1) * c->stride + c->k);
        part.h = n;
        e.res.t = cvx_slice(&d.res.t, 1, r, n);
        test_buf y = run_conv(other, &part, &e, &xs, &d.packed);
        cvx_tensor want = cvx_slice(&all.t, 1, r, n);
        if (!test_same(&y.t, &want)) {
            fail_msg("%s conv case %d: rows %lld of %lld differ from those of the whole",
                     ctx->ops->name, i, (long long)n, (long long)c->h);
        }
        free_buf(&y);
    }
    free_buf(&all);
    free_data(&d);
}

static void conv_bits(void **state)
{
    (void)state;
    for (int l = 0; l < TEST_LEVELS; l++) {
        cvx_ctx *ctx = test_open("cpu", test_levels[l], 2, CVX_F32);
        cvx_ctx *other = test_open("cpu", test_levels[l], 3, CVX_F32);
        for (int i = 0; i < CONVS && ctx != NULL; i++) {
            conv_bands(ctx, other, &convs[i], i, false);
            conv_bands(ctx, other, &convs[i], i, true);
        }
        cvx_ctx_close(ctx);
        cvx_ctx_close(other);
    }
}

/* --- group norm --- */

typedef struct gn_case {
    int64_t t, h, w, c, groups, hz, wz;
    bool spatial, silu, in_place;
} gn_case;

static const gn_case gns[] = {
    {1, 1, 1, 4, 2, 1, 1, false, false, false}, {2, 3, 5, 12, 3, 1, 1, false, true, true},
    {3, 4, 16, 32, 8, 2, 8, true, true, false}, {2, 8, 12, 128, 32, 1, 3, true, true, false},
    {3, 2, 7, 70, 7, 2, 7, true, false, false}, {1, 5, 9, 256, 32, 1, 1, false, true, false},
};

/* Deviation about 0.6 around a mean of 3, so that squares and products lose what they lose in
 * practice. */
static void run_norm(cvx_ctx *ctx, const gn_case *c, const test_buf *y, test_buf *sums_out)
{
    static const int64_t tmap[] = {0, 1, 1};
    test_buf x = TEST_RAND(1, 1, c->t, c->h, c->w, c->c), gamma = TEST_RAND(2, 0, c->c);
    test_buf beta = TEST_RAND(3, 0, c->c), zy = TEST_RAND(4, 0, 2, c->hz, c->wz, c->c);
    test_buf zb = TEST_RAND(5, 0, 2, c->hz, c->wz, c->c);
    double *stats = malloc(64 * 2 * sizeof *stats);
    cvx_tensor sums = CVX_VIEW(sums_out->mem, CVX_F64, c->t, c->h, c->groups, 2);
    cvx_tensor st = CVX_VIEW(stats, CVX_F64, c->groups, 2);

    for (int64_t i = 0; i < cvx_numel(&x.t) / c->c; i++) {
        for (int64_t k = 0; k < c->c; k++) {
            ((float *)x.t.data)[i * (c->c + 1) + k] += 3;
        }
    }
    if (c->in_place) {
        copy_values(&y->t, &x.t);
    }
    TEST_OK(cvx_op_group_norm_stats(ctx, &(cvx_group_norm_stats_args){.sums = &sums, .x = &x.t}));
    TEST_OK(cvx_op_group_norm_finish(
        ctx, &(cvx_group_norm_finish_args){
                 .stats = &st, .sums = &sums, .count = cvx_numel(&x.t) / c->groups, .eps = 1e-6}));
    TEST_OK(
        cvx_op_group_norm_apply(ctx, &(cvx_group_norm_apply_args){.y = &y->t,
                                                                  .x = c->in_place ? &y->t : &x.t,
                                                                  .stats = &st,
                                                                  .gamma = &gamma.t,
                                                                  .beta = &beta.t,
                                                                  .zy = c->spatial ? &zy.t : NULL,
                                                                  .zb = c->spatial ? &zb.t : NULL,
                                                                  .tmap = tmap,
                                                                  .h_full = c->h,
                                                                  .silu = c->silu}));
    free(stats);
    free_buf(&x);
    free_buf(&gamma);
    free_buf(&beta);
    free_buf(&zy);
    free_buf(&zb);
}

static void norms_against_ref(void **state)
{
    cvx_ctx *ref = test_open("ref", NULL, 1, CVX_F32);

    (void)state;
    for (int l = 0; l < TEST_LEVELS; l++) {
        cvx_ctx *ctx = test_open("cpu", test_levels[l], 2, CVX_F32);
        for (size_t i = 0; i < sizeof gns / sizeof *gns && ctx != NULL; i++) {
            const gn_case *c = &gns[i];
            test_buf want = TEST_NEW(2, c->t, c->h, c->w, c->c);
            test_buf y = TEST_NEW(2, c->t, c->h, c->w, c->c);
            test_buf s = {.mem = aligned(1 << 16)}, u = {.mem = aligned(1 << 16)};
            run_norm(ref, c, &want, &s);
            run_norm(ctx, c, &y, &u);
            /* sums in f64 on both sides, in another order: 2^-52 of sums of n squares below 16 */
            int64_t n = c->t * c->h * c->groups * 2;
            for (int64_t k = 0; k < n; k++) {
                double a = ((double *)(void *)s.mem)[k], b = ((double *)(void *)u.mem)[k];
                assert_true(fabs(a - b) <= 0x1p-52 * 16 * (double)(c->w * c->c) * 4);
            }
            /* x·scale and the shift reach 4 / 0.57 · 1.8 = 13; each may be off by 2^-24 of it, then
             * the product with zy, the sum, silu: below 13·2^-24·6 */
            double diff = test_diff(&y.t, &want.t), bound = 13 * 0x1p-24 * 6;
            /* one value in a group: no deviation, rstd = 1000, and x - mean cancels to nothing */
            bound = c->t * c->h * c->w == 1 && c->c / c->groups <= 2 ? bound * 1000 : bound;
            if (!(diff <= bound)) {
                fail_msg("%s group norm case %zu: error %g, bound %g", ctx->ops->name, i, diff,
                         bound);
            }
            free(s.mem);
            free(u.mem);
            free_buf(&y);
            free_buf(&want);
        }
        cvx_ctx_close(ctx);
    }
    cvx_ctx_close(ref);
}

/* --- the others, against their definitions --- */

static void pool_time(void **state)
{
    (void)state;
    for (int64_t t = 1; t <= 5; t++) {
        cvx_ctx *ctx = test_open("cpu", NULL, 2, CVX_F32);
        test_buf x = TEST_RAND(1, 2, t, 2, 3, 5), y = TEST_NEW(1, (t + 1) / 2, 2, 3, 5);
        TEST_OK(cvx_op_avg_pool_time(ctx, &(cvx_avg_pool_time_args){.y = &y.t, .x = &x.t}));
        for (int64_t i = 0; i < (t + 1) / 2; i++) {
            int64_t from = 2 * i - t % 2;
            const float *u = (float *)x.t.data + (from < 0 ? 0 : from) * x.t.stride[0];
            const float *v = (float *)x.t.data + (from < 0 ? 0 : from + 1) * x.t.stride[0];
            float want = (float)(0.5 * ((double)u[4] + (double)v[4]));
            assert_true(((float *)y.t.data)[i * y.t.stride[0] + 4] == want);
        }
        free_buf(&x);
        free_buf(&y);
        cvx_ctx_close(ctx);
    }
}

static void split_and_back(void **state)
{
    /* the middle one needs all 24 bits; the last is below the least normal bf16 part */
    static const float special[] = {0.0f,        -0.0f, 1.0f,   0x1.fffffep0f,
                                    -3.1415927f, 1e30f, 1e-20f, 16777215.0f};
    cvx_ctx *ctx = test_open("ref", NULL, 1, CVX_F32);
    test_buf x = TEST_RAND(1, 0, 1, 2, 3, 64), y = TEST_NEW(0, 1, 2, 3, 64);
    cvx_tensor split = CVX_VIEW(aligned(6 * 64 * 6), CVX_BF16X3, 1, 2, 3, 64);

    (void)state;
    memcpy(x.t.data, special, sizeof special);
    TEST_OK(cvx_op_strided_copy(ctx, &(cvx_strided_copy_args){.y = &split, .x = &x.t}));
    TEST_OK(cvx_op_strided_copy(ctx, &(cvx_strided_copy_args){.y = &y.t, .x = &split}));
    assert_true(test_diff(&x.t, &y.t) == 0);
    free(split.data);
    free_buf(&x);
    free_buf(&y);
    cvx_ctx_close(ctx);
}

static void blend_seam(void **state)
{
    cvx_ctx *ctx = test_open("cpu", NULL, 1, CVX_F32);

    (void)state;
    for (int axis = 2; axis <= 3; axis++) {
        test_buf x = TEST_RAND(1, 2, 2, 3, 4, 5), y = TEST_RAND(2, 1, 2, 3, 4, 5);
        float at = ((float *)y.t.data)[3 * y.t.stride[2] + 3];
        float xt = ((float *)x.t.data)[3 * x.t.stride[2] + 3];
        TEST_OK(cvx_op_blend(ctx, &(cvx_blend_args){.y = &y.t, .x = &x.t, .axis = axis}));
        double f = 3.0 / (axis == 2 ? 4 : 5);
        float u = xt * (float)(1 - f), v = at * (float)f;
        assert_true(((float *)y.t.data)[3 * y.t.stride[2] + 3] == u + v);
        assert_true(((float *)y.t.data)[0] == ((float *)x.t.data)[0]);
        free_buf(&x);
        free_buf(&y);
    }
    cvx_ctx_close(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(conv_against_ref),  cmocka_unit_test(conv_bits),
        cmocka_unit_test(norms_against_ref), cmocka_unit_test(pool_time),
        cmocka_unit_test(split_and_back),    cmocka_unit_test(blend_seam),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
