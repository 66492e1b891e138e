/* The machines a job runs on, as the scaling model sees them: how fast a rank computes, how fast its links
 * are. From a file, or from this machine. docs/parallelism.md has the model and a file as example. */
#ifndef CVX_MODEL_PIPELINE_CLUSTER_H
#define CVX_MODEL_PIPELINE_CLUSTER_H

#include "model/pipeline/plan.h"

typedef struct cvx_cluster {
    int nodes, node_ranks;               /* machines; ranks (GPUs) on each */
    double rate[CVX_OP_COUNT];           /* FLOP/s of one rank, reached, by op */
    double memory;                       /* bytes of one rank */
    double value_bytes;                  /* of an activation as it is sent: 4, on GPUs 2 */
    double link_bandwidth, link_latency; /* inside a node: bytes/s of one rank, s of a message */
    double network_bandwidth, network_latency; /* between nodes: bytes/s of a whole node */
} cvx_cluster;

/* Reads {"nodes", "gpus_per_node", "tflops", "memory_gib", "memory_gb_per_s", "activation_bytes",
 * "link_gb_per_s", "link_latency_us", "network_gb_per_s", "network_latency_us"}; "tflops" is a number or an
 * object by op. CVX_EFORMAT names the key that is missing or out of range. */
cvx_status cvx_cluster_load(cvx_cluster *out, const char *path) CVX_CHECK;

/* `ranks` ranks on machines like this one, node_ranks on each, which share its memory: rates measured with ctx
 * (cvx_plan_rates), links of shared memory and of a 10 Gbit/s network. cores: what a machine's ranks share, so that
 * ranks whose threads outnumber them compute the slower; 0: each has its own. */
cvx_status cvx_cluster_here(cvx_cluster *out, cvx_ctx *ctx, int ranks, int node_ranks,
                            int cores) CVX_CHECK;

/* Seconds that one rank's exchanges over communicator i of a mesh take. degrees, rank: its place; `ranks`
 * consecutive ones share a node. */
double cvx_cluster_comm_seconds(const cvx_cluster *c, const cvx_degrees *degrees, int rank, int i,
                                const cvx_comm_stat stat[CVX_COMM_KINDS]);

#endif
