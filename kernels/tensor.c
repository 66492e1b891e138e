#include "kernels/tensor.h"

#include <stdio.h>
#include <string.h>

size_t cvx_dtype_size(cvx_dtype t)
{
    switch (t) {
    case CVX_F32: return 4;
    case CVX_F16: return 2;
    case CVX_BF16: return 2;
    case CVX_F64: return 8;
    case CVX_U8: return 1;
    case CVX_I32: return 4;
    case CVX_I64: return 8;
    case CVX_BF16X3: return 6;
    }
    return 0;
}

const char *cvx_dtype_name(cvx_dtype t)
{
    static const char *const names[] = {"f32", "f16", "bf16", "f64", "u8", "i32", "i64", "bf16x3"};
    return (size_t)t < sizeof names / sizeof *names ? names[t] : "?";
}

int64_t cvx_numel(const cvx_tensor *t)
{
    int64_t n = 1;
    for (int i = 0; i < t->ndim; i++) {
        n *= t->dim[i];
    }
    return n;
}

bool cvx_is_dense(const cvx_tensor *t)
{
    int64_t n = 1;
    for (int i = t->ndim - 1; i >= 0; i--) {
        if (t->dim[i] != 1 && t->stride[i] != n) {
            return false;
        }
        n *= t->dim[i];
    }
    return true;
}

cvx_tensor cvx_view(void *data, cvx_dtype dtype, int ndim, const int64_t *dim)
{
    cvx_tensor t = {.data = data, .dtype = dtype, .ndim = ndim};
    int64_t n = 1;

    CVX_ASSERT(ndim >= 0 && ndim <= CVX_MAX_DIMS);
    for (int i = ndim - 1; i >= 0; i--) {
        t.dim[i] = dim[i];
        t.stride[i] = n;
        (void)__builtin_mul_overflow(n, dim[i], &n); /* what overflows is refused by its owner */
    }
    return t;
}

cvx_status cvx_tensor_alloc(cvx_arena *a, cvx_tensor *out, cvx_dtype dtype, int ndim,
                            const int64_t *dim)
{
    cvx_tensor t = cvx_view(NULL, dtype, ndim, dim);
    int64_t n = 1;

    for (int i = 0; i < ndim; i++) {
        if (dim[i] < 0 || __builtin_mul_overflow(n, dim[i], &n) || n > (int64_t)1 << 56) {
            return cvx_fail(CVX_ENOMEM, "%s memory: a tensor's size overflows", a->name);
        }
    }
    CVX_RETURN_IF(cvx_arena_alloc(a, &t.data, (size_t)n * cvx_dtype_size(dtype)));
    *out = t;
    return CVX_OK;
}

cvx_tensor cvx_slice(const cvx_tensor *t, int d, int64_t start, int64_t len)
{
    cvx_tensor s = *t;

    CVX_ASSERT(d >= 0 && d < t->ndim && start >= 0 && len >= 0 && start + len <= t->dim[d]);
    s.data = (char *)t->data + start * t->stride[d] * (int64_t)cvx_dtype_size(t->dtype);
    s.dim[d] = len;
    return s;
}

cvx_tensor cvx_reshape(const cvx_tensor *t, int ndim, const int64_t *dim)
{
    cvx_tensor r = cvx_view(t->data, t->dtype, ndim, dim);

    CVX_ASSERT(cvx_is_dense(t) && cvx_numel(&r) == cvx_numel(t));
    r.device = t->device;
    r.layout = t->layout;
    memcpy(r.name, t->name, sizeof r.name);
    return r;
}

char *cvx_tensor_describe(const cvx_tensor *t, char *buf, size_t size)
{
    size_t at = (size_t)snprintf(buf, size, "[");
    for (int i = 0; i < t->ndim && at < size; i++) {
        at += (size_t)snprintf(buf + at, size - at, "%s%lld", i ? ", " : "", (long long)t->dim[i]);
    }
    if (at < size) {
        snprintf(buf + at, size - at, "] %s", cvx_dtype_name(t->dtype));
    }
    return buf;
}

float cvx_bf16_to_f32(uint16_t v)
{
    uint32_t u = (uint32_t)v << 16;
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

uint16_t cvx_f32_to_bf16(float v)
{
    uint32_t u;
    memcpy(&u, &v, sizeof u);
    if ((u & 0x7fffffff) > 0x7f800000) {
        return (uint16_t)(u >> 16 | 0x40);
    }
    return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

float cvx_f16_to_f32(uint16_t v)
{
    uint32_t sign = (uint32_t)(v & 0x8000) << 16, e = v >> 10 & 31, m = v & 0x3ff, u;
    float f;

    if (e == 0) {
        f = (float)m * 0x1p-24f;
        memcpy(&u, &f, sizeof u);
        u |= sign;
    } else {
        u = sign | (e == 31 ? 0x7f800000u : (e + 112) << 23) | m << 13;
    }
    memcpy(&f, &u, sizeof f);
    return f;
}

uint16_t cvx_f32_to_f16(float v)
{
    uint32_t u;
    memcpy(&u, &v, sizeof u);
    uint32_t sign = u >> 16 & 0x8000, a = u & 0x7fffffff;

    if (a > 0x7f800000) {
        return (uint16_t)(sign | 0x7e00);
    }
    if (a >= 0x477ff000) { /* rounds to 65536 or more */
        return (uint16_t)(sign | 0x7c00);
    }
    if (a < 0x38800000) { /* subnormal half: let the FPU round at 2^-24 */
        float f;
        memcpy(&f, &a, sizeof f);
        f += 0.5f; /* ulp of [0.5, 1) is 2^-24 */
        memcpy(&a, &f, sizeof a);
        return (uint16_t)(sign | (a - 0x3f000000));
    }
    return (uint16_t)(sign | ((a - 0x38000000 + 0xfff + (a >> 13 & 1)) >> 13));
}

void cvx_to_f32(float *dst, const void *src, cvx_dtype t, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        switch (t) {
        case CVX_F32: dst[i] = ((const float *)src)[i]; break;
        case CVX_F16: dst[i] = cvx_f16_to_f32(((const uint16_t *)src)[i]); break;
        case CVX_BF16: dst[i] = cvx_bf16_to_f32(((const uint16_t *)src)[i]); break;
        case CVX_F64: dst[i] = (float)((const double *)src)[i]; break;
        case CVX_U8: dst[i] = (float)((const uint8_t *)src)[i]; break;
        case CVX_I32: dst[i] = (float)((const int32_t *)src)[i]; break;
        case CVX_I64: dst[i] = (float)((const int64_t *)src)[i]; break;
        case CVX_BF16X3: {
            const uint16_t *p = (const uint16_t *)src + i / 32 * 96 + i % 32;
            dst[i] = cvx_bf16_to_f32(p[0]) + (cvx_bf16_to_f32(p[32]) + cvx_bf16_to_f32(p[64]));
            break;
        }
        }
    }
}

float cvx_get_f32(const cvx_tensor *t, int64_t i)
{
    float f = 0;
    cvx_to_f32(&f, (const char *)t->data + i * (int64_t)cvx_dtype_size(t->dtype), t->dtype, 1);
    return f;
}

void cvx_from_f32(void *dst, cvx_dtype t, const float *src, int64_t n)
{
    CVX_ASSERT(t == CVX_F32 || t == CVX_F16 || t == CVX_BF16 || t == CVX_BF16X3);
    for (int64_t i = 0; i < n; i++) {
        if (t == CVX_F32) {
            ((float *)dst)[i] = src[i];
        } else if (t == CVX_BF16X3) {
            float rest = src[i];
            for (int p = 0; p < 3; p++) {
                uint16_t v = cvx_f32_to_bf16(rest);
                ((uint16_t *)dst)[i / 32 * 96 + p * 32 + i % 32] = v;
                rest -= cvx_bf16_to_f32(v);
            }
        } else {
            ((uint16_t *)dst)[i] = t == CVX_F16 ? cvx_f32_to_f16(src[i]) : cvx_f32_to_bf16(src[i]);
        }
    }
}
