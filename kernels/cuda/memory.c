/* Device memory: arenas over reserved addresses whose pages come as they are used, and transfers.
 *
 * An arena reserves its address range once; physical memory is mapped into it in chunks (CUDA's virtual memory
 * management) and goes to a list of spare chunks when a stage ends, where the next arena takes it: the device's
 * memory is asked for once, up to the plan's highest stage. In managed mode (tests) an arena is one managed block
 * that the host sees too. */
#include <cuda.h>
#include <cuda_runtime_api.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/parts.h"

#define CHUNK ((size_t)32 << 20)
/* The most that a managed arena is given at once: tests need no more, and there is no range to grow in. */
#define MANAGED_MOST ((size_t)4 << 30)

/* The driver's entry points: the library is not linked, since machines without a driver run this program too. */
typedef struct driver {
    CUresult (*reserve)(CUdeviceptr *, size_t, size_t, CUdeviceptr, unsigned long long);
    CUresult (*unreserve)(CUdeviceptr, size_t);
    CUresult (*create)(CUmemGenericAllocationHandle *, size_t, const CUmemAllocationProp *,
                       unsigned long long);
    CUresult (*release)(CUmemGenericAllocationHandle);
    CUresult (*map)(CUdeviceptr, size_t, size_t, CUmemGenericAllocationHandle, unsigned long long);
    CUresult (*unmap)(CUdeviceptr, size_t);
    CUresult (*access)(CUdeviceptr, size_t, const CUmemAccessDesc *, size_t);
} driver;

/* A growing list of chunks. */
typedef struct cvx_cuda_chunks {
    CUmemGenericAllocationHandle *handle;
    size_t n, room;
} chunks;

static cvx_status entry(const char *name, void *fn)
{
    enum cudaDriverEntryPointQueryResult found;
    void *p = NULL;
    cudaError_t e = cudaGetDriverEntryPointByVersion(name, &p, 12000, cudaEnableDefault, &found);

    if (e != cudaSuccess || found != cudaDriverEntryPointSuccess || p == NULL) {
        cudaGetLastError();
        return cvx_fail(CVX_EUNSUPPORTED, "the NVIDIA driver has no %s", name);
    }
    memcpy(fn, &p, sizeof p);
    return CVX_OK;
}

static cvx_status find_driver(const driver **out)
{
    static driver d;
    static bool ready;
    const struct {
        const char *name;
        void *fn;
    } names[] = {{"cuMemAddressReserve", &d.reserve},
                 {"cuMemAddressFree", &d.unreserve},
                 {"cuMemCreate", &d.create},
                 {"cuMemRelease", &d.release},
                 {"cuMemMap", &d.map},
                 {"cuMemUnmap", &d.unmap},
                 {"cuMemSetAccess", &d.access}};

    for (size_t i = 0; !ready && i < sizeof names / sizeof *names; i++) {
        CVX_RETURN_IF(entry(names[i].name, names[i].fn));
    }
    ready = true;
    *out = &d;
    return CVX_OK;
}

static cvx_status driver_status(CUresult r, const char *what, size_t bytes)
{
    return r == CUDA_SUCCESS ? CVX_OK
                             : cvx_fail(r == CUDA_ERROR_OUT_OF_MEMORY ? CVX_ENOMEM : CVX_EINTERNAL,
                                        "GPU memory: %s of %zu MiB failed (driver error %d)", what,
                                        bytes >> 20, (int)r);
}

static cvx_status push(chunks *c, CUmemGenericAllocationHandle h)
{
    if (c->n == c->room) {
        size_t room = c->room > 0 ? 2 * c->room : 64;
        CUmemGenericAllocationHandle *more = realloc(c->handle, room * sizeof *more);
        if (more == NULL) {
            return cvx_fail(CVX_ENOMEM, "no memory for a list of GPU memory");
        }
        c->handle = more;
        c->room = room;
    }
    c->handle[c->n++] = h;
    return CVX_OK;
}

/* One more chunk, spare or new. */
static cvx_status take_chunk(cvx_cuda *s, const driver *d, CUmemGenericAllocationHandle *out)
{
    cvx_cuda_parts *p = cvx_cuda_parts_of(s);
    CUmemAllocationProp prop = {.type = CU_MEM_ALLOCATION_TYPE_PINNED,
                                .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE}};

    if (p->spare != NULL && p->spare->n > 0) {
        *out = p->spare->handle[--p->spare->n];
    } else {
        prop.location.id = s->device;
        CVX_RETURN_IF(driver_status(d->create(out, CHUNK, &prop, 0), "a piece", CHUNK));
    }
    p->in_use += CHUNK;
    p->most = p->in_use > p->most ? p->in_use : p->most;
    return CVX_OK;
}

/* A chunk that no arena has any more. Without memory for the list it goes back to the driver. */
static void give_chunk(cvx_cuda *s, const driver *d, CUmemGenericAllocationHandle h)
{
    cvx_cuda_parts *p = cvx_cuda_parts_of(s);

    p->in_use -= CHUNK;
    if (p->spare == NULL) {
        p->spare = calloc(1, sizeof *p->spare);
    }
    if (p->spare == NULL || push(p->spare, h) != CVX_OK) {
        d->release(h);
    }
}

void cvx_cuda_free_spare(cvx_cuda *s)
{
    cvx_cuda_parts *p = cvx_cuda_parts_of(s);
    const driver *d = NULL;

    if (p->spare != NULL && find_driver(&d) == CVX_OK) {
        for (size_t i = 0; i < p->spare->n; i++) {
            d->release(p->spare->handle[i]);
        }
        free(p->spare->handle);
        free(p->spare);
        p->spare = NULL;
    }
}

static cvx_status grow(cvx_arena *a, size_t bytes)
{
    cvx_cuda *s = a->owner;
    chunks *c = a->chunks;
    const driver *d = NULL;
    CUmemAccessDesc rw = {.location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = s->device},
                          .flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE};

    CVX_RETURN_IF(find_driver(&d));
    while (a->ready < bytes) {
        CUdeviceptr at = (CUdeviceptr)(uintptr_t)(a->base + a->ready);
        CUmemGenericAllocationHandle h;
        CVX_RETURN_IF(take_chunk(s, d, &h));
        cvx_status st = driver_status(d->map(at, CHUNK, 0, h, 0), "mapping", CHUNK);
        if (st == CVX_OK) {
            st = driver_status(d->access(at, CHUNK, &rw, 1), "access", CHUNK);
            st = st == CVX_OK ? push(c, h) : st;
            if (st != CVX_OK) {
                d->unmap(at, CHUNK);
            }
        }
        if (st != CVX_OK) {
            give_chunk(s, d, h);
            return st;
        }
        a->ready += CHUNK;
    }
    return CVX_OK;
}

static void shrink(cvx_arena *a, size_t bytes)
{
    cvx_cuda *s = a->owner;
    chunks *c = a->chunks;
    const driver *d = NULL;
    size_t keep = (bytes + CHUNK - 1) / CHUNK;

    if (c == NULL || find_driver(&d) != CVX_OK) {
        return;
    }
    cudaStreamSynchronize(s->stream); /* what is queued may use it */
    cudaStreamSynchronize(s->copies);
    while (c->n > keep) {
        c->n--;
        d->unmap((CUdeviceptr)(uintptr_t)(a->base + c->n * CHUNK), CHUNK);
        give_chunk(s, d, c->handle[c->n]);
    }
    a->ready = c->n * CHUNK;
}

static void write_arena(cvx_arena *a, void *dst, const void *src, size_t bytes)
{
    cvx_cuda *s = a->owner;

    cvx_cuda_remember(s, cvx_cuda_to_device(s, s->stream, dst, src, bytes));
}

static void close_arena(cvx_arena *a)
{
    const driver *d = NULL;
    chunks *c = a->chunks;

    shrink(a, 0);
    if (find_driver(&d) == CVX_OK) {
        d->unreserve((CUdeviceptr)(uintptr_t)a->base, a->size);
    }
    free(c->handle);
    free(c);
}

/* --- managed memory --- */

static cvx_status grow_managed(cvx_arena *a, size_t bytes)
{
    return bytes <= a->ready ? CVX_OK
                             : cvx_fail(CVX_ENOMEM, "%s memory: managed arenas end at %zu MiB",
                                        a->name, a->ready >> 20);
}

static void keep_managed(cvx_arena *a, size_t bytes)
{
    (void)a;
    (void)bytes;
}

static void write_managed(cvx_arena *a, void *dst, const void *src, size_t bytes)
{
    (void)a;
    memcpy(dst, src, bytes);
}

static void close_managed(cvx_arena *a)
{
    cudaStreamSynchronize(((cvx_cuda *)a->owner)->stream);
    cudaFree(a->base);
}

static cvx_status open_managed(cvx_cuda *s, cvx_arena *a, const char *name, size_t size)
{
    static const cvx_arena_source source = {grow_managed, keep_managed, write_managed,
                                            close_managed};
    void *p = NULL;

    size = size < MANAGED_MOST ? size : MANAGED_MOST;
    CVX_RETURN_IF(
        cvx_cuda_status((int)cudaMallocManaged(&p, size, cudaMemAttachGlobal), "managed memory"));
    *a = (cvx_arena){
        .base = p, .size = size, .ready = size, .name = name, .source = &source, .owner = s};
    return CVX_OK;
}

static cvx_status open_arena(cvx_ctx *ctx, cvx_arena *a, const char *name, size_t size)
{
    static const cvx_arena_source source = {grow, shrink, write_arena, close_arena};
    cvx_cuda *s = cvx_cuda_of(ctx);
    const driver *d = NULL;
    CUdeviceptr base = 0;

    size = size > 0 ? (size + CHUNK - 1) / CHUNK * CHUNK : CHUNK;
    if (s->managed) {
        return open_managed(s, a, name, size);
    }
    CVX_RETURN_IF(find_driver(&d));
    chunks *c = calloc(1, sizeof *c);
    if (c == NULL) {
        return cvx_fail(CVX_ENOMEM, "no memory for a list of GPU memory");
    }
    cvx_status st = driver_status(d->reserve(&base, size, 0, 0, 0), "a range", size);
    if (st != CVX_OK) {
        free(c);
        return st;
    }
    *a = (cvx_arena){.base = (char *)(uintptr_t)base,
                     .size = size,
                     .name = name,
                     .source = &source,
                     .owner = s,
                     .chunks = c};
    return CVX_OK;
}

void *cvx_cuda_shared_alloc(size_t bytes)
{
    void *p = NULL;

    if (cudaMallocManaged(&p, bytes > 0 ? bytes : 1, cudaMemAttachGlobal) != cudaSuccess) {
        cudaGetLastError();
        return NULL;
    }
    return p;
}

void cvx_cuda_shared_free(void *p)
{
    cudaFree(p);
}

/* --- transfers --- */

cvx_status cvx_cuda_to_device(cvx_cuda *s, struct CUstream_st *stream, void *dst, const void *src,
                              size_t bytes)
{
    cvx_cuda_staging *g = &cvx_cuda_parts_of(s)->staging;

    if (cvx_cuda_graph_spoil(s)) {
        /* a graph would repeat the copy from a half that holds other values by then; nothing runs now, and the step is
         * done once more */
        return CVX_OK;
    }
    for (size_t at = 0; at < bytes; at += CVX_CUDA_STAGE) {
        size_t n = bytes - at < CVX_CUDA_STAGE ? bytes - at : CVX_CUDA_STAGE;
        int i = g->next;
        g->next = 1 - i;
        CVX_RETURN_IF(cvx_cuda_status((int)cudaEventSynchronize(g->done[i]), "upload"));
        memcpy(g->half[i], (const char *)src + at, n);
        CVX_RETURN_IF(cvx_cuda_status((int)cudaMemcpyAsync((char *)dst + at, g->half[i], n,
                                                           cudaMemcpyHostToDevice, stream),
                                      "upload"));
        CVX_RETURN_IF(cvx_cuda_status((int)cudaEventRecord(g->done[i], stream), "upload"));
    }
    return CVX_OK;
}

/* While one half is copied out of pinned memory the other one arrives. */
static cvx_status to_host(cvx_cuda *s, void *dst, const void *src, size_t bytes)
{
    cvx_cuda_staging *g = &cvx_cuda_parts_of(s)->staging;
    size_t n = (bytes + CVX_CUDA_STAGE - 1) / CVX_CUDA_STAGE;

    for (size_t k = 0; k <= n; k++) {
        if (k < n) {
            size_t at = k * CVX_CUDA_STAGE,
                   len = bytes - at < CVX_CUDA_STAGE ? bytes - at : CVX_CUDA_STAGE;
            int i = (int)(k & 1);
            CVX_RETURN_IF(cvx_cuda_status((int)cudaEventSynchronize(g->done[i]), "download"));
            CVX_RETURN_IF(
                cvx_cuda_status((int)cudaMemcpyAsync(g->half[i], (const char *)src + at, len,
                                                     cudaMemcpyDeviceToHost, s->stream),
                                "download"));
            CVX_RETURN_IF(cvx_cuda_status((int)cudaEventRecord(g->done[i], s->stream), "download"));
        }
        if (k > 0) {
            size_t at = (k - 1) * CVX_CUDA_STAGE,
                   len = bytes - at < CVX_CUDA_STAGE ? bytes - at : CVX_CUDA_STAGE;
            int i = (int)((k - 1) & 1);
            CVX_RETURN_IF(cvx_cuda_status((int)cudaEventSynchronize(g->done[i]), "download"));
            memcpy((char *)dst + at, g->half[i], len);
        }
    }
    return CVX_OK;
}

static cvx_status move(cvx_cuda *s, void *dst, const void *src, size_t bytes)
{
    bool to = cvx_cuda_owns(dst), from = cvx_cuda_owns(src), done = false;

    if (to && !from) {
        CVX_RETURN_IF(cvx_cuda_graph_upload(s, dst, src, bytes, &done));
    } else if (to) {
        done = cvx_cuda_graph_move(s, dst, src, bytes);
    } else {
        cvx_cuda_graph_spoil(s); /* the host wants to see something */
    }
    if (done) {
        return CVX_OK;
    }

    if (!to && !from) { /* host to host, in order with what is queued */
        CVX_RETURN_IF(cvx_cuda_status((int)cudaStreamSynchronize(s->stream), "copy"));
        memmove(dst, src, bytes);
        return CVX_OK;
    }
    if (to && !from) {
        CVX_RETURN_IF(cvx_cuda_to_device(s, s->stream, dst, src, bytes));
    } else if (!to) {
        return to_host(s, dst, src, bytes);
    } else {
        CVX_RETURN_IF(cvx_cuda_status(
            (int)cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToDevice, s->stream), "copy"));
    }
    return s->managed ? cvx_cuda_status((int)cudaStreamSynchronize(s->stream), "copy") : CVX_OK;
}

static void copy(cvx_ctx *ctx, void *dst, const void *src, size_t bytes)
{
    cvx_cuda_remember(cvx_cuda_of(ctx), move(cvx_cuda_of(ctx), dst, src, bytes));
}

static void zero(cvx_ctx *ctx, const cvx_tensor *t)
{
    cvx_cuda *s = cvx_cuda_of(ctx);

    if (cvx_cuda_graph_move(s, t->data, NULL, (size_t)cvx_numel(t))) {
        return;
    }
    cvx_status st =
        cvx_is_dense(t)
            ? cvx_cuda_status((int)cudaMemsetAsync(t->data, 0,
                                                   (size_t)cvx_numel(t) * cvx_dtype_size(t->dtype),
                                                   s->stream),
                              "zeros")
            : cvx_cuda_zero_strided(s, t);

    if (st == CVX_OK && s->managed) {
        st = cvx_cuda_status((int)cudaStreamSynchronize(s->stream), "zeros");
    }
    cvx_cuda_remember(s, st);
}

static bool owns(const cvx_ctx *ctx, const void *p)
{
    (void)ctx;
    return cvx_cuda_owns(p);
}

static cvx_status sync_stream(cvx_ctx *ctx)
{
    cvx_cuda *s = cvx_cuda_of(ctx);

    CVX_RETURN_IF(cvx_cuda_recall(s));
    return cvx_cuda_status((int)cudaStreamSynchronize(s->stream), "waiting for the device");
}

static void available(const cvx_ctx *ctx, size_t *unused, size_t *all)
{
    const cvx_cuda_parts *p = cvx_cuda_parts_of(cvx_cuda_of(ctx));

    if (cudaMemGetInfo(unused, all) != cudaSuccess) {
        cudaGetLastError();
        *unused = *all = 0;
    }
    *unused += p->spare != NULL ? p->spare->n * CHUNK : 0;
}

static void forget(cvx_ctx *ctx)
{
    cvx_cuda_forget_weights(cvx_cuda_of(ctx));
}

static size_t peak(const cvx_ctx *ctx)
{
    return cvx_cuda_parts_of(cvx_cuda_of(ctx))->most;
}

const cvx_memory_ops cvx_cuda_memory = {.arena = open_arena,
                                        .copy = copy,
                                        .zero = zero,
                                        .owns = owns,
                                        .sync = sync_stream,
                                        .step_begin = cvx_cuda_step_begin,
                                        .step_end = cvx_cuda_step_end,
                                        .available = available,
                                        .forget = forget,
                                        .range = cvx_cuda_range,
                                        .peak = peak,
                                        .close = cvx_cuda_close};
