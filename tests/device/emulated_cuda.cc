/* A stand-in for CUDA's runtime on a machine without a GPU, so that the host's part of the backend and its kernels run whole.
 * A stream is a thread that does its work in order; with CVX_EMULATED_LATE=1 it pauses before each piece, and copies from
 * pinned memory read it only then: what is ordered by luck alone shows. Device memory is the heap's, filled with NaNs. The
 * device is what CVX_EMULATED_SM says: 80 (default), 90, 120 ... */
#include "tests/device/streams.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <thread>
#include <vector>

/* Of all that follows. Never destroyed: streams may outlive main. */
static std::mutex &lock = *new std::mutex;
static std::condition_variable &changed = *new std::condition_variable;
static thread_local cudaError_t last_error;

[[noreturn]] static void fault(const char *what)
{
    fprintf(stderr, "the stand-in for CUDA: %s\n", what);
    abort();
}

static cudaError_t told(cudaError_t e)
{
    if (e != cudaSuccess) {
        last_error = e;
    }
    return e;
}

static int sm()
{
    const char *v = getenv("CVX_EMULATED_SM");
    return v != nullptr ? atoi(v) : 80;
}

/* --- memory --- */

enum kind { DEVICE, PINNED, MANAGED };
struct piece {
    size_t bytes;
    kind k;
};
static std::map<const char *, piece> &pieces = *new std::map<const char *, piece>;

static const piece *piece_of(const void *p, const char **begin = nullptr)
{
    auto it = pieces.upper_bound((const char *)p);
    if (it == pieces.begin()) {
        return nullptr;
    }
    --it;
    if ((const char *)p >= it->first + it->second.bytes) {
        return nullptr;
    }
    if (begin != nullptr) {
        *begin = it->first;
    }
    return &it->second;
}

void device_must_own(const void *p, size_t bytes, bool pinned_too, const char *what)
{
    std::lock_guard<std::mutex> hold(lock);
    const char *at = (const char *)p, *end = at + bytes, *begin = nullptr;

    while (at < end) { /* pieces of an arena lie side by side */
        const piece *q = piece_of(at, &begin);
        if (q == nullptr || (q->k == PINNED && !pinned_too)) {
            fprintf(stderr, "the stand-in for CUDA: %s: %zu bytes at %p are not the device's\n",
                    what, bytes, p);
            abort();
        }
        at = begin + q->bytes;
    }
}

void device_add_piece(const void *p, size_t bytes)
{
    std::lock_guard<std::mutex> hold(lock);
    pieces[(const char *)p] = {bytes, DEVICE};
}

void device_drop_piece(const void *p)
{
    std::lock_guard<std::mutex> hold(lock);
    if (pieces.erase((const char *)p) == 0) {
        fault("a piece of an arena is unmapped that was not mapped");
    }
}

/* From this size on a piece has pages of its own, at addresses that are never used again: a use after it was given back is a fault. */
static const size_t LARGE = (size_t)1 << 20;

static cudaError_t take(void **out, size_t bytes, kind k)
{
    if (bytes == 0) {
        *out = nullptr;
        return cudaSuccess;
    }
    void *p = bytes < LARGE ? aligned_alloc(256, (bytes + 255) / 256 * 256)
                            : mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                                   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == nullptr || p == MAP_FAILED) {
        return told(cudaErrorMemoryAllocation);
    }
    memset(p, 0xff, bytes);
    std::lock_guard<std::mutex> hold(lock);
    pieces[(const char *)p] = {bytes, k};
    *out = p;
    return cudaSuccess;
}

static cudaError_t give(void *p)
{
    if (p == nullptr) {
        return cudaSuccess;
    }
    cudaDeviceSynchronize(); /* as cudaFree does */
    std::lock_guard<std::mutex> hold(lock);
    auto it = pieces.find((const char *)p);
    if (it == pieces.end()) {
        fault("a piece of memory is freed that was not taken");
    }
    if (it->second.bytes < LARGE) {
        free(p);
    } else {
        mmap(p, it->second.bytes, PROT_NONE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
    }
    pieces.erase(it);
    return cudaSuccess;
}

extern "C" {

cudaError_t cudaMalloc(void **out, size_t bytes)
{
    return take(out, bytes, DEVICE);
}
cudaError_t cudaMallocHost(void **out, size_t bytes)
{
    return take(out, bytes, PINNED);
}
cudaError_t cudaMallocManaged(void **out, size_t bytes, unsigned)
{
    return take(out, bytes, MANAGED);
}
cudaError_t cudaFree(void *p)
{
    return give(p);
}
cudaError_t cudaFreeHost(void *p)
{
    return give(p);
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes *a, const void *p)
{
    std::lock_guard<std::mutex> hold(lock);
    const piece *q = piece_of(p);
    *a = {};
    a->type = q == nullptr     ? cudaMemoryTypeUnregistered
              : q->k == DEVICE ? cudaMemoryTypeDevice
              : q->k == PINNED ? cudaMemoryTypeHost
                               : cudaMemoryTypeManaged;
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *unused, size_t *all)
{
    *unused = *all = (size_t)8 << 30;
    return cudaSuccess;
}

/* --- errors and properties --- */

cudaError_t cudaGetLastError(void)
{
    cudaError_t e = last_error;
    last_error = cudaSuccess;
    return e;
}
const char *cudaGetErrorString(cudaError_t)
{
    return "told by the stand-in";
}
const char *cudaGetErrorName(cudaError_t e)
{
    static thread_local char name[32];
    snprintf(name, sizeof name, "error %d", (int)e);
    return name;
}
cudaError_t cudaGetDeviceCount(int *n)
{
    const char *v = getenv("CVX_EMULATED_DEVICES");
    *n = v != nullptr ? atoi(v) : 1;
    return *n > 0 ? cudaSuccess : told(cudaErrorNoDevice);
}
cudaError_t cudaSetDevice(int)
{
    return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *d, int device)
{
    const char *name = getenv("CVX_EMULATED_NAME");
    *d = {};
    snprintf(d->name, sizeof d->name, "%s", name != nullptr ? name : "emulated GPU");
    d->major = sm() / 10;
    d->minor = sm() % 10;
    d->multiProcessorCount = 4;
    d->sharedMemPerBlockOptin = (sm() == 80 ? 163 : sm() == 90 || sm() == 100 ? 227 : 99) * 1024;
    d->totalGlobalMem = (size_t)8 << 30;
    d->uuid.bytes[15] = (char)device;
    return cudaSuccess;
}

} /* extern "C" */

/* --- streams --- */

struct CUevent_st {
    std::atomic<uint64_t> recorded{0}, done{0};
    std::atomic<bool> captured{false};
};
struct CUgraph_st {
    std::vector<std::function<void()>> nodes;
};
struct CUgraphExec_st {
    std::vector<std::function<void()>> nodes;
};

struct CUstream_st {
    std::deque<std::function<void()>> work;
    bool busy = false, stop = false;
    CUgraph_st *capture = nullptr;
    bool spoiled = false; /* the capture */
    std::thread thread;
};
static std::set<CUstream_st *> &streams = *new std::set<CUstream_st *>;

static bool late()
{
    const char *v = getenv("CVX_EMULATED_LATE");
    return v != nullptr && v[0] == '1';
}

static void stream_works(CUstream_st *s)
{
    std::unique_lock<std::mutex> hold(lock);
    for (;;) {
        changed.wait(hold, [&] { return s->stop || !s->work.empty(); });
        if (s->work.empty()) {
            return;
        }
        std::function<void()> w = std::move(s->work.front());
        s->work.pop_front();
        s->busy = true;
        hold.unlock();
        if (late()) {
            usleep(300);
        }
        w();
        w = nullptr;
        hold.lock();
        s->busy = false;
        changed.notify_all();
    }
}

void device_enqueue(cudaStream_t s, std::function<void()> work)
{
    std::lock_guard<std::mutex> hold(lock);
    if (streams.count(s) == 0) {
        fault("work for a stream that does not exist");
    }
    if (s->capture != nullptr) {
        s->capture->nodes.push_back(std::move(work));
        return;
    }
    s->work.push_back(std::move(work));
    changed.notify_all();
}

/* In a capture such a call is an error that ends it. */
static bool refuse_capture(CUstream_st *s)
{
    std::lock_guard<std::mutex> hold(lock);
    if (s->capture != nullptr) {
        s->spoiled = true;
        return true;
    }
    return false;
}

extern "C" {

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *out, unsigned)
{
    CUstream_st *s = new CUstream_st;
    std::lock_guard<std::mutex> hold(lock);
    streams.insert(s);
    s->thread = std::thread(stream_works, s);
    *out = s;
    return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t s)
{
    {
        std::lock_guard<std::mutex> hold(lock);
        s->stop = true;
        changed.notify_all();
    }
    s->thread.join();
    std::lock_guard<std::mutex> hold(lock);
    streams.erase(s);
    delete s;
    return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t s)
{
    if (getenv("CVX_EMULATED_FAULT") != nullptr) { /* a kernel's, which the device tells late */
        return told(cudaErrorIllegalAddress);
    }
    if (refuse_capture(s)) {
        return told(cudaErrorStreamCaptureUnsupported);
    }
    std::unique_lock<std::mutex> hold(lock);
    changed.wait(hold, [&] { return s->work.empty() && !s->busy; });
    return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize(void)
{
    std::unique_lock<std::mutex> hold(lock);
    changed.wait(hold, [&] {
        for (CUstream_st *s : streams) {
            if (!s->work.empty() || s->busy) {
                return false;
            }
        }
        return true;
    });
    return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *out, unsigned)
{
    *out = new CUevent_st;
    return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t e)
{
    cudaDeviceSynchronize(); /* nothing queued may look at it later: the stand-in's need alone */
    delete e;
    return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s)
{
    bool captured;
    {
        std::lock_guard<std::mutex> hold(lock);
        captured = s->capture != nullptr;
    }
    e->captured = captured;
    if (captured) {
        return cudaSuccess;
    }
    uint64_t turn = ++e->recorded;
    device_enqueue(s, [=] {
        std::lock_guard<std::mutex> hold(lock);
        e->done = turn;
        changed.notify_all();
    });
    return cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t e)
{
    return e->captured              ? told(cudaErrorCapturedEvent)
           : e->done >= e->recorded ? cudaSuccess
                                    : cudaErrorNotReady;
}
cudaError_t cudaEventSynchronize(cudaEvent_t e)
{
    if (e->captured) {
        return told(cudaErrorCapturedEvent);
    }
    std::unique_lock<std::mutex> hold(lock);
    uint64_t turn = e->recorded;
    changed.wait(hold, [&] { return e->done >= turn; });
    return cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned)
{
    uint64_t turn = e->recorded;
    device_enqueue(s, [=] {
        std::unique_lock<std::mutex> hold(lock);
        changed.wait(hold, [&] { return e->done >= turn; });
    });
    return cudaSuccess;
}

cudaError_t cudaLaunchHostFunc(cudaStream_t s, cudaHostFn_t fn, void *payload)
{
    device_enqueue(s, [=] { fn(payload); });
    return cudaSuccess;
}

/* --- copies --- */

cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t s)
{
    bool to = kind != cudaMemcpyDeviceToHost, from = kind != cudaMemcpyHostToDevice;
    const piece *p;

    if (to) {
        device_must_own(dst, bytes, false, "a copy's destination");
    }
    if (from) {
        device_must_own(src, bytes, false, "a copy's source");
    }
    {
        std::lock_guard<std::mutex> hold(lock);
        p = piece_of(to ? src : dst);
        if (!(to && from) && p == nullptr && s->capture != nullptr) {
            s->spoiled = true;
            return told(cudaErrorStreamCaptureUnsupported);
        }
    }
    if (to && !from && p == nullptr) { /* from pageable memory: read before the call returns */
        auto copy =
            std::make_shared<std::vector<char>>((const char *)src, (const char *)src + bytes);
        device_enqueue(s, [=] { memcpy(dst, copy->data(), bytes); });
        return cudaSuccess;
    }
    device_enqueue(s, [=] { memmove(dst, src, bytes); });
    /* to pageable memory: has come when the call returns */
    return from && !to && p == nullptr ? cudaStreamSynchronize(s) : cudaSuccess;
}
cudaError_t cudaMemsetAsync(void *dst, int v, size_t bytes, cudaStream_t s)
{
    device_must_own(dst, bytes, false, "a fill");
    device_enqueue(s, [=] { memset(dst, v, bytes); });
    return cudaSuccess;
}

/* --- graphs --- */

cudaError_t cudaStreamBeginCapture(cudaStream_t s, cudaStreamCaptureMode)
{
    std::lock_guard<std::mutex> hold(lock);
    s->capture = new CUgraph_st;
    s->spoiled = false;
    return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *out)
{
    std::lock_guard<std::mutex> hold(lock);
    *out = s->capture;
    s->capture = nullptr;
    if (s->spoiled) {
        delete *out;
        *out = nullptr;
        return told(cudaErrorStreamCaptureInvalidated);
    }
    return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *out, cudaGraph_t g, unsigned long long)
{
    *out = new CUgraphExec_st{g->nodes};
    return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t g)
{
    delete g;
    return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t g)
{
    delete g;
    return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t g, cudaStream_t s)
{
    for (auto &node : g->nodes) {
        device_enqueue(s, node);
    }
    return cudaSuccess;
}

} /* extern "C" */
