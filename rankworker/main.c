/* cvx-rank: `mpirun -n 8 cvx-rank --model DIR --prompt TEXT --output FILE`: cvx generate on N MPI ranks. */
#include <stdio.h>
#include <string.h>

#include "model/pipeline/arrange.h"
#include "model/pipeline/bench.h"
#include "model/pipeline/generate.h"
#include "parallel/mpi/comm_mpi.h"
#include "rankworker/place.h"
#include "rankworker/stats.h"

static cvx_status generate(cvx_comm *world, const cvx_place *place, cvx_request *r)
{
    cvx_mesh *mesh = NULL;
    bool first = world->rank == 0;
    cvx_event_fn fn = !first     ? NULL
                      : r->json  ? cvx_events_json
                      : r->quiet ? cvx_events_quiet
                                 : cvx_events_bars;
    FILE *to = r->json ? stdout : stderr;
    cvx_progress notes = {.fn = fn, .payload = to};

    r->threads = r->threads > 0 ? r->threads : place->threads;
    CVX_RETURN_IF(cvx_arrange_world(&mesh, r, world, place->node_ranks, &notes));
    cvx_status st = cvx_generate(r, mesh, fn, to, r->json || r->quiet ? NULL : stdout);
    if (st == CVX_OK && r->stats) {
        st = cvx_stats_print(mesh, stdout, r->json);
    }
    cvx_mesh_close(mesh);
    return st;
}

static cvx_status bench(cvx_comm *world, const cvx_place *place, cvx_bench_options *o,
                        const char *what)
{
    cvx_mesh *mesh = NULL;
    cvx_request *r = &o->request;
    cvx_degrees d = CVX_DEGREES_ONE;

    r->threads = r->threads > 0 ? r->threads : place->threads;
    d.n[CVX_MESH_CFG] = r->enable_cfg_parallel ? 2 : 1;
    for (int i = CVX_MESH_RING; i < CVX_MESH_DIMS; i++) {
        d.n[i] = r->degree[i] > 0 ? (int)r->degree[i] : 1;
    }
    if (r->degree[CVX_MESH_ULYSSES] == 0) { /* what is left */
        d.n[CVX_MESH_ULYSSES] =
            world->size / cvx_mesh_size(&d) > 1 ? world->size / cvx_mesh_size(&d) : 1;
    }
    CVX_RETURN_IF(cvx_mesh_open(&mesh, world, &d));
    mesh->node_ranks = place->node_ranks;
    cvx_status st = cvx_bench(o, what, mesh, stdout);
    cvx_mesh_close(mesh);
    return st;
}

/* Every rank reads the same arguments; the first one tells what is wrong with them. */
static cvx_status run(cvx_comm *world, int argc, char **argv)
{
    static const cvx_command generates = {.name = "cvx-rank",
                                          .args = "",
                                          .opts = cvx_request_opts,
                                          .summary = "cvx generate on the ranks of an MPI job."};
    static const cvx_command benches = {.name = "cvx-rank bench",
                                        .args = "dit|vae",
                                        .opts = cvx_bench_opts,
                                        .summary = "cvx bench on the ranks of an MPI job."};
    bool benching = argc > 1 && strcmp(argv[1], "bench") == 0, help = false;
    cvx_bench_options o = CVX_BENCH_INIT;
    cvx_place place;
    const char *pos[1];
    int n;

    CVX_RETURN_IF(
        cvx_comm_agree(world, cvx_opts_parse(benching ? &benches : &generates, &o, argc - benching,
                                             argv + benching, pos, benching, &n, &help)));
    if (help) {
        return CVX_OK;
    }
    if (benching && n == 0) {
        return cvx_comm_agree(world, cvx_fail(CVX_EINVAL, "bench: dit or vae is needed"));
    }
    CVX_RETURN_IF(cvx_place_find(&place, world));
    return benching ? bench(world, &place, &o, pos[0]) : generate(world, &place, &o.request);
}

int main(int argc, char **argv)
{
    cvx_comm *world = NULL;

    cvx_place_prepare(argv);
    cvx_status st = cvx_comm_mpi_open(&world, &argc, &argv);
    if (st == CVX_OK) {
        st = run(world, argc, argv);
    }
    if (st != CVX_OK && !cvx_error_is_peer()) {
        fprintf(stderr, "cvx-rank: %s\n", cvx_error());
    }
    cvx_comm_close(world);
    cvx_comm_mpi_finish();
    return cvx_status_exit(st);
}
