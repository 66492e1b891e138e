/* Bands of rows: each rank of a communicator holds a contiguous band of the rows of some frames, with a border
 * row above and below. A halo exchange fills the borders between neighbours with the neighbour's nearest row;
 * the outermost borders stay what they are. */
#ifndef CVX_PARALLEL_HALO_H
#define CVX_PARALLEL_HALO_H

#include "kernels/ops.h"
#include "parallel/comm.h"

typedef struct cvx_halo {
    cvx_tensor whole;  /* [slots, border + rows + border, w, c], dense, any dtype */
    int64_t first, n;  /* frames first .. first + n, modulo slots */
    bool above, below; /* which borders there are */
} cvx_halo;

/* Scratch that cvx_halo_exchange needs. */
size_t cvx_halo_bytes(const cvx_halo *h);

/* Rank r's neighbours are r - 1 (above) and r + 1 (below); every rank has at least one row. Bytes sent by a rank:
 * n · w · c · size of the dtype to each neighbour that has a border on this side. Collective over c. */
cvx_status cvx_halo_exchange(cvx_ctx *ctx, cvx_comm *c, const cvx_halo *h, void *scratch) CVX_CHECK;

#endif
