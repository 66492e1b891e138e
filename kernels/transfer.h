/* Moving bytes between host memory and a context's device. On the CPU these are plain copies; on a device
 * they come after what was queued before, and host memory is free for use when they return (a fault comes out at the
 * next op or cvx_sync). In measure mode nothing is touched. */
#ifndef CVX_KERNELS_TRANSFER_H
#define CVX_KERNELS_TRANSFER_H

#include "kernels/ops.h"

/* Dense tensor t <- host array of t's dtype and count. */
void cvx_upload(cvx_ctx *ctx, const cvx_tensor *t, const void *host);
/* Host array <- dense tensor t. */
void cvx_download(cvx_ctx *ctx, void *host, const cvx_tensor *t);
/* dst <- src, both dense, same dtype and count. */
void cvx_copy(cvx_ctx *ctx, const cvx_tensor *dst, const cvx_tensor *src);
/* t <- 0; any strides but the innermost. */
void cvx_zero(cvx_ctx *ctx, const cvx_tensor *t);

#endif
