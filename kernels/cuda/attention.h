/* op attention on a GPU. */
#ifndef CVX_KERNELS_CUDA_ATTENTION_H
#define CVX_KERNELS_CUDA_ATTENTION_H

#include "kernels/cuda/cuda.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Any head size up to 128, bias, causal, any of f32, bf16, f16 (q, k, v, o of one type): a plain kernel. */
cvx_status cvx_cuda_attention_plain(cvx_cuda *s, const cvx_attention_args *a) CVX_CHECK;

/* The op: the fastest kernel that can do it. */
static inline cvx_status cvx_cuda_attention(cvx_cuda *s, const cvx_attention_args *a)
{
    return cvx_cuda_attention_plain(s, a);
}

#ifdef __cplusplus
}
#endif
#endif
