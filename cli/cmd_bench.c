/* cvx bench: times the transformer's step or the VAE's decode alone. */
#include "cli/cli.h"
#include "model/pipeline/bench.h"

static cvx_status bench(const cvx_bench_options *o, const char *what)
{
    cvx_mesh *mesh = NULL;

    CVX_RETURN_IF(cvx_mesh_self(&mesh));
    cvx_status st = cvx_bench(o, what, mesh, stdout);
    cvx_mesh_close(mesh);
    return st;
}

static int run(int argc, char **argv)
{
    cvx_bench_options o = CVX_BENCH_INIT;
    const char *pos[1];
    int n, code;

    if (!cvx_cli_begin(&cvx_cmd_bench, &o, argc, argv, pos, 1, 1, &n, &code)) {
        return code;
    }
    return cvx_cli_finish(bench(&o, pos[0]));
}

const cvx_command cvx_cmd_bench = {
    .name = "cvx bench",
    .args = "dit|vae",
    .summary = "Times one transformer step (guidance on) or a VAE decode on random values.",
    .opts = cvx_bench_opts,
    .run = run,
};
