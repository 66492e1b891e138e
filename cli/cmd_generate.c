/* cvx generate: a prompt becomes a video. */
#include <stdio.h>

#include "cli/cli.h"
#include "model/pipeline/generate.h"

static int run(int argc, char **argv)
{
    cvx_request r = CVX_REQUEST_INIT;
    int n, code;

    if (!cvx_cli_begin(&cvx_cmd_generate, &r, argc, argv, NULL, 0, 0, &n, &code)) {
        return code;
    }
    cvx_event_fn fn = r.json ? cvx_events_json : r.quiet ? cvx_events_quiet : cvx_events_bars;
    cvx_status st =
        cvx_generate(&r, fn, r.json ? stdout : stderr, r.json || r.quiet ? NULL : stdout);
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
        "Exit codes: 0 done, 2 wrong argument, 3 input or output, 4 bad file, 5 does not fit in "
        "memory, 6 not supported here, 8 cancelled, 70 a bug.",
    .opts = cvx_request_opts,
    .run = run,
};
