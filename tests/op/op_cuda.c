/* Every op of the GPU's table beside ref, also in the types that only a GPU has: activations in bf16, weights in
 * 8-bit floats. Without a device each op says SKIP. What all levels have in common is in the other op tests, whose
 * list of levels has the GPU too. */
#include "values.h"

#include "kernels/cuda/cuda.h"
#include "kernels/memory.h"
#include "kernels/transfer.h"

/* One op on both backends: operands of the GPU's, and the same in f32 for ref. */
typedef struct both {
    cvx_ctx *gpu, *ref;
    cvx_dtype t; /* of activations */
} both;

static void expect(const char *op, const cvx_tensor *got, const cvx_tensor *want, double bound)
{
    double d = difference(got, want);

    if (!(d <= bound)) {
        fail_msg("cuda %s: error %g, bound %g", op, d, bound);
    }
}

/* A result of type t: the rounding to it beside the op's own error e. */
static double rounded(const both *b, double e)
{
    return (b->t == CVX_BF16 ? 0x1p-8 : 0) + e;
}

static void check_linear(const both *b)
{
    enum { M = 70, K = 192, N = 136 };
    cvx_tensor x = MAKE(b->t, 1, M, K), w = MAKE(CVX_F32, 2, N, K), bias = MAKE(CVX_F32, 3, N);
    cvx_tensor gate = MAKE(CVX_F32, 4, 2, N), res = MAKE(CVX_F32, 5, M, N),
               y = MAKE(CVX_F32, 6, M, N);
    cvx_tensor h = MAKE(b->t, 7, M, N), xf = widen(&x), want = MAKE(CVX_F32, 8, M, N);
    cvx_linear_args a = {.x = &x, .w = &w, .b = &bias},
                    r = {.x = &xf, .w = &w, .b = &bias, .y = &want};
    /* op_linear.c derives these: sums of K products of deviation 1/3, operands rounded to bf16 */
    double sum = 6 * 0x1p-24 / 3 * K + (b->gpu->compute == CVX_BF16 ? 6 * 0x1p-9 * sqrt(K) / 3 : 0);

    a.y = &y, a.gate = r.gate = &gate, a.residual = r.residual = &res;
    a.text_rows = r.text_rows = 9, a.period = r.period = 35;
    TEST_OK(cvx_op_linear(b->gpu, &a));
    TEST_OK(cvx_op_linear(b->ref, &r));
    expect("linear with gate and residual", &y, &want, 2 * sum);
    a.y = &h, a.gate = a.residual = r.gate = r.residual = NULL;
    a.act = r.act = CVX_ACT_GELU_TANH;
    TEST_OK(cvx_op_linear(b->gpu, &a));
    TEST_OK(cvx_op_linear(b->ref, &r));
    /* the library's gelu takes the hardware's tanh, which errs by 2^-11 */
    expect("linear with gelu", &h, &want, rounded(b, 2 * sum + 0x1p-10));
    cvx_tensor *all[] = {&x, &w, &bias, &gate, &res, &y, &h, &xf, &want};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        free(all[i]->data);
    }
}

/* Weights and rows in e4m3: each operand off by 2^-4 of itself at most, deviation 2^-4 / sqrt(3) / 1.4 on average over
 * the values between two powers; products of K pairs, six of them. */
static void check_fp8(const both *b)
{
    enum { M = 64, K = 256, N = 128 };
    cvx_tensor x = MAKE(b->t, 1, M, K), w = MAKE(CVX_F32, 2, N, K), y = MAKE(CVX_F32, 3, M, N);
    char *row = (char *)x.data + 5 * K * cvx_dtype_size(x.dtype);

    for (int i = 0; i < K; i++) { /* a row so small that a scale of its own has no reciprocal */
        float v = i % 2 == 0 ? 0 : 1e-38f;
        cvx_from_f32(row + (size_t)i * cvx_dtype_size(x.dtype), x.dtype, &v, 1);
    }
    cvx_tensor want = MAKE(CVX_F32, 4, M, N), xf = widen(&x), p = w;

    p.layout = CVX_PACKED_LINEAR_F8;
    p.data = malloc(cvx_packed_bytes(b->gpu, &w, p.layout));
    if (cvx_op_pack(b->gpu, &(cvx_pack_args){.dst = &p, .src = &w}) == CVX_EUNSUPPORTED) {
        print_message("SKIP cuda fp8: %s\n", cvx_error());
    } else {
        TEST_OK(cvx_op_linear(b->gpu, &(cvx_linear_args){.y = &y, .x = &x, .w = &p}));
        TEST_OK(cvx_op_linear(b->ref, &(cvx_linear_args){.y = &want, .x = &xf, .w = &w}));
        expect("linear in fp8", &y, &want, 6 * 0x1p-4 / sqrt(3) / 3 * sqrt(2.0 * K));
    }
    cvx_tensor *all[] = {&x, &w, &y, &want, &xf, &p};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        free(all[i]->data);
    }
}

static void check_norms(const both *b)
{
    enum { M = 50, C = 1920 };
    cvx_tensor x = MAKE(CVX_F32, 1, M, C), y = MAKE(b->t, 2, M, C), want = MAKE(CVX_F32, 3, M, C);
    cvx_tensor g = MAKE(CVX_F32, 4, C), s = MAKE(CVX_F32, 5, 2, C), t = MAKE(CVX_F32, 6, 2, C);
    cvx_layer_norm_args a = {.y = &y, .x = &x, .gamma = &g, .beta = &g, .scale = &s, .shift = &t};
    cvx_rms_norm_args m = {.y = &y, .x = &x, .gamma = &g, .eps = 1e-6};

    a.text_rows = 7, a.period = 25, a.eps = 1e-5;
    TEST_OK(cvx_op_layer_norm(b->gpu, &a));
    a.y = &want;
    TEST_OK(cvx_op_layer_norm(b->ref, &a));
    /* a dozen roundings of values below 8 */
    expect("layer_norm", &y, &want, rounded(b, 12 * 8 * 0x1p-24));
    TEST_OK(cvx_op_rms_norm(b->gpu, &m));
    m.y = &want;
    TEST_OK(cvx_op_rms_norm(b->ref, &m));
    expect("rms_norm", &y, &want, rounded(b, 12 * 8 * 0x1p-24));
    cvx_tensor *all[] = {&x, &y, &want, &g, &s, &t};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        free(all[i]->data);
    }
}

static void check_rope(const both *b)
{
    cvx_tensor x = MAKE(b->t, 1, 2, 40, 3, 64), want = widen(&x), g = MAKE(CVX_F32, 2, 64);
    cvx_tensor cs = MAKE(CVX_F32, 3, 50, 64), sn = MAKE(CVX_F32, 4, 50, 64);
    cvx_qk_norm_rope_args a = {
        .x = &x, .gamma = &g, .beta = &g, .cos = &cs, .sin = &sn, .text_rows = 5};

    a.rope_row0 = 3, a.eps = 1e-6;
    TEST_OK(cvx_op_qk_norm_rope(b->gpu, &a));
    a.x = &want;
    TEST_OK(cvx_op_qk_norm_rope(b->ref, &a));
    expect("qk_norm_rope", &x, &want, rounded(b, 16 * 4 * 0x1p-24));
    free(x.data), free(want.data), free(g.data), free(cs.data), free(sn.data);
}

/* Scores of deviation 1/3·sqrt(64)/8: far below 4, so a softmax's weights move by what scores do. */
static void check_attention(const both *b)
{
    cvx_tensor t[4], f[4], lse = MAKE(CVX_F32, 9, 2, 3, 333), want = MAKE(CVX_F32, 9, 2, 3, 333);
    double e = b->gpu->compute == CVX_BF16 ? 0x1p-7 : 0x1p-19;

    for (int i = 0; i < 4; i++) {
        t[i] = MAKE(b->t, (uint32_t)i, 2, 333, 3, 64);
        f[i] = widen(&t[i]);
    }
    TEST_OK(cvx_op_attention(
        b->gpu, &(cvx_attention_args){
                    .q = &t[0], .k = &t[1], .v = &t[2], .o = &t[3], .lse = &lse, .scale = 0.125}));
    TEST_OK(cvx_op_attention(
        b->ref, &(cvx_attention_args){
                    .q = &f[0], .k = &f[1], .v = &f[2], .o = &f[3], .lse = &want, .scale = 0.125}));
    expect("attention", &t[3], &f[3], rounded(b, e));
    expect("attention's lse", &lse, &want, e);
    TEST_OK(cvx_op_attention_merge(b->gpu, &(cvx_attention_merge_args){&t[3], &lse, &t[0], &want}));
    f[3] = (free(f[3].data), widen(&t[3]));
    for (int i = 0; i < 4; i++) {
        free(t[i].data);
        free(f[i].data);
    }
    free(lse.data), free(want.data);
}

/* What is only moved or follows f32's rules to the bit. */
static void check_exact(const both *b)
{
    cvx_tensor x = MAKE(CVX_F32, 1, 2, 4, 6, 8, 12), y = MAKE(CVX_F32, 2, 2, 48, 48);
    cvx_tensor want = MAKE(CVX_F32, 2, 2, 48, 48), back = MAKE(CVX_F32, 3, 2, 4, 6, 8, 12);
    cvx_tensor a = MAKE(CVX_F32, 4, 3, 4, 5, 7), c = MAKE(CVX_F32, 5, 3, 4, 5, 7),
               d = MAKE(CVX_F32, 5, 3, 4, 5, 7);
    cvx_tensor flat = CVX_RESHAPE(&a, 420), one = CVX_RESHAPE(&c, 420), two = CVX_RESHAPE(&d, 420);
    cvx_sched_step_args s = {
        .prev = &one, .sample = &one, .cond = &flat, .uncond = &one, .old_x0 = &flat};
    const int32_t ids[] = {5, 0, 2};
    cvx_tensor table = MAKE(CVX_BF16, 7, 6, 35), rows = MAKE(CVX_F32, 8, 3, 35),
               rows2 = MAKE(CVX_F32, 8, 3, 35);
    cvx_ctx *ctx[] = {b->gpu, b->ref};
    cvx_tensor *out[][4] = {{&y, &c, &one, &rows}, {&want, &d, &two, &rows2}};

    for (int i = 0; i < 2; i++) {
        cvx_patchify_args p = {.y = out[i][0], .x = &x, .p = 2, .pt = 2, .row0 = 0};
        TEST_OK(cvx_op_patchify(ctx[i], &p));
        TEST_OK(cvx_op_blend(ctx[i], &(cvx_blend_args){.y = out[i][1], .x = &a, .axis = 2}));
        TEST_OK(cvx_op_add(ctx[i], &(cvx_add_args){.y = out[i][1], .a = out[i][1], .b = &a}));
        s.prev = s.sample = s.uncond = out[i][2];
        s.guidance = 6.3;
        for (int k = 0; k < 7; k++) {
            s.c[k] = 0.1f * (float)(k + 1);
        }
        TEST_OK(cvx_op_sched_step(ctx[i], &s));
        TEST_OK(
            cvx_op_embed(ctx[i], &(cvx_embed_args){.y = out[i][3], .table = &table, .ids = ids}));
    }
    expect("patchify", &y, &want, 0);
    expect("blend, add, sched_step", &c, &d, 0);
    expect("embed", &rows, &rows2, 0);
    TEST_OK(
        cvx_op_unpatchify(b->gpu, &(cvx_unpatchify_args){.y = &back, .x = &y, .p = 2, .pt = 2}));
    expect("unpatchify", &back, &x, 0);
    cvx_tensor *all[] = {&x, &y, &want, &back, &a, &c, &d, &table, &rows, &rows2};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        free(all[i]->data);
    }
}

/* A transpose, a plain copy with gaps, frames averaged, silu times a factor. */
static void check_copies(const both *b)
{
    cvx_tensor x = MAKE(b->t, 1, 3, 4, 6, 8), y = MAKE(b->t, 2, 3, 8, 4, 6), turned = y;
    cvx_tensor f = MAKE(CVX_F32, 3, 5, 2, 3, 5), p = MAKE(CVX_F32, 4, 3, 2, 3, 5),
               q = MAKE(CVX_F32, 4, 3, 2, 3, 5);
    cvx_tensor g = MAKE(b->t, 5, 30, 16), h = MAKE(b->t, 6, 30, 16), u = widen(&g), v = widen(&h);

    turned.dim[1] = 4, turned.dim[2] = 6, turned.dim[3] = 8; /* as [3, 4, 6, 8] */
    turned.stride[1] = 6, turned.stride[2] = 1, turned.stride[3] = 24;
    TEST_OK(cvx_op_strided_copy(b->gpu, &(cvx_strided_copy_args){.y = &turned, .x = &x}));
    cvx_tensor from = widen(&x), to = widen(&y);
    for (int64_t i = 0; i < cvx_numel(&x); i++) {
        int64_t l = i % 8, k = i / 8 % 6, j = i / 48 % 4, n = i / 192;
        assert_true(((float *)to.data)[((n * 8 + l) * 4 + j) * 6 + k] == ((float *)from.data)[i]);
    }
    TEST_OK(cvx_op_avg_pool_time(b->gpu, &(cvx_avg_pool_time_args){.y = &p, .x = &f}));
    TEST_OK(cvx_op_avg_pool_time(b->ref, &(cvx_avg_pool_time_args){.y = &q, .x = &f}));
    expect("avg_pool_time", &p, &q, 0);
    TEST_OK(cvx_op_gated_act(b->gpu, &(cvx_gated_act_args){&g, &g, &h, CVX_ACT_SILU}));
    TEST_OK(cvx_op_gated_act(b->ref, &(cvx_gated_act_args){&u, &u, &v, CVX_ACT_SILU}));
    expect("gated_act", &g, &u, rounded(b, 8 * 0x1p-24));
    cvx_tensor *all[] = {&x, &y, &f, &p, &q, &g, &h, &u, &v, &from, &to};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        free(all[i]->data);
    }
}

/* Weights that are still in host memory, larger than any scratch so far: what is made of them displaces nothing. */
static void check_host_weights(const both *b)
{
    enum { C = 256 };
    cvx_tensor x = MAKE(CVX_F32, 1, 1, 3, 3, C), y = MAKE(CVX_F32, 2, 1, 1, 1, C), want = widen(&y);
    cvx_tensor w = MAKE(CVX_F32, 3, C, C, 1, 3, 3), host = w;
    size_t bytes = (size_t)cvx_numel(&w) * sizeof(float);
    cvx_conv2d_args a = {.y = &y, .x = &x, .w = &host, .stride = 1};

    host.data = (malloc)(bytes); /* not the device's: see shared_memory.h */
    assert_non_null(host.data);
    memcpy(host.data, w.data, bytes);
    TEST_OK(cvx_op_conv2d(b->gpu, &a));
    a.y = &want, a.w = &w;
    TEST_OK(cvx_op_conv2d(b->ref, &a));
    /* 9·C products of deviation 1/3; operands rounded to bf16, as op_conv.c has it */
    double k = 9 * C;
    expect("conv2d", &y, &want,
           b->gpu->compute == CVX_BF16 ? 0x1p-8 * sqrt(k) * 1.5 : 0x1p-24 * (k + 64));
    (free)(host.data);
    free(x.data), free(y.data), free(want.data), free(w.data);
}

static void beside_ref(void **state)
{
    (void)state;
    for (int i = 0; i < 3; i++) { /* f32; bf16 products of f32 values; bf16 values too */
        both b = {.t = i == 2 ? CVX_BF16 : CVX_F32};
        b.gpu = test_open("cuda", "cuda", 1, i == 0 ? CVX_F32 : CVX_BF16);
        if (b.gpu == NULL) {
            return;
        }
        b.ref = test_open("ref", NULL, 2, CVX_F32);
        check_host_weights(&b);
        check_linear(&b);
        check_fp8(&b);
        check_norms(&b);
        check_rope(&b);
        check_attention(&b);
        check_exact(&b);
        check_copies(&b);
        cvx_ctx_close(b.ref);
        cvx_ctx_close(b.gpu);
    }
}

/* The table has no hole, and each op tells that it is not tried where there is no device. */
static void every_op(void **state)
{
    (void)state;
    char what[160];
    bool usable = cvx_cuda_usable(what);
    cvx_ctx *ctx = usable ? test_open("cuda", "cuda", 1, CVX_F32) : NULL;

#define CVX_OP(op)                                                                                 \
    if (ctx == NULL) {                                                                             \
        print_message("SKIP cuda %s: %s\n", #op, what);                                            \
    } else {                                                                                       \
        assert_true(ctx->ops->op != NULL);                                                         \
    }
#include "kernels/ops.def"
#undef CVX_OP
    cvx_ctx_close(ctx);
}

/* An arena grows as it is used, and what is given back is there for the next one. */
static void arenas(void **state)
{
    (void)state;
    char what[160];
    cvx_ctx *ctx = NULL;
    cvx_arena a, b;
    void *p, *q;

    if (!cvx_cuda_usable(what)) {
        print_message("SKIP cuda arenas: %s\n", what);
        return;
    }
    unsetenv("CVX_CUDA_MEMORY");
    TEST_OK(cvx_ctx_open(&ctx, &(cvx_ctx_options){.backend = "cuda"}));
    setenv("CVX_CUDA_MEMORY", "managed", 1);
    TEST_OK(cvx_ctx_arena(ctx, &a, "one", (size_t)1 << 36));
    TEST_OK(cvx_arena_alloc(&a, &p, (size_t)100 << 20));
    size_t held = cvx_ctx_peak(ctx);
    assert_true(held >= (size_t)100 << 20 && held < (size_t)200 << 20);
    cvx_arena_release(&a, 0, true);
    TEST_OK(cvx_ctx_arena(ctx, &b, "two", (size_t)1 << 36));
    TEST_OK(cvx_arena_alloc(&b, &q, (size_t)100 << 20));
    assert_true(cvx_ctx_peak(ctx) == held); /* the same memory */
    cvx_tensor t = CVX_VIEW(q, CVX_F32, 1000);
    float in[1000], out[1000];
    for (int i = 0; i < 1000; i++) {
        in[i] = (float)i;
    }
    cvx_arena_write(&b, q, in, sizeof in);
    cvx_host_values v;
    TEST_OK(cvx_host_open(ctx, &v, &t, true));
    memcpy(out, v.data, sizeof out);
    cvx_host_close(ctx, &v, &t, false);
    assert_memory_equal(in, out, sizeof in);
    cvx_arena_close(&b);
    cvx_arena_close(&a);
    cvx_ctx_close(ctx);
}

/* Values by way of the arena to t and from there to out. */
static void put(cvx_arena *a, const cvx_tensor *t, const float *v)
{
    cvx_arena_write(a, t->data, v, (size_t)cvx_numel(t) * sizeof *v);
}

static void get(cvx_ctx *ctx, const cvx_tensor *t, float *out)
{
    cvx_host_values v;

    TEST_OK(cvx_host_open(ctx, &v, t, true));
    memcpy(out, v.data, (size_t)cvx_numel(t) * sizeof *out);
    cvx_host_close(ctx, &v, t, false);
}

/* Six steps y = x·wᵀ + b with another x in each; w doubles. From the third on a step is a graph if w is the device's. A
 * host's weight, which the op brings over by itself, must not get into a graph, nor leave the copies that follow unusable. others: between the
 * steps an op with so many rows that the scratch memory, which a graph's kernels use, moves. */
static void repeated(cvx_ctx *ctx, cvx_arena *a, const cvx_tensor *w, bool others)
{
    enum { M = 3, N = 40 };
    float in[M * N], out[M * N], zero[N] = {0};
    void *p, *q, *r;

    TEST_OK(cvx_arena_alloc(a, &p, sizeof in));
    TEST_OK(cvx_arena_alloc(a, &q, sizeof out));
    TEST_OK(cvx_arena_alloc(a, &r, sizeof zero));
    cvx_tensor x = CVX_VIEW(p, CVX_F32, M, N), y = CVX_VIEW(q, CVX_F32, M, N),
               b = CVX_VIEW(r, CVX_F32, N);
    put(a, &b, zero);
    for (int step = 0; step < 6; step++) {
        bool again = true;
        if (others && step % 2 == 0) {
            int64_t rows = 5000 * (step + 1);
            void *from, *to;
            TEST_OK(cvx_arena_alloc(a, &from, (size_t)(rows * N) * sizeof(float)));
            TEST_OK(cvx_arena_alloc(a, &to, (size_t)(rows * N) * sizeof(float)));
            cvx_tensor u = CVX_VIEW(from, CVX_F32, rows, N), v = CVX_VIEW(to, CVX_F32, rows, N);
            cvx_zero(ctx, &u);
            TEST_OK(cvx_op_linear(ctx, &(cvx_linear_args){.y = &v, .x = &u, .w = w, .b = &b}));
        }
        for (int i = 0; i < M * N; i++) {
            in[i] = (float)(i % 7 + step);
        }
        for (int tries = 0; again; tries++) {
            assert_true(tries < 2);
            cvx_step_begin(ctx);
            cvx_upload(
                ctx, &x,
                in); /* as the transformer does: an arena's own writes keep a step from being captured */
            cvx_status st =
                cvx_op_linear(ctx, &(cvx_linear_args){.y = &y, .x = &x, .w = w, .b = &b});
            TEST_OK(cvx_step_end(ctx, st, &again));
        }
        get(ctx, &y, out);
        for (int i = 0; i < M * N; i++) {
            assert_true(out[i] == 2 * in[i]);
        }
    }
}

static void graphs(void **state)
{
    (void)state;
    enum { N = 40 };
    char what[160];
    float *doubles = calloc(N * N, sizeof *doubles), *host = (malloc)(N * N * sizeof *host);
    cvx_ctx *ctx = NULL;
    cvx_arena a;
    void *p;

    assert_true(doubles != NULL && host != NULL);
    for (int i = 0; i < N; i++) {
        doubles[i * N + i] = 2;
    }
    memcpy(host, doubles, N * N * sizeof *host);
    for (int k = 0; k < 3 && cvx_cuda_usable(what); k++) {
        unsetenv("CVX_CUDA_MEMORY");
        setenv("CVX_CUDA_GRAPH", "1", 1);
        TEST_OK(cvx_ctx_open(&ctx, &(cvx_ctx_options){.backend = "cuda"}));
        TEST_OK(cvx_ctx_arena(ctx, &a, "steps", (size_t)1 << 30));
        TEST_OK(cvx_arena_alloc(&a, &p, N * N * sizeof(float)));
        cvx_tensor w = CVX_VIEW(p, CVX_F32, N, N), h = CVX_VIEW(host, CVX_F32, N, N);
        put(&a, &w, host);
        repeated(ctx, &a, k == 1 ? &h : &w, k == 2);
        cvx_arena_close(&a);
        cvx_ctx_close(ctx);
        unsetenv("CVX_CUDA_GRAPH");
        setenv("CVX_CUDA_MEMORY", "managed", 1);
    }
    free(doubles);
    (free)(host);
}

/* Each launcher's number of the rank on its machine chooses the device, modulo those there are. */
static void local_ranks(void **state)
{
    (void)state;
    static const char *const names[] = {"OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID",
                                        "SLURM_LOCALID", "LOCAL_RANK"};
    enum { N = sizeof names / sizeof *names };
    char what[160];

    for (int i = 0; i < N; i++) {
        unsetenv(names[i]);
    }
    setenv("CVX_EMULATED_DEVICES", "3", 1); /* the stand-in's; a real machine has what it has */
    for (int i = 0; i < N && cvx_cuda_usable(what); i++) {
        long devices = strtol(what, NULL, 10);
        cvx_ctx *ctx = NULL;
        setenv(names[i], "4", 1);
        TEST_OK(cvx_ctx_open(&ctx, &(cvx_ctx_options){.backend = "cuda"}));
        assert_int_equal(cvx_cuda_of(ctx)->device, 4 % devices);
        cvx_ctx_close(ctx);
        unsetenv(names[i]);
    }
    unsetenv("CVX_EMULATED_DEVICES");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(local_ranks), cmocka_unit_test(every_op),
                                       cmocka_unit_test(beside_ref), cmocka_unit_test(arenas),
                                       cmocka_unit_test(graphs)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
