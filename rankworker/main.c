/* cvx-rank: `mpirun -n 8 cvx-rank --model DIR --prompt TEXT --output FILE`: cvx generate on N MPI ranks. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "model/pipeline/arrange.h"
#include "model/pipeline/generate.h"
#include "parallel/mpi/comm_mpi.h"
#include "rankworker/stats.h"

static cvx_status work(cvx_comm *world, const cvx_request *r)
{
    cvx_mesh *mesh = NULL;
    bool first = world->rank == 0;
    cvx_event_fn fn = !first     ? NULL
                      : r->json  ? cvx_events_json
                      : r->quiet ? cvx_events_quiet
                                 : cvx_events_bars;
    FILE *to = r->json ? stdout : stderr;
    cvx_progress notes = {.fn = fn, .payload = to};
    int local_rank, local_ranks;

    CVX_RETURN_IF(cvx_comm_mpi_local(world, &local_rank, &local_ranks));
    CVX_RETURN_IF(cvx_arrange_world(&mesh, r, world, local_ranks, &notes));
    cvx_status st = cvx_generate(r, mesh, fn, to, r->json || r->quiet ? NULL : stdout);
    if (st == CVX_OK && r->stats) {
        st = cvx_stats_print(mesh, stdout, r->json);
    }
    cvx_mesh_close(mesh);
    return st;
}

int main(int argc, char **argv)
{
    cvx_request r = CVX_REQUEST_INIT;
    cvx_comm *world = NULL;
    int n;
    bool help = false;
    const cvx_command cmd = {.name = "cvx-rank",
                             .args = "",
                             .opts = cvx_request_opts,
                             .summary = "cvx generate on the ranks of an MPI job."};
    cvx_status st = cvx_comm_mpi_open(&world, &argc, &argv);

    if (st == CVX_OK) {
        st = cvx_opts_parse(&cmd, &r, argc, argv, NULL, 0, &n, &help);
    }
    if (st == CVX_OK && !help) {
        st = work(world, &r);
    }
    if (st != CVX_OK && st != CVX_EPEER) {
        fprintf(stderr, "cvx-rank %d: %s\n", world != NULL ? world->rank : -1, cvx_error());
    }
    cvx_comm_close(world);
    cvx_comm_mpi_finish();
    return cvx_status_exit(st);
}
