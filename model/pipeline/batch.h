/* Jobs in a row: one JSON object a line, each a request. */
#ifndef CVX_MODEL_PIPELINE_BATCH_H
#define CVX_MODEL_PIPELINE_BATCH_H

#include "model/pipeline/generate.h"

/* Runs the jobs of the file defaults->batch. A line's keys are the names of cvx_request_opts (dashes or underscores)
 * without "batch"; what it leaves out is as in `defaults`; empty lines are skipped. The n-th job goes to
 * data group n modulo their number. Models stay open from one job of a group to the next (cvx_generator_run), and
 * what is done already is left as it is.
 *
 * A line whose output an earlier one has fails. A job that fails is told to `errors` as "FILE:LINE: message", and the others go on. At the end every rank
 * returns the same status: that of a job that failed, with a message that counts them. A signal
 * ends the batch between two jobs or two steps (CVX_EREQUEUE; without --checkpoint-dir CVX_ECANCELLED): the
 * same command then goes on.
 *
 * opt: group_alone is set here. Collective over the mesh. */
cvx_status cvx_batch(const cvx_request *defaults, const cvx_generator_options *opt,
                     FILE *errors) CVX_CHECK;

/* One line into *r, which holds the defaults; *doc (new reference) must outlive r. CVX_EFORMAT or CVX_EINVAL naming
 * `what` and the key. */
cvx_status cvx_batch_line(cvx_request *r, json_t **doc, const char *text, size_t len,
                          const char *what) CVX_CHECK;

/* What a run of the file defaults->batch would take its lines for, in their order, empty ones left out: `fn` gets the line's number
 * and its request, borrowed, or why it is none (cvx_error()). CVX_EIO. */
cvx_status cvx_batch_each(const cvx_request *defaults,
                          void (*fn)(void *payload, int64_t line, cvx_status st,
                                     const cvx_request *r),
                          void *payload) CVX_CHECK;

/* The first job of the file defaults->batch that can be read and that `fits`, into *out: what a mesh is chosen for. *doc as above,
 * NULL where there is none. CVX_EIO. */
cvx_status cvx_batch_example(cvx_request *out, json_t **doc, const cvx_request *defaults,
                             bool (*fits)(const cvx_request *r)) CVX_CHECK;

#endif
