#include "parallel/nccl/by_host.h"

#include <cuda_runtime_api.h>

#include "kernels/cuda/cuda.h"

static cvx_status cuda_status(cudaError_t e, const char *what)
{
    return cvx_cuda_status((int)e, what);
}

static cvx_status room(cvx_by_host *b, int which, int64_t bytes)
{
    size_t size = (size_t)bytes + 1;

    if (size > b->pinned_size[which]) {
        cudaFreeHost(b->pinned[which]);
        b->pinned[which] = NULL;
        b->pinned_size[which] = 0;
        CVX_RETURN_IF(cuda_status(cudaMallocHost(&b->pinned[which], size), "pinned memory"));
        b->pinned_size[which] = size;
    }
    return CVX_OK;
}

static cvx_status settle(cvx_by_host *b)
{
    return cuda_status(cudaStreamSynchronize(b->stream), "waiting for the device");
}

static cvx_status copy(cvx_by_host *b, void *dst, const void *src, int64_t bytes,
                       enum cudaMemcpyKind kind)
{
    return bytes > 0
               ? cuda_status(cudaMemcpyAsync(dst, src, (size_t)bytes, kind, b->stream), "staging")
               : CVX_OK;
}

static cvx_status to_host(cvx_by_host *b, void *dst, const void *src, int64_t bytes)
{
    CVX_RETURN_IF(copy(b, dst, src, bytes, cudaMemcpyDeviceToHost));
    return settle(b);
}

/* Pieces that came; what lies between them stays. */
static cvx_status pieces_to_device(cvx_by_host *b, char *dst, const char *src, const int64_t *bytes,
                                   const int64_t *at)
{
    for (int r = 0; r < b->host->size; r++) {
        CVX_RETURN_IF(copy(b, dst + at[r], src + at[r], bytes[r], cudaMemcpyHostToDevice));
    }
    return settle(b);
}

/* Where the last of a list of pieces ends. */
static int64_t end_of(const cvx_comm *c, const int64_t *bytes, const int64_t *at)
{
    int64_t end = 0;

    for (int r = 0; r < c->size; r++) {
        end = at[r] + bytes[r] > end ? at[r] + bytes[r] : end;
    }
    return end;
}

/* The pieces for the other ranks as they lie, this rank's own copied on the device. In round k a rank sends to rank + k
 * (parallel/rounds.h, whose own piece is host memory). */
static cvx_status direct_exchange(cvx_by_host *b, const char *send, const int64_t *send_bytes,
                                  const int64_t *send_at, char *recv, const int64_t *recv_bytes,
                                  const int64_t *recv_at)
{
    cvx_comm *c = b->host;
    const char *own = send + send_at[c->rank];
    char *place = recv + recv_at[c->rank];

    if (own != place) {
        CVX_RETURN_IF(copy(b, place, own, recv_bytes[c->rank], cudaMemcpyDeviceToDevice));
    }
    CVX_RETURN_IF(settle(b));
    for (int k = 1; k < c->size; k++) {
        int to = (c->rank + k) % c->size, from = (c->rank - k + c->size) % c->size;
        CVX_RETURN_IF(c->ops->sendrecv(c, send + send_at[to], send_bytes[to], to,
                                       recv + recv_at[from], recv_bytes[from], from));
    }
    return CVX_OK;
}

static cvx_status direct_gather(cvx_by_host *b, const char *send, int64_t bytes, char *recv,
                                const int64_t *recv_bytes, const int64_t *recv_at)
{
    int64_t same[CVX_MAX_RANKS], zero[CVX_MAX_RANKS] = {0};

    for (int r = 0; r < b->host->size; r++) { /* the same piece to everyone */
        same[r] = bytes;
    }
    return direct_exchange(b, send, same, zero, recv, recv_bytes, recv_at);
}

cvx_status cvx_by_host_allgatherv(cvx_by_host *b, const void *send, int64_t bytes, void *recv,
                                  const int64_t *recv_bytes, const int64_t *recv_at)
{
    if (b->direct) {
        return direct_gather(b, send, bytes, recv, recv_bytes, recv_at);
    }
    CVX_RETURN_IF(room(b, 1, end_of(b->host, recv_bytes, recv_at)));
    char *in = b->pinned[1], *own = in + recv_at[b->host->rank];
    CVX_RETURN_IF(to_host(b, own, send, bytes));
    CVX_RETURN_IF(b->host->ops->allgatherv(b->host, own, bytes, in, recv_bytes, recv_at));
    return pieces_to_device(b, recv, in, recv_bytes, recv_at);
}

cvx_status cvx_by_host_alltoallv(cvx_by_host *b, const void *send, const int64_t *send_bytes,
                                 const int64_t *send_at, void *recv, const int64_t *recv_bytes,
                                 const int64_t *recv_at)
{
    int64_t out = end_of(b->host, send_bytes, send_at);

    if (b->direct) {
        return direct_exchange(b, send, send_bytes, send_at, recv, recv_bytes, recv_at);
    }
    CVX_RETURN_IF(room(b, 0, out));
    CVX_RETURN_IF(room(b, 1, end_of(b->host, recv_bytes, recv_at)));
    CVX_RETURN_IF(to_host(b, b->pinned[0], send, out));
    CVX_RETURN_IF(b->host->ops->alltoallv(b->host, b->pinned[0], send_bytes, send_at, b->pinned[1],
                                          recv_bytes, recv_at));
    return pieces_to_device(b, recv, b->pinned[1], recv_bytes, recv_at);
}

cvx_status cvx_by_host_sendrecv(cvx_by_host *b, const void *send, int64_t send_bytes, int to,
                                void *recv, int64_t recv_bytes, int from)
{
    if (b->direct) {
        CVX_RETURN_IF(settle(b));
        return b->host->ops->sendrecv(b->host, send, send_bytes, to, recv, recv_bytes, from);
    }
    CVX_RETURN_IF(room(b, 0, to >= 0 ? send_bytes : 0));
    CVX_RETURN_IF(room(b, 1, from >= 0 ? recv_bytes : 0));
    if (to >= 0) {
        CVX_RETURN_IF(to_host(b, b->pinned[0], send, send_bytes));
    }
    CVX_RETURN_IF(b->host->ops->sendrecv(b->host, b->pinned[0], send_bytes, to, b->pinned[1],
                                         recv_bytes, from));
    if (from >= 0) {
        CVX_RETURN_IF(copy(b, recv, b->pinned[1], recv_bytes, cudaMemcpyHostToDevice));
        return settle(b);
    }
    return CVX_OK;
}

cvx_status cvx_by_host_start_sendrecv(cvx_by_host *b, cvx_comm_pending *p, const void *send,
                                      int64_t send_bytes, int to, void *recv, int64_t recv_bytes,
                                      int from)
{
    if (!b->direct) {
        return cvx_by_host_sendrecv(b, send, send_bytes, to, recv, recv_bytes, from);
    }
    CVX_RETURN_IF(settle(b));
    return b->host->ops->start_sendrecv(b->host, p, send, send_bytes, to, recv, recv_bytes, from);
}

cvx_status cvx_by_host_broadcast(cvx_by_host *b, void *buf, int64_t bytes, int root)
{
    bool mine = b->host->rank == root;

    if (b->direct) {
        CVX_RETURN_IF(settle(b));
        return b->host->ops->broadcast(b->host, buf, bytes, root);
    }
    CVX_RETURN_IF(room(b, 0, bytes));
    if (mine) {
        CVX_RETURN_IF(to_host(b, b->pinned[0], buf, bytes));
    }
    CVX_RETURN_IF(b->host->ops->broadcast(b->host, b->pinned[0], bytes, root));
    if (!mine) {
        CVX_RETURN_IF(copy(b, buf, b->pinned[0], bytes, cudaMemcpyHostToDevice));
        return settle(b);
    }
    return CVX_OK;
}

void cvx_by_host_close(cvx_by_host *b)
{
    cudaFreeHost(b->pinned[0]);
    cudaFreeHost(b->pinned[1]);
}
