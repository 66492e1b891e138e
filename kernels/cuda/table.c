/* The backend's table. */
#include <nvtx3/nvToolsExt.h>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/parts.h"

cvx_status cvx_cuda_op_attention(cvx_ctx *ctx, const cvx_attention_args *a)
{
    return cvx_cuda_attention(cvx_cuda_of(ctx), a);
}

void cvx_cuda_range(cvx_ctx *ctx, const char *name)
{
    (void)ctx;
    if (name != NULL) {
        nvtxRangePushA(name);
    } else {
        nvtxRangePop();
    }
}

/* Every op first tells a fault of a transfer before it, and is a range of its own to profilers. */
#define CVX_OP(op)                                                                                 \
    static cvx_status run_##op(cvx_ctx *ctx, const cvx_##op##_args *a)                             \
    {                                                                                              \
        CVX_RETURN_IF(cvx_cuda_recall(cvx_cuda_of(ctx)));                                          \
        if (cvx_cuda_graph_op(cvx_cuda_of(ctx), CVX_OP_ID_##op, a, sizeof *a)) {                   \
            return CVX_OK;                                                                         \
        }                                                                                          \
        nvtxRangePushA(#op);                                                                       \
        cvx_status st = cvx_cuda_op_##op(ctx, a);                                                  \
        nvtxRangePop();                                                                            \
        return st;                                                                                 \
    }
#include "kernels/ops.def"
#undef CVX_OP

/* What a product rounds its operand to can be stored so: half the memory and the traffic. f16's range is too small
 * for activations (docs/pitfalls.md). */
static cvx_dtype activations(const cvx_ctx *ctx)
{
    return ctx->compute == CVX_BF16 ? CVX_BF16 : CVX_F32;
}

const cvx_ops cvx_cuda_ops = {
    .name = "cuda",
    .memory = &cvx_cuda_memory,
#define CVX_OP(op) .op = run_##op,
#include "kernels/ops.def"
#undef CVX_OP
    .packed_bytes = cvx_cuda_packed_bytes,
    .conv_input = cvx_cuda_conv_input,
    .activations = activations,
};
