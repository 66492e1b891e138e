/* The kernels of sage.cuh, built and launched. */
#include "kernels/cuda/attention.h"
#include "kernels/cuda/maps.h"
#include "kernels/cuda/sage.cuh"

static __global__ void __launch_bounds__(SAGE_THREADS) stats(cvx_flash a, cvx_sage s)
{
#ifdef CVX_HOPPER
    __shared__ float room[SAGE_STATS_ROOM / 4];
    sage_stats(a, s, (char *)room);
#endif
}

static __global__ void __launch_bounds__(CVX_SAGE_HEAD) gather(cvx_flash a, cvx_sage s)
{
#ifdef CVX_HOPPER
    sage_gather(a, s);
#endif
}

static __global__ void __launch_bounds__(SAGE_THREADS) queries(cvx_flash a, cvx_sage s)
{
#ifdef CVX_HOPPER
    sage_queries(a, s);
#endif
}

static __global__ void __launch_bounds__(SAGE_THREADS) blocks_of_keys(cvx_flash a, cvx_sage s)
{
#ifdef CVX_HOPPER
    __shared__ float room[SAGE_BLOCK_ROOM / 4];
    sage_block(a, s, (char *)room);
#endif
}

static __global__ void __launch_bounds__(sage_tile::threads, 1)
    product(cvx_flash a, cvx_sage s, const __grid_constant__ hopper_maps m)
{
#ifdef CVX_HOPPER
    extern __shared__ __align__(1024) char room[];
    sage_product(a, s, m, room);
#endif
}

/* Scratch for the operands, cut up. */
static cvx_status take_room(cvx_cuda *s, cvx_sage *g, const cvx_flash *a)
{
    int64_t n = a->b * a->h, size[9], all = 0;
    char *p = nullptr;
    void *at[9];

    g->skp = (a->sk + CVX_SAGE_KEYS - 1) / CVX_SAGE_KEYS * CVX_SAGE_KEYS;
    size[0] = n * a->sq * CVX_SAGE_HEAD;
    size[1] = size[2] = n * g->skp * CVX_SAGE_HEAD;
    size[3] = size[4] = n * a->sq * 4;
    size[5] = n * (g->skp / CVX_SAGE_KEYS) * 16;
    size[6] = size[7] = n * CVX_SAGE_HEAD * 4;
    size[8] = n * cvx_sage_shares(a->sk) * 2 * CVX_SAGE_HEAD * 4;
    for (int i = 0; i < 9; i++) {
        size[i] = (size[i] + 255) / 256 * 256;
        all += size[i];
    }
    CVX_RETURN_IF(cvx_cuda_scratch(s, CVX_CUDA_SCRATCHES - 1, (void **)&p, (size_t)all));
    for (int i = 0; i < 9; i++) {
        at[i] = p;
        p += size[i];
    }
    g->q = (int8_t *)at[0];
    g->k = (int8_t *)at[1];
    g->v = (uint8_t *)at[2];
    g->qs = (float *)at[3];
    g->shift = (float *)at[4];
    g->ks = (float *)at[5];
    g->vs = (float *)at[6];
    g->mean = (float *)at[7];
    g->part = (float *)at[8];
    return CVX_OK;
}

static cvx_status attend_item(cvx_cuda *s, const cvx_flash *a)
{
    const int room = sage_tile::shared;
    int64_t n = a->b * a->h;
    cvx_sage g;
    hopper_maps m;

    CVX_RETURN_IF(take_room(s, &g, a));
    const int64_t q[] = {CVX_SAGE_HEAD, a->sq, n, 1}, k[] = {CVX_SAGE_HEAD, g.skp, n, 1},
                  v[] = {g.skp, CVX_SAGE_HEAD, n, 1};
    const int64_t qs[] = {q[0], q[0] * q[1], 0}, ks[] = {k[0], k[0] * k[1], 0},
                  vs[] = {v[0], v[0] * v[1], 0};
    CVX_RETURN_IF(cvx_cuda_map(&m.q, g.q, 1, q, qs, CVX_SAGE_HEAD, sage_tile::rows));
    CVX_RETURN_IF(cvx_cuda_map(&m.k, g.k, 1, k, ks, CVX_SAGE_HEAD, sage_tile::keys));
    CVX_RETURN_IF(cvx_cuda_map(&m.v, g.v, 1, v, vs, sage_tile::keys, CVX_SAGE_HEAD));
    CVX_RETURN_IF(cvx_cuda_status(
        (int)cudaFuncSetAttribute(product, cudaFuncAttributeMaxDynamicSharedMemorySize, room),
        "shared memory of attention"));
    dim3 by_query((unsigned)((a->sq + SAGE_THREADS / 32 - 1) / (SAGE_THREADS / 32)), (unsigned)n);
    dim3 by_block((unsigned)(g.skp / CVX_SAGE_KEYS), (unsigned)n);
    dim3 by_tile((unsigned)((a->sq + sage_tile::rows - 1) / sage_tile::rows), (unsigned)n);
    dim3 by_share((unsigned)cvx_sage_shares(a->sk), (unsigned)n);
    stats<<<by_share, SAGE_THREADS, 0, s->stream>>>(*a, g);
    gather<<<(unsigned)n, CVX_SAGE_HEAD, 0, s->stream>>>(*a, g);
    queries<<<by_query, SAGE_THREADS, 0, s->stream>>>(*a, g);
    blocks_of_keys<<<by_block, SAGE_THREADS, 0, s->stream>>>(*a, g);
    product<<<by_tile, sage_tile::threads, (size_t)room, s->stream>>>(*a, g, m);
    return cvx_cuda_launched(s, "attention");
}

/* One item of the batch at a time: the operands of two would only take more memory. */
extern "C" cvx_status cvx_cuda_attention_sage(cvx_cuda *s, const cvx_flash *a)
{
    for (int64_t i = 0; i < a->b; i++) {
        cvx_flash one = *a;
        one.b = 1;
        one.q = (const bf16 *)a->q + i * a->qs[0];
        one.k = (const bf16 *)a->k + i * a->ks[0];
        one.v = (const bf16 *)a->v + i * a->vs[0];
        one.o = (bf16 *)a->o + i * a->os[0];
        one.lse = a->lse != nullptr ? a->lse + i * a->ls[0] : nullptr;
        CVX_RETURN_IF(attend_item(s, &one));
    }
    return CVX_OK;
}
