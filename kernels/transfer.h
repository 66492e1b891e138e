/* Moving bytes between host memory and a context's device. On the CPU these are plain copies; in
 * measure mode nothing is touched. */
#ifndef CVX_KERNELS_TRANSFER_H
#define CVX_KERNELS_TRANSFER_H

#include "kernels/ops.h"

/* Dense tensor t <- host array of t's dtype and count. */
void cvx_upload(cvx_ctx *ctx, const cvx_tensor *t, const void *host);
/* Host array <- dense tensor t. */
void cvx_download(cvx_ctx *ctx, void *host, const cvx_tensor *t);
/* dst <- src, both dense, same dtype and count. */
void cvx_copy(cvx_ctx *ctx, const cvx_tensor *dst, const cvx_tensor *src);
/* t <- 0 (dense). */
void cvx_zero(cvx_ctx *ctx, const cvx_tensor *t);

#endif
