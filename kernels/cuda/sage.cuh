/* Attention in 8 bits for Hopper, after Zhang et al., SageAttention2, arXiv 2411.10958: scores from integers, values in
 * e4m3. What keeps the error small is the paper's: the mean of all keys is taken from each (the same is then missing from
 * every score of a query, which its softmax does not see), scales belong to few values, and sums of e4m3 products, which
 * the hardware keeps in less than f32, are brought to f32 after each block of keys.
 *
 * Scales are one a query, four a block of 128 keys, one a column of values: they follow from the query alone, or from the
 * keys alone, so that a row's bits do not depend on its neighbours here either. */
#ifndef CVX_KERNELS_CUDA_SAGE_CUH
#define CVX_KERNELS_CUDA_SAGE_CUH

#include "kernels/cuda/attention_hopper.cuh"
#include "kernels/cuda/sage.h"

#define SAGE_THREADS 256
/* Weights are at most e4m3's greatest value, 448 = 2^this. */
#define SAGE_LIFT 8.807354922057604f

/* Sums of the keys and greatest values of share blockIdx.x of head blockIdx.y, by column. room: SAGE_STATS_ROOM bytes. A thread
 * has 8 columns of each 32nd row. */
static __device__ __forceinline__ void sage_stats(const cvx_flash &a, const cvx_sage &s, char *room)
{
    const int groups = SAGE_THREADS / 8;
    float(*part)[CVX_SAGE_HEAD] = (float(*)[CVX_SAGE_HEAD])room;
    int64_t n = blockIdx.y, head = n % a.h, item = n / a.h;
    int64_t j0 = (int64_t)blockIdx.x * CVX_SAGE_SHARE, rows = a.sk - j0;
    int piece = threadIdx.x % 8 * 8, group = threadIdx.x / 8;
    const bf16 *k = (const bf16 *)a.k + item * a.ks[0] + head * a.ks[2] + j0 * a.ks[1] + piece;
    const bf16 *v = (const bf16 *)a.v + item * a.vs[0] + head * a.vs[2] + j0 * a.vs[1] + piece;
    float *out = s.part + (n * cvx_sage_shares(a.sk) + blockIdx.x) * (2 * CVX_SAGE_HEAD);
    float sum[8] = {}, most[8] = {};

    rows = rows < CVX_SAGE_SHARE ? rows : CVX_SAGE_SHARE;
#pragma unroll 4
    for (int64_t j = group; j < rows; j += groups) {
        float x[8], y[8];
        load<bf16, 8>(x, k + j * a.ks[1]);
        load<bf16, 8>(y, v + j * a.vs[1]);
#pragma unroll
        for (int i = 0; i < 8; i++) {
            sum[i] += x[i];
            most[i] = fmaxf(most[i], fabsf(y[i]));
        }
    }
    for (int what = 0; what < 2; what++) {
#pragma unroll
        for (int i = 0; i < 8; i++) {
            part[group][piece + i] = what == 0 ? sum[i] : most[i];
        }
        __syncthreads();
        if (threadIdx.x < CVX_SAGE_HEAD) {
            float x = 0;
            for (int g = 0; g < groups; g++) {
                float y = part[g][threadIdx.x];
                x = what == 0 ? x + y : fmaxf(x, y);
            }
            out[what * CVX_SAGE_HEAD + threadIdx.x] = x;
        }
        __syncthreads();
    }
}
#define SAGE_STATS_ROOM (SAGE_THREADS / 8 * CVX_SAGE_HEAD * 4)

/* Mean of the keys and scales of the values' columns of head blockIdx.x from its shares; a thread a column. */
static __device__ __forceinline__ void sage_gather(const cvx_flash &a, const cvx_sage &s)
{
    int64_t shares = cvx_sage_shares(a.sk);
    int64_t to = (int64_t)blockIdx.x * CVX_SAGE_HEAD + threadIdx.x;
    const float *part = s.part + blockIdx.x * shares * (2 * CVX_SAGE_HEAD) + threadIdx.x;
    float sum = 0, most = 0;

    for (int64_t i = 0; i < shares; i++) {
        sum += part[i * 2 * CVX_SAGE_HEAD];
        most = fmaxf(most, part[(i * 2 + 1) * CVX_SAGE_HEAD]);
    }
    s.mean[to] = sum / (float)a.sk;
    s.vs[to] = most > 0 ? most / 448 : 1;
}

/* Over a warp. */
static __device__ __forceinline__ float sage_most(float v)
{
#pragma unroll
    for (int n = 16; n > 0; n /= 2) {
        v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, n));
    }
    return v;
}
static __device__ __forceinline__ float sage_sum(float v)
{
#pragma unroll
    for (int n = 16; n > 0; n /= 2) {
        v += __shfl_xor_sync(0xffffffffu, v, n);
    }
    return v;
}

/* Two neighbouring integers of a row: values over a scale, which makes them 127 at most. */
static __device__ __forceinline__ uint16_t sage_two(float x, float y, float over)
{
    return (uint16_t)((uint8_t)(int8_t)rintf(x * over) | (uint16_t)(uint8_t)(int8_t)rintf(y * over)
                                                             << 8);
}

/* Queries of head blockIdx.y, one a warp. */
static __device__ __forceinline__ void sage_queries(const cvx_flash &a, const cvx_sage &s)
{
    int64_t n = blockIdx.y, head = n % a.h, item = n / a.h;
    int64_t i = (int64_t)blockIdx.x * (SAGE_THREADS / 32) + threadIdx.x / 32;
    int lane = threadIdx.x % 32;

    if (i >= a.sq) { /* all of the warp */
        return;
    }
    float x[2];
    const float *mean = s.mean + n * CVX_SAGE_HEAD + 2 * lane;
    load<bf16, 2>(x, (const bf16 *)a.q + item * a.qs[0] + i * a.qs[1] + head * a.qs[2] + 2 * lane);
    float most = sage_most(fmaxf(fabsf(x[0]), fabsf(x[1])));
    float shift = sage_sum(fmaf(x[0], mean[0], x[1] * mean[1]));
    float scale = most > 0 ? most / 127 : 1;
    *(uint16_t *)(s.q + (n * a.sq + i) * CVX_SAGE_HEAD + 2 * lane) =
        sage_two(x[0], x[1], 1 / scale);
    if (lane == 0) {
        s.qs[n * a.sq + i] = scale;
        s.shift[n * a.sq + i] = shift;
    }
}

/* Block blockIdx.x of keys and values of head blockIdx.y: a warp has 16 keys, a lane two columns. room: 128 rows of values'
 * bytes, by column, and 128 floats. */
static __device__ __forceinline__ void sage_block(const cvx_flash &a, const cvx_sage &s, char *room)
{
    const int wide = CVX_SAGE_KEYS + 4; /* bytes a column takes: neighbours in other banks */
    float *most = (float *)(room + CVX_SAGE_HEAD * wide);
    int64_t n = blockIdx.y, head = n % a.h, item = n / a.h,
            j0 = (int64_t)blockIdx.x * CVX_SAGE_KEYS;
    int lane = threadIdx.x % 32, row0 = threadIdx.x / 32 * 16;
    const float *mean = s.mean + n * CVX_SAGE_HEAD + 2 * lane,
                *vs = s.vs + n * CVX_SAGE_HEAD + 2 * lane;
    float x[16][2];

#pragma unroll
    for (int i = 0; i < 16; i++) {
        int64_t j = j0 + row0 + i;
        float y[2] = {0, 0};
        x[i][0] = x[i][1] = 0;
        if (j < a.sk) {
            load<bf16, 2>(x[i], (const bf16 *)a.k + item * a.ks[0] + j * a.ks[1] + head * a.ks[2] +
                                    2 * lane);
            load<bf16, 2>(y, (const bf16 *)a.v + item * a.vs[0] + j * a.vs[1] + head * a.vs[2] +
                                 2 * lane);
            x[i][0] -= mean[0];
            x[i][1] -= mean[1];
        }
        float m = sage_most(fmaxf(fabsf(x[i][0]), fabsf(x[i][1])));
        if (lane == 0) {
            most[row0 + i] = m;
        }
        uint32_t two = pack_e4m3(y[0] / vs[0], y[1] / vs[1], 0, 0);
        room[2 * lane * wide + row0 + i] = (char)(two & 255);
        room[(2 * lane + 1) * wide + row0 + i] = (char)(two >> 8 & 255);
    }
    __syncthreads();
    if (threadIdx.x < 4) { /* rows whose number, modulo 8, is 2 t or 2 t + 1 */
        float m = 0;
        for (int i = 0; i < CVX_SAGE_KEYS / 8; i++) {
            m = fmaxf(m, fmaxf(most[8 * i + 2 * threadIdx.x], most[8 * i + 2 * threadIdx.x + 1]));
        }
        s.ks[(n * (s.skp / CVX_SAGE_KEYS) + blockIdx.x) * 4 + threadIdx.x] = m > 0 ? m / 127 : 1;
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 16; i++) {
        float scale = s.ks[(n * (s.skp / CVX_SAGE_KEYS) + blockIdx.x) * 4 + (row0 + i) % 8 / 2];
        *(uint16_t *)(s.k + (n * s.skp + j0 + row0 + i) * CVX_SAGE_HEAD + 2 * lane) =
            sage_two(x[i][0], x[i][1], 1 / scale);
    }
    for (int i = threadIdx.x; i < CVX_SAGE_HEAD * CVX_SAGE_KEYS; i += SAGE_THREADS) {
        int column = i / CVX_SAGE_KEYS, at = i % CVX_SAGE_KEYS;
        s.v[(n * CVX_SAGE_HEAD + column) * s.skp + j0 + at] =
            (uint8_t)room[column * wide + at / 32 * 32 + cvx_sage_key(at % 32)];
    }
}
#define SAGE_BLOCK_ROOM (CVX_SAGE_HEAD * (CVX_SAGE_KEYS + 4) + CVX_SAGE_KEYS * 4)

/* --- the product --- */

/* Queries and keys: rows of 64 bytes; values: 64 rows of 128. */
struct sage_tile {
    static const int groups = 2, rows = 64 * groups, keys = CVX_SAGE_KEYS, parts = 1;
    static const int threads = 128 * (groups + 1), slots = 4;
    static const int q_bytes = rows * CVX_SAGE_HEAD, bytes = keys * CVX_SAGE_HEAD;
    static const int barriers = 1 + 4 * slots;
    static const int shared = q_bytes + 2 * slots * bytes + 8 * barriers;
    static const bool values_turned = true;
    static const int registers_few = 24, registers_many = 240;
};

struct sage_rows {
    float o[8][4], part[8][4]; /* part: of one block */
    int dots[16][4];
    float s[16][4];
    uint32_t p[4][4];
    float most[2], sum[2], old[2], scale[2];
};

/* dots = q · kᵀ is queued. */
static __device__ __forceinline__ void sage_scores(sage_rows &r, uint64_t q, uint64_t k)
{
    products_of_integers<false>(r.dots, q, k);
    products_of_integers<true>(r.dots, operand_next(q, 32), operand_next(k, 32));
    products_commit();
}

/* part = p · v is queued. */
static __device__ __forceinline__ void sage_add(sage_rows &r, uint64_t v)
{
    products_of_e4m3<false>(r.part, r.p[0], v);
#pragma unroll
    for (int n = 1; n < 4; n++) {
        products_of_e4m3<true>(r.part, r.p[n], operand_next(v, n * 32));
    }
    products_commit();
}

/* Weights of a block of which `left` keys exist; ks: the scale of this thread's keys. */
static __device__ __forceinline__ void sage_weigh(sage_rows &r, float ks, int64_t left)
{
    float scale[2] = {r.scale[0] * ks, r.scale[1] * ks};

#pragma unroll
    for (int j = 0; j < 16; j++) {
#pragma unroll
        for (int e = 0; e < 4; e++) {
            r.s[j][e] = (float)r.dots[j][e] * scale[e / 2];
        }
    }
    if (left < sage_tile::keys) {
        flash_hide<128>(r.s, left);
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
        r.old[half] = flash_weigh<128>(r.s, half, &r.most[half], &r.sum[half], 1, SAGE_LIFT);
    }
}

/* Weights as left operands, in the order that cvx_sage_key() gives the values. */
static __device__ __forceinline__ void sage_pack(sage_rows &r)
{
#pragma unroll
    for (int n = 0; n < 16; n++) {
        int tile = n / 4 * 4 + n % 4 / 2 * 2, e = n % 2 * 2;
        r.p[n / 4][n % 4] =
            pack_e4m3(r.s[tile][e], r.s[tile][e + 1], r.s[tile + 1][e], r.s[tile + 1][e + 1]);
    }
}

/* A multiplying group: hopper_attend() with these operands. */
static __device__ __forceinline__ void sage_attend(const cvx_flash &a, const cvx_sage &s,
                                                   const hopper_room<sage_tile> &at, int group,
                                                   int64_t row0, int64_t n, int blocks)
{
    typedef sage_tile tile;
    const int baton = 1 + group, next = group + 1 < tile::groups ? baton + 1 : 1;
    const bool last = group + 1 == tile::groups;
    int64_t row = row0 + group * 64 + threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4;
    const float *ks = s.ks + n * blocks * 4 + threadIdx.x % 4;
    float scale = ks[0];
    hopper_place<tile::slots> k, v;
    sage_rows r;
    uint64_t q = narrow_operand_at(at.q + (uint32_t)(group * 64 * CVX_SAGE_HEAD));

#pragma unroll
    for (int half = 0; half < 2; half++) {
        int64_t i = row + 8 * half;
        r.most[half] = -INFINITY;
        r.sum[half] = 0;
        r.scale[half] = i < a.sq ? s.qs[n * a.sq + i] * a.scale2 : 0;
    }
#pragma unroll
    for (int j = 0; j < 8; j++) {
        r.o[j][0] = r.o[j][1] = r.o[j][2] = r.o[j][3] = 0;
    }
    barrier_wait(at.q_came(), 0);
    barrier_wait(at.came(0, 0), 0);
    products_begin();
    sage_scores(r, q, narrow_operand_at(at.tile_at(0, 0)));
    products_wait<0>();
    hold(r.dots);
    hopper_done(at.spent(0, 0));
    k.next();
    sage_weigh(r, scale, a.sk);
    sage_pack(r);
    if (blocks > 1) {
        barrier_wait(at.came(0, k.slot), k.parity);
        if (last) {
            named_arrive(next, 256); /* the first group begins */
        }
    }
    for (int j = 1; j < blocks; j++) {
        scale = ks[j * 4];
        named_sync(baton, 256);
        products_begin();
        sage_scores(r, q, narrow_operand_at(at.tile_at(0, k.slot)));
        barrier_wait(at.came(1, v.slot), v.parity);
        products_begin();
        sage_add(r, operand_at(at.tile_at(1, v.slot), 0));
        if (!last || j + 1 < blocks) {
            named_arrive(next, 256);
        }
        products_wait<1>();
        hold(r.dots);
        hopper_done(at.spent(0, k.slot));
        sage_weigh(r, scale, a.sk - (int64_t)j * tile::keys);
        hold(r.s);
        k.next();
        if (j + 1 < blocks) { /* here for the reason that hopper_attend() tells */
            barrier_wait(at.came(0, k.slot), k.parity);
        }
        products_wait<0>();
        hold(r.part);
        hold(r.p);
        hopper_done(at.spent(1, v.slot));
        v.next();
#pragma unroll
        for (int i = 0; i < 32; i++) {
            r.o[i / 4][i % 4] = (r.o[i / 4][i % 4] + r.part[i / 4][i % 4]) * r.old[i % 4 / 2];
        }
        sage_pack(r);
    }
    barrier_wait(at.came(1, v.slot), v.parity);
    products_begin();
    sage_add(r, operand_at(at.tile_at(1, v.slot), 0));
    products_wait<0>();
    hold(r.part);
    hold(r.p);
#pragma unroll
    for (int i = 0; i < 32; i++) { /* sums of weights are 448 times too large, as these are */
        float column = s.vs[n * CVX_SAGE_HEAD + i / 4 * 8 + threadIdx.x % 4 * 2 + i % 2];
        r.o[i / 4][i % 4] = (r.o[i / 4][i % 4] + r.part[i / 4][i % 4]) * (column / 448);
    }
#pragma unroll
    for (int half = 0; half < 2;
         half++) { /* scores are logarithms to 2 by now; the mean of the keys comes back */
        int64_t i = row + 8 * half;
        cvx_flash f = a;
        float shift = i < a.sq ? s.shift[n * a.sq + i] * a.scale2 : 0;
        f.scale = 0.69314718055994531f;
        flash_store<bf16, CVX_SAGE_HEAD>(f, r.o, half, r.most[half] + shift, r.sum[half] / 448,
                                         n / a.h, n % a.h, i);
    }
}

/* The kernel; room: sage_tile::shared bytes aligned to 1024. */
static __device__ __forceinline__ void sage_product(const cvx_flash &a, const cvx_sage &s,
                                                    const hopper_maps &m, char *room)
{
    hopper_room<sage_tile> at(room);
    int group = uniform((int)threadIdx.x / 128) - 1, n = (int)blockIdx.y;
    int row0 = (int)blockIdx.x * sage_tile::rows, blocks = (int)(s.skp / sage_tile::keys);

    hopper_barriers(at);
    if (group < 0) {
        registers_give<sage_tile::registers_few>();
        if (threadIdx.x == 0) {
            hopper_feed(m, at, row0, n, 0, blocks);
        }
    } else {
        registers_take<sage_tile::registers_many>();
        sage_attend(a, s, at, group, row0, n, blocks);
    }
}

#endif
