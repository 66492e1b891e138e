/* Ops on pictures: conv2d, resize, warp, sigmoid_mix, pixel_shuffle, abs_max. Every level against ref, and the bits
 * of a part of the picture. Operands are uniform in [-1, 1). */
#include "kernels/memory.h"

#include "op_test.h"

/* ---- conv2d ----------------------------------------------------------------------------------- */

typedef struct conv_case {
    int64_t t, h, w, cin, cout;
    int stride;
    bool up2, slope, residual, act_last, outer;
    double scale;
    cvx_dtype wd;
} conv_case;

static const conv_case convs[] = {
    {1, 5, 7, 3, 64, 1, false, true, false, false, false, 0, CVX_F16},
    {1, 6, 35, 64, 64, 1, false, true, false, false, false, 0, CVX_F16},
    {2, 6, 33, 64, 48, 1, false, false, false, false, false, 0, CVX_F16},
    {1, 9, 18, 96, 32, 1, false, true, true, false, false, 0, CVX_F32},
    {1, 9, 18, 32, 64, 1, false, true, true, true, false, 0, CVX_F32},
    {1, 7, 20, 160, 64, 1, false, false, true, false, false, 0.2, CVX_F16},
    {1, 7, 20, 160, 64, 1, false, true, true, false, true, 0.2, CVX_F16},
    {1, 8, 12, 12, 32, 2, false, true, false, false, false, 0, CVX_F32},
    {1, 8, 40, 64, 128, 2, false, true, false, false, false, 0, CVX_BF16},
    {1, 8, 36, 64, 64, 1, true, true, true, false, true, 0.5, CVX_F16},
    {1, 3, 5, 7, 5, 1, false, true, true, false, true, -1.5, CVX_F32},
    {2, 13, 70, 192, 80, 1, false, true, true, false, true, 0.2, CVX_F32},
};
#define CONVS ((int)(sizeof convs / sizeof *convs))

typedef struct conv_data {
    test_buf x, b, slope, res, outer;
    cvx_tensor w, packed, split;
    void *mem[3];
} conv_data;

static void *aligned(size_t bytes)
{
    void *p = aligned_alloc(64, (bytes + 127) / 64 * 64);

    assert_non_null(p);
    return p;
}

static conv_data make_data(cvx_ctx *ctx, const conv_case *c)
{
    conv_data d = {.mem = {NULL}};
    int64_t h = c->up2 ? c->h / 2 + 2 : (c->h - 1) * c->stride + 3;
    int64_t w = c->up2 ? c->w / 2 + 2 : (c->w - 1) * c->stride + 3, n = c->cout * c->cin * 9;

    d.x = TEST_RAND(1, 0, c->t, h, w, c->cin);
    d.b = TEST_RAND(2, 0, c->cout);
    d.slope = TEST_RAND(3, 0, c->cout);
    d.res = TEST_RAND(4, 1, c->t, c->h, c->w, c->cout);
    d.outer = TEST_RAND(5, 3, c->t, c->h, c->w, c->cout);
    test_buf f = TEST_RAND(6, 0, n);
    d.mem[0] = aligned((size_t)n * sizeof(float));
    cvx_from_f32(d.mem[0], c->wd, f.t.data, n);
    free_buf(&f);
    d.w = CVX_VIEW(d.mem[0], c->wd, c->cout, c->cin, 1, 3, 3);
    d.packed = d.w;
    d.packed.layout = c->up2 ? CVX_PACKED_CONV_UP2 : CVX_PACKED_CONV;
    d.packed.data = d.mem[1] = aligned(cvx_packed_bytes(ctx, &d.w, d.packed.layout));
    TEST_OK(cvx_op_pack(ctx, &(cvx_pack_args){.dst = &d.packed, .src = &d.w}));
    d.split = d.x.t;
    cvx_dtype best = cvx_conv_input(ctx, &d.packed);
    if (best != CVX_F32) {
        d.mem[2] = aligned((size_t)cvx_numel(&d.x.t) * cvx_dtype_size(best));
        d.split = cvx_view(d.mem[2], best, 4, d.x.t.dim);
        for (int64_t i = 0; i < cvx_numel(&d.x.t) / c->cin; i++) {
            cvx_from_f32((char *)d.mem[2] + i * c->cin * (int64_t)cvx_dtype_size(best), best,
                         (float *)d.x.t.data + i * c->cin, c->cin);
        }
    }
    return d;
}

static void free_data(conv_data *d)
{
    free_buf(&d->x);
    free_buf(&d->b);
    free_buf(&d->slope);
    free_buf(&d->res);
    free_buf(&d->outer);
    for (int i = 0; i < 3; i++) {
        free(d->mem[i]);
    }
}

static void call(cvx_ctx *ctx, const conv_case *c, const conv_data *d, const cvx_tensor *y,
                 const cvx_tensor *x, const cvx_tensor *w)
{
    TEST_OK(cvx_op_conv2d(ctx, &(cvx_conv2d_args){.y = y,
                                                  .x = x,
                                                  .w = w,
                                                  .b = &d->b.t,
                                                  .slope = c->slope ? &d->slope.t : NULL,
                                                  .residual = c->residual ? &d->res.t : NULL,
                                                  .outer = c->outer ? &d->outer.t : NULL,
                                                  .scale = c->scale,
                                                  .outer_scale = 0.2,
                                                  .stride = c->stride,
                                                  .up2 = c->up2,
                                                  .act_last = c->act_last}));
}

/* As for conv3d (op_conv.c); slopes, scales and what is added are below 2 in all. */
static double conv_bound(const conv_case *c)
{
    return 2 * 0x1p-24 * (double)(c->cin * 9 + 64);
}

static void expect(cvx_ctx *ctx, const conv_case *c, int i, const test_buf *y, const test_buf *want,
                   const char *what, double times)
{
    double diff = test_diff(&y->t, &want->t), bound = times * conv_bound(c);

    if (!(diff <= bound)) {
        fail_msg("%s conv2d case %d (%s): error %g, bound %g", ctx->ops->name, i, what, diff,
                 bound);
    }
}

/* A split output holds the very bits of the f32 one. */
static void split_output(cvx_ctx *ctx, const conv_case *c, const conv_data *d,
                         const test_buf *plain)
{
    int64_t n = cvx_numel(&plain->t), rows = n / c->cout;
    cvx_tensor y = cvx_view(aligned((size_t)n * 6), CVX_BF16X3, 4, plain->t.dim);
    float *back = malloc((size_t)c->cout * sizeof *back);

    call(ctx, c, d, &y, &d->split, &d->packed);
    for (int64_t r = 0; r < rows; r++) {
        const float *want = (float *)plain->t.data + r * plain->t.stride[2];
        cvx_to_f32(back, (char *)y.data + r * c->cout * 6, CVX_BF16X3, c->cout);
        assert_memory_equal(back, want, (size_t)c->cout * sizeof *back);
    }
    free(back);
    free(y.data);
}

/* Rows r .. of the output alone have the bits they have in the whole. */
static void band(cvx_ctx *ctx, const conv_case *c, const conv_data *d, const test_buf *all,
                 int64_t r)
{
    int64_t n = c->h - r;
    conv_case part = *c;
    conv_data e = *d;
    test_buf y = TEST_NEW(0, c->t, n, c->w, c->cout);

    part.h = n;
    e.split = cvx_slice(&d->split, 1, c->up2 ? r / 2 : r * c->stride,
                        c->up2 ? n / 2 + 2 : (n - 1) * c->stride + 3);
    e.res.t = cvx_slice(&d->res.t, 1, r, n);
    e.outer.t = cvx_slice(&d->outer.t, 1, r, n);
    call(ctx, &part, &e, &y.t, &e.split, &d->packed);
    cvx_tensor same = cvx_slice(&all->t, 1, r, n);
    assert_true(test_same(&y.t, &same));
    free_buf(&y);
}

/* The weight packed for whole pictures. Winograd's sums: with the points of winograd.inc.h an output's rounding has, by
 * row of A^T, the norm sqrt(sum over j of (A_ij |G_j| |B_j|)^2) <= 4.63 on either axis, where a plain sum of three taps has
 * sqrt(3): 21.4 / 3 < 7.2 times as much. The bits do not depend on threads, and whole tiles from row 4 on have them alone. */
static void as_picture(cvx_ctx *ctx, const conv_case *c, int i, const conv_data *d,
                       const test_buf *want)
{
    test_buf y = TEST_NEW(2, c->t, c->h, c->w, c->cout);
    test_buf z = TEST_NEW(2, c->t, c->h, c->w, c->cout);
    const char *name = ctx->ops->name;
    cvx_ctx *one = strcmp(name, "ref") == 0    ? test_open("ref", NULL, 1, CVX_F32)
                   : strcmp(name, "cuda") == 0 ? test_open("cuda", "cuda", 1, CVX_F32)
                                               : test_open("cpu", name + 4, 1, CVX_F32);
    conv_data e = *d;

    e.packed.layout = CVX_PACKED_PICTURE;
    e.packed.data = aligned(cvx_packed_bytes(ctx, &d->w, e.packed.layout));
    TEST_OK(cvx_op_pack(ctx, &(cvx_pack_args){.dst = &e.packed, .src = &d->w}));
    call(ctx, c, &e, &y.t, &d->x.t, &e.packed);
    expect(ctx, c, i, &y, want, "picture", 7.2);
    call(one, c, &e, &z.t, &d->x.t, &e.packed);
    assert_true(test_same(&y.t, &z.t));
    e.split = d->x.t;
    if (c->h > 4) {
        band(ctx, c, &e, &y, 4);
    }
    free(e.packed.data);
    cvx_ctx_close(one);
    free_buf(&y);
    free_buf(&z);
}

static void conv_level(cvx_ctx *ctx, cvx_ctx *ref)
{
    for (int i = 0; i < CONVS; i++) {
        const conv_case *c = &convs[i];
        conv_data d = make_data(ctx, c);
        test_buf want = TEST_NEW(0, c->t, c->h, c->w, c->cout);
        test_buf y = TEST_NEW(2, c->t, c->h, c->w, c->cout);

        call(ref, c, &d, &want.t, &d.x.t, &d.w);
        call(ctx, c, &d, &y.t, &d.x.t, &d.w);
        expect(ctx, c, i, &y, &want, "plain", 1);
        call(ctx, c, &d, &y.t, &d.x.t, &d.packed);
        expect(ctx, c, i, &y, &want, "packed", 1);
        call(ctx, c, &d, &y.t, &d.split, &d.packed);
        expect(ctx, c, i, &y, &want, "split", 1);
        if (d.mem[2] != NULL && c->cout % 32 == 0) {
            split_output(ctx, c, &d, &y);
        }
        if (c->h % 2 == 0 || !c->up2) {
            band(ctx, c, &d, &y, 2);
        }
        if (c->stride == 1 && !c->up2) {
            as_picture(ctx, c, i, &d, &want);
        }
        free_buf(&want);
        free_buf(&y);
        free_data(&d);
    }
}

/* ---- the others ------------------------------------------------------------------------------- */

/* Positions below 64 with 24 bits, weights and values below 1: some 2^-18 of each. */
#define BOUND 0x1p-16

static void resize_level(cvx_ctx *ctx, cvx_ctx *ref)
{
    static const struct {
        int64_t h, w, to_h, to_w, c;
        double step;
        bool cubic, add;
    } cases[] = {
        {8, 12, 8, 12, 4, 1, false, false},     {16, 24, 2, 3, 4, 8, false, false},
        {16, 24, 8, 12, 3, 2, false, true},     {2, 3, 32, 48, 5, 0.0625, false, true},
        {4, 6, 8, 12, 1, 0.5, false, false},    {12, 20, 6, 10, 3, 2, true, false},
        {8, 12, 6, 9, 3, 4.0 / 3, true, false}, {1, 1, 4, 4, 2, 0.25, false, false},
        {9, 7, 3, 2, 12, 3, false, false},      {2, 2, 1, 1, 3, 2, true, false},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        test_buf x = TEST_RAND(1, 2, cases[i].h, cases[i].w, cases[i].c);
        test_buf y = TEST_RAND(2, 3, cases[i].to_h, cases[i].to_w, cases[i].c);
        test_buf z = TEST_RAND(2, 1, cases[i].to_h, cases[i].to_w, cases[i].c);
        cvx_resize_args a = {.y = &y.t,
                             .x = &x.t,
                             .step = cases[i].step,
                             .gain = 0.75,
                             .cubic = cases[i].cubic,
                             .add = cases[i].add};
        TEST_OK(cvx_op_resize(ctx, &a));
        a.y = &z.t;
        TEST_OK(cvx_op_resize(ref, &a));
        assert_true(test_diff(&y.t, &z.t) < BOUND);
        free_buf(&x);
        free_buf(&y);
        free_buf(&z);
    }
}

static void scale_flow(float *p, void *payload)
{
    (void)payload;
    *p *= 12;
}

static void warp_level(cvx_ctx *ctx, cvx_ctx *ref)
{
    for (int64_t c = 1; c <= 5; c++) {
        test_buf x = TEST_RAND(1, 2, 9, 14, c), flow = TEST_RAND(2, 1, 9, 14, 2);
        test_buf y = TEST_NEW(0, 9, 14, c), z = TEST_NEW(1, 9, 14, c);
        test_each(&flow.t, scale_flow, NULL); /* many lie outside of the picture */
        ((float *)flow.t.data)[0] = NAN;
        ((float *)flow.t.data)[flow.t.stride[1]] = 1e30f;
        TEST_OK(cvx_op_warp(ctx, &(cvx_warp_args){.y = &y.t, .x = &x.t, .flow = &flow.t}));
        TEST_OK(cvx_op_warp(ref, &(cvx_warp_args){.y = &z.t, .x = &x.t, .flow = &flow.t}));
        assert_true(test_diff(&y.t, &z.t) < BOUND);
        free_buf(&x);
        free_buf(&flow);
        free_buf(&y);
        free_buf(&z);
    }
}

static void mix_level(cvx_ctx *ctx, cvx_ctx *ref)
{
    test_buf a = TEST_RAND(1, 2, 5, 37, 3), b = TEST_RAND(2, 0, 5, 37, 3);
    test_buf m = TEST_RAND(3, 1, 5, 37, 1), y = TEST_NEW(1, 5, 37, 3), z = TEST_NEW(0, 5, 37, 3);

    test_each(&m.t, scale_flow, NULL);
    ((float *)m.t.data)[0] = 200;
    ((float *)m.t.data)[m.t.stride[1]] = -200;
    cvx_sigmoid_mix_args args = {.y = &y.t, .a = &a.t, .b = &b.t, .mask = &m.t};
    TEST_OK(cvx_op_sigmoid_mix(ctx, &args));
    args.y = &z.t;
    TEST_OK(cvx_op_sigmoid_mix(ref, &args));
    assert_true(test_diff(&y.t, &z.t) < 0x1p-21); /* a few roundings of values below 1 */
    assert_true(*(float *)y.t.data == *(float *)a.t.data);
    free_buf(&a);
    free_buf(&b);
    free_buf(&m);
    free_buf(&y);
    free_buf(&z);
}

static void shuffle_level(cvx_ctx *ctx, cvx_ctx *ref)
{
    for (int64_t n = 1; n <= 4; n++) {
        for (int base = 0; base < 2; base++) {
            test_buf x = TEST_RAND(1, 1, 3, 5, 3 * n * n), b = TEST_RAND(2, 2, 3, 5, 3);
            test_buf y = TEST_NEW(1, 3 * n, 5 * n, 3), z = TEST_NEW(0, 3 * n, 5 * n, 3);
            cvx_pixel_shuffle_args a = {.y = &y.t, .x = &x.t, .base = base ? &b.t : NULL, .n = n};
            TEST_OK(cvx_op_pixel_shuffle(ctx, &a));
            a.y = &z.t;
            TEST_OK(cvx_op_pixel_shuffle(ref, &a));
            assert_true(test_same(&y.t, &z.t));
            free_buf(&x);
            free_buf(&b);
            free_buf(&y);
            free_buf(&z);
        }
    }
}

static void max_level(cvx_ctx *ctx)
{
    test_buf x = TEST_RAND(1, 2, 7, 9, 4);
    float most = -1;

    ((float *)x.t.data)[3 * x.t.stride[0] + 5 * x.t.stride[1] + 2] = -7.5f;
    TEST_OK(cvx_op_abs_max(ctx, &(cvx_abs_max_args){.x = &x.t, .out = &most}));
    assert_true(most == 7.5f);
    free_buf(&x);
}

/* Splitting and putting together again, on rows of any place. */
static void copy_level(cvx_ctx *ctx)
{
    test_buf x = TEST_RAND(1, 0, 2, 3, 5, 96), y = TEST_NEW(3, 2, 3, 5, 96);
    cvx_tensor split = CVX_VIEW(aligned(2 * 3 * 5 * 96 * 6), CVX_BF16X3, 2, 3, 5, 96);

    if (cvx_ctx_has_device(ctx)) { /* the type is the CPU's own */
        assert_int_equal(cvx_op_strided_copy(ctx, &(cvx_strided_copy_args){.y = &split, .x = &x.t}),
                         CVX_EUNSUPPORTED);
        free(split.data);
        free_buf(&y);
        free_buf(&x);
        return;
    }
    TEST_OK(cvx_op_strided_copy(ctx, &(cvx_strided_copy_args){.y = &split, .x = &x.t}));
    TEST_OK(cvx_op_strided_copy(ctx, &(cvx_strided_copy_args){.y = &y.t, .x = &split}));
    assert_true(test_same(&x.t, &y.t));
    free(split.data);
    free_buf(&x);
    free_buf(&y);
}

static void on_level(const char *isa)
{
    cvx_ctx *ref = test_open("ref", NULL, 1, CVX_F32);
    cvx_ctx *ctx =
        isa == NULL ? test_open("ref", NULL, 2, CVX_F32) : test_open("cpu", isa, 2, CVX_F32);

    if (ctx != NULL) {
        conv_level(ctx, ref);
        resize_level(ctx, ref);
        warp_level(ctx, ref);
        mix_level(ctx, ref);
        shuffle_level(ctx, ref);
        max_level(ctx);
        copy_level(ctx);
    }
    cvx_ctx_close(ctx);
    cvx_ctx_close(ref);
}

static void every_level(void **state)
{
    (void)state;
    on_level(NULL);
    for (int l = 0; l < TEST_LEVELS; l++) {
        on_level(test_levels[l]);
    }
}

/* The definition itself, by numbers that torch gave: interpolate(arange(4), scale_factor=2) and, cubic, =0.5. */
static void known_numbers(void **state)
{
    static const float twice[8] = {0, 0.25f, 0.75f, 1.25f, 1.75f, 2.25f, 2.75f, 3};
    cvx_ctx *ref = test_open("ref", NULL, 1, CVX_F32);
    test_buf x = TEST_NEW(0, 1, 4, 1), y = TEST_NEW(0, 1, 8, 1), z = TEST_NEW(0, 1, 2, 1);

    (void)state;
    for (int i = 0; i < 4; i++) {
        ((float *)x.t.data)[i] = (float)i;
    }
    TEST_OK(cvx_op_resize(ref, &(cvx_resize_args){.y = &y.t, .x = &x.t, .step = 0.5, .gain = 1}));
    assert_memory_equal(y.t.data, twice, sizeof twice);
    TEST_OK(cvx_op_resize(
        ref, &(cvx_resize_args){.y = &z.t, .x = &x.t, .step = 2, .gain = 1, .cubic = true}));
    /* taps (-3, 19, 19, -3) / 32 of (0, 0, 1, 2) and (1, 2, 3, 3) */
    assert_true(((float *)z.t.data)[0] == 13.0f / 32);
    assert_true(((float *)z.t.data)[1] == 83.0f / 32);
    free_buf(&x);
    free_buf(&y);
    free_buf(&z);
    cvx_ctx_close(ref);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_level),
                                       cmocka_unit_test(known_numbers)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
