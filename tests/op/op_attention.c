/* op attention: every level against ref, and the bits of a query row. */
#include "op_test.h"

typedef struct attn_case {
    int64_t b, sq, sk, h, d;
    bool bias, causal, lse;
    double scale; /* 0: 1 / sqrt(d) */
} attn_case;

static const attn_case cases[] = {
    {1, 1, 1, 1, 1, false, false, true, 0},      {1, 3, 5, 2, 8, false, false, true, 0},
    {2, 33, 17, 3, 16, true, false, false, 1.0}, {1, 97, 129, 2, 64, false, false, true, 0},
    {1, 200, 300, 1, 64, true, false, true, 0},  {2, 130, 130, 2, 40, false, true, true, 0},
    {1, 260, 260, 1, 128, true, true, false, 0}, {1, 31, 700, 2, 33, false, false, true, 3.0},
};

/* q, k, v are uniform in [-1, 1). A score is a dot product of d terms of deviation 1/3, times
 * scale: six deviations of its rounding errors as in op_linear.c (one block), and two roundings of
 * values below scale·sqrt(d); exp adds 2^-23 and the sums behind it as much: e. The output is an
 * average of values below 1 with weights each off by a factor 1 + e at most: below 2·e. bf16 rounds
 * q and k (six deviations of the score), p and v (2^-9 each). lse is off by e, and itself rounded
 * (below 8). */
static double bound_of(const attn_case *c, double scale, cvx_dtype compute)
{
    double d = (double)c->d;
    double e = 6 * 0x1p-24 * scale * d / 3 / sqrt(6) + 0x1p-24 * (4 + 2 * scale * sqrt(d));

    if (compute == CVX_BF16) {
        e += 6 * 0x1p-9 * scale * sqrt(d * 2 / 3) / 3 + 0x1p-9;
    }
    return 2 * e;
}

typedef struct attn_bufs {
    test_buf q, k, v, o, bias, lse;
} attn_bufs;

/* [b, s, h, d] as the DiT keeps it: heads side by side in a row, rows with a gap. */
static attn_bufs make_bufs(const attn_case *c)
{
    return (attn_bufs){.q = TEST_RAND(1, 3, c->b, c->sq, c->h, c->d),
                       .k = TEST_RAND(2, 0, c->b, c->sk, c->h, c->d),
                       .v = TEST_RAND(3, 1, c->b, c->sk, c->h, c->d),
                       .o = TEST_NEW(2, c->b, c->sq, c->h, c->d),
                       .bias = TEST_RAND(4, 0, c->h, c->sq, c->sk),
                       .lse = TEST_NEW(0, c->b, c->h, c->sq)};
}

static void free_bufs(attn_bufs *t)
{
    free_buf(&t->q);
    free_buf(&t->k);
    free_buf(&t->v);
    free_buf(&t->o);
    free_buf(&t->bias);
    free_buf(&t->lse);
}

static void run_case(cvx_ctx *ctx, const attn_case *c, const attn_bufs *t, double scale)
{
    TEST_OK(cvx_op_attention(ctx, &(cvx_attention_args){.o = &t->o.t,
                                                        .lse = c->lse ? &t->lse.t : NULL,
                                                        .q = &t->q.t,
                                                        .k = &t->k.t,
                                                        .v = &t->v.t,
                                                        .bias = c->bias ? &t->bias.t : NULL,
                                                        .scale = scale,
                                                        .causal = c->causal}));
}

static void check_case(cvx_ctx *ctx, const attn_case *c, const attn_bufs *want, double scale,
                       cvx_dtype compute)
{
    attn_bufs t = make_bufs(c);
    double bound = bound_of(c, scale, compute);

    run_case(ctx, c, &t, scale);
    double diff = test_diff(&t.o.t, &want->o.t);
    double lse = c->lse ? test_diff(&t.lse.t, &want->lse.t) : 0;
    if (getenv("CVX_TEST_VERBOSE") != NULL) {
        print_message("%s %s sq %lld sk %lld d %lld: error %.3g, lse %.3g, bound %.3g\n",
                      ctx->ops->name, cvx_dtype_name(compute), (long long)c->sq, (long long)c->sk,
                      (long long)c->d, diff, lse, bound);
    }
    if (!(diff <= bound) || !(lse <= bound + 0x1p-20)) { /* lse values lie below 8 */
        fail_msg("%s sq %lld sk %lld d %lld: error %g, lse %g, bound %g", ctx->ops->name,
                 (long long)c->sq, (long long)c->sk, (long long)c->d, diff, lse, bound);
    }
    free_bufs(&t);
}

static void against_ref(void **state)
{
    (void)state;
    cvx_ctx *ref = test_open("ref", NULL, 2, CVX_F32);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const attn_case *c = &cases[i];
        double scale = c->scale != 0 ? c->scale : 1 / sqrt((double)c->d);
        attn_bufs want = make_bufs(c);
        run_case(ref, c, &want, scale);
        for (int level = 0; level < 2 * TEST_LEVELS; level++) {
            cvx_dtype compute = level < TEST_LEVELS ? CVX_F32 : CVX_BF16;
            cvx_ctx *ctx = test_open("cpu", test_levels[level % TEST_LEVELS], 2, compute);
            if (ctx != NULL) {
                check_case(ctx, c, &want, scale, compute);
                cvx_ctx_close(ctx);
            }
        }
        free_bufs(&want);
    }
    cvx_ctx_close(ref);
}

/* A query row gives the same bits alone, among others, at another place, with any threads; a head
 * gives the same bits without the other heads. */
static void row_bits(void **state)
{
    (void)state;
    const attn_case c = {1, 210, 333, 3, 64, true, false, true, 0};
    for (int level = 0; level < 2 * TEST_LEVELS; level++) {
        cvx_dtype compute = level < TEST_LEVELS ? CVX_F32 : CVX_BF16;
        cvx_ctx *ctx = test_open("cpu", test_levels[level % TEST_LEVELS], 1, compute);
        if (ctx == NULL) {
            continue;
        }
        attn_bufs all = make_bufs(&c), t = make_bufs(&c);
        run_case(ctx, &c, &all, 0.125);
        for (int64_t m = 1; m <= c.sq; m += 13) {
            attn_bufs s = t;
            int64_t at = c.sq - m, head = m % 3;
            ctx->threads = 1 + (int)(m % 3);
            s.q.t = cvx_slice(&t.q.t, 1, at, m);
            s.q.t = cvx_slice(&s.q.t, 2, head, 1);
            s.k.t = cvx_slice(&t.k.t, 2, head, 1);
            s.v.t = cvx_slice(&t.v.t, 2, head, 1);
            s.o.t = cvx_slice(&t.o.t, 1, at, m);
            s.o.t = cvx_slice(&s.o.t, 2, head, 1);
            s.bias.t = cvx_slice(&t.bias.t, 1, at, m);
            s.bias.t = cvx_slice(&s.bias.t, 0, head, 1);
            s.lse.t = cvx_slice(&t.lse.t, 2, at, m);
            s.lse.t = cvx_slice(&s.lse.t, 1, head, 1);
            run_case(ctx, &c, &s, 0.125);
            cvx_tensor want = cvx_slice(&all.o.t, 1, at, m);
            want = cvx_slice(&want, 2, head, 1);
            cvx_tensor lse = cvx_slice(&all.lse.t, 2, at, m);
            lse = cvx_slice(&lse, 1, head, 1);
            assert_true(test_same(&s.o.t, &want));
            assert_true(test_same(&s.lse.t, &lse));
        }
        free_bufs(&all);
        free_bufs(&t);
        cvx_ctx_close(ctx);
    }
}

/* Scores far apart, and keys a bias of -infinity hides: no NaN, no weight where there is none. */
static void extremes(void **state)
{
    (void)state;
    const attn_case c = {1, 5, 300, 1, 16, true, false, false, 0};
    cvx_ctx *ref = test_open("ref", NULL, 1, CVX_F32);
    for (int level = 0; level < TEST_LEVELS; level++) {
        cvx_ctx *ctx = test_open("cpu", test_levels[level], 1, CVX_F32);
        if (ctx == NULL) {
            continue;
        }
        attn_bufs t = make_bufs(&c), want = make_bufs(&c);
        for (int64_t i = 0; i < c.sq * c.sk; i++) {
            float b = i % c.sk < 140 || i % 7 == 0 ? -INFINITY : (float)(i % 11) * 30.0f;
            ((float *)t.bias.t.data)[i] = ((float *)want.bias.t.data)[i] = b;
        }
        run_case(ref, &c, &want, 1);
        run_case(ctx, &c, &t, 1);
        /* scores up to 316: rounded by 2^-15, and that much the weights are off */
        assert_true(test_diff(&t.o.t, &want.o.t) <= 0x1p-14);
        free_bufs(&t);
        free_bufs(&want);
        cvx_ctx_close(ctx);
    }
    cvx_ctx_close(ref);
}

/* o and lse of keys 0 .. cut, merged with those of cut .. sk. */
static void run_halves(cvx_ctx *ctx, const attn_case *c, const attn_bufs *t, const attn_bufs *part,
                       double scale, int64_t cut)
{
    for (int i = 0; i < 2; i++) {
        attn_bufs half = i == 0 ? *t : *part;
        int64_t at = i == 0 ? 0 : cut, n = i == 0 ? cut : c->sk - cut;
        half.k.t = cvx_slice(&t->k.t, 1, at, n);
        half.v.t = cvx_slice(&t->v.t, 1, at, n);
        run_case(ctx, c, &half, scale);
    }
    TEST_OK(cvx_op_attention_merge(ctx, &(cvx_attention_merge_args){.o = &t->o.t,
                                                                    .lse = &t->lse.t,
                                                                    .part = &part->o.t,
                                                                    .part_lse = &part->lse.t}));
}

/* Keys cut in two and merged again: both halves within the bound of attention, weighted by shares that an error e
 * of a log-sum-exp moves by e / 2 at most, and three roundings more of values below 1; lse, below 8, is
 * rounded once more. */
static void merged_halves(void **state)
{
    static const attn_case of[] = {{1, 3, 5, 2, 8, false, false, true, 0},
                                   {2, 97, 129, 3, 64, false, false, true, 0},
                                   {1, 31, 300, 2, 33, false, false, true, 3.0}};
    (void)state;
    cvx_ctx *ref = test_open("ref", NULL, 2, CVX_F32);
    for (size_t i = 0; i < sizeof of / sizeof *of; i++) {
        const attn_case *c = &of[i];
        double scale = c->scale != 0 ? c->scale : 1 / sqrt((double)c->d);
        attn_bufs want = make_bufs(c);
        run_case(ref, c, &want, scale);
        for (int level = -1; level < TEST_LEVELS; level++) { /* -1: ref */
            cvx_ctx *ctx = test_open(level < 0 ? "ref" : "cpu",
                                     level < 0 ? NULL : test_levels[level], 2, CVX_F32);
            for (int64_t cut = 1; ctx != NULL && cut < c->sk; cut += 1 + c->sk / 3) {
                attn_bufs t = make_bufs(c), part = make_bufs(c);
                double bound = 2 * bound_of(c, scale, CVX_F32) + 0x1p-22;
                run_halves(ctx, c, &t, &part, scale, cut);
                assert_true(test_diff(&t.o.t, &want.o.t) <= bound);
                assert_true(test_diff(&t.lse.t, &want.lse.t) <= bound + 0x1p-19);
                free_bufs(&t);
                free_bufs(&part);
            }
            if (ctx != NULL) {
                cvx_ctx_close(ctx);
            }
        }
        free_bufs(&want);
    }
    cvx_ctx_close(ref);
}

/* Log sums far apart or huge: the greater side alone, no NaN; a row's bits do not depend on the others or on
 * threads. */
static void merged_rows(void **state)
{
    static const float lse[][2] = {{0, 0}, {200, -200}, {-300, 100}, {1e4f, 1e4f}, {1, 2}};
    (void)state;
    for (int level = -1; level < TEST_LEVELS; level++) {
        cvx_ctx *ctx =
            test_open(level < 0 ? "ref" : "cpu", level < 0 ? NULL : test_levels[level], 2, CVX_F32);
        test_buf o = TEST_RAND(1, 3, 1, 5, 2, 33), p = TEST_RAND(2, 0, 1, 5, 2, 33);
        test_buf alone = TEST_RAND(1, 3, 1, 5, 2, 33), was = TEST_RAND(1, 3, 1, 5, 2, 33);
        test_buf l[3] = {TEST_NEW(0, 1, 2, 5), TEST_NEW(0, 1, 2, 5), TEST_NEW(0, 1, 2, 5)};
        for (int i = 0; i < 10; i++) {
            ((float *)l[0].t.data)[i] = ((float *)l[2].t.data)[i] = lse[i % 5][0];
            ((float *)l[1].t.data)[i] = lse[i % 5][1];
        }
        cvx_attention_merge_args a = {&o.t, &l[0].t, &p.t, &l[1].t};
        if (ctx != NULL) {
            TEST_OK(cvx_op_attention_merge(ctx, &a));
            cvx_tensor first = cvx_slice(&o.t, 1, 1, 1), kept = cvx_slice(&was.t, 1, 1, 1);
            assert_true(test_same(&first, &kept)); /* 200 against -200 */
            cvx_tensor third = cvx_slice(&o.t, 1, 2, 1), part = cvx_slice(&p.t, 1, 2, 1);
            assert_true(test_same(&third, &part));
            assert_true(fabs((double)((float *)l[0].t.data)[3] - (1e4 + log(2.0))) <= 0x1p-10);
            ctx->threads = 1;
            for (int i = 0; i < 5; i++) {
                cvx_tensor t[4] = {cvx_slice(&alone.t, 1, i, 1), cvx_slice(&l[2].t, 2, i, 1),
                                   cvx_slice(&p.t, 1, i, 1), cvx_slice(&l[1].t, 2, i, 1)};
                TEST_OK(cvx_op_attention_merge(ctx, &(cvx_attention_merge_args){&t[0], &t[1], &t[2],
                                                                                &t[3]}));
            }
            assert_true(test_same(&alone.t, &o.t) && test_same(&l[2].t, &l[0].t));
            cvx_ctx_close(ctx);
        }
        for (int i = 0; i < 3; i++) {
            free_buf(&l[i]);
        }
        free_buf(&o);
        free_buf(&p);
        free_buf(&alone);
        free_buf(&was);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(against_ref),   cmocka_unit_test(row_bits),    cmocka_unit_test(extremes),
        cmocka_unit_test(merged_halves), cmocka_unit_test(merged_rows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
