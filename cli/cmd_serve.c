/* cvx serve: the service on one machine. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "cli/cli.h"

/* The coordinator has the options, their help and their messages. */
static int run(int argc, char **argv)
{
    char self[CVX_PATH_MAX], program[CVX_PATH_MAX];
    char **args = calloc((size_t)argc + 2, sizeof *args);
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    char *slash = n > 0 ? memrchr(self, '/', (size_t)n) : NULL;

    if (args == NULL || slash == NULL) {
        free(args);
        return cvx_cli_finish(cvx_fail(CVX_EINTERNAL, "cannot tell where cvx lies"));
    }
    *slash = 0;
    cvx_status st = cvx_path_join(program, self, "cvx-coordinator");
    if (st == CVX_OK) {
        args[0] = "cvx serve";
        args[1] = "--local";
        memcpy(args + 2, argv + 1, (size_t)(argc - 1) * sizeof *args);
        execv(program, args);
        st = cvx_fail(CVX_EUNSUPPORTED,
                      "%s cannot be started: this build has no coordinator "
                      "(it needs protobuf-c, hiredis and libmicrohttpd)",
                      program);
    }
    free(args);
    return cvx_cli_finish(st);
}

static const cvx_opt opts[] = {{NULL, 0, 0, NULL, NULL, 0, 0, NULL}};

const cvx_command cvx_cmd_serve = {
    .name = "cvx serve",
    .args = "",
    .summary =
        "Serves a checkpoint over HTTP: coordinator, Redis and a pool of ranks on this machine.",
    .details =
        "The options are those of cvx-coordinator: --model DIR --clip-model DIR --host --port --data-dir "
        "--redis URL --api-keys FILE --ranks N --threads N.",
    .opts = opts,
    .run = run,
};
