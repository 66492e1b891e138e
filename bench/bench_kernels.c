/* Speed of the kernels that a denoising step is made of, per level and precision:
 *     bench_kernels [THREADS [LEVEL]]
 * The best of several runs each; one line per case, GFLOP/s (or GB/s where memory decides). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/progress.h"
#include "kernels/ops.h"

static void die(void)
{
    fprintf(stderr, "bench_kernels: %s\n", cvx_error());
    exit(1);
}

static void check(cvx_status st)
{
    if (st != CVX_OK) {
        die();
    }
}

static cvx_tensor random_tensor(cvx_arena *a, cvx_dtype dtype, int ndim, const int64_t *dim)
{
    cvx_tensor t;
    uint32_t seed = 1;

    check(cvx_tensor_alloc(a, &t, dtype, ndim, dim));
    for (int64_t i = 0; i < cvx_numel(&t); i++) {
        seed = seed * 1664525u + 1013904223u;
        float v = (float)((int32_t)(seed >> 8) - (1 << 23)) * 0x1p-23f;
        cvx_from_f32((char *)t.data + i * (int64_t)cvx_dtype_size(dtype), dtype, &v, 1);
    }
    return t;
}
#define RANDOM(arena, dtype, ...)                                                                  \
    random_tensor((arena), (dtype), CVX_NDIM(__VA_ARGS__), CVX_DIMS(__VA_ARGS__))

static void linear(cvx_ctx *ctx, cvx_arena *a, int64_t m, int64_t n, int64_t k, cvx_dtype dtype)
{
    size_t mark = cvx_arena_mark(a);
    cvx_tensor x = RANDOM(a, CVX_F32, m, k), w = RANDOM(a, dtype, n, k),
               y = RANDOM(a, CVX_F32, m, n);
    cvx_tensor packed = w;
    double best[2] = {1e9, 1e9};

    packed.layout = CVX_PACKED_LINEAR;
    check(cvx_arena_alloc(a, &packed.data, cvx_packed_bytes(ctx, &w, CVX_PACKED_LINEAR)));
    check(cvx_op_pack(ctx, &(cvx_pack_args){.dst = &packed, .src = &w}));
    for (int i = 0; i < 10; i++) {
        double start = cvx_now();
        check(cvx_op_linear(ctx, &(cvx_linear_args){.y = &y, .x = &x, .w = i % 2 ? &w : &packed}));
        double t = cvx_now() - start;
        best[i % 2] = t < best[i % 2] ? t : best[i % 2];
    }
    double flops = 2e-9 * (double)m * (double)n * (double)k;
    printf(
        "%-12s compute %-4s linear %5lld x %5lld x %5lld w %-4s %8.1f GFLOP/s packed %8.1f plain\n",
        ctx->ops->name, cvx_dtype_name(ctx->compute), (long long)m, (long long)n, (long long)k,
        cvx_dtype_name(dtype), flops / best[0], flops / best[1]);
    cvx_arena_release(a, mark, true);
}

static void attention(cvx_ctx *ctx, cvx_arena *a, int64_t s, int64_t h, int64_t d)
{
    size_t mark = cvx_arena_mark(a);
    cvx_tensor q = RANDOM(a, CVX_F32, 1, s, h, d), k = RANDOM(a, CVX_F32, 1, s, h, d);
    cvx_tensor v = RANDOM(a, CVX_F32, 1, s, h, d), o = RANDOM(a, CVX_F32, 1, s, h, d);
    double best = 1e9;

    for (int i = 0; i < 4; i++) {
        double start = cvx_now();
        check(cvx_op_attention(
            ctx, &(cvx_attention_args){.o = &o, .q = &q, .k = &k, .v = &v, .scale = 0.125}));
        double t = cvx_now() - start;
        best = t < best ? t : best;
    }
    printf("%-12s compute %-4s attention s %5lld, %2lld heads of %3lld  %8.1f GFLOP/s\n",
           ctx->ops->name, cvx_dtype_name(ctx->compute), (long long)s, (long long)h, (long long)d,
           4e-9 * (double)(s * s) * (double)(h * d) / best);
    cvx_arena_release(a, mark, true);
}

static void rows(cvx_ctx *ctx, cvx_arena *a, int64_t m, int64_t c)
{
    size_t mark = cvx_arena_mark(a);
    cvx_tensor x = RANDOM(a, CVX_F32, m, c), y = RANDOM(a, CVX_F32, m, c);
    cvx_tensor g = RANDOM(a, CVX_F32, 2, c);
    double norm = 1e9, act = 1e9;

    for (int i = 0; i < 5; i++) {
        double start = cvx_now();
        check(cvx_op_layer_norm(
            ctx, &(cvx_layer_norm_args){
                     .y = &y, .x = &x, .scale = &g, .shift = &g, .period = m, .eps = 1e-5}));
        double t = cvx_now() - start;
        norm = t < norm ? t : norm;
        start = cvx_now();
        check(cvx_op_gated_act(
            ctx, &(cvx_gated_act_args){.y = &y, .a = &x, .b = &x, .act = CVX_ACT_GELU_TANH}));
        t = cvx_now() - start;
        act = t < act ? t : act;
    }
    double gb = 8e-9 * (double)(m * c);
    printf("%-12s layer_norm %.1f GB/s, gelu %.1f GB/s\n", ctx->ops->name, gb / norm, gb / act);
    cvx_arena_release(a, mark, true);
}

static void level(const char *isa, cvx_dtype compute, int threads)
{
    cvx_ctx *ctx;
    cvx_arena a;

    check(cvx_ctx_open(
        &ctx,
        &(cvx_ctx_options){.backend = "cpu", .isa = isa, .threads = threads, .compute = compute}));
    check(cvx_arena_open(&a, "bench", (size_t)4 << 30));
    linear(ctx, &a, 4096, 512, 512, CVX_BF16);
    linear(ctx, &a, 4096, 1920, 1920, CVX_BF16);
    linear(ctx, &a, 4096, 7680, 1920, CVX_BF16);
    linear(ctx, &a, 4096, 1920, 7680, CVX_BF16);
    linear(ctx, &a, 300, 1920, 1920, CVX_BF16);
    linear(ctx, &a, 1, 1920, 512, CVX_BF16);
    linear(ctx, &a, 4096, 1920, 1920, CVX_F16);
    linear(ctx, &a, 4096, 1920, 1920, CVX_F32);
    attention(ctx, &a, 226, 64, 64);
    attention(ctx, &a, 4096, 4, 64);
    attention(ctx, &a, 2048, 4, 128);
    rows(ctx, &a, 4096, 1920);
    cvx_arena_close(&a);
    cvx_ctx_close(ctx);
}

int main(int argc, char **argv)
{
    int threads = argc > 1 ? (int)strtol(argv[1], NULL, 10) : 0;

    for (int i = 0; cvx_cpu_levels[i] != NULL; i++) {
        const char *isa = cvx_cpu_levels[i];
        if (cvx_cpu_ops(isa) == NULL || (argc > 2 && strcmp(argv[2], isa) != 0)) {
            continue;
        }
        level(isa, CVX_F32, threads);
        if (strcmp(isa, "amx") == 0 ||
            strcmp(isa, "avx512_bf16") == 0) { /* the others compute in f32 either way */
            level(isa, CVX_BF16, threads);
        }
    }
    return 0;
}
