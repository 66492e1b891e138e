/* The cvx program: one command a file (cmd_NAME.c), each described by a cvx_command table. */
#ifndef CVX_CLI_CLI_H
#define CVX_CLI_CLI_H

#include "base/opts.h"

/* Every command, in the order of `cvx --help`; ends with a NULL name. */
extern const cvx_command *const cvx_commands[];

/* cmd_NAME.c defines cvx_cmd_NAME. Its run function returns cvx_cli_finish(st). */
extern const cvx_command cvx_cmd_generate, cvx_cmd_score, cvx_cmd_gif, cvx_cmd_sheet, cvx_cmd_chart,
    cvx_cmd_interpolate, cvx_cmd_upscale, cvx_cmd_inspect, cvx_cmd_plan, cvx_cmd_bench,
    cvx_cmd_serve, cvx_cmd_submit, cvx_cmd_status, cvx_cmd_watch, cvx_cmd_cancel, cvx_cmd_list,
    cvx_cmd_get, cvx_cmd_doctor, cvx_cmd_completion, cvx_cmd_man;

/* Prints "cvx: MESSAGE" to stderr if st is an error; returns the process exit code. */
int cvx_cli_finish(cvx_status st);

/* A usual command body's start: parses, checks the number of positional arguments (min..max). Returns
 * true when the command should go on; otherwise *exit_code holds what to return. */
bool cvx_cli_begin(const cvx_command *cmd, void *obj, int argc, char **argv, const char **pos,
                   int min_pos, int max_pos, int *n_pos, int *exit_code);

#endif
