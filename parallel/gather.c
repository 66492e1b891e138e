#include "parallel/gather.h"

cvx_exchange cvx_exchange_choose(cvx_exchange asked, int64_t heads, int size)
{
    int64_t most = (heads + size - 1) / size;

    if (asked != CVX_EXCHANGE_AUTO) {
        return asked;
    }
    return 4 * most * size > 5 * heads ? CVX_EXCHANGE_ALLGATHER : CVX_EXCHANGE_ULYSSES;
}

cvx_status cvx_gather_rows(cvx_comm *c, const int64_t *rows, const cvx_tensor *kv)
{
    int64_t bytes[CVX_MAX_RANKS], at[CVX_MAX_RANKS], total = 0;
    int64_t row = kv->stride[1] * (int64_t)cvx_dtype_size(kv->dtype);

    for (int i = 0; i < c->size; i++) {
        bytes[i] = rows[i] * row;
        at[i] = total;
        total += bytes[i];
    }
    for (int64_t b = 0; b < kv->dim[0] && c->size > 1; b++) {
        char *item = (char *)kv->data + b * total;
        CVX_RETURN_IF(cvx_comm_allgatherv(c, item + at[c->rank], bytes[c->rank], item, bytes, at));
    }
    return CVX_OK;
}
