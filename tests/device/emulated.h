/* A stand-in for kernels/cuda/instr.cuh, so that a kernel written with its functions alone can be run, index by index, where
 * no GPU is: see fibers.h. Asynchronous copies land as late (or, eager, as early) as the instructions allow. What an
 * instruction does is written after the PTX ISA; that the hardware does the same is not shown by this. */
#ifndef CVX_TESTS_DEVICE_EMULATED_H
#define CVX_TESTS_DEVICE_EMULATED_H
#define CVX_KERNELS_CUDA_INSTR_CUH /* takes its place */

#include "kernels/cuda/device.cuh"

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
