#include "parallel/ulysses.h"

#include <stdlib.h>

/* Byte counts and places of an exchange: per rank its block, one after the other. */
typedef struct blocks {
    int64_t *send, *send_at, *recv, *recv_at; /* one allocation, `send` owns it */
    int64_t send_total, recv_total;
} blocks;

static cvx_status blocks_open(blocks *b, int size)
{
    *b = (blocks){.send = calloc(4 * (size_t)size, sizeof *b->send)};
    if (b->send == NULL) {
        return cvx_fail(CVX_ENOMEM, "no memory for an exchange between %d ranks", size);
    }
    b->send_at = b->send + size;
    b->recv = b->send_at + size;
    b->recv_at = b->recv + size;
    return CVX_OK;
}

static void place(blocks *b, int size)
{
    for (int i = 0; i < size; i++) {
        b->send_at[i] = b->send_total;
        b->recv_at[i] = b->recv_total;
        b->send_total += b->send[i];
        b->recv_total += b->recv[i];
    }
}

/* Tensor i of a block that begins at `at` of buf: [b, rows, heads, d] dense. */
static cvx_tensor part(const cvx_tensor *buf, int64_t at, int i, int64_t b, int64_t rows,
                       int64_t heads, int64_t d)
{
    char *p = (char *)buf->data + at;
    return CVX_VIEW(p + (int64_t)sizeof(float) * i * b * rows * heads * d, CVX_F32, b, rows, heads,
                    d);
}

static cvx_status copy(cvx_ctx *ctx, const cvx_tensor *y, const cvx_tensor *x)
{
    return cvx_numel(y) == 0 ? CVX_OK
                             : cvx_op_strided_copy(ctx, &(cvx_strided_copy_args){.y = y, .x = x});
}

static cvx_status run_exchange(cvx_comm *c, const blocks *x, const cvx_tensor *send,
                               const cvx_tensor *recv)
{
    return cvx_comm_alltoallv(c, send->data, x->send, x->send_at, recv->data, x->recv, x->recv_at);
}

static int64_t sum_rows(const int64_t *rows, int size)
{
    int64_t n = 0;
    for (int i = 0; i < size; i++) {
        n += rows[i];
    }
    return n;
}

cvx_status cvx_ulysses_to_heads(cvx_ctx *ctx, cvx_comm *c, cvx_arena *arena, const int64_t *rows,
                                const cvx_tensor *in, cvx_tensor *out, int n)
{
    int64_t b = in[0].dim[0], mine = rows[c->rank], heads = in[0].dim[2], d = in[0].dim[3];
    int64_t all = sum_rows(rows, c->size), h = cvx_shard_of(heads, c->size, c->rank).len, at = 0;
    cvx_tensor send, recv;
    blocks x;
    cvx_status st = CVX_OK;

    if (c->size == 1) {
        for (int i = 0; i < n; i++) {
            out[i] = in[i];
        }
        return CVX_OK;
    }
    for (int i = 0; i < n; i++) { /* before the buffers, which are given back */
        CVX_RETURN_IF(CVX_ALLOC(arena, &out[i], CVX_F32, b, all, h, d));
    }
    size_t mark = cvx_arena_mark(arena);
    CVX_RETURN_IF(blocks_open(&x, c->size));
    for (int r = 0; r < c->size; r++) {
        x.send[r] = (int64_t)sizeof(float) * n * b * mine * cvx_shard_of(heads, c->size, r).len * d;
        x.recv[r] = (int64_t)sizeof(float) * n * b * rows[r] * h * d;
    }
    place(&x, c->size);
    CVX_TRY(st, CVX_ALLOC(arena, &send, CVX_F32, x.send_total / 4), done);
    CVX_TRY(st, CVX_ALLOC(arena, &recv, CVX_F32, x.recv_total / 4), done);
    for (int r = 0; r < c->size; r++) {
        cvx_shard s = cvx_shard_of(heads, c->size, r);
        for (int i = 0; i < n; i++) {
            cvx_tensor to = part(&send, x.send_at[r], i, b, mine, s.len, d);
            cvx_tensor from = cvx_slice(&in[i], 2, s.start, s.len);
            CVX_TRY(st, copy(ctx, &to, &from), done);
        }
    }
    CVX_TRY(st, run_exchange(c, &x, &send, &recv), done);
    for (int r = 0; r < c->size; at += rows[r], r++) {
        for (int i = 0; i < n; i++) {
            cvx_tensor from = part(&recv, x.recv_at[r], i, b, rows[r], h, d);
            cvx_tensor to = cvx_slice(&out[i], 1, at, rows[r]);
            CVX_TRY(st, copy(ctx, &to, &from), done);
        }
    }
done:
    cvx_arena_release(arena, mark, false);
    free(x.send);
    return st;
}

cvx_status cvx_ulysses_to_rows(cvx_ctx *ctx, cvx_comm *c, cvx_arena *arena, const int64_t *rows,
                               const cvx_tensor *in, const cvx_tensor *out)
{
    int64_t b = out->dim[0], mine = rows[c->rank], heads = out->dim[2], d = out->dim[3];
    int64_t h = cvx_shard_of(heads, c->size, c->rank).len, at = 0;
    size_t mark = cvx_arena_mark(arena);
    cvx_tensor send, recv;
    blocks x;
    cvx_status st = CVX_OK;

    if (c->size == 1) {
        CVX_ASSERT(in->data == out->data);
        return CVX_OK;
    }
    CVX_RETURN_IF(blocks_open(&x, c->size));
    for (int r = 0; r < c->size; r++) {
        x.send[r] = (int64_t)sizeof(float) * b * rows[r] * h * d;
        x.recv[r] = (int64_t)sizeof(float) * b * mine * cvx_shard_of(heads, c->size, r).len * d;
    }
    place(&x, c->size);
    CVX_TRY(st, CVX_ALLOC(arena, &send, CVX_F32, x.send_total / 4), done);
    CVX_TRY(st, CVX_ALLOC(arena, &recv, CVX_F32, x.recv_total / 4), done);
    for (int r = 0; r < c->size; at += rows[r], r++) {
        cvx_tensor to = part(&send, x.send_at[r], 0, b, rows[r], h, d);
        cvx_tensor from = cvx_slice(in, 1, at, rows[r]);
        CVX_TRY(st, copy(ctx, &to, &from), done);
    }
    CVX_TRY(st, run_exchange(c, &x, &send, &recv), done);
    for (int r = 0; r < c->size; r++) {
        cvx_shard s = cvx_shard_of(heads, c->size, r);
        cvx_tensor from = part(&recv, x.recv_at[r], 0, b, mine, s.len, d);
        cvx_tensor to = cvx_slice(out, 2, s.start, s.len);
        CVX_TRY(st, copy(ctx, &to, &from), done);
    }
done:
    cvx_arena_release(arena, mark, false);
    free(x.send);
    return st;
}
