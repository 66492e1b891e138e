/* What cuBLASLt reaches at best, beside which bench_gpu shows the algorithm that the backend keeps to. */
#ifndef CVX_BENCH_BEST_GEMM_H
#define CVX_BENCH_BEST_GEMM_H

#include "kernels/cuda/cuda.h"

/* Seconds of the fastest algorithm that the library proposes for y [m, n] = act(x [m, k] · w [n, k]ᵀ + b), all of `type` (BF16 or
 * F32) on random-looking operands in device memory; each of up to 16 is timed by events, the median of 5. 0: it has none. */
double best_gemm(cvx_cuda *s, cvx_dtype type, bool gelu, int64_t m, int64_t n, int64_t k, void *y,
                 const void *x, const void *w, const void *b);

#endif
