#include "model/pipeline/cluster.h"

#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "kernels/memory.h"

/* Shared memory between processes, and Ethernet as most clusters have at least. */
#define HERE_LINK_BANDWIDTH 4e9
#define HERE_LINK_LATENCY 20e-6
#define HERE_NETWORK_BANDWIDTH 1.25e9
#define HERE_NETWORK_LATENCY 50e-6
/* Between GPUs of one machine: what NVLink carries one way on A100 and H100 at least, and a collective's launch. A
 * file (--cluster) says otherwise. */
#define DEVICE_LINK_BANDWIDTH 200e9
#define DEVICE_LINK_LATENCY 20e-6

/* Work that is bound by memory is counted in operations; a value of 4 bytes is read and written for each few. */
#define FLOP_PER_BYTE 0.2

static cvx_status positive(const json_t *j, const char *path, const char *key, double unit,
                           double *out)
{
    double v = 0;

    CVX_RETURN_IF(cvx_json_double(j, path, key, &v));
    if (!(v > 0) || v > 1e12) {
        return cvx_fail(CVX_EFORMAT, "%s: \"%s\" must be a number above 0", path, key);
    }
    *out = v * unit;
    return CVX_OK;
}

static cvx_status count(const json_t *j, const char *path, const char *key, int *out)
{
    int64_t v = 0;

    CVX_RETURN_IF(cvx_json_int(j, path, key, &v));
    if (v < 1 || v > CVX_MAX_RANKS) {
        return cvx_fail(CVX_EFORMAT, "%s: \"%s\" must be from 1 to %d", path, key, CVX_MAX_RANKS);
    }
    *out = (int)v;
    return CVX_OK;
}

static cvx_status read_rates(cvx_cluster *c, const json_t *j, const char *path)
{
    static const struct {
        int op;
        const char *name;
    } heavy[] = {{CVX_OP_ID_linear, "linear"},
                 {CVX_OP_ID_attention, "attention"},
                 {CVX_OP_ID_conv3d, "conv3d"}};
    const json_t *t = json_object_get(j, "tflops");
    double memory = 0;

    CVX_RETURN_IF(positive(j, path, "memory_gb_per_s", 1e9 * FLOP_PER_BYTE, &memory));
    for (int i = 0; i < CVX_OP_COUNT; i++) {
        c->rate[i] = memory;
    }
    for (size_t i = 0; i < sizeof heavy / sizeof *heavy; i++) {
        const json_t *from = json_is_object(t) ? t : j;
        const char *key = json_is_object(t) ? heavy[i].name : "tflops";
        CVX_RETURN_IF(positive(from, path, key, 1e12, &c->rate[heavy[i].op]));
    }
    return CVX_OK;
}

static cvx_status read_cluster(cvx_cluster *c, const json_t *j, const char *path)
{
    CVX_RETURN_IF(count(j, path, "nodes", &c->nodes));
    CVX_RETURN_IF(count(j, path, "gpus_per_node", &c->node_ranks));
    CVX_RETURN_IF(positive(j, path, "memory_gib", 1024.0 * 1024 * 1024, &c->memory));
    CVX_RETURN_IF(positive(j, path, "activation_bytes", 1, &c->value_bytes));
    CVX_RETURN_IF(positive(j, path, "link_gb_per_s", 1e9, &c->link_bandwidth));
    CVX_RETURN_IF(positive(j, path, "link_latency_us", 1e-6, &c->link_latency));
    CVX_RETURN_IF(positive(j, path, "network_gb_per_s", 1e9, &c->network_bandwidth));
    CVX_RETURN_IF(positive(j, path, "network_latency_us", 1e-6, &c->network_latency));
    return read_rates(c, j, path);
}

cvx_status cvx_cluster_load(cvx_cluster *out, const char *path)
{
    cvx_cluster c = {0};
    json_t *j = NULL;

    CVX_RETURN_IF(cvx_json_load(&j, path));
    cvx_status st = read_cluster(&c, j, path);
    json_decref(j);
    if (st == CVX_OK) {
        *out = c;
    }
    return st;
}

cvx_status cvx_cluster_here(cvx_cluster *out, cvx_ctx *ctx, int ranks, int node_ranks, int cores)
{
    double busy = (double)node_ranks * ctx->threads;
    double share = cores > 0 && busy > cores ? cores / busy : 1;

    *out = (cvx_cluster){.nodes = (ranks + node_ranks - 1) / node_ranks,
                         .node_ranks = node_ranks,
                         .memory = (double)cvx_memory_available() / node_ranks,
                         .value_bytes = 4,
                         .link_bandwidth = HERE_LINK_BANDWIDTH,
                         .link_latency = HERE_LINK_LATENCY,
                         .network_bandwidth = HERE_NETWORK_BANDWIDTH,
                         .network_latency = HERE_NETWORK_LATENCY};
    if (cvx_ctx_has_device(ctx)) {
        size_t unused, all;
        cvx_ctx_memory(ctx, &unused, &all);
        out->memory = (double)all;
        out->link_bandwidth = DEVICE_LINK_BANDWIDTH;
        out->link_latency = DEVICE_LINK_LATENCY;
        share = 1;
    }
    CVX_RETURN_IF(cvx_plan_rates(ctx, out->rate));
    for (int i = 0; i < CVX_OP_COUNT; i++) {
        out->rate[i] *= share;
    }
    return CVX_OK;
}

/* Ranks of the group of communicator i around `rank`: all of them, and those on its node. */
static void group(const cvx_cluster *c, const cvx_degrees *d, int rank, int i, int *all, int *local)
{
    unsigned mask = cvx_mesh_mask(i);
    int own[CVX_MESH_DIMS], at[CVX_MESH_DIMS], size = cvx_mesh_size(d);

    *all = *local = 0;
    cvx_mesh_place(d, rank, own);
    for (int r = 0; r < size; r++) {
        bool member = true;
        cvx_mesh_place(d, r, at);
        for (int k = 0; k < CVX_MESH_DIMS; k++) {
            member = member && (mask & 1u << k || at[k] == own[k]);
        }
        *all += member;
        *local += member && r / c->node_ranks == rank / c->node_ranks;
    }
}

/* Messages that a rank sends one after another in one call of a kind. */
static double rounds(cvx_comm_kind kind, int size)
{
    switch (kind) {
    case CVX_COMM_ALLREDUCE: return 2.0 * (size - 1); /* reduce-scatter, all-gather */
    case CVX_COMM_SENDRECV: return 1;
    case CVX_COMM_BROADCAST:
    case CVX_COMM_AGREE: {
        double n = 0; /* a tree */
        for (int s = 1; s < size; s *= 2) {
            n++;
        }
        return n;
    }
    case CVX_COMM_ALLGATHER:
    case CVX_COMM_ALLTOALL:
    case CVX_COMM_REDUCE_SCATTER:
    case CVX_COMM_KINDS: break;
    }
    return size - 1;
}

double cvx_cluster_comm_seconds(const cvx_cluster *c, const cvx_degrees *degrees, int rank, int i,
                                const cvx_comm_stat stat[CVX_COMM_KINDS])
{
    int all, local;
    double seconds = 0, network = c->network_bandwidth / c->node_ranks;

    group(c, degrees, rank, i, &all, &local);
    if (all < 2) {
        return 0;
    }
    for (int k = 0; k < CVX_COMM_KINDS; k++) {
        /* a neighbour beyond the node holds up the whole ring; elsewhere peers get equal parts */
        double far = local == all             ? 0
                     : k == CVX_COMM_SENDRECV ? 1
                                              : (double)(all - local) / (all - 1);
        double bytes = (double)stat[k].bytes_sent * c->value_bytes / 4;
        double messages = (double)stat[k].calls * rounds((cvx_comm_kind)k, all);
        seconds += bytes * ((1 - far) / c->link_bandwidth + far / network);
        seconds += messages * ((1 - far) * c->link_latency + far * c->network_latency);
    }
    return seconds;
}
