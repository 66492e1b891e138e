/* A block of a GPU's threads on the host. Threads are fibers that change places where one of them waits, in an order drawn
 * anew each round; a fiber whose thread has ended goes on with the next one. Instructions of a warp happen when all
 * of its lanes have come to them. Shared memory of a launch starts as NaNs. A deadlock is an error. */
#ifndef CVX_TESTS_DEVICE_FIBERS_H
#define CVX_TESTS_DEVICE_FIBERS_H

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#include <functional>
#include <memory>
#include <vector>

#define DEVICE_STACK ((size_t)1 << 18)

#if defined(__x86_64__)
/* What swapcontext does without its two system calls. */
typedef void *device_place;
[[maybe_unused]] __attribute__((naked, noinline)) static void device_swap(device_place *,
                                                                          device_place)
{
    asm("push %rbp; push %rbx; push %r12; push %r13; push %r14; push %r15;"
        "mov %rsp, (%rdi); mov %rsi, %rsp;"
        "pop %r15; pop %r14; pop %r13; pop %r12; pop %rbx; pop %rbp; ret");
}
static inline device_place device_start(char *stack, void (*fn)())
{
    void **top = (void **)((uintptr_t)(stack + DEVICE_STACK) / 16 * 16) - 2;
    top[0] = (void *)fn; /* where it returns to first; seven words below stand the registers */
    top[1] = nullptr;
    memset(top - 6, 0, 6 * sizeof(void *));
    return top - 6;
}
#else
typedef ucontext_t *device_place;
static inline void device_swap(device_place *save, device_place to)
{
    if (*save == nullptr) {
        *save = new ucontext_t;
    }
    swapcontext(*save, to);
}
static inline device_place device_start(char *stack, void (*fn)())
{
    device_place p = new ucontext_t;
    getcontext(p);
    p->uc_stack.ss_sp = stack;
    p->uc_stack.ss_size = DEVICE_STACK;
    makecontext(p, fn, 0);
    return p;
}
#endif

struct device_fiber {
    device_place at = nullptr;
    std::unique_ptr<char[]> stack;
};

struct device_thread {
    device_fiber *on = nullptr; /* while it waits */
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

/* The block that runs: one at a time in a process. */
struct device_block {
    device_place main = nullptr;
    device_fiber *current = nullptr;
    std::vector<std::unique_ptr<device_fiber>> fibers;
    std::vector<device_fiber *> idle;
    std::vector<device_thread> threads;
    std::vector<unsigned> order; /* of this round */
    size_t at = 0;               /* the next of them */
    bool busy = false;           /* a thread was not done in this round */
    uint64_t before = 0;
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
    std::function<void()> fresh; /* before a block, and after it */
    std::function<bool()>
        engine; /* work that waits until no thread goes on; whether there was any */
};
inline device_block device;
inline device_index threadIdx, blockIdx, blockDim, gridDim;

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

/* The thread whose turn it is, or -1 when all are done. */
static inline int device_next()
{
    size_t n = device.threads.size();

    for (;;) {
        if (device.at == n) {
            bool stuck = device.busy && device.moves == device.before;
            if (!device.busy) {
                return -1;
            }
            if (stuck && !(device.engine && device.engine())) {
                device_fault("every thread waits: a deadlock");
            }
            device.at = 0;
            device.busy = false;
            device.before = device.moves;
        }
        size_t i = device.at++;
        std::swap(device.order[i], device.order[i + device_random() % (n - i)]);
        if (!device.threads[device.order[i]].done) {
            device.busy = true;
            return (int)device.order[i];
        }
    }
}

static void device_work();

static inline device_fiber *device_idle_fiber()
{
    if (device.idle.empty()) {
        device.fibers.emplace_back(new device_fiber);
        device_fiber *f = device.fibers.back().get();
        f->stack.reset(new char[DEVICE_STACK]);
        f->at = device_start(f->stack.get(), device_work);
        return f;
    }
    device_fiber *f = device.idle.back();
    device.idle.pop_back();
    return f;
}

/* Thread `next` goes on, or (-1) whoever waits for the block; *save: where this one does later. */
static inline void device_go(int next, device_place *save)
{
    if (next < 0) {
        device_swap(save, device.main);
        return;
    }
    device_thread &t = device.threads[(size_t)next];
    device_fiber *f = t.on != nullptr ? t.on : device_idle_fiber();
    t.on = nullptr;
    device.now = threadIdx.x = (unsigned)next;
    device.current = f;
    if (&f->at != save) {
        device_swap(save, f->at);
    }
}

/* A fiber's life: thread after thread. */
static void device_work()
{
    for (;;) {
        device.body();
        device.threads[device.now].done = true;
        device.moves++;
        int next = device_next();
        if (next >= 0 && device.threads[(size_t)next].on == nullptr) {
            device.now = threadIdx.x = (unsigned)next;
            continue;
        }
        device_fiber *mine = device.current;
        device.idle.push_back(mine);
        device_go(next, &mine->at);
    }
}

static inline void device_yield()
{
    device_fiber *mine = device.current;
    device.threads[device.now].on = mine;
    device_go(device_next(), &mine->at);
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

/* Runs a block of n threads with `room` bytes of shared memory to its end. */
static inline void device_run(unsigned n, size_t room, device_index block,
                              std::function<void()> body)
{
    device.threads = std::vector<device_thread>(n);
    device.warps = std::vector<device_warp>((n + 31) / 32);
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
    device.order.resize(n);
    for (unsigned i = 0; i < n; i++) {
        device.order[i] = i;
    }
    device.at = 0;
    device.busy = false;
    device.before = device.moves;
    if (device.fresh) {
        device.fresh();
    }
    device_go(device_next(), &device.main);
    if (device.fresh) {
        device.fresh();
    }
}

/* --- what C++ for devices has beside C++ --- */

static inline void __syncthreads()
{
    device_meet(device.all, [] {});
}
static inline void __syncwarp()
{
    int me = 0;
    device_together("syncwarp", &me, [](auto **) {});
}

template <typename T> struct device_shuffled {
    T in, out;
    int with;
};
template <typename T> static inline T __shfl_xor_sync(uint32_t mask, T v, int with)
{
    device_shuffled<T> me = {v, 0, with};

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
template <typename T> static inline T __shfl_sync(uint32_t mask, T v, int from)
{
    device_shuffled<T> me = {v, 0, from};

    if (mask != 0xffffffffu) {
        device_fault("a shuffle of part of a warp");
    }
    device_together("shuffle from", &me, [](auto **lane) {
        for (int i = 0; i < 32; i++) {
            lane[i]->out = lane[lane[i]->with % 32]->in;
        }
    });
    return me.out;
}

static inline float __fadd_rn(float a, float b)
{
    return a + b;
}
static inline float __fmul_rn(float a, float b)
{
    return a * b;
}
static inline unsigned __float_as_uint(float v)
{
    unsigned u;
    memcpy(&u, &v, sizeof u);
    return u;
}
static inline unsigned atomicMax(unsigned *at, unsigned v)
{
    unsigned was = *at;
    *at = was > v ? was : v;
    return was;
}

#endif
