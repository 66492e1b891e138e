/* Stand-in for the toolkit's header where kernels run on the host: IEEE half, rounded to the nearest even. */
#ifndef CVX_TESTS_DEVICE_CUDA_FP16_H
#define CVX_TESTS_DEVICE_CUDA_FP16_H

#include <math.h>
#include <stdint.h>

struct __half {
    uint16_t bits;
};

static inline float __half2float(__half v)
{
    int e = v.bits >> 10 & 31, m = v.bits & 1023;
    double f = e == 0    ? ldexp(m, -24)
               : e == 31 ? (m != 0 ? NAN : INFINITY)
                         : ldexp(1024 + m, e - 25);
    return (float)(v.bits >> 15 != 0 ? -f : f);
}

static inline __half __float2half_rn(float v)
{
    int e = 0;
    double a = fabs((double)v);
    uint16_t sign = signbit(v) ? 0x8000 : 0;

    if (v != v) {
        return __half{0x7fff};
    }
    if (a >= 65520) {
        return __half{(uint16_t)(sign | 0x7c00)};
    }
    frexp(a, &e);
    e = e < -13 ? -13 : e; /* a = m · 2^(e - 11), m below 2048 */
    double m = nearbyint(ldexp(a, 11 - e));
    if (m >= 2048) {
        m /= 2;
        e++;
    }
    return __half{(uint16_t)(sign | (m < 1024 ? (int)m : ((e + 14) << 10) + (int)m - 1024))};
}

#endif
