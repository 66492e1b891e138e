/* `cvx serve`: a Redis of its own and a pool of ranks as child processes, started again when they end. */
#ifndef CVX_COORDINATOR_LOCAL_H
#define CVX_COORDINATOR_LOCAL_H

#include "base/log.h"
#include "coordinator/server.h"

typedef struct cvx_local cvx_local;

/* Nothing is started yet. Caller closes, also after an error. */
cvx_status cvx_local_open(cvx_local **out, const char *data_dir) CVX_CHECK;
/* Starts redis-server on a socket below the data folder (append-only, every write kept) and waits until it answers. url: its
 * address. */
#define CVX_URL_MAX 512
cvx_status cvx_local_redis(cvx_local *l, const char *data_dir, char url[CVX_URL_MAX]) CVX_CHECK;
/* Starts the pool: `ranks` ranks (1: without mpirun) of the model, which log as the options say. */
cvx_status cvx_local_pool(cvx_local *l, const char *rank_program, const char *url,
                          const char *model, const char *clip_model, int64_t ranks, int64_t threads,
                          const cvx_log_options *log) CVX_CHECK;
/* Starts again what has ended. Called now and then. */
void cvx_local_tend(cvx_local *l);
/* Ends the pool, then Redis, and waits for both. Accepts NULL. */
void cvx_local_close(cvx_local *l);

#endif
