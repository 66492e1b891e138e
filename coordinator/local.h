/* `cvx serve`: a Redis of its own and a pool of ranks as child processes, started again when they end. */
#ifndef CVX_COORDINATOR_LOCAL_H
#define CVX_COORDINATOR_LOCAL_H

#include "coordinator/server.h"

typedef struct cvx_local cvx_local;

/* Starts redis-server on a socket below the data folder (append-only, every write kept) and waits until it answers. url: of CVX_URL
 * bytes, its address. Caller closes. */
#define CVX_URL_MAX 512
cvx_status cvx_local_redis(cvx_local **out, const char *data_dir, char url[CVX_URL_MAX]) CVX_CHECK;
/* Starts the pool: `ranks` ranks (1: without mpirun) of the model. */
cvx_status cvx_local_pool(cvx_local *l, const char *rank_program, const char *url,
                          const char *model, const char *clip_model, int64_t ranks,
                          int64_t threads) CVX_CHECK;
/* Starts again what has ended. Called now and then. */
void cvx_local_tend(cvx_local *l);
/* Ends the pool, then Redis, and waits for both. Accepts NULL. */
void cvx_local_close(cvx_local *l);

#endif
