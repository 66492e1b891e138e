/* cvx interpolate: frames between frames. */
#include <stdio.h>

#include "base/stop.h"
#include "cli/cli.h"
#include "model/stages/command.h"

static int run(int argc, char **argv)
{
    cvx_stages_request r = CVX_STAGES_REQUEST_INIT;
    const char *pos[2];
    cvx_comm *comm = NULL;
    int n, code;

    if (!cvx_cli_begin(&cvx_cmd_interpolate, &r, argc, argv, pos, 2, 2, &n, &code)) {
        return code;
    }
    cvx_status st = cvx_comm_self(&comm);

    cvx_stop_install();
    cvx_stop_on_interrupt();
    if (st == CVX_OK) {
        st = cvx_stages_command(&r, true, pos[0], pos[1], comm, r.json ? stdout : stderr, stdout);
    }
    cvx_comm_close(comm);
    return cvx_cli_finish(st);
}

const cvx_command cvx_cmd_interpolate = {
    .name = "cvx interpolate",
    .args = "IN OUT",
    .summary = "Puts frames between the frames of a video (RIFE).",
    .details = cvx_interpolate_details,
    .opts = cvx_interpolate_opts,
    .run = run,
};
