/* Speed of the GPU's ops at CogVideoX-5b's geometry (49 frames of 480x720: 17,776 tokens, two branches of guidance, 48
 * heads of 64), on random values:
 *     bench_gpu [f32|bf16|fp8]
 * One JSON object a line: op, shape, milliseconds (median of 5 after 2 to warm up), TFLOP/s, GB/s; of plain products also
 * what the fastest of the algorithms reaches that cuBLASLt proposes for that shape ("best_tflops"). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/progress.h"
#include "bench/best_gemm.h"
#include "kernels/memory.h"
#include "kernels/transfer.h"

#define RUNS 5
#define WARM 2
/* Values that are made on the host; the rest of a tensor repeats them. */
#define MADE ((int64_t)1 << 20)

enum { TOKENS = 17776, TEXT = 226, WIDTH = 3072, HEADS = 48, HEAD = 64, ROWS = 2 * TOKENS };

typedef struct bench {
    cvx_ctx *ctx;
    cvx_arena arena;
    cvx_dtype act;
    cvx_layout layout; /* of linear weights */
} bench;

static void check(cvx_status st)
{
    if (st != CVX_OK) {
        fprintf(stderr, "bench_gpu: %s\n", cvx_error());
        exit(cvx_status_exit(st));
    }
}

static cvx_tensor values(bench *b, cvx_dtype dtype, int ndim, const int64_t *dim)
{
    cvx_tensor t;
    uint32_t seed = 1;
    int64_t n, made;

    check(cvx_tensor_alloc(&b->arena, &t, dtype, ndim, dim));
    n = cvx_numel(&t);
    made = n < MADE ? n : MADE;
    cvx_tensor flat = CVX_RESHAPE(&t, n), first = cvx_slice(&flat, 0, 0, made);
    float *f = malloc((size_t)made * sizeof *f);
    void *h = malloc((size_t)made * sizeof *f);
    if (f == NULL || h == NULL) {
        exit(1);
    }
    for (int64_t i = 0; i < made; i++) {
        seed = seed * 1664525u + 1013904223u;
        f[i] = (float)((int32_t)(seed >> 8) - (1 << 23)) * 0x1p-23f;
    }
    cvx_from_f32(h, dtype, f, made);
    cvx_upload(b->ctx, &first, h);
    for (int64_t at = made; at < n; at += made) {
        int64_t len = n - at < made ? n - at : made;
        cvx_tensor to = cvx_slice(&flat, 0, at, len), from = cvx_slice(&flat, 0, 0, len);
        cvx_copy(b->ctx, &to, &from);
    }
    free(f);
    free(h);
    return t;
}
#define VALUES(b, dtype, ...) values((b), (dtype), CVX_NDIM(__VA_ARGS__), CVX_DIMS(__VA_ARGS__))

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Seconds of the op's last call, from the counters. */
static double last_call(bench *b, int op, double *flops)
{
    cvx_op_stat *s = &b->ctx->stat[op];
    double t = s->seconds;

    *flops = s->flops;
    *s = (cvx_op_stat){0};
    return t;
}

/* best: seconds of the library's fastest algorithm; 0: none is known. */
static void report(const char *op, const char *shape, double seconds[RUNS], double flops,
                   double bytes, double best)
{
    char beside[64] = "";

    qsort(seconds, RUNS, sizeof *seconds, by_value);
    double t = seconds[RUNS / 2];
    if (best > 0) {
        snprintf(beside, sizeof beside, ", \"best_tflops\": %.2f", flops / best / 1e12);
    }
    printf("{\"op\": \"%s\", \"shape\": \"%s\", \"ms\": %.4f, \"ms_min\": %.4f, \"tflops\": %.2f, "
           "\"gb_per_s\": %.1f%s}\n",
           op, shape, 1e3 * t, 1e3 * seconds[0], flops / t / 1e12, bytes / t / 1e9, beside);
    fflush(stdout);
}

/* RUNS times the statement `call`, which is one call of `op`; bytes: what it must read and write. */
#define TIME(b, op, shape, bytes, call) TIME_BESIDE(b, op, shape, bytes, 0, call)
#define TIME_BESIDE(b, op, shape, bytes, best, call)                                               \
    do {                                                                                           \
        double seconds_[RUNS], flops_ = 0;                                                         \
        for (int i_ = -WARM; i_ < RUNS; i_++) {                                                    \
            check(call);                                                                           \
            double t_ = last_call((b), CVX_OP_ID_##op, &flops_);                                   \
            if (i_ >= 0) {                                                                         \
                seconds_[i_] = t_;                                                                 \
            }                                                                                      \
        }                                                                                          \
        report(#op, (shape), seconds_, flops_, (bytes), (best));                                   \
    } while (0)

static void linear(bench *b, int64_t m, int64_t n, int64_t k, cvx_act act, bool residual)
{
    size_t mark = cvx_arena_mark(&b->arena);
    cvx_tensor x = VALUES(b, b->act, m, k), w = VALUES(b, b->ctx->compute, n, k), p = w;
    cvx_tensor bias = VALUES(b, CVX_F32, n), gate = VALUES(b, CVX_F32, 2, n);
    cvx_tensor y = VALUES(b, residual ? CVX_F32 : b->act, m, n);
    cvx_linear_args a = {.y = &y, .x = &x, .w = &p, .b = &bias, .act = act};
    char shape[96];

    p.layout = b->layout;
    check(cvx_arena_alloc(&b->arena, &p.data, cvx_packed_bytes(b->ctx, &w, p.layout)));
    check(cvx_op_pack(b->ctx, &(cvx_pack_args){.dst = &p, .src = &w}));
    if (residual) {
        a.residual = &y, a.gate = &gate, a.text_rows = TEXT, a.period = TOKENS;
    }
    snprintf(shape, sizeof shape, "%lld x %lld x %lld%s%s", (long long)m, (long long)n,
             (long long)k, act != CVX_ACT_NONE ? " gelu" : "", residual ? " gated residual" : "");
    double size = (double)cvx_dtype_size(b->act), best = 0;
    if (!residual && b->layout == CVX_PACKED_LINEAR) {
        cvx_tensor beside = VALUES(b, b->act, n);
        best = best_gemm(cvx_cuda_of(b->ctx), b->act, act != CVX_ACT_NONE, m, n, k, y.data, x.data,
                         p.data, beside.data);
    }
    TIME_BESIDE(b, linear, shape,
                size * (double)(m * k + n * k) + (residual ? 8.0 : size) * (double)(m * n), best,
                cvx_op_linear(b->ctx, &a));
    cvx_arena_release(&b->arena, mark, false);
}

/* how: "" (the op's own choice), a kernel's name (CVX_CUDA_ATTENTION) or "sage". */
static void attention(bench *b, int64_t s, int64_t heads, const char *how)
{
    size_t mark = cvx_arena_mark(&b->arena);
    cvx_tensor t[4], lse = VALUES(b, CVX_F32, 1, heads, s);
    char shape[96];

    for (int i = 0; i < 4; i++) {
        t[i] = VALUES(b, b->act, 1, s, heads, HEAD);
    }
    cvx_attention_args a = {
        .q = &t[0], .k = &t[1], .v = &t[2], .o = &t[3], .lse = &lse, .scale = 0.125};
    a.sage = strcmp(how, "sage") == 0;
    if (how[0] != 0 && !a.sage) {
        setenv("CVX_CUDA_ATTENTION", how, 1);
    }
    snprintf(shape, sizeof shape, "%lld tokens, %lld heads of %d%s%s", (long long)s,
             (long long)heads, HEAD, how[0] != 0 ? ", " : "", how);
    TIME(b, attention, shape, 4.0 * (double)cvx_dtype_size(b->act) * (double)(s * heads * HEAD),
         cvx_op_attention(b->ctx, &a));
    unsetenv("CVX_CUDA_ATTENTION");
    cvx_arena_release(&b->arena, mark, false);
}

static void rows(bench *b)
{
    size_t mark = cvx_arena_mark(&b->arena);
    cvx_tensor x = VALUES(b, CVX_F32, ROWS, WIDTH), y = VALUES(b, b->act, ROWS, WIDTH);
    cvx_tensor g = VALUES(b, CVX_F32, 2, WIDTH), h = VALUES(b, CVX_F32, HEAD);
    cvx_tensor cs = VALUES(b, CVX_F32, TOKENS - TEXT, HEAD),
               sn = VALUES(b, CVX_F32, TOKENS - TEXT, HEAD);
    cvx_tensor q = CVX_RESHAPE(&y, 2, TOKENS, HEADS, HEAD);
    cvx_layer_norm_args n = {.y = &y, .x = &x, .scale = &g, .shift = &g, .text_rows = TEXT};
    cvx_qk_norm_rope_args r = {
        .x = &q, .gamma = &h, .beta = &h, .cos = &cs, .sin = &sn, .text_rows = TEXT};
    double size = (double)cvx_dtype_size(b->act), all = (double)ROWS * WIDTH;

    n.period = TOKENS, n.eps = 1e-5, r.eps = 1e-6;
    TIME(b, layer_norm, "35552 x 3072, modulated", (4 + size) * all, cvx_op_layer_norm(b->ctx, &n));
    TIME(b, qk_norm_rope, "2 x 17776 x 48 x 64", 2 * size * all, cvx_op_qk_norm_rope(b->ctx, &r));
    cvx_arena_release(&b->arena, mark, false);
}

/* The decoder's last level: two latent frames are eight frames of 480x720 with 128 channels. */
static void decoder(bench *b)
{
    size_t mark = cvx_arena_mark(&b->arena);
    enum { T = 8, H = 480, W = 720, C = 128 };
    cvx_tensor w = VALUES(b, b->ctx->compute, C, C, 3, 3, 3), p = w;
    cvx_tensor x = VALUES(b, cvx_conv_input(b->ctx, &w), T + 2, H + 2, W + 2, C);
    cvx_tensor y = VALUES(b, CVX_F32, T, H, W, C), bias = VALUES(b, CVX_F32, C);
    cvx_tensor sums, stats, in = cvx_slice(&x, 1, 1, H);
    cvx_conv3d_args c = {.y = &y, .x = &x, .w = &p, .b = &bias, .residual = &y, .stride = 1};
    double size = (double)cvx_dtype_size(x.dtype), all = (double)T * H * W * C;
    char what[160];

    p.layout = CVX_PACKED_CONV;
    check(cvx_arena_alloc(&b->arena, &p.data, cvx_packed_bytes(b->ctx, &w, p.layout)));
    check(cvx_op_pack(b->ctx, &(cvx_pack_args){.dst = &p, .src = &w}));
    check(CVX_ALLOC(&b->arena, &sums, CVX_F64, T, H, 32, 2));
    check(CVX_ALLOC(&b->arena, &stats, CVX_F64, 32, 2));
    in = cvx_slice(&in, 2, 1, W);
    in = cvx_slice(&in, 0, 0, T);
    TIME(b, conv3d, "8 x 480 x 720 x 128 -> 128, 3x3x3", (8 + size) * all,
         cvx_op_conv3d(b->ctx, &c));
    if (x.dtype == CVX_BF16 && cvx_cudnn_usable(what)) {
        setenv("CVX_CUDA_CONV", "cudnn", 1);
        TIME(b, conv3d, "8 x 480 x 720 x 128 -> 128, 3x3x3, cudnn", (8 + size) * all,
             cvx_op_conv3d(b->ctx, &c));
        unsetenv("CVX_CUDA_CONV");
    }
    TIME(b, group_norm_stats, "8 x 480 x 720 x 128", 4 * all,
         cvx_op_group_norm_stats(b->ctx, &(cvx_group_norm_stats_args){&sums, &y}));
    TIME(b, group_norm_finish, "3840 rows of 32", 16.0 * T * H * 32,
         cvx_op_group_norm_finish(
             b->ctx, &(cvx_group_norm_finish_args){&stats, &sums, (int64_t)T * H * W * 4, 1e-6}));
    cvx_group_norm_apply_args n = {
        .y = &in, .x = &y, .stats = &stats, .gamma = &bias, .beta = &bias};
    n.silu = true;
    TIME(b, group_norm_apply, "8 x 480 x 720 x 128, silu", (4 + size) * all,
         cvx_op_group_norm_apply(b->ctx, &n));
    cvx_arena_release(&b->arena, mark, false);
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "bf16";
    bool f32 = strcmp(what, "f32") == 0, fp8 = strcmp(what, "fp8") == 0;
    char what_of_cudnn[160];
    bench b = {.layout = fp8 ? CVX_PACKED_LINEAR_F8 : CVX_PACKED_LINEAR};

    if (!f32 && !fp8 && strcmp(what, "bf16") != 0) {
        fprintf(stderr, "usage: bench_gpu [f32|bf16|fp8]\n");
        return 2;
    }
    check(cvx_ctx_open(&b.ctx,
                       &(cvx_ctx_options){.backend = "cuda", .compute = f32 ? CVX_F32 : CVX_BF16}));
    check(cvx_ctx_arena(b.ctx, &b.arena, "bench", (size_t)1 << 37));
    b.ctx->timed = true;
    b.act = cvx_activations(b.ctx);
    linear(&b, ROWS, WIDTH, WIDTH, CVX_ACT_NONE, false);
    linear(&b, ROWS, WIDTH, WIDTH, CVX_ACT_NONE, true);
    linear(&b, ROWS, 4 * WIDTH, WIDTH, CVX_ACT_GELU_TANH, false);
    linear(&b, ROWS, WIDTH, 4 * WIDTH, CVX_ACT_NONE, false);
    linear(&b, ROWS, WIDTH, 4 * WIDTH, CVX_ACT_NONE, true);
    if (fp8) {
        attention(&b, TOKENS, HEADS, "sage");
    } else {
        attention(&b, f32 ? 4096 : TOKENS, HEADS, "");
        if (!f32) {
            attention(&b, TOKENS, HEADS, "mma");
        }
        if (!f32 && cvx_cudnn_usable(what_of_cudnn)) {
            attention(&b, TOKENS, HEADS, "cudnn");
        }
        rows(&b);
        decoder(&b);
    }
    check(cvx_sync(b.ctx));
    cvx_arena_close(&b.arena);
    cvx_ctx_close(b.ctx);
    return 0;
}
