#include "parallel/ulysses.h"

/* One exchange of one batch item: bytes and places by rank on the side of the rows (blocks [rows of this rank, n,
 * heads of the other, d]) and on the side of the heads (blocks [rows of the other, n, heads of this rank,
 * d]). What stays on this rank is copied, not sent. */
typedef struct plan {
    const cvx_comm *c;
    const int64_t *rows;
    int64_t size; /* bytes of a value */
    int64_t n, heads, d, own_heads, all_rows;
    int64_t row_bytes[CVX_MAX_RANKS], row_at[CVX_MAX_RANKS], row_total;
    int64_t head_bytes[CVX_MAX_RANKS], head_at[CVX_MAX_RANKS], head_row[CVX_MAX_RANKS];
} plan;

/* row_side: [b, rows, n, heads, d]. */
static void make_plan(plan *p, const cvx_comm *c, const int64_t *rows, const cvx_tensor *row_side)
{
    p->c = c;
    p->rows = rows;
    p->size = (int64_t)cvx_dtype_size(row_side->dtype);
    p->n = row_side->dim[2];
    p->heads = row_side->dim[3];
    p->d = row_side->dim[4];
    p->own_heads = cvx_shard_of(p->heads, c->size, c->rank).len;
    p->row_total = p->all_rows = 0;
    for (int r = 0; r < c->size; r++) {
        bool own = r == c->rank;
        int64_t one = p->size * p->n * p->d, h = cvx_shard_of(p->heads, c->size, r).len;
        p->row_bytes[r] = own ? 0 : one * rows[c->rank] * h;
        p->row_at[r] = p->row_total;
        p->row_total += p->row_bytes[r];
        p->head_bytes[r] = own ? 0 : one * rows[r] * p->own_heads;
        p->head_at[r] = one * p->all_rows * p->own_heads;
        p->head_row[r] = p->all_rows;
        p->all_rows += rows[r];
    }
}

/* Item b without its dimension. */
static cvx_tensor item(const cvx_tensor *t, int64_t b)
{
    cvx_tensor s = cvx_slice(t, 0, b, 1);

    s.ndim = 4;
    for (int i = 0; i < 4; i++) {
        s.dim[i] = t->dim[i + 1];
        s.stride[i] = t->stride[i + 1];
    }
    return s;
}

static cvx_status copy(cvx_ctx *ctx, const cvx_tensor *y, const cvx_tensor *x)
{
    return cvx_numel(y) == 0 ? CVX_OK
                             : cvx_op_strided_copy(ctx, &(cvx_strided_copy_args){.y = y, .x = x});
}

/* Rank r's block on the side of the rows: in the buffer, and its place among the heads of an item. */
static cvx_tensor block(const plan *p, const cvx_tensor *buffer, int r)
{
    return CVX_VIEW((char *)buffer->data + p->row_at[r], buffer->dtype, p->rows[p->c->rank], p->n,
                    cvx_shard_of(p->heads, p->c->size, r).len, p->d);
}

static cvx_tensor heads_of(const plan *p, const cvx_tensor *rows, int r)
{
    cvx_shard s = cvx_shard_of(p->heads, p->c->size, r);
    return cvx_slice(rows, 2, s.start, s.len);
}

/* This rank's rows among those of all, with its own heads. */
static cvx_tensor own_rows(const plan *p, const cvx_tensor *all)
{
    return cvx_slice(all, 0, p->head_row[p->c->rank], p->rows[p->c->rank]);
}

cvx_status cvx_ulysses_to_heads(cvx_ctx *ctx, cvx_comm *c, cvx_arena *arena, const int64_t *rows,
                                const cvx_tensor *in, const cvx_tensor *out)
{
    size_t mark = cvx_arena_mark(arena);
    cvx_tensor send;
    plan p;

    make_plan(&p, c, rows, in);
    CVX_ASSERT(c->size > 1 && cvx_is_dense(out) && out->dim[1] == p.all_rows);
    CVX_RETURN_IF(CVX_ALLOC(arena, &send, in->dtype, p.row_total / p.size));
    for (int64_t b = 0; b < in->dim[0]; b++) {
        cvx_tensor from = item(in, b), to = item(out, b);
        for (int r = 0; r < c->size; r++) {
            cvx_tensor y = r == c->rank ? own_rows(&p, &to) : block(&p, &send, r);
            cvx_tensor x = heads_of(&p, &from, r);
            CVX_RETURN_IF(copy(ctx, &y, &x));
        }
        CVX_RETURN_IF(cvx_comm_alltoallv(c, send.data, p.row_bytes, p.row_at, to.data, p.head_bytes,
                                         p.head_at));
    }
    cvx_arena_release(arena, mark, false);
    return CVX_OK;
}

cvx_status cvx_ulysses_to_rows(cvx_ctx *ctx, cvx_comm *c, cvx_arena *arena, const int64_t *rows,
                               const cvx_tensor *in, const cvx_tensor *out)
{
    size_t mark = cvx_arena_mark(arena);
    cvx_tensor recv;
    plan p;

    make_plan(&p, c, rows, out);
    CVX_ASSERT(c->size > 1 && cvx_is_dense(in) && in->dim[1] == p.all_rows);
    CVX_RETURN_IF(CVX_ALLOC(arena, &recv, in->dtype, p.row_total / p.size));
    for (int64_t b = 0; b < in->dim[0]; b++) {
        cvx_tensor from = item(in, b), to = item(out, b);
        CVX_RETURN_IF(cvx_comm_alltoallv(c, from.data, p.head_bytes, p.head_at, recv.data,
                                         p.row_bytes, p.row_at));
        for (int r = 0; r < c->size; r++) {
            cvx_tensor x = r == c->rank ? own_rows(&p, &from) : block(&p, &recv, r);
            cvx_tensor y = heads_of(&p, &to, r);
            CVX_RETURN_IF(copy(ctx, &y, &x));
        }
    }
    cvx_arena_release(arena, mark, false);
    return CVX_OK;
}
