/* What kernels/cuda/hopper.cuh has, on the host: bulk copies happen at once (eager) or, in any order, when no thread goes
 * on without them; products of four warps at the wait that ends them. See emulated.h. */
#ifndef CVX_TESTS_DEVICE_EMULATED_HOPPER_H
#define CVX_TESTS_DEVICE_EMULATED_HOPPER_H
#define CVX_KERNELS_CUDA_HOPPER_CUH /* takes its place */

#include "tests/device/emulated.h"

#include <map>

static inline int uniform(int v)
{
    return v; /* of a warp's lanes alike */
}

/* --- barriers --- */

struct device_barrier {
    int count = 0, arrived = 0, bytes = 0; /* bytes still to come */
    unsigned phase = 0;
};
static std::map<shared_at, device_barrier> device_barriers;
struct device_named {
    int here = 0;
    unsigned turn = 0;
};
static std::map<int, device_named> device_nameds;

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

struct tensor_map {
    const char *data;
    int64_t dim[4], stride[3]; /* strides in bytes of dims 1 to 3 */
    int rows;                  /* boxes: 64 columns of 2 bytes, this many rows */
};

static std::vector<std::function<void()>> device_bulk;

/* Bytes of shared memory at p, turned as a 128-byte swizzle does. */
static inline char *device_turned(shared_at p)
{
    shared_at at = p ^ ((p >> 7 & 7) << 4);
    if (at + 2 > device.room_size) {
        device_fault("an operand outside of shared memory");
    }
    return device.room + at;
}

static inline void device_copy_box(shared_at to, const tensor_map *m, const int at[4])
{
    for (int r = 0; r < m->rows; r++) {
        for (int e = 0; e < 64; e++) {
            int64_t x[4] = {at[0] + e, at[1] + r, at[2], at[3]};
            bool there = true;
            for (int i = 0; i < 4; i++) {
                there = there && x[i] >= 0 && x[i] < m->dim[i];
            }
            uint16_t v = 0;
            if (there) {
                memcpy(&v,
                       m->data + 2 * x[0] + x[1] * m->stride[0] + x[2] * m->stride[1] +
                           x[3] * m->stride[2],
                       2);
            }
            memcpy(device_turned(to + (shared_at)(r * 128 + e * 2)), &v, 2);
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
        mine.bytes -= map->rows * 128;
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

struct device_product {
    float (*d)[4];
    const uint32_t *a; /* NULL: in shared memory */
    uint64_t left, right;
    int n;
    bool add, columns;
};
/* By thread: sets, oldest first; the last one is not committed. */
static std::map<unsigned, std::vector<std::vector<device_product>>> device_products;

static inline uint64_t operand_at(shared_at p, int next)
{
    return (uint64_t)p | (uint64_t)next << 32;
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
    for (int i = 0; i < p.n / 8 && !p.add; i++) { /* of no use until the wait */
        p.d[i][0] = p.d[i][1] = p.d[i][2] = p.d[i][3] = NAN;
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

/* One product of a warp: its 16 rows. */
static inline void device_multiply(device_product **lane, unsigned warp)
{
    const device_product &p = *lane[0];
    float l[16][16], r[16][128];

    for (int i = 0; i < 16; i++) {
        for (int k = 0; k < 16; k++) {
            bf16 v;
            if (p.a == nullptr) { /* the operand's rows 16 · warp .. */
                int row = (int)(warp % 4) * 16 + i;
                memcpy(&v,
                       device_turned((shared_at)p.left +
                                     (shared_at)(row / 8 * 1024 + row % 8 * 128 + k * 2)),
                       2);
                l[i][k] = to_float(v);
            } else {
                l[i][k] = part_of<bf16>(lane[i % 8 * 4 + k % 8 / 2]->a[i / 8 + k / 8 * 2], k % 2);
            }
        }
    }
    for (int k = 0; k < 16; k++) {
        for (int n = 0; n < p.n; n++) {
            bf16 v;
            int at = p.columns
                         ? n / 64 * (int)(p.right >> 32) + n % 64 * 2 + k / 8 * 1024 + k % 8 * 128
                         : n / 8 * 1024 + n % 8 * 128 + k * 2;
            memcpy(&v, device_turned((shared_at)p.right + (shared_at)at), 2);
            r[k][n] = to_float(v);
        }
    }
    for (int i = 0; i < 32; i++) {
        for (int e = 0; e < p.n / 2; e++) {
            int row = i / 4 + e % 4 / 2 * 8, col = e / 4 * 8 + i % 4 * 2 + e % 2;
            double sum = p.add ? lane[i]->d[e / 4][e % 4] : 0;
            for (int k = 0; k < 16; k++) {
                sum += (double)l[row][k] * (double)r[k][col];
            }
            lane[i]->d[e / 4][e % 4] = (float)sum;
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

template <bool ADD> static inline void products_of_rows(float (&d)[16][4], uint64_t a, uint64_t b)
{
    device_begin(device_product{d, nullptr, a, b, 128, ADD, false});
}
template <int N>
static inline void products_of_columns(float (&d)[N][4], const uint32_t a[4], uint64_t b)
{
    device_begin(device_product{d, a, 0, b, 8 * N, true, true});
}

#endif
