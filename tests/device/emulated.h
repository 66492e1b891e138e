/* A block of a GPU's threads on the host: a stand-in for kernels/cuda/instr.cuh, so that a kernel written with its
 * functions alone can be run, index by index, where no GPU is. Threads are fibers that change places where one of them
 * waits, in an order drawn anew each round. Instructions of a warp happen when all of its lanes have come to them.
 * Shared memory starts as NaNs; asynchronous copies land as late (or, eager, as early) as the instructions allow. What
 * an instruction does is written after the PTX ISA; that the hardware does the same is not shown by this. */
#ifndef CVX_TESTS_DEVICE_EMULATED_H
#define CVX_TESTS_DEVICE_EMULATED_H
#define CVX_KERNELS_CUDA_INSTR_CUH /* takes its place */

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#include <functional>
#include <memory>
#include <vector>

#define __device__
#define __forceinline__ inline

/* --- 16-bit floats --- */

struct bf16 {
    uint16_t bits;
};
struct f16 {
    uint16_t bits;
};

static inline float to_float(bf16 v)
{
    uint32_t u = (uint32_t)v.bits << 16;
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}
static inline float to_float(f16 v)
{
    int e = v.bits >> 10 & 31, m = v.bits & 1023;
    double f = e == 0    ? ldexp(m, -24)
               : e == 31 ? (m != 0 ? NAN : INFINITY)
                         : ldexp(1024 + m, e - 25);
    return (float)(v.bits >> 15 != 0 ? -f : f);
}

template <typename T> static inline T from_float(float v);
template <> inline bf16 from_float<bf16>(float v)
{
    uint32_t u;
    memcpy(&u, &v, sizeof u);
    return v != v ? bf16{0x7fff} : bf16{(uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16)};
}
template <> inline f16 from_float<f16>(float v) /* finite values within the type's range */
{
    int e = 0;
    double a = fabs((double)v);
    uint16_t sign = signbit(v) ? 0x8000 : 0;
    if (v != v) {
        return f16{0x7fff};
    }
    frexp(a, &e);
    e = e < -13 ? -13 : e; /* a = m · 2^(e - 11), m below 2048 */
    double m = nearbyint(ldexp(a, 11 - e));
    if (m >= 2048) {
        m /= 2;
        e++;
    }
    return f16{(uint16_t)(sign | (m < 1024 ? (int)m : ((e + 14) << 10) + (int)m - 1024))};
}

template <typename T> static inline uint32_t pack_two(float low, float high)
{
    return (uint32_t)from_float<T>(low).bits | (uint32_t)from_float<T>(high).bits << 16;
}
template <typename T> static inline float part_of(uint32_t pair, int which)
{
    return to_float(T{(uint16_t)(pair >> (16 * which))});
}
static inline float exp2_fast(float x)
{
    return exp2f(x);
}

template <typename T, int V> static inline void load(float out[V], const T *p)
{
    if ((uintptr_t)p % (sizeof(T) * V) != 0) {
        fprintf(stderr, "a load from an address that is not aligned\n");
        abort();
    }
    for (int i = 0; i < V; i++) {
        out[i] = to_float(p[i]);
    }
}

/* --- fibers --- */

struct device_thread {
    ucontext_t at;
    std::unique_ptr<char[]> stack;
    bool done = false;
    std::vector<std::function<void()>> copies;              /* since the last commit */
    std::vector<std::vector<std::function<void()>>> groups; /* oldest first */
};

/* Where `count` threads wait for one another. */
struct device_meeting {
    int count = 0, here = 0;
    unsigned turn = 0;
};

struct device_warp {
    device_meeting all;
    const char *what = nullptr;
    void *of[32] = {};
};

struct device_index {
    unsigned x, y, z;
};

/* The block that runs. */
static struct device_block {
    ucontext_t main;
    std::vector<device_thread> threads;
    std::vector<device_warp> warps;
    device_meeting all;
    unsigned now = 0;   /* the thread that runs */
    uint64_t moves = 0; /* counts what can end a wait */
    bool eager = false;
    uint32_t seed = 1;
    std::unique_ptr<char[]> memory;
    char *room = nullptr;
    size_t room_size = 0;
    std::function<void()> body;
    std::function<bool()>
        engine; /* work that waits until no thread goes on; whether there was any */
} device;
static device_index threadIdx, blockIdx;

[[noreturn]] static inline void device_fault(const char *what)
{
    fprintf(stderr, "thread %u of block %u, %u: %s\n", device.now, blockIdx.x, blockIdx.y, what);
    abort();
}

static inline uint32_t device_random()
{
    device.seed = device.seed * 1664525u + 1013904223u;
    return device.seed >> 8;
}

static inline void device_yield()
{
    unsigned me = device.now;
    swapcontext(&device.threads[me].at, &device.main);
    device.now = me;
    threadIdx.x = me;
}

template <typename F> static inline void device_wait(F ready)
{
    while (!ready()) {
        device_yield();
    }
    device.moves++;
}

/* The last one to come does `last`. */
template <typename F> static inline void device_meet(device_meeting &m, F last)
{
    unsigned turn = m.turn;

    device.moves++;
    if (++m.here == m.count) {
        last();
        m.here = 0;
        m.turn++;
    } else {
        device_wait([&] { return m.turn != turn; });
    }
}

/* An instruction of a warp; op: what the last lane does with all lanes' operands. */
template <typename A, typename F>
static inline void device_together(const char *what, A *mine, F op)
{
    device_warp &w = device.warps[threadIdx.x / 32];

    if (w.all.here > 0 && strcmp(w.what, what) != 0) {
        device_fault("lanes of a warp at different instructions");
    }
    w.what = what;
    w.of[threadIdx.x % 32] = mine;
    device_meet(w.all, [&] { op((A **)w.of); });
}

static void device_enter()
{
    device.body();
    device.threads[device.now].done = true;
    device.moves++;
}

/* Runs a block of n threads with `room` bytes of shared memory to its end. */
static inline void device_run(unsigned n, size_t room, device_index block,
                              std::function<void()> body)
{
    std::vector<unsigned> order;

    device.threads = std::vector<device_thread>(n);
    device.warps = std::vector<device_warp>(n / 32);
    for (device_warp &w : device.warps) {
        w.all.count = 32;
    }
    device.all = device_meeting{(int)n, 0, 0};
    device.memory.reset(new char[room + 1024]);
    device.room = (char *)(((uintptr_t)device.memory.get() + 1023) / 1024 * 1024);
    device.room_size = room;
    memset(device.room, 0xff, room);
    device.body = body;
    blockIdx = block;
    for (unsigned i = 0; i < n; i++) {
        device_thread &t = device.threads[i];
        order.push_back(i);
        t.stack.reset(new char[1 << 16]);
        getcontext(&t.at);
        t.at.uc_stack.ss_sp = t.stack.get();
        t.at.uc_stack.ss_size = 1 << 16;
        t.at.uc_link = &device.main;
        makecontext(&t.at, device_enter, 0);
    }
    for (bool busy = true; busy;) {
        uint64_t before = device.moves;
        busy = false;
        for (unsigned i = 0; i < n; i++) {
            std::swap(order[i], order[i + device_random() % (n - i)]);
            if (!device.threads[order[i]].done) {
                busy = true;
                device.now = threadIdx.x = order[i];
                swapcontext(&device.main, &device.threads[order[i]].at);
            }
        }
        bool stuck = busy && device.moves == before;
        if (stuck && !(device.engine && device.engine())) {
            device_fault("every thread waits: a deadlock");
        }
    }
}

/* --- instructions --- */

typedef uint32_t shared_at;

static inline shared_at shared_address(const void *p)
{
    return (shared_at)((const char *)p - device.room);
}
static inline char *shared_bytes(shared_at at, size_t n)
{
    if (at % 16 != 0 || at + n > device.room_size) {
        device_fault("an address outside of shared memory, or not aligned");
    }
    return device.room + at;
}

static inline void __syncthreads()
{
    device_meet(device.all, [] {});
}

static inline float __shfl_xor_sync(uint32_t mask, float v, int with)
{
    struct {
        float in, out;
        int with;
    } me = {v, 0, with};

    if (mask != 0xffffffffu) {
        device_fault("a shuffle of part of a warp");
    }
    device_together("shuffle", &me, [](auto **lane) {
        for (int i = 0; i < 32; i++) {
            lane[i]->out = lane[i ^ lane[i]->with]->in;
        }
    });
    return me.out;
}

static inline void copy_async(shared_at to, const void *from, int bytes)
{
    auto copy = [=] {
        char piece[16] = {};
        if ((uintptr_t)from % 16 != 0) {
            device_fault("16 bytes from an address that is not aligned");
        }
        memcpy(piece, from, (size_t)bytes);
        memcpy(shared_bytes(to, 16), piece, 16);
    };
    if (device.eager) {
        copy();
    } else {
        device.threads[device.now].copies.push_back(copy);
    }
}
static inline void copy_commit()
{
    device_thread &t = device.threads[device.now];
    t.groups.push_back(std::move(t.copies));
    t.copies.clear();
}
template <int N> static inline void copy_wait()
{
    device_thread &t = device.threads[device.now];
    while (t.groups.size() > N) {
        for (auto &copy : t.groups.front()) {
            copy();
        }
        t.groups.erase(t.groups.begin());
    }
}

struct device_matrices {
    uint32_t *r;
    shared_at row;
};
static inline void device_load_matrices(device_matrices **lane, bool turned)
{
    uint16_t m[4][8][8];
    for (int i = 0; i < 32; i++) {
        memcpy(m[i / 8][i % 8], shared_bytes(lane[i]->row, 16), 16);
    }
    for (int i = 0; i < 32; i++) {
        for (int n = 0; n < 4; n++) {
            int row = i / 4, col = i % 4 * 2;
            uint32_t low = turned ? m[n][col][row] : m[n][row][col];
            uint32_t high = turned ? m[n][col + 1][row] : m[n][row][col + 1];
            lane[i]->r[n] = low | high << 16;
        }
    }
}
static inline void load_matrices(uint32_t r[4], shared_at row)
{
    device_matrices me = {r, row};
    device_together("ldmatrix", &me, [](auto **lane) { device_load_matrices(lane, false); });
}
static inline void load_matrices_turned(uint32_t r[4], shared_at row)
{
    device_matrices me = {r, row};
    device_together("ldmatrix.trans", &me, [](auto **lane) { device_load_matrices(lane, true); });
}

template <typename T>
static inline void multiply(float d[4], const uint32_t a[4], uint32_t b0, uint32_t b1)
{
    struct operands {
        float *d;
        const uint32_t *a;
        uint32_t b[2];
    } me = {d, a, {b0, b1}};

    device_together("mma", &me, [](operands **lane) {
        float l[16][16], r[16][8];
        for (int i = 0; i < 32; i++) {
            for (int n = 0; n < 8; n++) { /* register n / 2, half n % 2 */
                int row = i / 4 + n / 2 % 2 * 8, col = i % 4 * 2 + n % 2 + n / 4 * 8;
                l[row][col] = part_of<T>(lane[i]->a[n / 2], n % 2);
            }
            for (int n = 0; n < 4; n++) {
                r[i % 4 * 2 + n % 2 + n / 2 * 8][i / 4] = part_of<T>(lane[i]->b[n / 2], n % 2);
            }
        }
        for (int i = 0; i < 32; i++) {
            for (int n = 0; n < 4; n++) {
                int row = i / 4 + n / 2 * 8, col = i % 4 * 2 + n % 2;
                double sum = lane[i]->d[n];
                for (int k = 0; k < 16; k++) {
                    sum += (double)l[row][k] * (double)r[k][col];
                }
                lane[i]->d[n] = (float)sum;
            }
        }
    });
}

#endif
