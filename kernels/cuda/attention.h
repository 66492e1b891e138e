/* op attention on a GPU. */
#ifndef CVX_KERNELS_CUDA_ATTENTION_H
#define CVX_KERNELS_CUDA_ATTENTION_H

#include "kernels/cuda/cuda.h"
#include "kernels/cuda/flash.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Any head size up to 128, bias, causal, any of f32, bf16, f16 (q, k, v, o of one type): a plain kernel. */
cvx_status cvx_cuda_attention_plain(cvx_cuda *s, const cvx_attention_args *a) CVX_CHECK;

/* Tensor cores from sm_80 on: operands that cvx_cuda_flash_of() took. */
cvx_status cvx_cuda_attention_mma(cvx_cuda *s, const cvx_flash *a) CVX_CHECK;

/* The same on Hopper (s->hopper), by its own products and copies. CVX_EUNSUPPORTED if the driver is too old for
 * maps of tensors. */
cvx_status cvx_cuda_attention_hopper(cvx_cuda *s, const cvx_flash *a) CVX_CHECK;

/* The same in 8 bits (kernels/cuda/sage.cuh), head size 64 alone; about 200 bytes of scratch a token
 * and head of one item. */
cvx_status cvx_cuda_attention_sage(cvx_cuda *s, const cvx_flash *a) CVX_CHECK;

/* *f <- the operands, if the kernels for tensor cores can take them: BF16, head size a multiple of 8 up to 128,
 * at least one key, no bias, not causal, a scale above 0, q, k and v aligned to 16 bytes and o to 4 with all their strides.
 * Otherwise false. Looks at nothing that the split of rows and heads over ranks changes, so that every rank takes the
 * same kernel (operands of the model are aligned). */
bool cvx_cuda_flash_of(cvx_flash *f, const cvx_attention_args *a);

/* The op: the fastest own kernel that can do it. CVX_CUDA_ATTENTION=plain, mma or hopper keeps to the one of that name, or to
 * what comes before it where that one cannot do it (for tests and comparisons); cudnn takes the library's, where it
 * has one for what the others call tensor cores' operands. */
cvx_status cvx_cuda_attention(cvx_cuda *s, const cvx_attention_args *a) CVX_CHECK;

#ifdef __cplusplus
}
#endif
#endif
