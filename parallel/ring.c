#include "parallel/ring.h"

/* Pieces in which a block is attended to: between two of them the transport is looked after. */
#define PIECES 16

int64_t cvx_ring_room(const int64_t *rows, int size)
{
    int64_t most = 0;

    for (int i = 0; i < size; i++) {
        most = rows[i] > most ? rows[i] : most;
    }
    return most;
}

typedef struct ring {
    cvx_ctx *ctx;
    cvx_comm *c;
    const cvx_tensor *o, *q;
    cvx_tensor lse, part, part_lse; /* part: output for one block */
    double scale;
    bool sage;
} ring;

/* The output of the block's keys and values [b, rows, 2, h, d] alone, some heads at a time. */
static cvx_status attend(const ring *r, const cvx_tensor *block, const cvx_tensor *o,
                         const cvx_tensor *lse, cvx_comm_pending *pending)
{
    int64_t heads = r->q->dim[2], step = (heads + PIECES - 1) / PIECES;

    for (int64_t h = 0; h < heads; h += step) {
        int64_t n = heads - h < step ? heads - h : step;
        cvx_tensor t[5] = {*r->q, *block, *block, *o, *lse};
        for (int i = 1; i < 3; i++) { /* keys, values: [b, rows, h, d] */
            t[i] = cvx_slice(block, 2, i - 1, 1);
            t[i].ndim = 4;
            t[i].dim[2] = block->dim[3];
            t[i].stride[2] = block->stride[3];
            t[i].dim[3] = block->dim[4];
            t[i].stride[3] = block->stride[4];
        }
        for (int i = 0; i < 5; i++) {
            t[i] = cvx_slice(&t[i], i == 4 ? 1 : 2, h, n);
        }
        CVX_RETURN_IF(cvx_op_attention(r->ctx, &(cvx_attention_args){.q = &t[0],
                                                                     .k = &t[1],
                                                                     .v = &t[2],
                                                                     .o = &t[3],
                                                                     .lse = &t[4],
                                                                     .scale = r->scale,
                                                                     .sage = r->sage}));
        cvx_comm_poll(r->c, pending);
    }
    return CVX_OK;
}

/* One block into what there is; the first one sets it. */
static cvx_status add_block(const ring *r, const cvx_tensor *block, bool first,
                            cvx_comm_pending *pending)
{
    if (block->dim[1] == 0 || cvx_numel(r->q) == 0) {
        return CVX_OK;
    }
    if (first) {
        return attend(r, block, r->o, &r->lse, pending);
    }
    CVX_RETURN_IF(attend(r, block, &r->part, &r->part_lse, pending));
    return cvx_op_attention_merge(r->ctx, &(cvx_attention_merge_args){.o = r->o,
                                                                      .lse = &r->lse,
                                                                      .part = &r->part,
                                                                      .part_lse = &r->part_lse});
}

cvx_status cvx_ring_attention(cvx_ctx *ctx, cvx_comm *c, cvx_arena *arena, const int64_t *rows,
                              const cvx_tensor *o, const cvx_tensor *q, const cvx_tensor *kv,
                              double scale, bool sage)
{
    int64_t b = q->dim[0], s = q->dim[1], h = q->dim[2], d = q->dim[3];
    int next = (c->rank + 1) % c->size, before = (c->rank - 1 + c->size) % c->size;
    size_t mark = cvx_arena_mark(arena);
    ring r = {.ctx = ctx, .c = c, .o = o, .q = q, .scale = scale, .sage = sage};
    cvx_tensor other, block = *kv;

    CVX_ASSERT(c->size > 1 && cvx_is_dense(kv) && cvx_is_dense(o));
    CVX_RETURN_IF(CVX_ALLOC(arena, &other, kv->dtype, b, cvx_ring_room(rows, c->size), 2, h, d));
    CVX_RETURN_IF(CVX_ALLOC(arena, &r.part, o->dtype, b, s, h, d));
    CVX_RETURN_IF(CVX_ALLOC(arena, &r.lse, CVX_F32, b, h, s));
    CVX_RETURN_IF(CVX_ALLOC(arena, &r.part_lse, CVX_F32, b, h, s));
    for (int i = 0; i < c->size; i++) { /* the block of rank - i */
        int from = (c->rank - i + c->size) % c->size;
        bool last = i + 1 == c->size;
        cvx_comm_pending pending = {NULL};
        cvx_tensor coming = other;
        if (!last) {
            int64_t row = (int64_t)cvx_dtype_size(kv->dtype) * b * 2 * h * d;
            int64_t n = rows[(from - 1 + c->size) % c->size];
            coming = CVX_VIEW(other.data, kv->dtype, b, n, 2, h, d);
            CVX_RETURN_IF(cvx_comm_start_sendrecv(c, &pending, block.data, rows[from] * row, next,
                                                  coming.data, n * row, before));
        }
        cvx_status st = add_block(&r, &block, i == 0, &pending);
        cvx_status moved = last ? CVX_OK : cvx_comm_wait(c, &pending);
        CVX_RETURN_IF(st);
        CVX_RETURN_IF(moved);
        other = block;
        block = coming;
    }
    cvx_arena_release(arena, mark, false);
    return CVX_OK;
}
