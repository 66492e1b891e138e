/* Attention for Hopper, after Shah et al., FlashAttention-3, arXiv 2407.08608.
 *
 * A block has 64 queries of one head for each of its groups of four warps (three groups at head size 64, where every key and
 * value must serve many queries to be worth its way from L2; two at 128, whose outputs take more registers), and one
 * more group of which a single thread asks for tiles: of 128 keys and of 128 values, each kind through a ring of its
 * own. A barrier a slot tells that the tile has come, another that all warps are done with it.
 *
 * Within a group the scores of block j are multiplied together with the values of block j - 1, and the weights of j are
 * computed while the values' product runs. Between groups a baton goes round: the one that has it queues its products,
 * hands it on and does its exponentials while the others' products run.
 *
 * The order of a row's additions is that of the keys in blocks of 128; its neighbours have no part in it. */
#ifndef CVX_KERNELS_CUDA_ATTENTION_HOPPER_CUH
#define CVX_KERNELS_CUDA_ATTENTION_HOPPER_CUH

#include "kernels/cuda/flash.cuh"
#include "kernels/cuda/hopper.cuh"

/* Head size D (64 or 128; smaller ones are filled up with zeros by the copies). Tiles of more than 64 columns are stored as
 * parts of 64, one after the other. */
template <int D> struct hopper_tile {
    static const int groups = D == 64 ? 3 : 2; /* that multiply */
    static const int rows = 64 * groups, keys = 128, parts = D / 64;
    static const int threads = 128 * (groups + 1);
    static const int slots = D == 64 ? 4 : 2;
    static const int q_bytes = rows * D * 2, bytes = keys * D * 2;
    static const int barriers = 1 + 4 * slots;
    static const int shared = q_bytes + 2 * slots * bytes + 8 * barriers;
    /* all 65536 of a multiprocessor's, in steps of 8 a thread */
    static const bool values_turned = false;
    static const int registers_few = D == 64 ? 32 : 24, registers_many = D == 64 ? 160 : 240;
};

/* q: boxes of 64 columns x rows; k, v: of 64 columns x keys. */
typedef struct hopper_maps {
    tensor_map q, k, v;
} hopper_maps;

/* Where things lie in shared memory. */
template <typename TILE> struct hopper_room {
    shared_at q, tiles, barriers;

    __device__ __forceinline__ explicit hopper_room(const char *room)
    {
        q = shared_address(room);
        tiles = q + TILE::q_bytes;
        barriers = tiles + 2 * TILE::slots * TILE::bytes;
    }
    /* kind: 0 keys, 1 values */
    __device__ __forceinline__ shared_at tile_at(int kind, int slot) const
    {
        return tiles + (uint32_t)((kind * TILE::slots + slot) * TILE::bytes);
    }
    __device__ __forceinline__ shared_at q_came() const
    {
        return barriers;
    }
    __device__ __forceinline__ shared_at came(int kind, int slot) const
    {
        return barriers + (uint32_t)(8 * (1 + kind * TILE::slots + slot));
    }
    __device__ __forceinline__ shared_at spent(int kind, int slot) const
    {
        return barriers + (uint32_t)(8 * (1 + (2 + kind) * TILE::slots + slot));
    }
};

/* Which slot a ring is at, and the parity of the round. */
template <int SLOTS> struct hopper_place {
    int slot = 0, parity = 0;

    __device__ __forceinline__ void next()
    {
        slot++;
        if (slot == SLOTS) {
            slot = 0;
            parity ^= 1;
        }
    }
};

/* Makes the barriers. Every thread of the block calls. */
template <typename TILE>
static __device__ __forceinline__ void hopper_barriers(const hopper_room<TILE> &at)
{
    if (threadIdx.x == 0) {
        barrier_init(at.q_came(), 1);
        for (int i = 0; i < 2 * TILE::slots; i++) {
            barrier_init(at.came(i % 2, i / 2), 1);
            barrier_init(at.spent(i % 2, i / 2), 4 * TILE::groups);
        }
        barrier_inits_done();
    }
    __syncthreads();
}

/* Keys (kind 0) or values (1) of a block, once their slot is free. values_turned: the maps of values have keys for
 * columns. */
template <typename TILE>
static __device__ __forceinline__ void
hopper_ask(const tensor_map *map, const hopper_room<TILE> &at, int kind,
           hopper_place<TILE::slots> &p, int block, int head, int item)
{
    shared_at came = at.came(kind, p.slot);

    barrier_wait(at.spent(kind, p.slot), p.parity ^ 1);
    barrier_arrive_expecting(came, TILE::bytes);
    for (int part = 0; part < TILE::parts; part++) {
        int e = part * 64, row = block * TILE::keys;
        bool turned = TILE::values_turned && kind == 1;
        tile_async(at.tile_at(kind, p.slot) + (uint32_t)(part * TILE::keys * 128), map, came,
                   turned ? row : e, turned ? 0 : row, head, item);
    }
    p.next();
}

/* The thread that asks: queries once, then keys and values in the order of their use. */
template <typename TILE>
static __device__ __forceinline__ void hopper_feed(const hopper_maps &m,
                                                   const hopper_room<TILE> &at, int row0, int head,
                                                   int item, int blocks)
{
    hopper_place<TILE::slots> k, v;

    barrier_arrive_expecting(at.q_came(), TILE::q_bytes);
    for (int part = 0; part < TILE::parts; part++) {
        tile_async(at.q + (uint32_t)(part * TILE::rows * 128), &m.q, at.q_came(), part * 64, row0,
                   head, item);
    }
    hopper_ask<TILE>(&m.k, at, 0, k, 0, head, item);
    for (int j = 1; j < blocks; j++) {
        hopper_ask<TILE>(&m.k, at, 0, k, j, head, item);
        hopper_ask<TILE>(&m.v, at, 1, v, j - 1, head, item);
    }
    hopper_ask<TILE>(&m.v, at, 1, v, blocks - 1, head, item);
}

/* What a thread of a multiplying group keeps: rows lane / 4 and lane / 4 + 8 of its warp's 16. */
template <int D> struct hopper_rows {
    float o[D / 8][4];
    float s[16][4];   /* scores, then weights */
    uint32_t p[8][4]; /* weights rounded */
    float most[2], sum[2], old[2];
};

/* s = q · kᵀ is queued. */
template <int D>
static __device__ __forceinline__ void hopper_scores(hopper_rows<D> &r, uint64_t q, uint64_t k)
{
#pragma unroll
    for (int n = 0; n < D / 16; n++) { /* 16 columns: 32 bytes of the row, of part n / 4 */
        uint64_t left = operand_next(q, n / 4 * hopper_tile<D>::rows * 128 + n % 4 * 32);
        uint64_t right = operand_next(k, n / 4 * hopper_tile<D>::keys * 128 + n % 4 * 32);
        if (n == 0) {
            products_of_rows<false>(r.s, left, right);
        } else {
            products_of_rows<true>(r.s, left, right);
        }
    }
    products_commit();
}

/* o += p · v is queued. */
template <int D> static __device__ __forceinline__ void hopper_add(hopper_rows<D> &r, uint64_t v)
{
#pragma unroll
    for (int n = 0; n < 8; n++) { /* 16 keys: 16 rows of 128 bytes */
        products_of_columns(r.o, r.p[n], operand_next(v, n * 16 * 128));
    }
    products_commit();
}

/* Scores of `left` keys become weights. */
template <int D>
static __device__ __forceinline__ void hopper_weigh(hopper_rows<D> &r, int64_t left, float scale2)
{
    if (left < 128) {
        flash_hide<128>(r.s, left);
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
        r.old[half] = flash_weigh<128>(r.s, half, &r.most[half], &r.sum[half], scale2);
    }
}

template <int D> static __device__ __forceinline__ void hopper_pack(hopper_rows<D> &r)
{
#pragma unroll
    for (int n = 0; n < 8; n++) {
        flash_pack<bf16>(r.p[n], r.s[2 * n], r.s[2 * n + 1]);
    }
}

/* One warp of the group is done with a tile. */
static __device__ __forceinline__ void hopper_done(shared_at spent)
{
    if (threadIdx.x % 32 == 0) {
        barrier_arrive(spent);
    }
}

/* A multiplying group, number `group` of them. */
template <int D>
static __device__ __forceinline__ void
hopper_attend(const cvx_flash &a, const hopper_room<hopper_tile<D>> &at, int group, int64_t row0,
              int64_t head, int64_t item, int blocks)
{
    typedef hopper_tile<D> tile;
    const int baton = 1 + group, next = group + 1 < tile::groups ? baton + 1 : 1;
    const bool last = group + 1 == tile::groups;
    hopper_place<tile::slots> k, v;
    hopper_rows<D> r;
    uint64_t q = operand_at(at.q + (uint32_t)(group * 64 * 128), 0);

#pragma unroll
    for (int j = 0; j < D / 8; j++) {
        r.o[j][0] = r.o[j][1] = r.o[j][2] = r.o[j][3] = 0;
    }
    r.most[0] = r.most[1] = -INFINITY;
    r.sum[0] = r.sum[1] = 0;
    barrier_wait(at.q_came(), 0);
    barrier_wait(at.came(0, 0), 0);
    products_begin();
    hopper_scores<D>(r, q, operand_at(at.tile_at(0, 0), 0));
    products_wait<0>();
    hold(r.s);
    hopper_done(at.spent(0, 0));
    k.next();
    hopper_weigh<D>(r, a.sk, a.scale2);
    hopper_pack<D>(r);
    if (blocks > 1) {
        barrier_wait(at.came(0, k.slot), k.parity);
        if (last) {
            named_arrive(next, 256); /* the first group begins */
        }
    }
    for (int j = 1; j < blocks; j++) {
        named_sync(baton, 256);
        products_begin();
        hopper_scores<D>(r, q, operand_at(at.tile_at(0, k.slot), 0));
        barrier_wait(at.came(1, v.slot), v.parity);
        products_begin();
        hopper_add<D>(r, operand_at(at.tile_at(1, v.slot), tile::keys * 128));
        if (!last || j + 1 < blocks) {
            named_arrive(next, 256);
        }
        products_wait<1>();
        hold(r.s);
        hopper_done(at.spent(0, k.slot));
        hopper_weigh<D>(r, a.sk - (int64_t)j * tile::keys, a.scale2);
        hold(r.s);
        /* Here, for the loop that it is keeps the compiler from moving the weights behind the wait for the values. */
        k.next();
        if (j + 1 < blocks) {
            barrier_wait(at.came(0, k.slot), k.parity);
        }
        products_wait<0>();
        hold(r.o);
        hold(r.p);
        hopper_done(at.spent(1, v.slot));
        v.next();
#pragma unroll
        for (int n = 0; n < D / 8; n++) {
            r.o[n][0] *= r.old[0];
            r.o[n][1] *= r.old[0];
            r.o[n][2] *= r.old[1];
            r.o[n][3] *= r.old[1];
        }
        hopper_pack<D>(r);
    }
    barrier_wait(at.came(1, v.slot), v.parity);
    products_begin();
    hopper_add<D>(r, operand_at(at.tile_at(1, v.slot), tile::keys * 128));
    products_wait<0>();
    hold(r.o);
    hold(r.p);
#pragma unroll
    for (int half = 0; half < 2; half++) {
        int64_t row =
            row0 + group * 64 + threadIdx.x % 128 / 32 * 16 + half * 8 + threadIdx.x % 32 / 4;
        flash_store<bf16, D>(a, r.o, half, r.most[half], r.sum[half], item, head, row);
    }
}

/* The kernel; room: hopper_tile<D>::shared bytes aligned to 1024. */
template <int D>
static __device__ __forceinline__ void hopper_block(const cvx_flash &a, const hopper_maps &m,
                                                    char *room)
{
    typedef hopper_tile<D> tile;
    hopper_room<tile> at(room);
    int group = uniform((int)threadIdx.x / 128) - 1, head = (int)(blockIdx.y % a.h),
        item = (int)(blockIdx.y / a.h), row0 = (int)blockIdx.x * tile::rows;
    int blocks = (int)((a.sk + tile::keys - 1) / tile::keys);

    hopper_barriers(at);
    if (group < 0) {
        registers_give<tile::registers_few>();
        if (threadIdx.x == 0) {
            hopper_feed<tile>(m, at, row0, head, item, blocks);
        }
    } else {
        registers_take<tile::registers_many>();
        hopper_attend<D>(a, at, group, row0, head, item, blocks);
    }
}

#endif
