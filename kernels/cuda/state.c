/* Device, streams and scratch of a context. */
#include <cuda_runtime_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/cudnn.h"
#include "kernels/cuda/parts.h"

/* The oldest compute capability that kernels are built for. */
#define OLDEST 80

cvx_status cvx_cuda_status(int rc, const char *what)
{
    cudaError_t e = (cudaError_t)rc;

    if (e == cudaSuccess) {
        return CVX_OK;
    }
    cudaGetLastError(); /* what does not stick is told here */
    return cvx_fail(e == cudaErrorMemoryAllocation ? CVX_ENOMEM : CVX_EINTERNAL,
                    "CUDA: %s: %s (%s)", what, cudaGetErrorString(e), cudaGetErrorName(e));
}

cvx_status cvx_cuda_launched(cvx_cuda *s, const char *kernel)
{
    CVX_RETURN_IF(cvx_cuda_status((int)cudaGetLastError(), kernel));
    return s->managed ? cvx_cuda_status((int)cudaStreamSynchronize(s->stream), kernel) : CVX_OK;
}

void cvx_cuda_remember(cvx_cuda *s, cvx_status st)
{
    cvx_cuda_parts *p = cvx_cuda_parts_of(s);

    if (st != CVX_OK && p->failed == CVX_OK) {
        p->failed = st;
        snprintf(p->why, sizeof p->why, "%s", cvx_error());
    }
}

cvx_status cvx_cuda_recall(cvx_cuda *s)
{
    cvx_cuda_parts *p = cvx_cuda_parts_of(s);
    cvx_status st = p->failed;

    p->failed = CVX_OK;
    return st == CVX_OK ? CVX_OK : cvx_fail(st, "%s", p->why);
}

bool cvx_cuda_owns(const void *p)
{
    struct cudaPointerAttributes a;

    if (cudaPointerGetAttributes(&a, p) != cudaSuccess) {
        cudaGetLastError();
        return false;
    }
    return a.type == cudaMemoryTypeDevice || a.type == cudaMemoryTypeManaged;
}

cvx_status cvx_cuda_scratch(cvx_cuda *s, int slot, void **out, size_t bytes)
{
    cvx_cuda_parts *p = cvx_cuda_parts_of(s);

    CVX_ASSERT(slot >= 0 && slot < CVX_CUDA_SCRATCHES);
    if (bytes > p->scratch_size[slot]) {
        size_t size = (bytes + ((size_t)1 << 20) - 1) >> 20 << 20;
        void *more = NULL;
        /* what is queued may still use the old one, and so does a captured step */
        CVX_RETURN_IF(cvx_cuda_status((int)cudaStreamSynchronize(s->stream), "scratch"));
        cvx_cuda_graph_moved(s);
        cudaFree(p->scratch[slot]);
        p->in_use -= p->scratch_size[slot];
        p->scratch[slot] = NULL;
        p->scratch_size[slot] = 0;
        CVX_RETURN_IF(
            cvx_cuda_status((int)(s->managed ? cudaMallocManaged(&more, size, cudaMemAttachGlobal)
                                             : cudaMalloc(&more, size)),
                            "scratch of an op"));
        p->scratch[slot] = more;
        p->scratch_size[slot] = size;
        p->in_use += size;
        p->most = p->in_use > p->most ? p->in_use : p->most;
    }
    *out = p->scratch[slot];
    return CVX_OK;
}

/* What keeps the first device from being used; "" if nothing does. *count: devices. */
static void obstacle(char why[160], int *count)
{
    struct cudaDeviceProp d = {0};
    cudaError_t e = cudaGetDeviceCount(count);

    why[0] = 0;
    if (e != cudaSuccess || *count == 0) {
        cudaGetLastError();
        *count = 0;
        snprintf(why, 160, "no CUDA device: %s",
                 e == cudaErrorInsufficientDriver
                     ? "no NVIDIA driver, or one older than CUDA 13 needs"
                 : e == cudaSuccess ? "none is visible"
                                    : cudaGetErrorString(e));
        return;
    }
    if (cudaGetDeviceProperties(&d, 0) != cudaSuccess || 10 * d.major + d.minor < OLDEST) {
        cudaGetLastError();
        snprintf(why, 160, "%.60s has compute capability %d.%d; 8.0 or newer is needed", d.name,
                 d.major, d.minor);
    }
}

bool cvx_cuda_built(void)
{
    return true;
}

bool cvx_cuda_usable(char what[160])
{
    struct cudaDeviceProp d;
    int n = 0;

    obstacle(what, &n);
    if (what[0] != 0) {
        return false;
    }
    if (cudaGetDeviceProperties(&d, 0) == cudaSuccess) {
        snprintf(what, 160, "%d x %.60s, sm_%d%d, %.1f GiB", n, d.name, d.major, d.minor,
                 (double)d.totalGlobalMem / (double)(1 << 30));
    }
    return true;
}

static void describe(cvx_cuda *s, const struct cudaDeviceProp *d)
{
    const unsigned char *u = (const unsigned char *)d->uuid.bytes;
    size_t at = 4;

    s->sm = 10 * d->major + d->minor;
#ifndef CVX_NO_HOPPER
    s->hopper = s->sm == 90;
#endif
    s->sm_count = d->multiProcessorCount;
    s->shared_max = (int)d->sharedMemPerBlockOptin;
    s->memory = d->totalGlobalMem;
    snprintf(s->name, sizeof s->name, "%.95s", d->name);
    snprintf(s->uuid, sizeof s->uuid, "GPU-");
    for (int i = 0; i < 16; i++) {
        at += (size_t)snprintf(s->uuid + at, sizeof s->uuid - at, "%s%02x",
                               i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "", u[i]);
    }
}

static cvx_status open_staging(cvx_cuda *s)
{
    cvx_cuda_staging *g = &cvx_cuda_parts_of(s)->staging;

    for (int i = 0; i < 2; i++) {
        CVX_RETURN_IF(cvx_cuda_status((int)cudaMallocHost((void **)&g->half[i], CVX_CUDA_STAGE),
                                      "pinned memory"));
        CVX_RETURN_IF(cvx_cuda_status(
            (int)cudaEventCreateWithFlags(&g->done[i], cudaEventDisableTiming), "an event"));
    }
    return CVX_OK;
}

/* --- what a process has once --- */

static struct {
    cvx_cuda_process p;
    int users;
} process;

/* This process's number among those on its machine. */
static int local_rank(void)
{
    static const char *const names[] = {"OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID",
                                        "SLURM_LOCALID", "LOCAL_RANK"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const char *v = getenv(names[i]);
        if (v != NULL) {
            long n = strtol(v, NULL, 10);
            return n >= 0 && n < 1 << 20 ? (int)n : 0;
        }
    }
    return 0;
}

static void close_streams(void)
{
    struct CUstream_st *all[] = {process.p.compute, process.p.copies, process.p.exchange};

    for (int i = 0; i < 3; i++) {
        if (all[i] != NULL) {
            cudaStreamDestroy(all[i]);
        }
    }
    process.p = (cvx_cuda_process){0};
}

cvx_status cvx_cuda_process_open(const cvx_cuda_process **out)
{
    struct CUstream_st **all[] = {&process.p.compute, &process.p.copies, &process.p.exchange};
    char why[160];
    int n = 0;

    if (process.users == 0) {
        obstacle(why, &n);
        if (why[0] != 0) {
            return cvx_fail(CVX_EUNSUPPORTED, "backend \"cuda\": %s; \"cpu\" works here", why);
        }
        process.p.device = local_rank() % n;
        CVX_RETURN_IF(cvx_cuda_status((int)cudaSetDevice(process.p.device), "choosing the device"));
        for (int i = 0; i < 3; i++) {
            cvx_status st =
                cvx_cuda_status((int)cudaStreamCreateWithFlags(all[i], cudaStreamNonBlocking),
                                "a stream");
            if (st != CVX_OK) {
                close_streams();
                return st;
            }
        }
    }
    process.users++;
    *out = &process.p;
    return CVX_OK;
}

void cvx_cuda_process_close(void)
{
    if (process.users > 0 && --process.users == 0) {
        close_streams();
    }
}

/* What the environment asks for, before anything is computed: a choice that is none of `names` (NULL ends them), or cuDNN where it
 * cannot be had. */
static cvx_status check_choice(cvx_cuda *s, const char *variable, const char *const names[])
{
    const char *v = getenv(variable);
    cvx_cudnn *unused = NULL;
    char all[64] = "";

    if (v == NULL) {
        return CVX_OK;
    }
    for (int i = 0; names[i] != NULL; i++) {
        if (strcmp(v, names[i]) == 0) {
            return strcmp(v, "cudnn") == 0 ? cvx_cudnn_of(s, &unused) : CVX_OK;
        }
        size_t n = strlen(all);
        snprintf(all + n, sizeof all - n, "%s%s", i > 0 ? ", " : "", names[i]);
    }
    return cvx_fail(CVX_EINVAL, "%s=%.40s: one of %s is possible", variable, v, all);
}

cvx_status cvx_cuda_lacks_hopper(const cvx_cuda *s, const char *what)
{
    return cvx_fail(CVX_EUNSUPPORTED,
                    "%s needs compute capability 9.0 and a build for 90a; %s has %d.%d", what,
                    s->name, s->sm / 10, s->sm % 10);
}

static cvx_status check_choices(cvx_cuda *s)
{
    static const char *const attention[] = {"plain", "mma", "hopper", "cudnn", NULL};
    static const char *const conv[] = {"own", "cudnn", NULL};

    const char *v = getenv("CVX_CUDA_ATTENTION");

    CVX_RETURN_IF(check_choice(s, "CVX_CUDA_ATTENTION", attention));
    if (v != NULL && strcmp(v, "hopper") == 0 && !s->hopper) {
        return cvx_cuda_lacks_hopper(s, "CVX_CUDA_ATTENTION=hopper");
    }
    return check_choice(s, "CVX_CUDA_CONV", conv);
}

cvx_status cvx_cuda_open(cvx_ctx *ctx)
{
    struct cudaDeviceProp d;
    const char *memory = getenv("CVX_CUDA_MEMORY"); /* "managed": for tests that look at operands */
    const cvx_cuda_process *once = NULL;
    cvx_status st = CVX_OK;

    CVX_RETURN_IF(cvx_cuda_process_open(&once));
    cvx_cuda *s = calloc(1, sizeof *s);
    if (s == NULL || (s->private_parts = calloc(1, sizeof(cvx_cuda_parts))) == NULL) {
        free(s);
        cvx_cuda_process_close();
        return cvx_fail(CVX_ENOMEM, "no memory for a CUDA context");
    }
    ctx->backend = s;
    s->device = once->device;
    s->stream = once->compute;
    s->copies = once->copies;
    s->managed = memory != NULL && strcmp(memory, "managed") == 0;
    CVX_TRY(st, cvx_cuda_status((int)cudaGetDeviceProperties(&d, s->device), "its properties"),
            done);
    describe(s, &d);
    CVX_TRY(st, open_staging(s), done);
    CVX_TRY(st, check_choices(s), done);
done:
    if (st != CVX_OK) {
        cvx_cuda_close(ctx);
    }
    return st;
}

void cvx_cuda_close(cvx_ctx *ctx)
{
    cvx_cuda *s = cvx_cuda_of(ctx);
    cvx_cuda_parts *p;

    if (s == NULL) {
        return;
    }
    p = cvx_cuda_parts_of(s);
    cudaStreamSynchronize(s->stream);
    cvx_cuda_graph_close(s);
    cvx_cuda_forget_weights(s);
    cvx_cuda_gemm_close(s);
    cvx_cudnn_close(p->cudnn);
    for (int i = 0; i < CVX_CUDA_SCRATCHES; i++) {
        cudaFree(p->scratch[i]);
    }
    for (int i = 0; i < 2; i++) {
        cudaFreeHost(p->staging.half[i]);
        if (p->staging.done[i] != NULL) {
            cudaEventDestroy(p->staging.done[i]);
        }
    }
    cvx_cuda_free_spare(s);
    cvx_cuda_process_close();
    free(p);
    free(s);
    ctx->backend = NULL;
}
