/* Views, and the 16-bit float conversions at every value where they can go wrong. */
#include <string.h>

#include "../golden/golden.h"

static float from_bits(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

static uint32_t to_bits(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

/* A float of `ebits` exponent and `mbits` mantissa bits, by the definition of IEEE 754; finite ones. */
static double value_of(uint32_t v, int ebits, int mbits)
{
    int bias = (1 << (ebits - 1)) - 1, e = (int)(v >> mbits) & ((1 << ebits) - 1);
    double m = (double)(v & ((1u << mbits) - 1));
    double a =
        e == 0 ? ldexp(m, 1 - bias - mbits) : ldexp(m + (double)(1u << mbits), e - bias - mbits);
    return v >> (ebits + mbits) & 1 ? -a : a;
}

typedef struct half_kind {
    int ebits, mbits;
    uint32_t inf; /* bits of infinity; above it NaN */
    float (*widen)(uint16_t v);
    uint16_t (*narrow)(float v);
} half_kind;

static const half_kind kinds[] = {{5, 10, 0x7c00, cvx_f16_to_f32, cvx_f32_to_f16},
                                  {8, 7, 0x7f80, cvx_bf16_to_f32, cvx_f32_to_bf16}};

/* All 65,536 values go to f32 and back. */
static void every_value(void **state)
{
    (void)state;
    for (int k = 0; k < 2; k++) {
        const half_kind *h = &kinds[k];
        for (uint32_t v = 0; v < 0x10000; v++) {
            float f = h->widen((uint16_t)v);
            uint32_t a = v & 0x7fff;
            if (a > h->inf) {
                uint32_t back = h->narrow(f);
                if (!isnan(f) || (back & 0x7fff) <= h->inf || (back & 0x8000) != (v & 0x8000)) {
                    fail_msg("kind %d: %04x: NaN became %g and %04x", k, v, (double)f, back);
                }
            } else {
                double want = a == h->inf ? (v & 0x8000 ? -INFINITY : INFINITY)
                                          : value_of(v, h->ebits, h->mbits);
                if ((double)f != want || (signbit(f) != 0) != (v >> 15 != 0) || h->narrow(f) != v) {
                    fail_msg("kind %d: %04x is %g and goes back to %04x", k, v, (double)f,
                             h->narrow(f));
                }
            }
        }
    }
}

/* Rounding changes only halfway between neighbours: the f32 at every such place and its two neighbours must go
 * to the nearer one, ties to even. Conversions are monotone between these, so this covers all f32. */
static void every_tie(void **state)
{
    (void)state;
    for (int k = 0; k < 2; k++) {
        const half_kind *h = &kinds[k];
        for (uint32_t v = 0; v < h->inf; v++) {
            /* the value above the greatest finite one counts as the next power of two */
            double mid =
                (value_of(v, h->ebits, h->mbits) + value_of(v + 1, h->ebits, h->mbits)) / 2;
            float tie = (float)mid; /* exact: one bit more than the 16-bit format */
            assert_true((double)tie == mid);
            uint32_t even = v & 1 ? v + 1 : v;
            for (uint32_t sign = 0; sign <= 1; sign++) {
                uint32_t s = sign << 15, u = to_bits(tie) | sign << 31;
                uint32_t at = h->narrow(from_bits(u)), below = h->narrow(from_bits(u - 1)),
                         above = h->narrow(from_bits(u + 1));
                if (at != (even | s) || below != (v | s) || above != ((v + 1) | s)) {
                    fail_msg("kind %d: between %04x and %04x: %04x %04x %04x", k, v, v + 1, below,
                             at, above);
                }
            }
        }
        assert_int_equal(h->narrow(INFINITY), h->inf);
        assert_int_equal(h->narrow(3.4e38f) & 0x8000, 0);
        assert_true((h->narrow(from_bits(0x7f800001)) & 0x7fff) > h->inf); /* NaN, low bits only */
        assert_true((h->narrow(from_bits(0xff800001)) & 0x7fff) > h->inf);
        assert_int_equal(h->narrow(from_bits(1)), 0); /* the least f32 */
    }
}

static void conversions_of_arrays(void **state)
{
    static const float f[5] = {0, -1.5f, 3, 100, -0.25f};
    uint16_t h[5], b[5];
    float out[5];
    uint8_t u[2] = {0, 255};
    int32_t i32[2] = {-7, 1 << 20};
    int64_t i64[2] = {-7, INT64_C(1) << 40};
    double d[2] = {-0.5, 1e300};

    (void)state;
    cvx_from_f32(h, CVX_F16, f, 5);
    cvx_from_f32(b, CVX_BF16, f, 5);
    cvx_to_f32(out, h, CVX_F16, 5);
    assert_memory_equal(out, f, sizeof f);
    cvx_to_f32(out, b, CVX_BF16, 5);
    assert_memory_equal(out, f, sizeof f);
    cvx_from_f32(out, CVX_F32, f, 5);
    assert_memory_equal(out, f, sizeof f);
    cvx_to_f32(out, u, CVX_U8, 2);
    assert_true(out[0] == 0 && out[1] == 255);
    cvx_to_f32(out, i32, CVX_I32, 2);
    assert_true(out[0] == -7 && out[1] == 1048576);
    cvx_to_f32(out, i64, CVX_I64, 2);
    assert_true(out[0] == -7 && out[1] == 0x1p40f);
    cvx_to_f32(out, d, CVX_F64, 2);
    assert_true(out[0] == -0.5f && isinf(out[1]));
    const cvx_tensor t = CVX_VIEW(h, CVX_F16, 5);
    assert_true(cvx_get_f32(&t, 3) == 100);
}

/* Three bf16 hold every bit of an f32 whose exponent leaves room for 24 bits above bf16's least. */
static void three_bf16(void **state)
{
    float f[64], out[64];
    uint16_t split[192];
    uint32_t u = 12345;

    (void)state;
    for (int round = 0; round < 1000; round++) {
        for (int i = 0; i < 64; i++) {
            u = u * 1664525 + 1013904223;
            f[i] = from_bits((u & 0x807fffff) | (127 - 60 + (u >> 8) % 120) << 23);
        }
        cvx_from_f32(split, CVX_BF16X3, f, 64);
        cvx_to_f32(out, split, CVX_BF16X3, 64);
        assert_memory_equal(out, f, sizeof f);
        assert_int_equal(split[96], cvx_f32_to_bf16(f[32])); /* [2][3][32], greatest first */
    }
}

static void views(void **state)
{
    float data[24];
    char text[96], tiny[6];

    (void)state;
    cvx_tensor t = CVX_VIEW(data, CVX_F32, 2, 3, 4);
    assert_int_equal(cvx_numel(&t), 24);
    assert_int_equal(t.stride[0], 12);
    assert_int_equal(t.stride[2], 1);
    assert_true(cvx_is_dense(&t));
    assert_string_equal(cvx_tensor_describe(&t, text, sizeof text), "[2, 3, 4] f32");
    assert_string_equal(cvx_tensor_describe(&t, tiny, sizeof tiny), "[2, 3");

    cvx_tensor s = cvx_slice(&t, 1, 1, 2);
    assert_ptr_equal(s.data, data + 4);
    assert_int_equal(s.dim[1], 2);
    assert_false(cvx_is_dense(&s));
    s = cvx_slice(&t, 0, 1, 1);
    assert_true(cvx_is_dense(&s));
    s = cvx_slice(&s, 1, 1, 2); /* a dim of 1 in front may have any stride */
    assert_true(cvx_is_dense(&s));
    assert_ptr_equal(s.data, data + 16);

    snprintf(t.name, sizeof t.name, "name");
    cvx_tensor r = CVX_RESHAPE(&t, 6, 4);
    assert_int_equal(r.stride[0], 4);
    assert_string_equal(r.name, "name");
    cvx_tensor scalar = cvx_view(data, CVX_BF16, 0, NULL);
    assert_int_equal(cvx_numel(&scalar), 1);
    assert_string_equal(cvx_tensor_describe(&scalar, text, sizeof text), "[] bf16");
    cvx_tensor big = CVX_VIEW(NULL, CVX_F32, 49, 480, 720, 128); /* beyond 32 bits */
    assert_int_equal(cvx_numel(&big), INT64_C(2167603200));
    assert_int_equal(big.stride[0], INT64_C(480) * 720 * 128);
}

static void dtypes(void **state)
{
    static const struct {
        cvx_dtype t;
        size_t size;
        const char *name;
    } rows[] = {{CVX_F32, 4, "f32"}, {CVX_F16, 2, "f16"},      {CVX_BF16, 2, "bf16"},
                {CVX_F64, 8, "f64"}, {CVX_U8, 1, "u8"},        {CVX_I32, 4, "i32"},
                {CVX_I64, 8, "i64"}, {CVX_BF16X3, 6, "bf16x3"}};

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        assert_int_equal(cvx_dtype_size(rows[i].t), rows[i].size);
        assert_string_equal(cvx_dtype_name(rows[i].t), rows[i].name);
    }
    assert_string_equal(cvx_dtype_name((cvx_dtype)99), "?");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_value),
                                       cmocka_unit_test(every_tie),
                                       cmocka_unit_test(conversions_of_arrays),
                                       cmocka_unit_test(three_bf16),
                                       cmocka_unit_test(views),
                                       cmocka_unit_test(dtypes)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
