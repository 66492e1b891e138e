/* Stand-in for the toolkit's header where kernels run on the host: e4m3, rounded to the nearest even, saturating. */
#ifndef CVX_TESTS_DEVICE_CUDA_FP8_H
#define CVX_TESTS_DEVICE_CUDA_FP8_H

#include <math.h>
#include <stdint.h>

enum { __NV_SATFINITE };
enum { __NV_E4M3 };

static inline float device_e4m3(uint8_t v)
{
    int e = v >> 3 & 15, m = v & 7;
    double f = (v & 127) == 127 ? NAN : e == 0 ? ldexp(m, -9) : ldexp(8 + m, e - 10);
    return (float)(v >> 7 != 0 ? -f : f);
}

/* The nearest of the type's values, of two the even one; above 448 is 448. */
static inline uint32_t device_to_e4m3(float v)
{
    uint32_t best = 0;
    double a = fmin(fabs((double)v), 448), gap = INFINITY;

    for (uint32_t i = 0; i < 127; i++) {
        double g = fabs(a - (double)device_e4m3((uint8_t)i));
        if (g < gap || (g == gap && i % 2 == 0)) {
            gap = g;
            best = i;
        }
    }
    return v != v ? 127 : best | (signbit(v) ? 128 : 0);
}

static inline uint8_t __nv_cvt_float_to_fp8(float v, int, int)
{
    return (uint8_t)device_to_e4m3(v);
}

#endif
