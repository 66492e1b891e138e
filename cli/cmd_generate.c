/* cvx generate: a prompt becomes a video. */
#include <stdio.h>

#include "base/stop.h"
#include "cli/cli.h"
#include "model/pipeline/batch.h"

static int run(int argc, char **argv)
{
    cvx_request r = CVX_REQUEST_INIT;
    int n, code;

    if (!cvx_cli_begin(&cvx_cmd_generate, &r, argc, argv, NULL, 0, 0, &n, &code)) {
        return code;
    }
    cvx_event_fn fn = r.json ? cvx_events_json : r.quiet ? cvx_events_quiet : cvx_events_bars;
    FILE *events = r.json ? stdout : stderr, *report = r.json || r.quiet ? NULL : stdout;
    cvx_mesh *mesh = NULL;
    cvx_status st = cvx_mesh_self(&mesh);

    cvx_stop_install();
    if (st == CVX_OK) {
        const cvx_generator_options opt = {
            .mesh = mesh, .event = fn, .payload = events, .report = report};
        st = r.batch != NULL ? cvx_batch(&r, &opt, stderr) : cvx_generate(&r, &opt);
    }
    cvx_mesh_close(mesh);
    return cvx_cli_finish(st);
}

const cvx_command cvx_cmd_generate = {
    .name = "cvx generate",
    .args = "",
    .summary = "Turns a prompt (and an image or a video) into a video.",
    .details =
        "Defaults come from the checkpoint's own configs, as in diffusers; the same seed gives the "
        "same starting noise as torch.Generator(\"cpu\").\n\n"
        "A manifest with every parameter, the hashes of the weights, times and memory is written "
        "beside the output (OUTPUT.json); --replay MANIFEST makes the same bytes again.\n\n"
        "SIGTERM and SIGUSR1 end the work after the running step. With --checkpoint-dir the exit code "
        "is then 75: run the same command again and it goes on from there.\n\n"
        "Exit codes: 0 done, 2 wrong argument, 3 input or output, 4 bad file, 5 does not fit in "
        "memory, 6 not supported here, 8 cancelled, 70 a bug, 75 stopped by a signal with a "
        "checkpoint: to be started again. A batch with failed jobs has the code of one of them.",
    .opts = cvx_request_opts,
    .run = run,
};
