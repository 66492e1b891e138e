/* Kernels around matrix products: operands into the product's type, results out of it. Queued on the compute stream;
 * rows may have a stride (ld, in elements). */
#ifndef CVX_KERNELS_CUDA_ROWS_H
#define CVX_KERNELS_CUDA_ROWS_H

#include "kernels/cuda/cuda.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Columns of packed weights and of the other operand are padded with zeros to a multiple of this. */
#define CVX_CUDA_K_STEP 64

/* y [m, kp] dense of dtype yt <- x [m, k] of dtype xt, zeros from column k on. */
cvx_status cvx_cuda_rows_convert(cvx_cuda *s, void *y, cvx_dtype yt, int64_t kp, const void *x,
                                 cvx_dtype xt, int64_t ldx, int64_t m, int64_t k) CVX_CHECK;

/* y [m, kp] e4m3 and scales [m] <- x [m, k]: row i of x is scales[i] · y[i], the greatest magnitude of a row being
 * 448 · scale (a row of zeros, or of nothing above 1e-30, has scale 1). */
cvx_status cvx_cuda_rows_quantize(cvx_cuda *s, void *y, float *scales, int64_t kp, const void *x,
                                  cvx_dtype xt, int64_t ldx, int64_t m, int64_t k) CVX_CHECK;

/* y = act(p + b), times gate, plus residual, as op linear says; p [m, n] with rows ldp apart. */
typedef struct cvx_cuda_finish {
    const void *p;
    cvx_dtype pt;
    int64_t ldp;
    const cvx_linear_args *op;
} cvx_cuda_finish;
cvx_status cvx_cuda_rows_finish(cvx_cuda *s, const cvx_cuda_finish *f) CVX_CHECK;

/* y [n, taps, kp] of dtype yt <- weights [n, k, taps] of dtype wt in device memory, zeros from k on. */
cvx_status cvx_cuda_rows_pack_conv(cvx_cuda *s, void *y, cvx_dtype yt, int64_t kp, const void *w,
                                   cvx_dtype wt, int64_t n, int64_t k, int64_t taps) CVX_CHECK;

/* op conv3d on packed weights [cout, taps, kp] of dtype wt (F32, BF16 or F16). x is of
 * the same dtype; pixels of BF16 and F16 are aligned to 16 bytes. Also a matrix product whose library lacks the shape (t = h = 1). */
typedef struct cvx_cuda_conv {
    const void *x;
    float *y;
    const void *w;
    const float *b, *residual;
    cvx_dtype t;        /* of x and w */
    int64_t frames, x0; /* of the ring, its first */
    int64_t xs[3], ys[3], rs[3];
    int64_t out[3]; /* frames, rows, columns of y */
    int64_t cin, cout, kp;
    int kt, kh, kw, stride;
    bool up2;
} cvx_cuda_conv;
cvx_status cvx_cuda_conv_run(cvx_cuda *s, const cvx_cuda_conv *c) CVX_CHECK;

/* y [frames, rows, columns, cp] dense of dtype yt <- x [frames, rows, columns, c] of any strides, zeros from c on. */
cvx_status cvx_cuda_gather_pixels(cvx_cuda *s, void *y, cvx_dtype yt, int64_t cp,
                                  const cvx_tensor *x) CVX_CHECK;

#ifdef __cplusplus
}
#endif
#endif
