#include "base/arena.h"

#include <string.h>
#include <sys/mman.h>

#define ALIGN 64
#define PAGE 4096

cvx_status cvx_arena_open(cvx_arena *a, const char *name, size_t size)
{
    if (size > SIZE_MAX / 2) {
        return cvx_fail(CVX_ENOMEM, "%s memory: a size of %zu MiB cannot be", name, size >> 20);
    }
    size = (size + PAGE - 1) / PAGE * PAGE;
    if (size == 0) {
        size = PAGE;
    }
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                   -1, 0);
    if (p == MAP_FAILED) {
        return cvx_fail(CVX_ENOMEM, "%s memory: the system refused to reserve %zu MiB", name,
                        size >> 20);
    }
    madvise(p, size, MADV_HUGEPAGE); /* advice: failure costs speed only */
    *a = (cvx_arena){.base = p, .size = size, .name = name};
    return CVX_OK;
}

void cvx_arena_open_measure(cvx_arena *a, const char *name)
{
    *a = (cvx_arena){.base = (char *)ALIGN, .size = SIZE_MAX / 2, .measure = true, .name = name};
}

void cvx_arena_close(cvx_arena *a)
{
    if (a->source != NULL) {
        a->source->close(a);
    } else if (a->base != NULL && !a->measure) {
        munmap(a->base, a->size);
    }
    *a = (cvx_arena){0};
}

cvx_status cvx_arena_alloc(cvx_arena *a, void **out, size_t bytes)
{
    size_t need = (bytes + ALIGN - 1) / ALIGN * ALIGN;

    if (need < bytes || need > a->size - a->used) {
        return cvx_fail(CVX_ENOMEM, "%s memory: %zu MiB more asked, %zu of %zu MiB are used",
                        a->name, bytes >> 20, a->used >> 20, a->size >> 20);
    }
    if (a->source != NULL && a->used + need > a->ready) {
        CVX_RETURN_IF(a->source->grow(a, a->used + need));
    }
    *out = a->base + a->used;
    a->used += need;
    if (a->used > a->peak) {
        a->peak = a->used;
    }
    return CVX_OK;
}

void cvx_arena_write(cvx_arena *a, void *dst, const void *src, size_t bytes)
{
    if (a->source != NULL) {
        a->source->write(a, dst, src, bytes);
    } else if (!a->measure) {
        memcpy(dst, src, bytes);
    }
}

size_t cvx_arena_mark(const cvx_arena *a)
{
    return a->used;
}

void cvx_arena_release(cvx_arena *a, size_t mark, bool drop)
{
    CVX_ASSERT(mark <= a->used);
    if (drop && a->source != NULL) {
        a->source->shrink(a, mark);
    } else if (drop && !a->measure) {
        size_t from = (mark + PAGE - 1) / PAGE * PAGE;
        size_t to = (a->peak + PAGE - 1) / PAGE * PAGE;
        if (from < to) {
            madvise(a->base + from, to - from, MADV_DONTNEED);
        }
    }
    a->used = mark;
}
