/* Where the operands of a context's ops live. For the CPU backends that is host memory, and everything here is plain;
 * a backend with memory of its own fills cvx_memory_ops. Model code takes its memory from arenas that
 * cvx_ctx_arena opened and looks at values through kernels/transfer.h or cvx_host_open, so that it does not know
 * the difference. */
#ifndef CVX_KERNELS_MEMORY_H
#define CVX_KERNELS_MEMORY_H

#include "kernels/ops.h"

typedef struct cvx_memory_ops {
    /* Opens an arena of `size` bytes of address space; memory comes as it is used. */
    cvx_status (*arena)(cvx_ctx *ctx, cvx_arena *a, const char *name, size_t size);
    /* Copies in any direction, after what was queued before. Host memory may be used again when it returns, and
     * is filled when it returns. A fault sticks until the next op or sync. */
    void (*copy)(cvx_ctx *ctx, void *dst, const void *src, size_t bytes);
    void (*zero)(cvx_ctx *ctx, const cvx_tensor *t); /* any strides but the innermost */
    bool (*owns)(const cvx_ctx *ctx, const void *p); /* whether p is memory of the device */
    void (*step_begin)(cvx_ctx *ctx);                /* see cvx_step_begin */
    cvx_status (*step_end)(cvx_ctx *ctx, cvx_status st, bool *again);
    cvx_status (*sync)(cvx_ctx *ctx); /* waits; tells a fault of what was queued */
    void (*available)(const cvx_ctx *ctx, size_t *unused, size_t *all); /* bytes of the device */
    void (*forget)(cvx_ctx *ctx); /* host memory that was seen as a weight is about to go */
    void (*range)(cvx_ctx *ctx, const char *name); /* see cvx_ctx_range */
    size_t (*peak)(const cvx_ctx *ctx);            /* the most that arenas and scratch have held */
    void (*close)(cvx_ctx *ctx);                   /* frees ctx->backend */
} cvx_memory_ops;

/* An arena in the memory of ctx's device (host memory for CPU backends); in measure mode one that only counts. */
cvx_status cvx_ctx_arena(cvx_ctx *ctx, cvx_arena *a, const char *name, size_t size) CVX_CHECK;

/* Whether operands lie in other memory than the host's. */
bool cvx_ctx_has_device(const cvx_ctx *ctx);

/* Waits until everything queued is done. CVX_OK at once where ops are done when they return. The faults of
 * earlier transfers and kernels come out here at the latest. */
cvx_status cvx_sync(cvx_ctx *ctx) CVX_CHECK;

/* Work that is the same every time but for what is uploaded in it, on one rank: between the two a backend may record
 * what is queued, and later queue it in one go without the ops. No exchange with other ranks, no download in it.
 * step_end takes the work's status and gives it back; with *again set nothing was computed, and the caller does the
 * work once more, from step_begin on, with its arenas as they were. */
void cvx_step_begin(cvx_ctx *ctx);
cvx_status cvx_step_end(cvx_ctx *ctx, cvx_status st, bool *again) CVX_CHECK;

/* Bytes that are free for this context's arenas, and all there are: of the device, or of this machine. */
void cvx_ctx_memory(const cvx_ctx *ctx, size_t *unused, size_t *all);

/* To be called before a checkpoint whose weights were left in its map is closed: copies of them are dropped. */
void cvx_ctx_forget(cvx_ctx *ctx);

/* Tells profilers that a part of the work of this name begins, or with NULL that the last one ends. */
void cvx_ctx_range(cvx_ctx *ctx, const char *name);

/* The most bytes that this context has held on its device; 0 for CPU backends. */
size_t cvx_ctx_peak(const cvx_ctx *ctx);

/* A dense tensor's values for host code: its own memory on the CPU, a copy otherwise. */
typedef struct cvx_host_values {
    void *data;
    bool copied;
} cvx_host_values;
/* read: the values are wanted (else data's contents are undefined). CVX_ENOMEM; a device fault. Not in measure mode. */
cvx_status cvx_host_open(cvx_ctx *ctx, cvx_host_values *out, const cvx_tensor *t,
                         bool read) CVX_CHECK;
/* write: the tensor gets the values back. Accepts values that were never opened (zeroed). */
void cvx_host_close(cvx_ctx *ctx, cvx_host_values *v, const cvx_tensor *t, bool write);

#endif
