/* Stand-in for the toolkit's header where kernels run on the host: the words of the language; the runtime's functions
 * where the toolkit has them, for emulated_cuda.cc to define. */
#ifndef CVX_TESTS_DEVICE_CUDA_RUNTIME_H
#define CVX_TESTS_DEVICE_CUDA_RUNTIME_H

#if __has_include(<cuda_runtime_api.h>)
#include <cuda_runtime_api.h>
#endif

#undef __global__
#undef __device__
#undef __host__
#undef __shared__
#undef __forceinline__
#undef __align__
#undef __launch_bounds__
#undef __grid_constant__
#define __global__
#define __device__
#define __host__
#define __shared__ static /* the threads of a block are fibers of one thread */
#define __forceinline__ inline
#define __align__(n) alignas(n)
#define __launch_bounds__(...)
#define __grid_constant__

#include "tests/device/fibers.h"

#endif
