/* Streams of the stand-in for CUDA's runtime (emulated_cuda.cc). */
#ifndef CVX_TESTS_DEVICE_STREAMS_H
#define CVX_TESTS_DEVICE_STREAMS_H

#include <cuda_runtime_api.h>

#include <functional>
#include <tuple>

/* Work at the end of a stream, done by the stream's own thread; while the stream is captured, a node of its graph. */
void device_enqueue(cudaStream_t stream, std::function<void()> work);
/* Whether p..p + bytes lies in one block of device or pinned memory; else a fault is told and the process ends. */
void device_must_own(const void *p, size_t bytes, bool pinned_too, const char *what);

/* Device memory that came by the driver's maps. */
void device_add_piece(const void *p, size_t bytes);
void device_drop_piece(const void *p);

#endif
