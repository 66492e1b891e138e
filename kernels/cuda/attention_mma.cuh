/* Attention as a stream over the keys (Dao, FlashAttention-2, arXiv 2307.08691) for tensor cores from sm_80 on.
 *
 * A block has 128 queries of one head, a warp 32 of them. Tiles of 64 keys and of 64 values come by cp.async, in turn, into a
 * ring of slots: one tile is multiplied while the next ones are on their way. Scores stay in registers; their maximum
 * and the sum of their weights go along, f32 throughout, and the scores' registers, rounded to T, are the left operand of
 * the product with the values as they are.
 *
 * Nothing of a query's arithmetic depends on the other rows of its tile: keys come in blocks of 64 from key 0 on, and the
 * order within a block is fixed. A thread adds the weights that it has itself; the four threads of a row add theirs
 * at the end. */
#ifndef CVX_KERNELS_CUDA_ATTENTION_MMA_CUH
#define CVX_KERNELS_CUDA_ATTENTION_MMA_CUH

#include "kernels/cuda/flash.cuh"

/* Head size D (64 or 128; smaller ones are filled up with zeros). */
template <int D> struct flash_tile {
    static const int rows = 128, keys = 64, threads = 128;
    static const int each = 2;       /* of 16 rows a warp */
    static const int pieces = D / 8; /* of 16 bytes a row */
    static const int bytes = keys * D * 2;
    static const int slots = D == 64 ? 4 : 3;
    static const int q_bytes = rows * D * 2;
    static const int shared = q_bytes + slots * bytes;
    static const bool q_stays = D == 64; /* in registers */
};

/* A warp's rows: `each` tiles of 16; a thread has rows lane / 4 and lane / 4 + 8 of each. */
template <int D> struct flash_rows {
    float o[2][D / 8][4];
    float most[2][2], sum[2][2];
};

/* Rows r0 .. r0 + ROWS of a matrix (row stride ld) on their way into a tile; rows from `end` on and columns from d on are
 * zeros. */
template <typename T, int D, int ROWS>
static __device__ __forceinline__ void flash_bring(shared_at tile, const T *from, int64_t ld,
                                                   int64_t r0, int64_t end, int d)
{
    constexpr int PIECES = D / 8, AT_ONCE = flash_tile<D>::threads / PIECES;
    int piece = threadIdx.x % PIECES, row = threadIdx.x / PIECES;
    const T *p = from + (r0 + row) * ld + piece * 8;
    shared_at to = tile + cvx_flash_place(row, piece, PIECES);
    int left = piece * 8 < d ? (int)(end - r0 < ROWS ? end - r0 : ROWS) : 0; /* d is a multiple of 8 */

#pragma unroll
    for (int i = 0; i < ROWS / AT_ONCE; i++) { /* steps of 8 rows turn no piece */
        bool there = row + i * AT_ONCE < left;
        copy_async(to + (uint32_t)(i * AT_ONCE * PIECES * 16), there ? p + i * AT_ONCE * ld : from,
                   there ? 16 : 0);
    }
}

/* Fragments of 16 queries and 16 columns. */
template <int D>
static __device__ __forceinline__ void flash_load_q(uint32_t r[4], shared_at q, int row, int k)
{
    int lane = threadIdx.x % 32;

    load_matrices(r, q + cvx_flash_place(row + (lane & 15), 2 * k + (lane >> 4), D / 8));
}

/* s = q · kᵀ for the warp's 32 queries and 64 keys. */
template <typename T, int D>
static __device__ __forceinline__ void
flash_scores(float s[2][8][4], const uint32_t kept[2][flash_tile<D>::q_stays ? D / 16 : 1][4],
             shared_at q, shared_at keys)
{
    int lane = threadIdx.x % 32, row = threadIdx.x / 32 * 32;

#pragma unroll
    for (int i = 0; i < 2; i++) {
#pragma unroll
        for (int j = 0; j < 8; j++) {
            s[i][j][0] = s[i][j][1] = s[i][j][2] = s[i][j][3] = 0;
        }
    }
#pragma unroll
    for (int k = 0; k < D / 16; k++) {
        uint32_t a[2][4], b[4];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            if (!flash_tile<D>::q_stays) {
                flash_load_q<D>(a[i], q, row + 16 * i, k);
            }
        }
#pragma unroll
        for (int j = 0; j < 4; j++) { /* 16 keys */
            int key = j * 16 + (lane & 7) + ((lane >> 4) << 3);
            load_matrices(b, keys + cvx_flash_place(key, 2 * k + ((lane >> 3) & 1), D / 8));
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const uint32_t *left =
                    flash_tile<D>::q_stays ? kept[i][flash_tile<D>::q_stays ? k : 0] : a[i];
                multiply<T>(s[i][2 * j], left, b[0], b[1]);
                multiply<T>(s[i][2 * j + 1], left, b[2], b[3]);
            }
        }
    }
}

/* s becomes its weights; maxima, sums and outputs so far follow. */
template <int D>
static __device__ __forceinline__ void flash_follow(float s[2][8][4], flash_rows<D> &r,
                                                    float scale2)
{
#pragma unroll
    for (int n = 0; n < 4; n++) {
        int i = n / 2, half = n % 2;
        float old = flash_weigh<64>(s[i], half, &r.most[i][half], &r.sum[i][half], scale2);
#pragma unroll
        for (int j = 0; j < D / 8; j++) {
            r.o[i][j][2 * half] *= old;
            r.o[i][j][2 * half + 1] *= old;
        }
    }
}

/* o += weights · values. */
template <typename T, int D>
static __device__ __forceinline__ void flash_add(flash_rows<D> &r, const float s[2][8][4],
                                                 shared_at values)
{
    int lane = threadIdx.x % 32;

#pragma unroll
    for (int k = 0; k < 4; k++) { /* 16 keys */
        uint32_t a[2][4], b[4];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            flash_pack<T>(a[i], s[i][2 * k], s[i][2 * k + 1]);
        }
#pragma unroll
        for (int j = 0; j < D / 16; j++) {
            load_matrices_turned(b, values + cvx_flash_place(k * 16 + (lane & 15),
                                                             2 * j + (lane >> 4), D / 8));
#pragma unroll
            for (int i = 0; i < 2; i++) {
                multiply<T>(r.o[i][2 * j], a[i], b[0], b[1]);
                multiply<T>(r.o[i][2 * j + 1], a[i], b[2], b[3]);
            }
        }
    }
}

/* Tile t of the ring: keys (t even) or values (t odd) of block t / 2. A group is committed even where there is no tile, so
 * that groups can be counted. */
template <typename T, int D>
static __device__ __forceinline__ void flash_next(const cvx_flash &a, const T *k, const T *v,
                                                  shared_at ring, int t, int64_t tiles)
{
    typedef flash_tile<D> tile;

    if (t < tiles) {
        shared_at slot = ring + (uint32_t)(t % tile::slots * tile::bytes);
        int64_t r0 = (int64_t)(t / 2) * tile::keys;
        flash_bring<T, D, tile::keys>(slot, t % 2 == 0 ? k : v, t % 2 == 0 ? a.ks[1] : a.vs[1], r0,
                                      a.sk, a.d);
    }
    copy_commit();
}

/* The kernel; room: flash_tile<D>::shared bytes aligned to 128. */
template <typename T, int D>
static __device__ __forceinline__ void flash_block(const cvx_flash &a, char *room)
{
    typedef flash_tile<D> tile;
    constexpr int KEPT = tile::q_stays ? D / 16 : 1;
    int64_t head = blockIdx.y % a.h, batch = blockIdx.y / a.h;
    int64_t row0 = (int64_t)blockIdx.x * tile::rows;
    const T *k = (const T *)a.k + batch * a.ks[0] + head * a.ks[2];
    const T *v = (const T *)a.v + batch * a.vs[0] + head * a.vs[2];
    shared_at q = shared_address(room), ring = q + tile::q_bytes;
    int blocks = (int)((a.sk + tile::keys - 1) / tile::keys);
    uint32_t kept[2][KEPT][4];
    flash_rows<D> r;

#pragma unroll
    for (int i = 0; i < 2; i++) {
        r.most[i][0] = r.most[i][1] = -INFINITY;
        r.sum[i][0] = r.sum[i][1] = 0;
#pragma unroll
        for (int j = 0; j < D / 8; j++) {
            r.o[i][j][0] = r.o[i][j][1] = r.o[i][j][2] = r.o[i][j][3] = 0;
        }
    }
    flash_bring<T, D, tile::rows>(q, (const T *)a.q + batch * a.qs[0] + head * a.qs[2], a.qs[1],
                                  row0, a.sq, a.d); /* in the first tile's group */
#pragma unroll
    for (int t = 0; t < tile::slots - 1; t++) {
        flash_next<T, D>(a, k, v, ring, t, 2 * blocks);
    }
    for (int j = 0; j < blocks; j++) {
        float s[2][8][4];
        int t = 2 * j;
        copy_wait<tile::slots - 2>();
        __syncthreads(); /* the keys have come for all, and the tile before is spent */
        flash_next<T, D>(a, k, v, ring, t + tile::slots - 1, 2 * blocks);
        if (tile::q_stays && j == 0) {
#pragma unroll
            for (int n = 0; n < 2 * KEPT; n++) {
                flash_load_q<D>(kept[n / KEPT][n % KEPT], q, threadIdx.x / 32 * 32 + n / KEPT * 16,
                                n % KEPT);
            }
        }
        flash_scores<T, D>(s, kept, q, ring + (uint32_t)(t % tile::slots * tile::bytes));
        if (j == blocks - 1) {
            flash_hide<64>(s[0], a.sk - (int64_t)j * tile::keys);
            flash_hide<64>(s[1], a.sk - (int64_t)j * tile::keys);
        }
        flash_follow<D>(s, r, a.scale2);
        copy_wait<tile::slots - 2>();
        __syncthreads(); /* the values have come */
        flash_next<T, D>(a, k, v, ring, t + tile::slots, 2 * blocks);
        flash_add<T, D>(r, s, ring + (uint32_t)((t + 1) % tile::slots * tile::bytes));
    }
#pragma unroll
    for (int n = 0; n < 4; n++) { /* rows lane / 4 and lane / 4 + 8 of each 16 */
        int64_t row = row0 + threadIdx.x / 32 * 32 + n / 2 * 16 + n % 2 * 8 + threadIdx.x % 32 / 4;
        flash_store<T, D>(a, r.o[n / 2], n % 2, r.most[n / 2][n % 2], r.sum[n / 2][n % 2], batch,
                          head, row);
    }
}

#endif
