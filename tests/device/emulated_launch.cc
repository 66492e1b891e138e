/* Launches and the driver's functions of the stand-in for CUDA: see emulated_cuda.cc. */
#include "tests/device/launch.h"

#include <sys/mman.h>

#include <map>
#include <mutex>

/* --- launches --- */

static std::mutex block_lock; /* one block at a time in a process */
static std::map<const void *, int> rooms;

void device_run_grid(const device_extent &e, const std::function<void()> &body)
{
    std::lock_guard<std::mutex> hold(block_lock);
    uint64_t n = (uint64_t)e.blocks.x * e.blocks.y * e.blocks.z, first = device_random() % n;

    blockDim = {e.threads.x, 1, 1};
    gridDim = {e.blocks.x, e.blocks.y, e.blocks.z};
    device.eager = !device.eager;
    for (uint64_t i = 0; i < n; i++) {
        unsigned b = (unsigned)((first + i) % n);
        device_run(e.threads.x, e.room,
                   {b % e.blocks.x, b / e.blocks.x % e.blocks.y, b / e.blocks.x / e.blocks.y},
                   body);
    }
}

bool device_may_launch(const device_extent &e, const void *kernel)
{
    auto most = rooms.find(kernel);
    size_t room = most != rooms.end() ? (size_t)most->second : 48 * 1024;

    if (e.blocks.x == 0 || e.blocks.y == 0 || e.blocks.y > 65535 || e.blocks.z != 1 ||
        e.blocks.x > 0x7fffffffu || e.threads.x == 0 || e.threads.x > 1024 || e.room > room) {
        fprintf(stderr, "a launch that CUDA refuses: %u x %u blocks, %u threads, %zu bytes\n",
                e.blocks.x, e.blocks.y, e.threads.x, e.room);
        abort();
    }
    return true;
}

extern "C" cudaError_t cudaFuncSetAttribute(const void *kernel, cudaFuncAttribute, int value)
{
    cudaDeviceProp d;
    cudaGetDeviceProperties(&d, 0);
    if ((size_t)value > d.sharedMemPerBlockOptin) {
        return cudaErrorInvalidValue;
    }
    rooms[kernel] = value;
    return cudaSuccess;
}

/* --- the driver's --- */

/* Memory mapped into a reserved range: pages that can be used only while they are mapped. The stand-in's handles are sizes:
 * contents do not follow a handle to its next place, and nothing relies on that. */
static int reserve(unsigned long long *out, size_t size, size_t, unsigned long long,
                   unsigned long long)
{
    void *p = mmap(nullptr, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    *out = (unsigned long long)(uintptr_t)p;
    return p == MAP_FAILED ? 2 : 0;
}
static int unreserve(unsigned long long p, size_t size)
{
    return munmap((void *)(uintptr_t)p, size);
}
static int create(unsigned long long *out, size_t size, const void *, unsigned long long)
{
    *out = size;
    return 0;
}
static int release(unsigned long long)
{
    return 0;
}
static int map(unsigned long long p, size_t size, size_t, unsigned long long, unsigned long long)
{
    device_add_piece((void *)(uintptr_t)p, size);
    return 0;
}
static int unmap(unsigned long long p, size_t size)
{
    device_drop_piece((void *)(uintptr_t)p);
    madvise((void *)(uintptr_t)p, size, MADV_DONTNEED);
    return mprotect((void *)(uintptr_t)p, size, PROT_NONE);
}
static int give_access(unsigned long long p, size_t size, const void *, size_t)
{
    if (mprotect((void *)(uintptr_t)p, size, PROT_READ | PROT_WRITE) != 0) {
        return 2;
    }
    memset((void *)(uintptr_t)p, 0xff, size);
    return 0;
}

/* cuTensorMapEncodeTiled, with its rules for addresses, strides and boxes. */
static int encode(CUtensorMap_st *m, int type, unsigned rank, void *data,
                  const unsigned long long *dims, const unsigned long long *strides,
                  const unsigned *box, const unsigned *each, int, int swizzle, int, int)
{
    int size = type == 0 ? 1 : 2, width = (int)box[0] * size;

    if (rank != 4 || (uintptr_t)m % 64 != 0 || (uintptr_t)data % 16 != 0 || box[0] > 256 ||
        box[1] > 256 || (swizzle == 2 ? width > 64 : width > 128)) {
        return 1;
    }
    for (int i = 0; i < 4; i++) {
        if (dims[i] == 0 || dims[i] > 1ull << 32 || each[i] != 1 ||
            (i > 0 && (strides[i - 1] % 16 != 0 || strides[i - 1] >= 1ull << 40))) {
            return 1;
        }
        m->dim[i] = (int64_t)dims[i];
        if (i > 0) {
            m->stride[i - 1] = (int64_t)strides[i - 1];
        }
    }
    m->data = (const char *)data;
    m->size = size;
    m->columns = (int)box[0];
    m->rows = (int)box[1];
    return 0;
}

extern "C" cudaError_t cudaGetDriverEntryPointByVersion(const char *name, void **fn, unsigned,
                                                        unsigned long long,
                                                        cudaDriverEntryPointQueryResult *found)
{
    static const struct {
        const char *name;
        void *fn;
    } all[] = {{"cuMemAddressReserve", (void *)reserve},
               {"cuMemAddressFree", (void *)unreserve},
               {"cuMemCreate", (void *)create},
               {"cuMemRelease", (void *)release},
               {"cuMemMap", (void *)map},
               {"cuMemUnmap", (void *)unmap},
               {"cuMemSetAccess", (void *)give_access},
               {"cuTensorMapEncodeTiled", (void *)encode}};

    *found = cudaDriverEntryPointSymbolNotFound;
    for (auto &e : all) {
        if (strcmp(e.name, name) == 0) {
            *fn = e.fn;
            *found = cudaDriverEntryPointSuccess;
        }
    }
    return cudaSuccess;
}
