/* What the C files of the CUDA backend share beyond cuda.h: transfers, memory, products, graphs. */
#ifndef CVX_KERNELS_CUDA_PARTS_H
#define CVX_KERNELS_CUDA_PARTS_H

#include "kernels/cuda/cuda.h"
#ifdef __cplusplus
extern "C" {
#endif
#include "kernels/memory.h"

struct CUevent_st;
struct cublasLtContext;

/* Two halves of pinned host memory through which pageable memory goes to and from the device. */
#define CVX_CUDA_STAGE ((size_t)16 << 20)
typedef struct cvx_cuda_staging {
    char *half[2];
    struct CUevent_st *done[2]; /* the half's last transfer */
    int next;
} cvx_cuda_staging;

typedef struct cvx_cuda_parts {
    void *scratch[CVX_CUDA_SCRATCHES];
    size_t scratch_size[CVX_CUDA_SCRATCHES];
    cvx_cuda_staging staging;
    cvx_status failed; /* of a transfer; told by the next op */
    char why[200];
    size_t in_use, most;           /* bytes of arenas and scratch now, and at their highest */
    struct cvx_cuda_chunks *spare; /* memory given back by arenas */
    struct cublasLtContext *lt;
    void *workspace;
    struct cvx_cuda_algo *algos; /* chosen products by shape (gemm.c) */
    int n_algos;
    struct cvx_cuda_weights *streamed; /* weights in host memory (offload.c) */
    struct cvx_cuda_graph *graph;      /* a step's kernels (graph.c) */
    struct cvx_cudnn *cudnn;           /* once it was asked for (cudnn.h) */
} cvx_cuda_parts;

static inline cvx_cuda_parts *cvx_cuda_parts_of(const cvx_cuda *s)
{
    return (cvx_cuda_parts *)s->private_parts;
}

/* --- state.c --- */

/* The context's device, streams and handles. CVX_EUNSUPPORTED without driver or device, or one older than sm_80. */
cvx_status cvx_cuda_open(cvx_ctx *ctx) CVX_CHECK;
void cvx_cuda_close(cvx_ctx *ctx);
/* Remembers a fault of a call that cannot return one. */
void cvx_cuda_remember(cvx_cuda *s, cvx_status st);
/* A remembered fault, once. */
cvx_status cvx_cuda_recall(cvx_cuda *s) CVX_CHECK;
/* Whether p is device (or managed) memory. */
bool cvx_cuda_owns(const void *p);

/* --- memory.c --- */

extern const cvx_memory_ops cvx_cuda_memory;
/* Bytes host -> device through the staging halves, queued on `stream`; the host bytes are free for use when it
 * returns. */
cvx_status cvx_cuda_to_device(cvx_cuda *s, struct CUstream_st *stream, void *dst, const void *src,
                              size_t bytes) CVX_CHECK;
void cvx_cuda_free_spare(cvx_cuda *s);
/* t <- 0, of up to four dims, gaps between rows left alone. */
cvx_status cvx_cuda_zero_strided(cvx_cuda *s, const cvx_tensor *t) CVX_CHECK;

/* --- gemm.c --- */

/* y [m, n] (rows ldy apart, dtype yt) = act(x [m, k]·wᵀ + b) + beta·c. x rows ldx apart and w [n, k] rows ldw apart,
 * both dtype t and aligned to 16 bytes, k a multiple of 16 bytes; b [n] of y's dtype or NULL; act NONE or GELU_TANH; c
 * NULL or [m, n] of y's dtype, rows ldc apart (may be y). For E4M3 operands (t == CVX_U8) xs [m] and ws [n] are the
 * rows' scales. *done false: the library has no such product, and nothing was queued. */
typedef struct cvx_cuda_gemm {
    void *y;
    const void *x, *w, *b, *c;
    int64_t m, n, k, ldy, ldx, ldw, ldc;
    cvx_dtype t, yt;
    cvx_act act;
    const float *xs, *ws;
} cvx_cuda_gemm;
cvx_status cvx_cuda_gemm_run(cvx_cuda *s, const cvx_cuda_gemm *g, bool *done) CVX_CHECK;
void cvx_cuda_gemm_close(cvx_cuda *s);

/* --- offload.c --- */

/* *out <- device copy of a weight's host bytes, valid for work queued before the next call; the ones that followed
 * it last time are brought meanwhile. */
cvx_status cvx_cuda_streamed_weight(cvx_cuda *s, const void *src, size_t bytes,
                                    const void **out) CVX_CHECK;
/* Before those host bytes go, or others come to their addresses. */
void cvx_cuda_forget_weights(cvx_cuda *s);

/* --- graph.c --- */

/* See cvx_step_begin, cvx_step_end (kernels/memory.h). */
void cvx_cuda_step_begin(cvx_ctx *ctx);
cvx_status cvx_cuda_step_end(cvx_ctx *ctx, cvx_status st, bool *again) CVX_CHECK;
void cvx_cuda_graph_close(cvx_cuda *s);
/* Before an op (its CVX_OP_ID_ and arguments), or a copy or fill on the device: whether it is in the graph already, and
 * is not to be queued. */
bool cvx_cuda_graph_op(cvx_cuda *s, int op, const void *args, size_t bytes);
bool cvx_cuda_graph_move(cvx_cuda *s, const void *dst, const void *src, size_t bytes);
/* Host bytes on their way to the device within a step: *done if they were taken care of. */
cvx_status cvx_cuda_graph_upload(cvx_cuda *s, void *dst, const void *src, size_t bytes,
                                 bool *done) CVX_CHECK;
/* Scratch memory, which a captured step's kernels use, is about to go: between steps the graph goes with it (while one is
 * captured, the wait before it spoils the capture). */
void cvx_cuda_graph_moved(cvx_cuda *s);
/* Something happens that no graph can hold; whether a step is being captured or repeated. */
bool cvx_cuda_graph_spoil(cvx_cuda *s);

/* --- the ops --- */

#define CVX_OP(op) cvx_status cvx_cuda_op_##op(cvx_ctx *ctx, const cvx_##op##_args *a) CVX_CHECK;
#include "kernels/ops.def"
#undef CVX_OP
size_t cvx_cuda_packed_bytes(const cvx_ctx *ctx, const cvx_tensor *src, cvx_layout layout);
cvx_dtype cvx_cuda_conv_input(const cvx_ctx *ctx, const cvx_tensor *w);

/* A range of profilers (NVTX) begins; NULL: the last one ends. */
void cvx_cuda_range(cvx_ctx *ctx, const char *name);

extern const cvx_ops cvx_cuda_ops;

#ifdef __cplusplus
}
#endif
#endif
