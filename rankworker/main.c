/* cvx-rank: `mpirun -n 8 cvx-rank --model DIR --prompt TEXT --output FILE`: cvx generate on N MPI ranks. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "model/pipeline/generate.h"
#include "parallel/mpi/comm_mpi.h"

typedef struct options {
    cvx_request request; /* first: the request's table speaks of it */
    int64_t degree[CVX_MESH_DIMS];
    bool enable_cfg_parallel, stats;
} options;

static const cvx_opt mesh_opts[] = {
    {"", 0, 0, NULL, "How the ranks share the work (product: the number of ranks)", 0, 0, NULL},
    {"data-parallel-degree", CVX_OPT_INT, offsetof(options, degree[CVX_MESH_DATA]), "N",
     "groups that make different videos (default: 1)", 1, CVX_MAX_RANKS, NULL},
    {"enable-cfg-parallel", CVX_OPT_FLAG, offsetof(options, enable_cfg_parallel), NULL,
     "the two branches of guidance on different ranks", 0, 0, NULL},
    {"ulysses-degree", CVX_OPT_INT, offsetof(options, degree[CVX_MESH_ULYSSES]), "N",
     "ranks that share the sequence (default: what is left)", 1, CVX_MAX_RANKS, NULL},
    {"ring-degree", CVX_OPT_INT, offsetof(options, degree[CVX_MESH_RING]), "N",
     "ranks that pass keys and values round (default: 1)", 1, CVX_MAX_RANKS, NULL},
    {"tensor-parallel-degree", CVX_OPT_INT, offsetof(options, degree[CVX_MESH_TENSOR]), "N",
     "ranks that share the weights (default: 1)", 1, CVX_MAX_RANKS, NULL},
    {"stats", CVX_OPT_FLAG, offsetof(options, stats), NULL,
     "print calls and bytes of the exchanges", 0, 0, NULL},
    {NULL, 0, 0, NULL, NULL, 0, 0, NULL},
};

/* The request's options, then the mesh's. Caller frees. */
static cvx_opt *make_table(void)
{
    size_t n = 0;

    while (cvx_request_opts[n].name != NULL) {
        n++;
    }
    cvx_opt *t = calloc(n + sizeof mesh_opts / sizeof *mesh_opts, sizeof *t);
    if (t != NULL) {
        memcpy(t, cvx_request_opts, n * sizeof *t);
        memcpy(t + n, mesh_opts, sizeof mesh_opts);
    }
    return t;
}

static cvx_degrees choose(const options *o, int ranks)
{
    cvx_degrees d = CVX_DEGREES_ONE;
    int left = ranks;

    d.n[CVX_MESH_DATA] = o->degree[CVX_MESH_DATA] > 0 ? (int)o->degree[CVX_MESH_DATA] : 1;
    left /= d.n[CVX_MESH_DATA];
    d.n[CVX_MESH_CFG] = o->enable_cfg_parallel ? 2 : 1;
    left /= d.n[CVX_MESH_CFG];
    d.n[CVX_MESH_RING] = o->degree[CVX_MESH_RING] > 0 ? (int)o->degree[CVX_MESH_RING] : 1;
    left /= d.n[CVX_MESH_RING];
    d.n[CVX_MESH_TENSOR] = o->degree[CVX_MESH_TENSOR] > 0 ? (int)o->degree[CVX_MESH_TENSOR] : 1;
    left = left > d.n[CVX_MESH_TENSOR] ? left / d.n[CVX_MESH_TENSOR] : 1;
    d.n[CVX_MESH_ULYSSES] =
        o->degree[CVX_MESH_ULYSSES] > 0 ? (int)o->degree[CVX_MESH_ULYSSES] : left;
    return d;
}

static void print_stats(const cvx_mesh *m)
{
    static const char *const kinds[CVX_COMM_KINDS] = {"all-gather", "all-to-all", "reduce-scatter",
                                                      "all-reduce", "send/recv",  "broadcast",
                                                      "agree"};
    for (int k = 0; k < CVX_COMM_KINDS; k++) {
        cvx_comm_stat s = cvx_mesh_stat(m, (cvx_comm_kind)k);
        if (s.calls > 0) {
            printf("%-14s %8lld calls %14lld bytes sent %10.3f s\n", kinds[k], (long long)s.calls,
                   (long long)s.bytes_sent, s.seconds);
        }
    }
}

static cvx_status work(cvx_comm *world, options *o)
{
    cvx_mesh *mesh = NULL;
    cvx_degrees d = choose(o, world->size);
    const cvx_request *r = &o->request;
    cvx_event_fn fn = r->json ? cvx_events_json : r->quiet ? cvx_events_quiet : cvx_events_bars;
    bool first = world->rank == 0;

    CVX_RETURN_IF(cvx_mesh_open(&mesh, world, &d));
    cvx_status st = cvx_generate(r, mesh, first ? fn : NULL, r->json ? stdout : stderr,
                                 r->json || r->quiet ? NULL : stdout);
    if (st == CVX_OK && first && o->stats) {
        print_stats(mesh);
    }
    cvx_mesh_close(mesh);
    return st;
}

int main(int argc, char **argv)
{
    options o = {.request = CVX_REQUEST_INIT};
    cvx_comm *world = NULL;
    int n;
    bool help = false;
    cvx_opt *table = make_table();
    const cvx_command cmd = {.name = "cvx-rank",
                             .args = "",
                             .opts = table,
                             .summary = "cvx generate on the ranks of an MPI job."};
    cvx_status st = cvx_comm_mpi_open(&world, &argc, &argv);

    if (st == CVX_OK) {
        st = cvx_opts_parse(&cmd, &o, argc, argv, NULL, 0, &n, &help);
    }
    if (st == CVX_OK && !help) {
        st = work(world, &o);
    }
    free(table);
    if (st != CVX_OK && st != CVX_EPEER) {
        fprintf(stderr, "cvx-rank %d: %s\n", world != NULL ? world->rank : -1, cvx_error());
    }
    cvx_comm_close(world);
    cvx_comm_mpi_finish();
    return cvx_status_exit(st);
}
