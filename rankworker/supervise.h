/* `cvx-rank --supervise N FLAGS`: starts `mpirun -n N cvx-rank FLAGS` and watches it from outside MPI. */
#ifndef CVX_RANKWORKER_SUPERVISE_H
#define CVX_RANKWORKER_SUPERVISE_H

#include "base/opts.h"

typedef struct cvx_supervise {
    int64_t ranks; /* 0: this process is a rank itself */
    int64_t max_restarts, min_ranks;
    double hang_timeout;
    const char *launcher, *run_dir;
} cvx_supervise;

#define CVX_SUPERVISE_INIT                                                                         \
    {                                                                                              \
        .max_restarts = 3, .hang_timeout = 600, .launcher = "mpirun"                               \
    }

/* Its options, by offset in cvx_supervise. */
extern const cvx_opt cvx_supervise_opts[];

/* The environment variable by which a rank learns where its signs of life go (base/beat.h). */
#define CVX_BEAT_DIR "CVX_BEAT_DIR"

/* Runs `launcher -n N PROGRAM ARGS...` (args ends with NULL) until it ends well or for good:
 *
 * - A start that ends with 0, or with a code that says why another start would end alike (2 to 6, 8, 70, 75), is
 *   the last: that code is returned.
 * - Otherwise (a rank was killed, or MPI failed), and when a rank gives no sign of life or all ranks no sign of
 *   progress for hang_timeout seconds, every process of the start is killed, its shared memory and
 *   temporary files are removed, and it is started again: max_restarts times in all. After two such ends in a row
 *   the next start has half as many ranks, but not fewer than min_ranks (0: always N).
 * - SIGTERM and SIGUSR1 are passed to the ranks as SIGUSR1 through the launcher; a second one, SIGINT and
 *   SIGHUP kill the ranks.
 *
 * What happens is told on stderr. Returns the exit code; *st is CVX_OK where it was passed through. */
int cvx_supervise_run(const cvx_supervise *o, const char *program, char **args, cvx_status *st);

#endif
