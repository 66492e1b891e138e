/* What conv.inc.h asks of conv_amx.inc.h, on levels without AMX, whose convolutions are sums of words
 * as gemm.inc.h's products are. Part of a level file.
 *
 * In pairs x is BF16, its channels a multiple of 32; other convolutions are done in f32. */
#if defined(__AVX512BF16__)
#include "kernels/cpu/conv_split.inc.h"
#endif

static bool takes_parts(const cvx_ctx *ctx, const cvx_tensor *w)
{
    return in_pairs(ctx) && w->dim[1] % 32 == 0;
}

static size_t parts_block_bytes(const cvx_ctx *ctx, const cvx_tensor *w, bool up2)
{
    (void)ctx;
    return f32_block_bytes(w, up2) / 2;
}

/* block [tap][cin][NR] f32 -> [tap][pair of cin][NR]. */
static void fold_parts(char *out, const float *block, const cvx_ctx *ctx, const cvx_tensor *w,
                       bool up2)
{
    float *to = (float *)(void *)out;

    (void)ctx;
    for (int64_t i = 0; i < packed_kernel(w, up2) * w->dim[1] / 2; i++, block += 2 * NR) {
        pair_rows(to + i * NR, block, block + NR);
    }
}

static cvx_dtype cpu_conv_input(const cvx_ctx *ctx, const cvx_tensor *w)
{
    return takes_parts(ctx, w) ? CVX_BF16 : CVX_F32;
}

static void deal_parts(conv_job *j, const cvx_ctx *ctx, const conv_call *a)
{
    (void)a;
    j->pairs = true;
    j->words = j->cin / 2;
    deal_rows(j, ctx->threads);
}

static void conv_begin(int tile)
{
    (void)tile;
}

static void amx_conv_task(const conv_job *j, int64_t task)
{
    (void)j, (void)task;
}

/* A convolution of f32 input that is read in pairs. */
static cvx_status conv_of_f32(cvx_ctx *ctx, const conv_call *a)
{
#if defined(__AVX512BF16__)
    return conv_split(ctx, a, 1);
#else
    (void)ctx, (void)a;
    return CVX_OK;
#endif
}
