/* Self-attention of a block over the ranks that share the sequence. */
#include <math.h>

#include "kernels/transfer.h"
#include "model/dit/parts.h"
#include "parallel/ring.h"
#include "parallel/ulysses.h"

/* How the sequence's rows lie on its ranks, and which form brings the keys to the queries: within one place of the
 * ring ulysses or an all-gather (`gather`; with a ring ulysses, whose blocks are then only some heads wide),
 * between its places the ring. */
typedef struct layout {
    cvx_comm *u, *ring;
    bool gather;
    int64_t u_rows[CVX_MAX_RANKS];    /* of the ranks at this place of the ring */
    int64_t ring_rows[CVX_MAX_RANKS]; /* of the places of the ring */
    int64_t before, all;              /* rows of u's ranks before this one, and of all of them */
} layout;

static void make_layout(layout *l, const cvx_dit_pass *p)
{
    const cvx_mesh *m = p->d->mesh;
    int64_t total = p->job->shape.text_len + p->job->video_rows;

    l->u = m->dim[CVX_MESH_ULYSSES];
    l->ring = m->dim[CVX_MESH_RING];
    l->before = l->all = 0;
    for (int r = 0; r < l->ring->size; r++) {
        l->ring_rows[r] = 0;
        for (int i = 0; i < l->u->size; i++) {
            int64_t n = cvx_shard_of(total, l->ring->size * l->u->size, r * l->u->size + i).len;
            l->ring_rows[r] += n;
            if (r == l->ring->rank) {
                l->u_rows[i] = n;
                l->before += i < l->u->rank ? n : 0;
                l->all += n;
            }
        }
    }
    l->gather =
        l->u->size > 1 && l->ring->size == 1 &&
        cvx_exchange_choose(p->d->exchange, p->d->heads.len, l->u->size) == CVX_EXCHANGE_ALLGATHER;
}

/* Keys (i = 0) or values (1) of kv [b, rows, 2, heads, hd]: [b, rows, heads, hd]. */
static cvx_tensor half_of(const cvx_tensor *kv, int64_t i)
{
    cvx_tensor t = cvx_slice(kv, 2, i, 1);

    t.ndim = 4;
    for (int j = 2; j < 4; j++) {
        t.dim[j] = kv->dim[j + 1];
        t.stride[j] = kv->stride[j + 1];
    }
    return t;
}

/* [b, rows, heads, hd] as one of n = 1 side by side, as ulysses wants it. */
static cvx_tensor single(const cvx_tensor *t)
{
    cvx_tensor s = *t;

    s.ndim = 5;
    s.dim[2] = 1;
    s.stride[2] = t->stride[1];
    for (int j = 3; j < 5; j++) {
        s.dim[j] = t->dim[j - 1];
        s.stride[j] = t->stride[j - 1];
    }
    return s;
}

/* y [b, s, heads, hd] (strides between rows and items) = lin(h). */
static cvx_status project(cvx_dit_pass *p, const cvx_linear *lin, const cvx_tensor *y)
{
    int64_t width = y->dim[2] * y->dim[3];
    bool together = y->stride[0] == p->s * y->stride[1];
    int64_t calls = together ? 1 : p->b, rows = together ? p->b * p->s : p->s;

    for (int64_t i = 0; i < calls; i++) {
        cvx_tensor h = cvx_slice(&p->h, 0, i * rows, rows), out = cvx_slice(y, 0, i, 1);
        out.ndim = 2;
        out.dim[0] = rows;
        out.dim[1] = width;
        out.stride[0] = y->stride[1];
        out.stride[1] = 1;
        CVX_RETURN_IF(cvx_linear_run(p->d->ctx, lin, &out, &h, CVX_ACT_NONE));
    }
    return CVX_OK;
}

/* q, k: norm over the head, rotary positions on the video rows. */
static cvx_status norm_rope(cvx_dit_pass *p, const cvx_tensor *x, const cvx_tensor *gamma,
                            const cvx_tensor *beta)
{
    return cvx_op_qk_norm_rope(
        p->d->ctx, &(cvx_qk_norm_rope_args){.x = x,
                                            .gamma = gamma,
                                            .beta = beta,
                                            .cos = p->job->cos.data ? &p->job->cos : NULL,
                                            .sin = p->job->sin.data ? &p->job->sin : NULL,
                                            .text_rows = p->text,
                                            .rope_row0 = p->v0,
                                            .eps = 1e-6});
}

/* q, kv <- this rank's rows. */
static cvx_status make_qkv(cvx_dit_pass *p, const cvx_dit_block *b, const cvx_tensor *q,
                           const cvx_tensor *kv)
{
    cvx_tensor k = half_of(kv, 0), v = half_of(kv, 1);

    CVX_RETURN_IF(project(p, &b->q, q));
    CVX_RETURN_IF(project(p, &b->k, &k));
    CVX_RETURN_IF(project(p, &b->v, &v));
    CVX_RETURN_IF(norm_rope(p, q, &b->q_gamma, &b->q_beta));
    return norm_rope(p, &k, &b->k_gamma, &b->k_beta);
}

/* o = attention of q over kv and, in a ring, over the kv of its other places. */
static cvx_status attend(cvx_dit_pass *p, const layout *l, const cvx_tensor *o, const cvx_tensor *q,
                         const cvx_tensor *kv)
{
    double scale = 1.0 / sqrt((double)p->d->cfg.attention_head_dim);
    cvx_tensor k = half_of(kv, 0), v = half_of(kv, 1);

    if (l->ring->size > 1) {
        return cvx_ring_attention(p->d->ctx, l->ring, p->step, l->ring_rows, o, q, kv, scale,
                                  p->d->sage);
    }
    if (cvx_numel(o) == 0) { /* more ranks than heads, or than rows */
        return CVX_OK;
    }
    return cvx_op_attention(
        p->d->ctx, &(cvx_attention_args){
                       .o = o, .q = q, .k = &k, .v = &v, .scale = scale, .sage = p->d->sage});
}

/* A dense view of `rows` rows of each item at the beginning of a buffer [b, room, 2, heads, hd]. */
static cvx_tensor rows_of(const cvx_tensor *buffer, int64_t rows)
{
    return CVX_VIEW(buffer->data, buffer->dtype, buffer->dim[0], rows, buffer->dim[2],
                    buffer->dim[3], buffer->dim[4]);
}

/* Without ulysses: own rows of q, all heads of this tensor rank. */
static cvx_status attend_rows(cvx_dit_pass *p, const cvx_dit_block *b, const layout *l,
                              const cvx_tensor *o)
{
    int64_t heads = p->d->heads.len, hd = p->d->cfg.attention_head_dim;
    int64_t room = l->gather ? l->all : cvx_ring_room(l->ring_rows, l->ring->size);
    cvx_tensor q, kv;

    CVX_RETURN_IF(CVX_ALLOC(p->step, &q, p->d->act, p->b, p->s, heads, hd));
    CVX_RETURN_IF(CVX_ALLOC(p->step, &kv, p->d->act, p->b, room, 2, heads, hd));
    kv = rows_of(&kv, l->all);
    cvx_tensor own = cvx_slice(&kv, 1, l->gather ? l->before : 0, p->s);
    CVX_RETURN_IF(make_qkv(p, b, &q, &own));
    if (l->gather) {
        CVX_RETURN_IF(cvx_gather_rows(l->u, l->u_rows, &kv));
    }
    return attend(p, l, o, &q, &kv);
}

/* With ulysses: all rows of this place of the ring, some of the heads. */
static cvx_status attend_heads(cvx_dit_pass *p, const cvx_dit_block *b, const layout *l,
                               const cvx_tensor *o)
{
    int64_t heads = p->d->heads.len, hd = p->d->cfg.attention_head_dim;
    int64_t h = cvx_shard_of(heads, l->u->size, l->u->rank).len;
    cvx_tensor q, kv, own_q, own_kv, out;

    CVX_RETURN_IF(CVX_ALLOC(p->step, &q, p->d->act, p->b, l->all, h, hd));
    CVX_RETURN_IF(CVX_ALLOC(p->step, &kv, p->d->act, p->b,
                            cvx_ring_room(l->ring_rows, l->ring->size), 2, h, hd));
    kv = rows_of(&kv, l->all);
    size_t mark = cvx_arena_mark(p->step);
    CVX_RETURN_IF(CVX_ALLOC(p->step, &own_q, p->d->act, p->b, p->s, heads, hd));
    CVX_RETURN_IF(CVX_ALLOC(p->step, &own_kv, p->d->act, p->b, p->s, 2, heads, hd));
    CVX_RETURN_IF(make_qkv(p, b, &own_q, &own_kv));
    cvx_tensor q5 = single(&q), own_q5 = single(&own_q);
    CVX_RETURN_IF(cvx_ulysses_to_heads(p->d->ctx, l->u, p->step, l->u_rows, &own_q5, &q5));
    CVX_RETURN_IF(cvx_ulysses_to_heads(p->d->ctx, l->u, p->step, l->u_rows, &own_kv, &kv));
    cvx_arena_release(p->step, mark, false);
    CVX_RETURN_IF(CVX_ALLOC(p->step, &out, p->d->act, p->b, l->all, h, hd));
    CVX_RETURN_IF(attend(p, l, &out, &q, &kv));
    cvx_tensor out5 = single(&out), o5 = single(o);
    return cvx_ulysses_to_rows(p->d->ctx, l->u, p->step, l->u_rows, &out5, &o5);
}

bool cvx_dit_leads(const cvx_shard *part)
{
    return part->start == 0 && part->len > 0;
}

cvx_status cvx_dit_reduce(cvx_dit_pass *p)
{
    cvx_comm *t = p->d->mesh->dim[CVX_MESH_TENSOR];

    return t->size == 1 ? CVX_OK : cvx_comm_allreduce_f32(t, p->x.data, cvx_numel(&p->x));
}

cvx_status cvx_dit_self_attention(cvx_dit_pass *p, const cvx_dit_block *b, const cvx_tensor *gate)
{
    cvx_dit *d = p->d;
    int64_t heads = d->heads.len, hd = d->cfg.attention_head_dim;
    bool lead = cvx_dit_leads(&d->heads);
    size_t mark = cvx_arena_mark(p->step);
    layout l;

    if (heads == 0) {
        cvx_zero(d->ctx, &p->x);
        return cvx_dit_reduce(p);
    }
    make_layout(&l, p);
    /* the normed rows are spent when the output comes */
    cvx_tensor o = CVX_VIEW(p->h.data, p->h.dtype, p->b, p->s, heads, hd);
    if (l.u->size > 1 && !l.gather) {
        CVX_RETURN_IF(attend_heads(p, b, &l, &o));
    } else {
        CVX_RETURN_IF(attend_rows(p, b, &l, &o));
    }
    o = CVX_RESHAPE(&o, p->b * p->s, heads * hd);
    CVX_RETURN_IF(cvx_op_linear(d->ctx, &(cvx_linear_args){.y = &p->x,
                                                           .x = &o,
                                                           .w = &b->o.w,
                                                           .b = lead ? &b->o.b : NULL,
                                                           .residual = lead ? &p->x : NULL,
                                                           .gate = gate,
                                                           .text_rows = p->text,
                                                           .period = p->s}));
    cvx_arena_release(p->step, mark, false);
    return cvx_dit_reduce(p);
}
