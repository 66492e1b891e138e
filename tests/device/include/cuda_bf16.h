/* Stand-in for the toolkit's header where kernels run on the host: bfloat16, rounded to the nearest even. */
#ifndef CVX_TESTS_DEVICE_CUDA_BF16_H
#define CVX_TESTS_DEVICE_CUDA_BF16_H

#include <stdint.h>
#include <string.h>

struct __nv_bfloat16 {
    uint16_t bits;
};

static inline float __bfloat162float(__nv_bfloat16 v)
{
    uint32_t u = (uint32_t)v.bits << 16;
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

static inline __nv_bfloat16 __float2bfloat16_rn(float v)
{
    uint32_t u;
    memcpy(&u, &v, sizeof u);
    return v != v ? __nv_bfloat16{0x7fff}
                  : __nv_bfloat16{(uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16)};
}

#endif
