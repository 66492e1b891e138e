/* What the files of the CUDA backend share. A C header that needs no CUDA header, so that C files, .cu files and
 * the rest of kernels/ can include it: a CUDA stream is seen as the struct that cudaStream_t points to.
 *
 * Everything is queued on one compute stream; an op returns as soon as its kernels are queued. Faults that the
 * device tells later stick: the next op, or cvx_sync, returns them. */
#ifndef CVX_KERNELS_CUDA_CUDA_H
#define CVX_KERNELS_CUDA_CUDA_H

#ifdef __cplusplus
#define _Noreturn [[noreturn]]
extern "C" {
#endif

#include "kernels/ops.h"

struct CUstream_st;

/* ctx->backend of a context whose table is cvx_cuda_ops. */
typedef struct cvx_cuda {
    int device;                 /* CUDA ordinal */
    int sm;                     /* compute capability: 80, 90 ... */
    int sm_count;               /* multiprocessors */
    int shared_max;             /* bytes of shared memory a block may opt in to */
    char name[96], uuid[48];    /* "NVIDIA H200", "GPU-xxxxxxxx-..." */
    size_t memory;              /* bytes of device memory in all */
    bool hopper;                /* sm == 90, and this build has kernels for 90a */
    bool managed;               /* memory that the host sees too; every op waits (for tests) */
    struct CUstream_st *stream; /* compute */
    struct CUstream_st *copies; /* transfers beside it */
    void *private_parts;        /* of kernels/cuda/state.c */
} cvx_cuda;

static inline cvx_cuda *cvx_cuda_of(const cvx_ctx *ctx)
{
    return (cvx_cuda *)ctx->backend;
}

/* The device and streams of this process, shared by its contexts and communicators: everything that touches device
 * memory is ordered by `compute`, or waits for it by an event. The device is the one of the process's rank on its
 * machine (as Open MPI, Slurm, MPICH or torchrun tell it), modulo the devices that it sees. Opened by the first
 * user, closed by the last. Errors: as cvx_cuda_usable says, CVX_EUNSUPPORTED. */
typedef struct cvx_cuda_process {
    int device;
    struct CUstream_st *compute, *copies, *exchange;
} cvx_cuda_process;
cvx_status cvx_cuda_process_open(const cvx_cuda_process **out) CVX_CHECK;
void cvx_cuda_process_close(void);

/* Memory that host and device see, for tests' operands; NULL without a device. */
void *cvx_cuda_shared_alloc(size_t bytes);
void cvx_cuda_shared_free(void *p); /* accepts NULL */

/* out [n] <- the parts [ranks, n] added in the order of the ranks, queued on `stream`. */
cvx_status cvx_cuda_sum_ranks(struct CUstream_st *stream, float *out, const float *parts, int64_t n,
                              int ranks) CVX_CHECK;

/* Scratch of one op: device memory, aligned to 256 bytes, contents undefined. `slot` tells several pieces of one op
 * apart (0 .. CVX_CUDA_SCRATCHES - 1); each grows with the greatest need seen and is used again by the next op,
 * which the stream orders. attention has the last two to itself. CVX_ENOMEM. */
#define CVX_CUDA_SCRATCHES 6
cvx_status cvx_cuda_scratch(cvx_cuda *s, int slot, void **out, size_t bytes) CVX_CHECK;

/* CVX_OK for cudaSuccess (0), else CVX_EINTERNAL (CVX_ENOMEM for lack of memory) with what was tried and
 * CUDA's own words. rc: a cudaError_t. */
cvx_status cvx_cuda_status(int rc, const char *what) CVX_CHECK;
/* CVX_EUNSUPPORTED: `what` asks for Hopper's own kernels, and s->hopper is false. */
cvx_status cvx_cuda_lacks_hopper(const cvx_cuda *s, const char *what) CVX_CHECK;
/* After kernel launches: their status. In managed mode waits for them. */
cvx_status cvx_cuda_launched(cvx_cuda *s, const char *kernel) CVX_CHECK;

#ifdef __cplusplus
}
#endif
#endif
