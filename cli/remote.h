/* What the commands that speak to a coordinator share. */
#ifndef CVX_CLI_REMOTE_H
#define CVX_CLI_REMOTE_H

#include <stdio.h>

#include "client/client.h"

/* Follows a job to its end with the bars of `cvx generate` on stderr (json: one event a line on stdout; quiet: nothing). CVX_OK: it
 * is completed; else its cause. */
cvx_status cvx_remote_watch(cvx_client *c, const char *job, bool json, bool quiet) CVX_CHECK;
/* "/v1/videos/ID" and what follows it; CVX_EINVAL for what cannot be an id. */
cvx_status cvx_remote_path(char out[160], const char *before, const char *job,
                           const char *after) CVX_CHECK;
/* The video of a completed job as a file. */
cvx_status cvx_remote_fetch(cvx_client *c, const char *job, const char *variant,
                            const char *out) CVX_CHECK;
/* ", begins in about N s" where a video object says so. */
void cvx_remote_print_wait(FILE *f, const json_t *video);
/* Prints a JSON object on stdout, indented or in one line. */
void cvx_remote_print(const json_t *j, bool lines);

#endif
