/* Bump allocator over one reserved address range: the memory of a lifetime (weights, job, step).
 *
 * The range is reserved up front and its pages appear when first touched, so a reservation costs
 * nothing. In measure mode nothing is reserved: allocations only move the counter, and the pointers
 * must not be followed. The same code path therefore tells how much a job needs before it runs.
 * Not thread-safe: one thread allocates.
 */
#ifndef CVX_BASE_ARENA_H
#define CVX_BASE_ARENA_H

#include "base/status.h"

typedef struct cvx_arena cvx_arena;

/* Where an arena's memory comes from, if not from the host's: a backend with memory of its own (kernels/memory.h). */
typedef struct cvx_arena_source {
    /* Makes at least the first `bytes` of the range usable and sets a->ready. CVX_ENOMEM. */
    cvx_status (*grow)(cvx_arena *a, size_t bytes);
    /* May give back what lies beyond the first `bytes`; sets a->ready. */
    void (*shrink)(cvx_arena *a, size_t bytes);
    /* dst, in the arena <- host bytes, done when it returns. */
    void (*write)(cvx_arena *a, void *dst, const void *src, size_t bytes);
    void (*close)(cvx_arena *a);
} cvx_arena_source;

struct cvx_arena {
    char *base;
    size_t used, size, peak;
    bool measure;
    const char *name;               /* in messages: "weights", "job", "step" */
    const cvx_arena_source *source; /* NULL: host memory */
    size_t ready;                   /* bytes from base on that the source has made usable */
    void *owner, *chunks;           /* the source's own */
};

/* Reserves `size` bytes (rounded up to pages). CVX_ENOMEM if the address space is refused. */
cvx_status cvx_arena_open(cvx_arena *a, const char *name, size_t size) CVX_CHECK;

/* An arena that only counts. */
void cvx_arena_open_measure(cvx_arena *a, const char *name);

/* Gives the range back; a zeroed or closed arena is accepted. */
void cvx_arena_close(cvx_arena *a);

/* `bytes` aligned to 64, contents undefined; *out set on success. CVX_ENOMEM when full. */
cvx_status cvx_arena_alloc(cvx_arena *a, void **out, size_t bytes) CVX_CHECK;

/* dst, allocated from the arena <- host bytes; nothing in measure mode. */
void cvx_arena_write(cvx_arena *a, void *dst, const void *src, size_t bytes);

/* Stack discipline: everything allocated after the mark is free again. Release also returns the
 * pages to the system when `drop` is set (at stage ends, so that peaks do not add up). */
size_t cvx_arena_mark(const cvx_arena *a);
void cvx_arena_release(cvx_arena *a, size_t mark, bool drop);

#endif
