/* cvx: finds the command and runs it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "cli/cli.h"
#include "kernels/waiting.h"

const cvx_command *const cvx_commands[] = {
    &cvx_cmd_generate, &cvx_cmd_score,      &cvx_cmd_interpolate, &cvx_cmd_upscale,
    &cvx_cmd_gif,      &cvx_cmd_sheet,      &cvx_cmd_chart,       &cvx_cmd_inspect,
    &cvx_cmd_plan,     &cvx_cmd_bench,      &cvx_cmd_serve,
#ifdef CVX_HAVE_CURL
    &cvx_cmd_submit,   &cvx_cmd_status,     &cvx_cmd_watch,       &cvx_cmd_cancel,
    &cvx_cmd_list,     &cvx_cmd_get,
#endif
    &cvx_cmd_doctor,   &cvx_cmd_completion, &cvx_cmd_man,         NULL};

int cvx_cli_finish(cvx_status st)
{
    if (st != CVX_OK) {
        fflush(stdout);
        fprintf(stderr, "cvx: %s\n", cvx_error());
    }
    return cvx_status_exit(st);
}

bool cvx_cli_begin(const cvx_command *cmd, void *obj, int argc, char **argv, const char **pos,
                   int min_pos, int max_pos, int *n_pos, int *exit_code)
{
    bool help;
    cvx_status st = cvx_opts_parse(cmd, obj, argc, argv, pos, max_pos, n_pos, &help);

    if (st == CVX_OK && !help && *n_pos < min_pos) {
        st = cvx_fail(CVX_EINVAL, "%s needs %s (--help tells more)", cmd->name, cmd->args);
    }
    *exit_code = cvx_cli_finish(st);
    return st == CVX_OK && !help;
}

static const char *name_of(const cvx_command *c)
{
    return strchr(c->name, ' ') + 1;
}

static void print_help(FILE *f)
{
    fprintf(f, "cvx %s: video generation with CogVideoX\n\nusage: cvx COMMAND [options]\n\n",
            CVX_VERSION);
    for (int i = 0; cvx_commands[i] != NULL; i++) {
        fprintf(f, "  %-12s %s\n", name_of(cvx_commands[i]), cvx_commands[i]->summary);
    }
    fprintf(f, "\ncvx COMMAND --help tells a command's options.\n");
}

static int unknown(const char *want)
{
    const char *best = NULL;
    int least = 3;

    for (int i = 0; cvx_commands[i] != NULL; i++) {
        int d = cvx_opts_distance(want, strlen(want), name_of(cvx_commands[i]));
        if (d < least) {
            least = d;
            best = name_of(cvx_commands[i]);
        }
    }
    return cvx_cli_finish(
        best != NULL ? cvx_fail(CVX_EINVAL, "unknown command '%s': did you mean %s?", want, best)
                     : cvx_fail(CVX_EINVAL, "unknown command '%s' (cvx --help lists them)", want));
}

static int run(int argc, char **argv)
{
    const char *want = argc > 1 ? argv[1] : "--help";
    bool help = strcmp(want, "help") == 0;

    if (strcmp(want, "--help") == 0 || strcmp(want, "-h") == 0 || (help && argc == 2)) {
        print_help(stdout);
        return argc > 1 ? 0 : 2;
    }
    if (strcmp(want, "--version") == 0) {
        printf("cvx %s\n", CVX_VERSION);
        return 0;
    }
    char *of_command[] = {argv[argc - 1], "--help", NULL}; /* cvx help COMMAND */
    want = help ? argv[2] : want;
    for (int i = 0; cvx_commands[i] != NULL; i++) {
        if (strcmp(name_of(cvx_commands[i]), want) == 0) {
            return help ? cvx_commands[i]->run(2, of_command)
                        : cvx_commands[i]->run(argc - 1, argv + 1);
        }
    }
    return unknown(want);
}

int main(int argc, char **argv)
{
    cvx_open_standard();
    cvx_wait_briefly(argv, false);
    int code = run(argc, argv);
    cvx_status st = cvx_close_standard();

    return code == 0 && st != CVX_OK ? cvx_cli_finish(st) : code;
}
