/* NVIDIA's cuDNN as another way to attend and to convolve: CVX_CUDA_ATTENTION=cudnn, CVX_CUDA_CONV=cudnn. Nothing is linked: the
 * library is opened when it is first asked for, and both ops are graphs of its backend API (cudnn_backend.h), each
 * turned into a plan once for its shapes and strides. */
#ifndef CVX_KERNELS_CUDA_CUDNN_H
#define CVX_KERNELS_CUDA_CUDNN_H

#include "kernels/cuda/flash.h"
#include "kernels/cuda/rows.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct cvx_cudnn cvx_cudnn;
typedef struct cvx_cudnn_plan cvx_cudnn_plan;

/* The library, for the process's device; or, if device is not NULL, for one of these properties (a text in the form of
 * cuDNN's CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION) that need not be there: then plans can be made but not run.
 * CVX_EUNSUPPORTED if this build has no cuDNN, or the library is not found, or too old (9.13 has the graphs). */
cvx_status cvx_cudnn_open(cvx_cudnn **out, const char *device) CVX_CHECK;
void cvx_cudnn_close(cvx_cudnn *c); /* accepts NULL */
/* The library of a context, for its device, opened by the first call and closed with the context. */
cvx_status cvx_cudnn_of(cvx_cuda *s, cvx_cudnn **out) CVX_CHECK;

/* *out <- the plan of these operands (of a convolution BF16 or F16), borrowed from c, which remembers it; NULL if the library has
 * none for them. Addresses count by their alignment alone. Making one takes the library up to seconds.
 * The convolution: weights without padding (kp == cin), no up2, frames x0 .. x0 + out[0] + kt - 1 of the ring side by
 * side. Its bits may depend on the number of frames, rows and columns, by which the library chooses. */
cvx_status cvx_cudnn_plan_attention(cvx_cudnn *c, const cvx_flash *f,
                                    const cvx_cudnn_plan **out) CVX_CHECK;
cvx_status cvx_cudnn_plan_conv(cvx_cudnn *c, const cvx_cuda_conv *a,
                               const cvx_cudnn_plan **out) CVX_CHECK;

/* Bytes of scratch that a plan wants. */
size_t cvx_cudnn_workspace(const cvx_cudnn_plan *p);
/* How many plans were run so far: whether an op was the library's. */
int64_t cvx_cudnn_runs(const cvx_cudnn *c);

/* The ops, queued on the compute stream. *done false: there is no plan for it, and nothing was queued. CVX_EUNSUPPORTED as
 * cvx_cudnn_open, which they call. The convolution leaves output frames whose inputs lie on both sides of the
 * ring's end to the own kernel. */
cvx_status cvx_cudnn_attention(cvx_cuda *s, const cvx_flash *f, bool *done) CVX_CHECK;
cvx_status cvx_cudnn_conv(cvx_cuda *s, const cvx_cuda_conv *a, bool *done) CVX_CHECK;

#ifdef __cplusplus
}
#endif
#endif
