/* What kernel<<<blocks, threads, room, stream>>>(...) becomes on the host (emulate.py): the grid is queued on the stream and
 * runs block by block, in an order drawn anew. */
#ifndef CVX_TESTS_DEVICE_LAUNCH_H
#define CVX_TESTS_DEVICE_LAUNCH_H

#include "tests/device/emulated_hopper.h"

#include "tests/device/streams.h"

struct device_extent {
    dim3 blocks, threads;
    size_t room;
};

/* In the stream's own thread. */
void device_run_grid(const device_extent &e, const std::function<void()> &body);
/* What CUDA refuses is left as the last error, and nothing is queued. */
bool device_may_launch(const device_extent &e, const void *kernel);

template <typename... P> struct device_launcher {
    void (*kernel)(P...);
    device_extent e;
    cudaStream_t stream;

    template <typename... A> void operator()(A... args) const
    {
        auto k = kernel;
        device_extent extent = e;
        std::tuple<P...> values(args...); /* now, as a launch copies them */
        if (device_may_launch(e, (const void *)kernel)) {
            device_enqueue(stream,
                           [=] { device_run_grid(extent, [&] { std::apply(k, values); }); });
        }
    }
};

template <typename... P>
static inline device_launcher<P...> device_launch(void (*kernel)(P...), dim3 blocks, dim3 threads,
                                                  size_t room, cudaStream_t stream)
{
    return {kernel, {blocks, threads, room}, stream};
}

template <typename... P>
static inline cudaError_t cudaFuncSetAttribute(void (*kernel)(P...), cudaFuncAttribute what,
                                               int value)
{
    return cudaFuncSetAttribute((const void *)kernel, what, value);
}

#endif
