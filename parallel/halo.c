#include "parallel/halo.h"

#include "kernels/transfer.h"

static int64_t row_bytes(const cvx_halo *h)
{
    return h->whole.dim[2] * h->whole.dim[3] * (int64_t)cvx_dtype_size(h->whole.dtype);
}

size_t cvx_halo_bytes(const cvx_halo *h)
{
    return (size_t)(2 * h->n * row_bytes(h));
}

/* Row `row` of frame i as bytes. */
static cvx_tensor row_at(const cvx_halo *h, int64_t i, int64_t row)
{
    int64_t slot = (h->first + i) % h->whole.dim[0];
    char *p = (char *)h->whole.data + (slot * h->whole.dim[1] + row) * row_bytes(h);
    return CVX_VIEW(p, CVX_U8, row_bytes(h));
}

/* Row `own` of every frame goes to rank `to`, what comes from `from` becomes row `border`; negative: nobody. */
static cvx_status pass_on(cvx_ctx *ctx, cvx_comm *c, const cvx_halo *h, char *scratch, int64_t own,
                          int to, int64_t border, int from)
{
    int64_t row = row_bytes(h), bytes = h->n * row;
    char *in = scratch + bytes;

    for (int64_t i = 0; to >= 0 && i < h->n; i++) {
        cvx_tensor src = row_at(h, i, own), dst = CVX_VIEW(scratch + i * row, CVX_U8, row);
        cvx_copy(ctx, &dst, &src);
    }
    CVX_RETURN_IF(cvx_comm_sendrecv(c, scratch, bytes, to, in, bytes, from));
    for (int64_t i = 0; from >= 0 && i < h->n; i++) {
        cvx_tensor src = CVX_VIEW(in + i * row, CVX_U8, row), dst = row_at(h, i, border);
        cvx_copy(ctx, &dst, &src);
    }
    return CVX_OK;
}

cvx_status cvx_halo_exchange(cvx_ctx *ctx, cvx_comm *c, const cvx_halo *h, void *scratch)
{
    int64_t last = h->whole.dim[1] - 1;
    int above = c->rank - 1, below = c->rank + 1 < c->size ? c->rank + 1 : -1;

    if (c->size == 1) {
        return CVX_OK;
    }
    if (h->below) {
        CVX_RETURN_IF(pass_on(ctx, c, h, scratch, h->above, above, last, below));
    }
    if (h->above) {
        CVX_RETURN_IF(pass_on(ctx, c, h, scratch, last - h->below, below, 0, above));
    }
    return CVX_OK;
}
