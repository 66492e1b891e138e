#include "parallel/nccl/comm_nccl.h"

#include <cuda_runtime_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef CVX_HAVE_NCCL
#include <nccl.h>
#else
typedef struct ncclComm *ncclComm_t;
#endif

#include "kernels/cuda/cuda.h"
#include "parallel/nccl/by_host.h"
#include "parallel/nccl/watch.h"

typedef struct impl {
    cvx_comm *host; /* the same ranks in host memory */
    bool own_host;
    cvx_nccl_watched watched; /* without NCCL: by host */
    cvx_by_host by_host;      /* then */
    const cvx_cuda_process *cuda;
    cudaEvent_t queued, arrived; /* compute -> exchange stream, and back */
    float *sums;                 /* device: every rank's part of one share */
    size_t sums_size;
} impl;

static impl *impl_of(const cvx_comm *c)
{
    return c->impl;
}

static cvx_status cuda_status(cudaError_t e, const char *what)
{
    return cvx_cuda_status((int)e, what);
}

/* --- buffers --- */

static bool on_device(const void *p)
{
    struct cudaPointerAttributes a;

    if (p == NULL || cudaPointerGetAttributes(&a, p) != cudaSuccess) {
        cudaGetLastError();
        return false;
    }
    return a.type == cudaMemoryTypeDevice || a.type == cudaMemoryTypeManaged;
}

#ifdef CVX_HAVE_NCCL
/* Pieces to and from every rank at once, on `stream`. This rank's own piece is copied, unless it is in place. */
static cvx_status exchange_all(cvx_comm *c, const char *send, const int64_t *send_bytes,
                               const int64_t *send_at, char *recv, const int64_t *recv_bytes,
                               const int64_t *recv_at)
{
    impl *i = impl_of(c);
    cudaStream_t stream = i->cuda->compute;
    const char *own = send + send_at[c->rank];
    char *place = recv + recv_at[c->rank];
    ncclResult_t r = ncclSuccess;

    if (own != place && send_bytes[c->rank] > 0) {
        CVX_RETURN_IF(cuda_status(cudaMemcpyAsync(place, own, (size_t)send_bytes[c->rank],
                                                  cudaMemcpyDeviceToDevice, stream),
                                  "own piece"));
    }
    CVX_RETURN_IF(cvx_nccl_enter(&i->watched, stream));
    ncclGroupStart();
    for (int k = 1; k < c->size && r == ncclSuccess; k++) {
        int to = (c->rank + k) % c->size, from = (c->rank - k + c->size) % c->size;
        if (send_bytes[to] > 0) {
            r = ncclSend(send + send_at[to], (size_t)send_bytes[to], ncclInt8, to, i->watched.nccl,
                         stream);
        }
        if (recv_bytes[from] > 0 && (r == ncclSuccess || r == ncclInProgress)) {
            r = ncclRecv(recv + recv_at[from], (size_t)recv_bytes[from], ncclInt8, from,
                         i->watched.nccl, stream);
        }
        r = r == ncclInProgress ? ncclSuccess : r;
    }
    ncclResult_t end = ncclGroupEnd();
    return cvx_nccl_queued(&i->watched, r != ncclSuccess ? r : end, stream, "exchange");
}
#endif

/* --- the table --- */

static cvx_status allgatherv(cvx_comm *c, const void *send, int64_t send_bytes, void *recv,
                             const int64_t *recv_bytes, const int64_t *recv_at)
{
    impl *i = impl_of(c);

    if (!on_device(recv)) {
        return i->host->ops->allgatherv(i->host, send, send_bytes, recv, recv_bytes, recv_at);
    }
#ifdef CVX_HAVE_NCCL
    if (i->watched.nccl != NULL) {
        bool even = true;
        for (int r = 0; r < c->size; r++) {
            even = even && recv_bytes[r] == send_bytes && recv_at[r] == r * send_bytes;
        }
        if (even) {
            CVX_RETURN_IF(cvx_nccl_enter(&i->watched, i->cuda->compute));
            ncclResult_t r = ncclAllGather(send, recv, (size_t)send_bytes, ncclInt8,
                                           i->watched.nccl, i->cuda->compute);
            return cvx_nccl_queued(&i->watched, r, i->cuda->compute, "all-gather");
        }
        int64_t *bytes = malloc(2 * (size_t)c->size * sizeof *bytes);
        if (bytes == NULL) {
            return cvx_fail(CVX_ENOMEM, "no memory for an all-gather");
        }
        for (int r = 0; r < c->size; r++) { /* the same piece to everyone */
            bytes[r] = send_bytes;
            bytes[c->size + r] = 0;
        }
        cvx_status st = exchange_all(c, send, bytes, bytes + c->size, recv, recv_bytes, recv_at);
        free(bytes);
        return st;
    }
#endif
    return cvx_by_host_allgatherv(&i->by_host, send, send_bytes, recv, recv_bytes, recv_at);
}

static cvx_status alltoallv(cvx_comm *c, const void *send, const int64_t *send_bytes,
                            const int64_t *send_at, void *recv, const int64_t *recv_bytes,
                            const int64_t *recv_at)
{
    impl *i = impl_of(c);

    if (!on_device(recv) && !on_device(send)) {
        return i->host->ops->alltoallv(i->host, send, send_bytes, send_at, recv, recv_bytes,
                                       recv_at);
    }
#ifdef CVX_HAVE_NCCL
    if (i->watched.nccl != NULL) {
        return exchange_all(c, send, send_bytes, send_at, recv, recv_bytes, recv_at);
    }
#endif
    return cvx_by_host_alltoallv(&i->by_host, send, send_bytes, send_at, recv, recv_bytes, recv_at);
}

/* recv [counts[rank]] = every rank's send[at[rank]] .., added in rank order on every rank: the pieces come by an
 * exchange, so that no library chooses the order. recv may be this rank's place in send. */
static cvx_status sum_shares(cvx_comm *c, const float *send, const int64_t *at,
                             const int64_t *counts, float *recv)
{
    impl *i = impl_of(c);
    int64_t mine = counts[c->rank], *list = malloc(4 * (size_t)c->size * sizeof *list);
    size_t bytes = (size_t)(mine * c->size) * sizeof(float);
    cvx_status st = CVX_OK;

    if (list == NULL) {
        return cvx_fail(CVX_ENOMEM, "no memory to add over ranks");
    }
    if (bytes > i->sums_size) {
        CVX_TRY(st, cuda_status(cudaStreamSynchronize(i->cuda->compute), "sum over ranks"), done);
        cudaFree(i->sums);
        i->sums = NULL;
        i->sums_size = 0;
        CVX_TRY(st, cuda_status(cudaMalloc((void **)&i->sums, bytes), "sum over ranks"), done);
        i->sums_size = bytes;
    }
    for (int r = 0; r < c->size; r++) {
        list[r] = 4 * counts[r];
        list[c->size + r] = 4 * at[r];
        list[2 * c->size + r] = 4 * mine;
        list[3 * c->size + r] = 4 * mine * r;
    }
    CVX_TRY(st,
            alltoallv(c, send, list, list + c->size, i->sums, list + 2 * c->size,
                      list + 3 * c->size),
            done);
    st = cvx_cuda_sum_ranks(i->cuda->compute, recv, i->sums, mine, c->size);
done:
    free(list);
    return st;
}

static cvx_status reduce_scatterv(cvx_comm *c, const float *send, float *recv,
                                  const int64_t *counts)
{
    impl *i = impl_of(c);

    if (!on_device(send)) {
        return i->host->ops->reduce_scatterv_f32(i->host, send, recv, counts);
    }
    int64_t *at = calloc((size_t)c->size, sizeof *at);
    if (at == NULL) {
        return cvx_fail(CVX_ENOMEM, "no memory to add over ranks");
    }
    for (int r = 1; r < c->size; r++) {
        at[r] = at[r - 1] + counts[r - 1];
    }
    cvx_status st = sum_shares(c, send, at, counts, recv);
    free(at);
    return st;
}

static cvx_status allreduce(cvx_comm *c, float *buf, int64_t n)
{
    impl *i = impl_of(c);
    cvx_status st = CVX_OK;

    if (!on_device(buf)) {
        return i->host->ops->allreduce_f32(i->host, buf, n);
    }
    int64_t *counts = calloc(4 * (size_t)c->size, sizeof *counts);
    if (counts == NULL) {
        return cvx_fail(CVX_ENOMEM, "no memory to add over ranks");
    }
    int64_t *at = counts + c->size, *bytes = at + c->size, *bytes_at = bytes + c->size;
    for (int r = 0; r < c->size; r++) {
        cvx_shard s = cvx_shard_of(n, c->size, r);
        at[r] = s.start;
        counts[r] = s.len;
        bytes[r] = 4 * s.len;
        bytes_at[r] = 4 * s.start;
    }
    float *mine = buf + at[c->rank];
    CVX_TRY(st, sum_shares(c, buf, at, counts, mine), done);
    st = allgatherv(c, mine, bytes[c->rank], buf, bytes, bytes_at);
done:
    free(counts);
    return st;
}

#ifdef CVX_HAVE_NCCL
static cvx_status pair(cvx_comm *c, cudaStream_t stream, const void *send, int64_t send_bytes,
                       int to, void *recv, int64_t recv_bytes, int from)
{
    impl *i = impl_of(c);
    ncclResult_t r = ncclSuccess;

    CVX_RETURN_IF(cvx_nccl_enter(&i->watched, stream));
    ncclGroupStart();
    if (to >= 0 && send_bytes > 0) {
        r = ncclSend(send, (size_t)send_bytes, ncclInt8, to, i->watched.nccl, stream);
    }
    if (from >= 0 && recv_bytes > 0 && (r == ncclSuccess || r == ncclInProgress)) {
        r = ncclRecv(recv, (size_t)recv_bytes, ncclInt8, from, i->watched.nccl, stream);
    }
    ncclResult_t end = ncclGroupEnd();
    return cvx_nccl_queued(&i->watched, r != ncclSuccess && r != ncclInProgress ? r : end, stream,
                           "send and receive");
}
#endif

static cvx_status sendrecv(cvx_comm *c, const void *send, int64_t send_bytes, int to, void *recv,
                           int64_t recv_bytes, int from)
{
    impl *i = impl_of(c);

    if (!on_device(to >= 0 ? send : recv)) {
        return i->host->ops->sendrecv(i->host, send, send_bytes, to, recv, recv_bytes, from);
    }
#ifdef CVX_HAVE_NCCL
    if (i->watched.nccl != NULL) {
        return pair(c, i->cuda->compute, send, send_bytes, to, recv, recv_bytes, from);
    }
#endif
    return cvx_by_host_sendrecv(&i->by_host, send, send_bytes, to, recv, recv_bytes, from);
}

/* What computes on the compute stream from here on runs beside the transfer. Host memory's is done when it returns. */
static cvx_status start_sendrecv(cvx_comm *c, cvx_comm_pending *p, const void *send,
                                 int64_t send_bytes, int to, void *recv, int64_t recv_bytes,
                                 int from)
{
    impl *i = impl_of(c);

    if (!on_device(to >= 0 ? send : recv)) {
        return i->host->ops->sendrecv(i->host, send, send_bytes, to, recv, recv_bytes, from);
    }
#ifdef CVX_HAVE_NCCL
    cudaStream_t stream = i->cuda->exchange;

    if (i->watched.nccl != NULL) {
        CVX_RETURN_IF(cuda_status(cudaEventRecord(i->queued, i->cuda->compute), "exchange"));
        CVX_RETURN_IF(cuda_status(cudaStreamWaitEvent(stream, i->queued, 0), "exchange"));
        CVX_RETURN_IF(pair(c, stream, send, send_bytes, to, recv, recv_bytes, from));
        CVX_RETURN_IF(cuda_status(cudaEventRecord(i->arrived, stream), "exchange"));
        p->impl = i;
        return CVX_OK;
    }
#endif
    return cvx_by_host_start_sendrecv(&i->by_host, p, send, send_bytes, to, recv, recv_bytes, from);
}

static void poll_arrived(cvx_comm *c, cvx_comm_pending *p)
{
    impl *i = impl_of(c);

    if (i->watched.nccl == NULL && i->host->ops->poll != NULL) {
        i->host->ops->poll(i->host, p);
    }
}

static cvx_status wait_arrived(cvx_comm *c, cvx_comm_pending *p)
{
    impl *i = impl_of(c);

    if (i->watched.nccl == NULL) {
        return i->host->ops->wait(i->host, p);
    }
    p->impl = NULL;
    return cuda_status(cudaStreamWaitEvent(i->cuda->compute, i->arrived, 0), "exchange");
}

static cvx_status broadcast(cvx_comm *c, void *buf, int64_t bytes, int root)
{
    impl *i = impl_of(c);

    if (!on_device(buf)) {
        return i->host->ops->broadcast(i->host, buf, bytes, root);
    }
#ifdef CVX_HAVE_NCCL
    if (i->watched.nccl != NULL) {
        CVX_RETURN_IF(cvx_nccl_enter(&i->watched, i->cuda->compute));
        ncclResult_t r = ncclBroadcast(buf, buf, (size_t)bytes, ncclInt8, root, i->watched.nccl,
                                       i->cuda->compute);
        return cvx_nccl_queued(&i->watched, r, i->cuda->compute, "broadcast");
    }
#endif
    return cvx_by_host_broadcast(&i->by_host, buf, bytes, root);
}

/* What is queued must have come to an end, or be known to have failed, before ranks agree that all is well. */
static cvx_status agree(cvx_comm *c, int *least)
{
    impl *i = impl_of(c);

    cvx_status st = CVX_OK;

    if (*least >= 0) {
        st = cuda_status(cudaStreamSynchronize(i->cuda->compute), "waiting for the device");
#ifdef CVX_HAVE_NCCL
        st = st == CVX_OK ? cvx_nccl_usable(&i->watched) : st;
#endif
        *least = st == CVX_OK ? *least : CVX_COMM_BROKEN + st * CVX_MAX_RANKS + c->rank;
    }
    cvx_status told =
        i->host->ops->agree(i->host, least); /* the others wait for this rank's word */
    return st == CVX_OK ? told : st;
}

static cvx_status wrap(cvx_comm **out, cvx_comm *host, bool own_host, ncclComm_t nccl, bool direct);

#ifdef CVX_HAVE_NCCL
static cvx_status split_nccl(impl *i, int colour, int key, ncclComm_t *out)
{
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;

    *out = NULL;
    config.blocking = 0;
    config.splitShare = 1; /* the parts use the same channels: they are never at work at once */
    CVX_RETURN_IF(cvx_nccl_hold(&i->watched));
    ncclResult_t r = ncclCommSplit(i->watched.nccl, colour, key, out, &config);
    cvx_status st = cvx_nccl_settle(i->watched.nccl, r, "split");
    cvx_nccl_release(&i->watched);
    if (st == CVX_OK && colour != NCCL_SPLIT_NOCOLOR && *out != NULL) {
        st = cvx_nccl_settle(*out, ncclInProgress, "split");
    }
    if (st != CVX_OK && *out != NULL) {
        ncclCommAbort(*out);
        *out = NULL;
    }
    return st;
}
#endif

static cvx_status split(cvx_comm *c, int colour, int key, cvx_comm **out)
{
    impl *i = impl_of(c);
    cvx_comm *host = NULL;
    ncclComm_t nccl = NULL;

    CVX_RETURN_IF(i->host->ops->split(i->host, colour, key, &host));
#ifdef CVX_HAVE_NCCL
    if (i->watched.nccl != NULL) {
        cvx_status st = split_nccl(i, colour, key, &nccl);
        if (st != CVX_OK) {
            cvx_comm_close(host);
            return st;
        }
    }
#endif
    return wrap(out, host, true, nccl, i->by_host.direct);
}

static cvx_status first(cvx_comm *c, int n, cvx_comm **out)
{
    impl *i = impl_of(c);
    cvx_comm *host = NULL;
    ncclComm_t nccl = NULL;

    *out = NULL;
    CVX_RETURN_IF(i->host->ops->first(i->host, n, &host));
#ifdef CVX_HAVE_NCCL
    if (i->watched.nccl != NULL) {
        cvx_status st = split_nccl(i, c->rank < n ? 0 : NCCL_SPLIT_NOCOLOR, c->rank, &nccl);
        if (st != CVX_OK) {
            cvx_comm_close(host);
            return st;
        }
    }
#endif
    return host == NULL ? CVX_OK : wrap(out, host, true, nccl, i->by_host.direct);
}

static void close_device(cvx_comm *c)
{
    impl *i = impl_of(c);

    if (i == NULL) {
        return;
    }
#ifdef CVX_HAVE_NCCL
    cvx_nccl_unwatch(&i->watched);
#endif
    cudaEvent_t events[] = {i->queued, i->arrived};
    for (int k = 0; k < 2; k++) {
        if (events[k] != NULL) {
            cudaEventDestroy(events[k]);
        }
    }
    cudaFree(i->sums);
    cvx_by_host_close(&i->by_host);
    if (i->own_host) {
        cvx_comm_close(i->host);
    }
    if (i->cuda != NULL) {
        cvx_cuda_process_close();
    }
    free(i);
}

/* Takes over host (if own_host) and nccl, also where it fails. */
static cvx_status wrap(cvx_comm **out, cvx_comm *host, bool own_host, ncclComm_t nccl, bool direct)
{
    static const cvx_comm_ops nccl_ops = {.name = "nccl",
                                          .allgatherv = allgatherv,
                                          .alltoallv = alltoallv,
                                          .reduce_scatterv_f32 = reduce_scatterv,
                                          .allreduce_f32 = allreduce,
                                          .sendrecv = sendrecv,
                                          .start_sendrecv = start_sendrecv,
                                          .poll = poll_arrived,
                                          .wait = wait_arrived,
                                          .broadcast = broadcast,
                                          .agree = agree,
                                          .split = split,
                                          .first = first,
                                          .close = close_device};
    static cvx_comm_ops by_host_ops;
    cvx_comm *c = calloc(1, sizeof *c);
    impl *i = calloc(1, sizeof *i);
    cvx_status st = CVX_OK;

    by_host_ops = nccl_ops;
    by_host_ops.name = "by host";
    if (c == NULL || i == NULL) {
        free(c);
        free(i);
        if (own_host) {
            cvx_comm_close(host);
        }
        return cvx_fail(CVX_ENOMEM, "no memory for a communicator");
    }
    c->ops = nccl != NULL ? &nccl_ops : &by_host_ops;
    c->impl = i;
    c->rank = host->rank;
    c->size = host->size;
    i->host = host;
    i->own_host = own_host;
    CVX_TRY(st, cvx_cuda_process_open(&i->cuda), done);
    i->by_host = (cvx_by_host){.host = host, .stream = i->cuda->compute, .direct = direct};
    cudaEvent_t *events[] = {&i->queued, &i->arrived};
    for (int k = 0; k < 2; k++) {
        CVX_TRY(st,
                cuda_status(cudaEventCreateWithFlags(events[k], cudaEventDisableTiming),
                            "an event"),
                done);
    }
#ifdef CVX_HAVE_NCCL
    if (nccl != NULL) {
        CVX_TRY(st, cvx_nccl_watch(&i->watched, nccl, i->cuda->device), done);
        nccl = NULL;
    }
#endif
    *out = c;
    c = NULL;
done:
#ifdef CVX_HAVE_NCCL
    if (nccl != NULL) {
        ncclCommAbort(nccl);
    }
#endif
    if (c != NULL) {
        cvx_comm_close(c);
    }
    return st;
}

/* --- opening --- */

/* What the ranks tell each other of their devices. */
typedef struct device_card {
    char name[96], id[32];
} device_card;

static cvx_status read_card(device_card *card)
{
    const cvx_cuda_process *cuda = NULL;
    struct cudaDeviceProp d;

    memset(card, 0, sizeof *card);
    CVX_RETURN_IF(cvx_cuda_process_open(&cuda));
    cvx_status st =
        cuda_status(cudaGetDeviceProperties(&d, cuda->device), "the device's properties");
    if (st == CVX_OK) {
        snprintf(card->name, sizeof card->name, "%.95s", d.name);
        memcpy(card->id, d.uuid.bytes, sizeof d.uuid.bytes);
    }
    cvx_cuda_process_close();
    return st;
}

/* Devices of one model only; *shared: some ranks have the same one. */
static cvx_status compare_cards(cvx_comm *host, const device_card *own, bool *shared)
{
    device_card *all = calloc((size_t)host->size, sizeof *all);
    int64_t *list = calloc(2 * (size_t)host->size, sizeof *list);
    cvx_status st = all == NULL || list == NULL
                        ? cvx_fail(CVX_ENOMEM, "no memory for a list of devices")
                        : CVX_OK;

    *shared = false;
    CVX_TRY(st, cvx_comm_agree(host, st), done);
    for (int r = 0; r < host->size; r++) {
        list[r] = (int64_t)sizeof *all;
        list[host->size + r] = r * (int64_t)sizeof *all;
    }
    CVX_TRY(st, cvx_comm_allgatherv(host, own, sizeof *own, all, list, list + host->size), done);
    for (int r = 0; r < host->size && st == CVX_OK; r++) {
        *shared = *shared || (r != host->rank && memcmp(all[r].id, own->id, sizeof own->id) == 0);
        if (strcmp(all[r].name, all[0].name) != 0) {
            st = cvx_fail(
                CVX_EUNSUPPORTED,
                "rank 0 has \"%s\", rank %d \"%s\": ranks on different GPUs would wait for the slowest "
                "and give other bits; choose devices of one kind",
                all[0].name, r, all[r].name);
        }
    }
    int any = *shared ? 0 : 1;
    if (st == CVX_OK) {
        st = cvx_comm_least(host, &any);
        *shared = any == 0;
    }
done:
    free(all);
    free(list);
    return st;
}

#ifdef CVX_HAVE_NCCL
/* For ranks that share a device: each of them on a host of its own, as far as NCCL knows. */
static void pretend_hosts(int rank)
{
    char id[32];

    snprintf(id, sizeof id, "cvx-%d", rank);
    setenv("NCCL_HOSTID", id, 1);
    setenv("NCCL_MULTI_RANK_GPU_ENABLE", "1", 0); /* NCCL 2.30 and later */
    setenv("NCCL_SOCKET_IFNAME", "lo", 0);
    setenv("NCCL_IB_DISABLE", "1", 0);
}

/* Every rank gets one, or every rank fails. */
static cvx_status connect(cvx_comm *host, ncclComm_t *out)
{
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    ncclUniqueId id;
    ncclComm_t nccl = NULL;
    cvx_status st = CVX_OK;

    memset(&id, 0, sizeof id);
    if (host->rank == 0) {
        st = cvx_nccl_status(ncclGetUniqueId(&id), "id");
    }
    CVX_RETURN_IF(cvx_comm_agree(host, st));
    CVX_RETURN_IF(cvx_comm_broadcast(host, &id, sizeof id, 0));
    config.blocking = 0; /* a rank that does not come must not hold the others for ever */
    ncclResult_t r = ncclCommInitRankConfig(&nccl, host->size, id, host->rank, &config);
    st = nccl == NULL ? cvx_nccl_status(r == ncclInProgress ? ncclInternalError : r, "init")
                      : cvx_nccl_settle(nccl, r, "init");
    if (st == CVX_OK && nccl == NULL) {
        st = cvx_fail(CVX_EUNSUPPORTED, "NCCL init: no communicator");
    }
    st = cvx_comm_agree(host, st);
    if (st != CVX_OK && nccl != NULL) {
        ncclCommAbort(nccl);
        nccl = NULL;
    }
    *out = nccl;
    return st;
}
#endif

cvx_status cvx_nccl_try(cvx_comm *host)
{
#ifdef CVX_HAVE_NCCL
    ncclComm_t nccl = NULL;

    CVX_RETURN_IF(connect(host, &nccl));
    ncclCommFinalize(nccl);
    CVX_RETURN_IF(cvx_nccl_settle(nccl, ncclInProgress, "end"));
    return cvx_nccl_status(ncclCommDestroy(nccl), "end");
#else
    (void)host;
    return cvx_fail(CVX_EUNSUPPORTED, "this build has no NCCL");
#endif
}

/* Without NCCL: by an MPI that takes device memory on every rank, or staged. */
static cvx_status open_by_host(cvx_comm **out, cvx_comm *host, cvx_device_exchange how,
                               const char *why, char note[200])
{
    int direct = host->device && how != CVX_DEVICE_STAGED;

    CVX_RETURN_IF(cvx_comm_least(host, &direct));
    if (!direct && how == CVX_DEVICE_MPI) {
        return cvx_fail(
            CVX_EUNSUPPORTED,
            "the ranks' \"%s\" does not take device memory; an Open MPI built with CUDA "
            "does",
            host->ops->name);
    }
    snprintf(note, 200, "device memory is exchanged %s: %.120s",
             direct ? "by MPI" : "through host memory", why);
    return wrap(out, host, false, NULL, direct);
}

cvx_status cvx_comm_device_open(cvx_comm **out, cvx_comm *host, cvx_device_exchange how,
                                char note[200])
{
    device_card card;
    bool shared = false;

    CVX_RETURN_IF(cvx_comm_agree(host, read_card(&card)));
    CVX_RETURN_IF(compare_cards(host, &card, &shared));
    if (host->size == 1) { /* nothing is exchanged */
        note[0] = 0;
        return wrap(out, host, false, NULL, false);
    }
    if (how == CVX_DEVICE_STAGED || how == CVX_DEVICE_MPI) {
        return open_by_host(out, host, how, "asked for", note);
    }
#ifdef CVX_HAVE_NCCL
    ncclComm_t nccl = NULL;

    if (shared) {
        pretend_hosts(host->rank);
    }
    cvx_status st = connect(host, &nccl);
    if (st == CVX_OK) {
        snprintf(note, 200, "device memory is exchanged by NCCL%s",
                 shared ? "; ranks share a GPU and use sockets" : "");
        return wrap(out, host, false, nccl, false);
    }
    if (how == CVX_DEVICE_NCCL) {
        return st;
    }
    return open_by_host(out, host, how, cvx_error(), note);
#else
    if (how == CVX_DEVICE_NCCL) {
        return cvx_fail(CVX_EUNSUPPORTED, "this build has no NCCL");
    }
    return open_by_host(out, host, how, "this build has no NCCL", note);
#endif
}
