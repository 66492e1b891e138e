/* The attention kernels for tensor cores, run on the host by emulating a block (tests/device/emulated.h): against sums in
 * double precision, with other neighbours, and with copies that land early or late. */
#include "tests/device/emulated.h"

#include "tests/device/emulated_hopper.h"

#include "kernels/cuda/attention_hopper.cuh"
#include "kernels/cuda/attention_mma.cuh"
#include "kernels/cuda/sage.cuh"

#include <set>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
extern "C" {
#include <cmocka.h>
}

/* Eight rows' pieces of one number lie in different banks, as do the pieces of 128 bytes of a row; no piece is used twice. */
static void places(void **)
{
    for (int pieces = 8; pieces <= 16; pieces *= 2) {
        std::set<uint32_t> used;
        for (int row = 0; row < 64; row++) {
            std::set<uint32_t> banks;
            for (int piece = 0; piece < pieces; piece++) {
                uint32_t at = cvx_flash_place(row, piece, pieces);
                assert_true(at % 16 == 0 && at < 64u * (uint32_t)pieces * 16);
                assert_true(used.insert(at).second);
                banks.insert(piece / 8 * 128 + at % 128);
            }
            assert_int_equal(banks.size(), pieces);
        }
        for (int row = 0; row < 64; row += 8) {
            for (int piece = 0; piece < pieces; piece++) {
                std::set<uint32_t> banks;
                for (int i = 0; i < 8; i++) {
                    banks.insert(cvx_flash_place(row + i, piece, pieces) % 128);
                }
                assert_int_equal(banks.size(), 8);
            }
        }
    }
}

/* One head's operands in rows with a gap, as the model keeps them. */
template <typename T> struct head {
    int sq, sk, d, ld;
    std::vector<T> q, k, v, o;
    std::vector<float> lse;
    const T guard = from_float<T>(123);

    head(int queries, int keys, int size) : sq(queries), sk(keys), d(size), ld(size + 16)
    {
        uint32_t seed = 7;
        for (auto *t : {&q, &k, &v}) {
            t->resize((size_t)((t == &q ? sq : sk) * ld) + 8);
            for (T &e : *t) { /* gaps hold values too: nobody may use them */
                seed = seed * 1664525u + 1013904223u;
                e = from_float<T>((float)((int32_t)(seed >> 8) - (1 << 23)) * 0x1p-22f);
            }
        }
        o.assign((size_t)(sq * ld), guard);
        lse.assign((size_t)sq, NAN);
    }
    static T *aligned(std::vector<T> &t)
    {
        return t.data() + (16 - (uintptr_t)t.data() % 16) % 16 / sizeof(T);
    }
    cvx_flash args(int first, int rows)
    {
        cvx_flash a = {};
        a.q = aligned(q) + first * ld, a.k = aligned(k), a.v = aligned(v),
        a.o = o.data() + first * ld;
        a.lse = lse.data() + first;
        a.b = a.h = 1, a.sq = rows, a.sk = sk, a.d = d;
        a.qs[1] = a.ks[1] = a.vs[1] = a.os[1] = ld;
        a.scale = (float)(1 / sqrt(d));
        a.scale2 = (float)(1 / sqrt(d) / log(2));
        return a;
    }
};

template <typename T, int D> static void run_mma(const cvx_flash &a)
{
    typedef flash_tile<D> tile;
    for (unsigned x = 0; x * tile::rows < a.sq; x++) {
        device_run(tile::threads, tile::shared, {x, 0, 0},
                   [&] { flash_block<T, D>(a, device.room); });
    }
}

static tensor_map map_of(const void *data, int64_t rows, const cvx_flash &a, int64_t ld, int box)
{
    return {(const char *)data, {a.d, rows, 1, 1}, {2 * ld, 0, 0}, 2, 64, box};
}

template <typename T, int D> static void run_hopper(const cvx_flash &a)
{
    typedef hopper_tile<D> tile;
    hopper_maps m = {map_of(a.q, a.sq, a, a.qs[1], tile::rows),
                     map_of(a.k, a.sk, a, a.ks[1], tile::keys),
                     map_of(a.v, a.sk, a, a.vs[1], tile::keys)};
    for (unsigned x = 0; x * tile::rows < a.sq; x++) {
        device_run(tile::threads, tile::shared, {x, 0, 0},
                   [&] { hopper_block<D>(a, m, device.room); });
    }
}

/* Values lie in [-2, 2), so outputs do; weights are rounded to T (2^-9 or 2^-12 of each), and so is the output; f32's own
 * errors are some 2^-20. The log of the sum has f32's errors alone: below 8, a dozen roundings. */
template <typename T> static void compare(head<T> &h, double rounding)
{
    std::vector<double> p((size_t)h.sk);
    T *q = h.aligned(h.q), *k = h.aligned(h.k), *v = h.aligned(h.v);

    for (int i = 0; i < h.sq; i++) {
        double sum = 0;
        for (int j = 0; j < h.sk; j++) {
            double s = 0;
            for (int e = 0; e < h.d; e++) {
                s += (double)to_float(q[i * h.ld + e]) * (double)to_float(k[j * h.ld + e]);
            }
            p[(size_t)j] = exp(s / sqrt(h.d));
            sum += p[(size_t)j];
        }
        for (int e = 0; e < h.d; e++) {
            double want = 0, got = to_float(h.o[(size_t)(i * h.ld + e)]);
            for (int j = 0; j < h.sk; j++) {
                want += p[(size_t)j] / sum * (double)to_float(v[j * h.ld + e]);
            }
            if (!(fabs(got - want) <= 2 * (2 * rounding) + 0x1p-18)) {
                fail_msg("sq %d sk %d d %d: row %d column %d is %g, not %g", h.sq, h.sk, h.d, i, e,
                         got, want);
            }
        }
        for (int e = h.d; e < h.ld; e++) {
            assert_int_equal(h.o[(size_t)(i * h.ld + e)].bits, h.guard.bits);
        }
        assert_true(fabs((double)h.lse[(size_t)i] - log(sum)) <= 12 * 8 * 0x1p-24);
    }
}

template <typename T>
static void check(void (*run)(const cvx_flash &), int sq, int sk, int d, double rounding)
{
    for (int eager = 0; eager < 2; eager++) {
        head<T> h(sq, sk, d);
        device.eager = eager != 0;
        run(h.args(0, sq));
        compare(h, rounding);
    }
}

static void mma_sums(void **)
{
    check<bf16>(run_mma<bf16, 64>, 1, 1, 64, 0x1p-9);
    check<bf16>(run_mma<bf16, 64>, 63, 64, 64, 0x1p-9);
    check<bf16>(run_mma<bf16, 64>, 131, 65, 64, 0x1p-9);
    check<f16>(run_mma<f16, 64>, 33, 333, 64, 0x1p-12);
    check<bf16>(run_mma<bf16, 64>, 40, 200, 40, 0x1p-9);
    check<bf16>(run_mma<bf16, 128>, 65, 63, 128, 0x1p-9);
    check<f16>(run_mma<f16, 128>, 20, 300, 128, 0x1p-12);
    check<bf16>(run_mma<bf16, 128>, 17, 130, 96, 0x1p-9);
}

static void hopper_sums(void **)
{
    check<bf16>(run_hopper<bf16, 64>, 1, 1, 64, 0x1p-9);
    check<bf16>(run_hopper<bf16, 64>, 63, 128, 64, 0x1p-9);
    check<bf16>(run_hopper<bf16, 64>, 200, 129, 64, 0x1p-9);
    check<bf16>(run_hopper<bf16, 64>, 65, 900, 64, 0x1p-9); /* twice round the ring */
    check<bf16>(run_hopper<bf16, 64>, 64, 300, 40, 0x1p-9);
    check<bf16>(run_hopper<bf16, 128>, 65, 127, 128, 0x1p-9);
    check<bf16>(run_hopper<bf16, 128>, 130, 700, 128, 0x1p-9);
    check<bf16>(run_hopper<bf16, 128>, 17, 257, 96, 0x1p-9);
}

/* Rows alone and among others, at other places of their tiles: the same bits. */
static void check_rows(void (*run)(const cvx_flash &), int d)
{
    const int sq = 200, cut[] = {0, 1, 18, 60, 128, 200};
    head<bf16> all(sq, 200, d), parts(sq, 200, d);

    run(all.args(0, sq));
    for (int i = 0; i < 5; i++) {
        run(parts.args(cut[i], cut[i + 1] - cut[i]));
    }
    assert_memory_equal(all.o.data(), parts.o.data(), all.o.size() * sizeof(bf16));
    assert_memory_equal(all.lse.data(), parts.lse.data(), (size_t)sq * sizeof(float));
}

static void rows_alone(void **)
{
    check_rows(run_mma<bf16, 64>, 64);
    check_rows(run_mma<bf16, 128>, 128);
    check_rows(run_hopper<bf16, 64>, 64);
    check_rows(run_hopper<bf16, 128>, 128);
}

/* --- 8 bits --- */

/* The operands that SageAttention's kernels pass on, for one head. */
struct sage_operands {
    std::vector<char> memory;
    cvx_sage s = {};

    explicit sage_operands(const cvx_flash &a)
    {
        int64_t d = CVX_SAGE_HEAD, n = CVX_SAGE_KEYS;
        s.skp = (a.sk + n - 1) / n * n;
        int64_t part = cvx_sage_shares(a.sk) * 8 * d;
        memory.resize(
            (size_t)(2 * s.skp * d + a.sq * (d + 8) + s.skp / n * 16 + 8 * d + part + 10 * 256));
        char *p = memory.data();
        auto take = [&](int64_t bytes) {
            char *q = p + (256 - (uintptr_t)p % 256) % 256;
            p = q + bytes;
            return q;
        };
        s.q = (int8_t *)take(a.sq * d), s.k = (int8_t *)take(s.skp * d);
        s.v = (uint8_t *)take(s.skp * d);
        s.qs = (float *)take(a.sq * 4), s.shift = (float *)take(a.sq * 4);
        s.ks = (float *)take(s.skp / n * 16);
        s.vs = (float *)take(4 * d), s.mean = (float *)take(4 * d);
        s.part = (float *)take(part);
    }
};

static void run_sage(const cvx_flash &a)
{
    sage_operands g(a);
    const cvx_sage &s = g.s;
    const int d = CVX_SAGE_HEAD;
    unsigned blocks = (unsigned)(s.skp / CVX_SAGE_KEYS);
    hopper_maps m = {{(char *)s.q, {d, a.sq, 1, 1}, {d, 0, 0}, 1, d, sage_tile::rows},
                     {(char *)s.k, {d, s.skp, 1, 1}, {d, 0, 0}, 1, d, sage_tile::keys},
                     {(char *)s.v, {s.skp, d, 1, 1}, {s.skp, 0, 0}, 1, sage_tile::keys, d}};

    for (unsigned x = 0; x < cvx_sage_shares(a.sk); x++) {
        device_run(SAGE_THREADS, SAGE_STATS_ROOM, {x, 0, 0},
                   [&] { sage_stats(a, s, device.room); });
    }
    device_run(CVX_SAGE_HEAD, 16, {0, 0, 0}, [&] { sage_gather(a, s); });
    for (unsigned x = 0; x * (SAGE_THREADS / 32) < a.sq; x++) {
        device_run(SAGE_THREADS, 16, {x, 0, 0}, [&] { sage_queries(a, s); });
    }
    for (unsigned x = 0; x < blocks; x++) {
        device_run(SAGE_THREADS, SAGE_BLOCK_ROOM, {x, 0, 0},
                   [&] { sage_block(a, s, device.room); });
    }
    for (unsigned x = 0; x * sage_tile::rows < a.sq; x++) {
        device_run(sage_tile::threads, sage_tile::shared, {x, 0, 0},
                   [&] { sage_product(a, s, m, device.room); });
    }
}

/* Every place of 32 holds another key, and a thread's scores are its neighbours in the left operand. */
static void sage_places(void **)
{
    std::set<int> used;
    for (int at = 0; at < 32; at++) {
        assert_true(used.insert(cvx_sage_key(at)).second);
        assert_int_equal(cvx_sage_key(at) % 8 / 2, at % 16 / 4);
    }
    assert_int_equal(*used.begin(), 0);
    assert_int_equal(*used.rbegin(), 31);
}

/* Queries and keys less their mean are uniform in [-2, 2), deviation 1.16, and rounded to steps of 2 / 127, deviation 2 / 127 /
 * sqrt(12): a score, 64 products of either over 8, errs by 0.0075. Weights and values are rounded to three bits after the
 * first, which errs by 2^-4 / sqrt(3) / 1.4 = 0.026 of each. So a term of the output errs by 0.038 of itself, and the
 * output, a sum of terms of either sign, by as much of its root mean square. Keys 20 off zero, were their mean not
 * taken away, would make it 0.08. */
static void check_sage(int sq, int sk)
{
    head<bf16> h(sq, sk, CVX_SAGE_HEAD), plain(sq, sk, CVX_SAGE_HEAD);
    double error = 0, all = 0, worst = 0;

    for (head<bf16> *t : {&h, &plain}) {
        for (int i = 0; i < sk * t->ld; i++) {
            bf16 &k = t->aligned(t->k)[i];
            k = from_float<bf16>(to_float(k) + (i % t->ld % 3 == 0 ? 20.0f : 0.0f));
        }
    }
    run_sage(h.args(0, sq));
    run_hopper<bf16, 64>(plain.args(0, sq));
    for (int i = 0; i < sq; i++) {
        for (int e = 0; e < h.d; e++) {
            double want = to_float(plain.o[(size_t)(i * h.ld + e)]);
            double got = to_float(h.o[(size_t)(i * h.ld + e)]);
            error += (got - want) * (got - want);
            all += want * want;
        }
        worst = fmax(worst, fabs((double)h.lse[(size_t)i] - (double)plain.lse[(size_t)i]));
    }
    print_message("sage sq %d sk %d: error %.4f, lse %.4f\n", sq, sk, sqrt(error / all), worst);
    assert_true(sqrt(error / all) <= 1.25 * 0.038);
    assert_true(worst <= 6 * 0.0075);
}

static void sage_sums(void **)
{
    for (int eager = 0; eager < 2; eager++) {
        device.eager = eager != 0;
        check_sage(1, 1);
        check_sage(40, 128);
        check_sage(150, 200);
        check_sage(33, 900);
        check_sage(5, 1100);
    }
}

static void sage_alone(void **)
{
    check_rows(run_sage, CVX_SAGE_HEAD);
}

int main()
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(places),     cmocka_unit_test(mma_sums),    cmocka_unit_test(hopper_sums),
        cmocka_unit_test(rows_alone), cmocka_unit_test(sage_places), cmocka_unit_test(sage_sums),
        cmocka_unit_test(sage_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
