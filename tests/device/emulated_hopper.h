/* What kernels/cuda/hopper.cuh has, on the host: bulk copies happen at once (eager) or, in any order, when no thread goes
 * on without them; products of four warps at the wait that ends them. See emulated.h. */
#ifndef CVX_TESTS_DEVICE_EMULATED_HOPPER_H
#define CVX_TESTS_DEVICE_EMULATED_HOPPER_H
#define CVX_KERNELS_CUDA_HOPPER_CUH /* takes its place */

#include "tests/device/emulated.h"

#include <cuda_fp8.h>
#include <map>

#define CVX_HOPPER 1

static inline int uniform(int v)
{
    return v; /* of a warp's lanes alike */
}

/* --- barriers --- */

struct device_barrier {
    int count = 0, arrived = 0, bytes = 0; /* bytes still to come */
    unsigned phase = 0;
};
inline std::map<shared_at, device_barrier> device_barriers;
struct device_named {
    int here = 0;
    unsigned turn = 0;
};
inline std::map<int, device_named> device_nameds;

static inline device_barrier &device_barrier_at(shared_at b)
{
    if (b % 8 != 0 || b + 8 > device.room_size || device_barriers.count(b) == 0) {
        device_fault("a barrier that was not made");
    }
    return device_barriers[b];
}
static inline void device_barrier_look(device_barrier &b)
{
    if (b.arrived > b.count) {
        device_fault("more threads arrive at a barrier than it was made for");
    }
    if (b.arrived == b.count && b.bytes == 0) {
        b.arrived = 0;
        b.phase++;
        device.moves++;
    }
}
static inline void barrier_init(shared_at b, int count)
{
    device_barriers[b] = device_barrier();
    device_barriers[b].count = count;
}
static inline void barrier_inits_done()
{
}
static inline void barrier_arrive(shared_at at)
{
    device_barrier &b = device_barrier_at(at);
    b.arrived++;
    device_barrier_look(b);
}
static inline void barrier_arrive_expecting(shared_at at, int bytes)
{
    device_barrier &b = device_barrier_at(at);
    b.bytes += bytes;
    b.arrived++;
    device_barrier_look(b);
}
static inline void barrier_wait(shared_at at, int parity)
{
    device_barrier &b = device_barrier_at(at);
    device_wait([&] { return (int)(b.phase & 1) != parity; });
}

static inline unsigned device_named_come(int id, int threads)
{
    device_named &n = device_nameds[id];
    unsigned turn = n.turn;
    if (id < 1 || id > 15 || threads % 32 != 0) {
        device_fault("a barrier of this number or size does not exist");
    }
    device.moves++;
    if (++n.here == threads) {
        n.here = 0;
        n.turn++;
    }
    return turn;
}
static inline void named_sync(int id, int threads)
{
    unsigned turn = device_named_come(id, threads);
    device_wait([&] { return device_nameds[id].turn != turn; });
}
static inline void named_arrive(int id, int threads)
{
    device_named_come(id, threads);
}

template <int N> static inline void registers_give()
{
    static_assert(N % 8 == 0 && N >= 24 && N <= 256, "setmaxnreg");
}
template <int N> static inline void registers_take()
{
    static_assert(N % 8 == 0 && N >= 24 && N <= 256, "setmaxnreg");
}

/* --- bulk copies --- */

struct alignas(64) CUtensorMap_st {
    const char *data;
    int64_t dim[4], stride[3]; /* strides in bytes of dims 1 to 3 */
    int size, columns, rows;   /* bytes of an element; boxes: columns of dim 0, rows of dim 1 */
};
typedef CUtensorMap_st tensor_map;

inline std::vector<std::function<void()>> device_bulk;

/* Bytes of shared memory at p, turned as the swizzle of rows of `width` bytes (64 or 128) does. */
static inline char *device_turned(shared_at p, int width)
{
    shared_at at = p ^ ((p >> 7 & (shared_at)(width / 16 - 1)) << 4);
    if (at + 2 > device.room_size) {
        device_fault("an operand outside of shared memory");
    }
    return device.room + at;
}

static inline void device_copy_box(shared_at to, const tensor_map *m, const int at[4])
{
    int width = m->columns * m->size;

    if (width != 64 && width != 128) {
        device_fault("a box of another width than those of swizzles");
    }
    for (int r = 0; r < m->rows; r++) {
        for (int e = 0; e < m->columns; e++) {
            int64_t x[4] = {at[0] + e, at[1] + r, at[2], at[3]}, from = x[0] * m->size;
            char v[2] = {0, 0};
            bool there = true;
            for (int i = 0; i < 4; i++) {
                there = there && x[i] >= 0 && x[i] < m->dim[i];
                from += i > 0 ? x[i] * m->stride[i - 1] : 0;
            }
            if (there) {
                memcpy(v, m->data + from, (size_t)m->size);
            }
            memcpy(device_turned(to + (shared_at)(r * width + e * m->size), width), v,
                   (size_t)m->size);
        }
    }
}

static inline void tile_async(shared_at to, const tensor_map *map, shared_at b, int e, int row,
                              int head, int item)
{
    auto copy = [=] {
        const int at[] = {e, row, head, item};
        device_copy_box(to, map, at);
        device_barrier &mine = device_barrier_at(b);
        mine.bytes -= map->rows * map->columns * map->size;
        device_barrier_look(mine);
    };
    if (to % 1024 != 0) {
        device_fault("a turned tile that is not aligned to 1024 bytes");
    }
    if (device.eager) {
        copy();
    } else {
        device_bulk.push_back(copy);
    }
}

/* One of the copies on their way, in any order. */
static inline bool device_bulk_step()
{
    if (device_bulk.empty()) {
        return false;
    }
    size_t i = device_random() % device_bulk.size();
    std::function<void()> copy = device_bulk[i];
    device_bulk.erase(device_bulk.begin() + (long)i);
    copy();
    return true;
}

/* --- products --- */

/* How a product reads its operands: the left from shared memory (a is NULL) or registers, the right with the
 * contraction along its rows' bytes or (turned) along its rows. */
enum device_kind { DEVICE_BF16, DEVICE_BF16_TURNED, DEVICE_S8, DEVICE_E4M3 };
struct device_product {
    device_kind kind;
    void *d; /* float or int [n / 8][4] */
    const uint32_t *a;
    uint64_t left, right;
    int n;
    bool add;
};
/* By thread: sets, oldest first; the last one is not committed. */
inline std::map<unsigned, std::vector<std::vector<device_product>>> device_products;

/* Address, bytes to the next 64 columns, and the top bit for rows of 64 bytes. */
static inline uint64_t operand_at(shared_at p, int next)
{
    return (uint64_t)p | (uint64_t)next << 32;
}
static inline uint64_t narrow_operand_at(shared_at p)
{
    return (uint64_t)p | (uint64_t)1 << 63;
}
static inline uint64_t operand_next(uint64_t o, int bytes)
{
    return o + (uint64_t)bytes;
}
static inline void products_begin()
{
}
static inline void device_begin(const device_product &p)
{
    auto &sets = device_products[device.now];
    if (sets.empty()) {
        sets.emplace_back();
    }
    if (!p.add) {
        memset(p.d, 0xff, (size_t)p.n / 2 * 4); /* of no use until the wait: NaNs */
    }
    sets.back().push_back(p);
}
static inline void products_commit()
{
    auto &sets = device_products[device.now];
    if (sets.empty()) {
        sets.emplace_back();
    }
    sets.emplace_back();
}

/* Element (row, k) of an operand in shared memory whose rows hold the contraction, of `size` bytes. */
static inline uint16_t device_element(uint64_t operand, int row, int k, int size)
{
    int width = operand >> 63 != 0 ? 64 : 128;
    shared_at at =
        (shared_at)operand + (shared_at)(row / 8 * 8 * width + row % 8 * width + k * size);
    uint16_t v = 0;
    memcpy(&v, device_turned(at, width), (size_t)size);
    return v;
}

static inline float device_value(device_kind kind, uint32_t v)
{
    return kind == DEVICE_S8     ? (float)(int8_t)v
           : kind == DEVICE_E4M3 ? device_e4m3((uint8_t)v)
                                 : to_float(bf16{(uint16_t)v});
}

/* One product of a warp: its 16 rows. */
static inline void device_multiply(device_product **lane, unsigned warp)
{
    const device_product &p = *lane[0];
    int size = p.kind == DEVICE_S8 || p.kind == DEVICE_E4M3 ? 1 : 2, depth = 32 / size;
    int four = 4 / size; /* values of a register */
    static float l[16][32], r[32][128];

    for (int i = 0; i < 16; i++) {
        for (int k = 0; k < depth; k++) {
            uint32_t v;
            if (p.a == nullptr) { /* the operand's rows 16 · warp .. */
                v = device_element(p.left, (int)(warp % 4) * 16 + i, k, size);
            } else { /* registers 0, 1: rows i, i + 8, half of the depth; 2, 3: the other */
                uint32_t pair =
                    lane[i % 8 * 4 + k % (depth / 2) / four]->a[i / 8 + k / (depth / 2) * 2];
                v = pair >> (8 * size * (k % four)) & (size == 1 ? 0xff : 0xffff);
            }
            l[i][k] = device_value(p.kind, v);
        }
    }
    for (int k = 0; k < depth; k++) {
        for (int n = 0; n < p.n; n++) {
            uint16_t v = 0;
            if (p.kind == DEVICE_BF16_TURNED) {
                int at = n / 64 * (int)(p.right >> 32) + n % 64 * 2 + k / 8 * 1024 + k % 8 * 128;
                memcpy(&v, device_turned((shared_at)p.right + (shared_at)at, 128), 2);
            } else {
                v = device_element(p.right, n, k, size);
            }
            r[k][n] = device_value(p.kind, v);
        }
    }
    for (int i = 0; i < 32; i++) {
        for (int e = 0; e < p.n / 2; e++) {
            int row = i / 4 + e % 4 / 2 * 8, col = e / 4 * 8 + i % 4 * 2 + e % 2;
            float *d = (float *)lane[i]->d + e;
            int *whole = (int *)lane[i]->d + e;
            double sum = !p.add ? 0 : p.kind == DEVICE_S8 ? (double)*whole : (double)*d;
            for (int k = 0; k < depth; k++) {
                sum += (double)l[row][k] * (double)r[k][col];
            }
            if (p.kind == DEVICE_S8) {
                *whole = (int)sum;
            } else {
                *d = (float)sum;
            }
        }
    }
}

/* Sets are done by warps: hardware promises no more. */
template <int N> static inline void products_wait()
{
    auto &sets = device_products[device.now];
    unsigned warp = device.now / 32;
    while (sets.size() > N + 1) {
        for (device_product &p : sets.front()) {
            device_together("wgmma", &p,
                            [=](device_product **lane) { device_multiply(lane, warp); });
        }
        sets.erase(sets.begin());
    }
}
template <int N> static inline void hold(float (&)[N][4])
{
}
template <int N> static inline void hold(uint32_t (&)[N][4])
{
}

template <int N> static inline void hold(int (&)[N][4])
{
}

template <bool ADD> static inline void products_of_rows(float (&d)[16][4], uint64_t a, uint64_t b)
{
    device_begin(device_product{DEVICE_BF16, d, nullptr, a, b, 128, ADD});
}
template <int N>
static inline void products_of_columns(float (&d)[N][4], const uint32_t a[4], uint64_t b)
{
    device_begin(device_product{DEVICE_BF16_TURNED, d, a, 0, b, 8 * N, true});
}
template <bool ADD> static inline void products_of_integers(int (&d)[16][4], uint64_t a, uint64_t b)
{
    device_begin(device_product{DEVICE_S8, d, nullptr, a, b, 128, ADD});
}
template <bool ADD>
static inline void products_of_e4m3(float (&d)[8][4], const uint32_t a[4], uint64_t b)
{
    device_begin(device_product{DEVICE_E4M3, d, a, 0, b, 64, ADD});
}

static inline uint32_t pack_e4m3(float a, float b, float c, float d)
{
    return device_to_e4m3(a) | device_to_e4m3(b) << 8 | device_to_e4m3(c) << 16 |
           device_to_e4m3(d) << 24;
}

/* Between blocks: nothing is left of the one before. */
inline const bool device_hopper = [] {
    device.engine = device_bulk_step;
    device.fresh = [] {
        bool left = !device_bulk.empty();
        for (auto &sets : device_products) {
            left = left || sets.second.size() > 1; /* a product that nobody waits for */
        }
        for (auto &named : device_nameds) {
            left = left || named.second.here != 0;
        }
        if (left) {
            device_fault("a block ends before what it has begun");
        }
        device_barriers.clear();
        device_nameds.clear();
        device_products.clear();
    };
    return true;
}();

#endif
