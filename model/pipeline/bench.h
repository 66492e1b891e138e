/* Times one transformer step or one VAE decode alone, on random values, on the ranks of a mesh. */
#ifndef CVX_MODEL_PIPELINE_BENCH_H
#define CVX_MODEL_PIPELINE_BENCH_H

#include "model/pipeline/plan.h"

typedef struct cvx_bench_options {
    cvx_request
        request;  /* first: the option table fills it; model, size, dtype, threads, mesh count */
    int64_t runs; /* timed runs after one to warm up */
} cvx_bench_options;

#define CVX_BENCH_INIT                                                                             \
    {                                                                                              \
        .request = CVX_REQUEST_INIT, .runs = 3                                                     \
    }

/* Options of `cvx bench` and `cvx-rank bench`. */
extern const cvx_opt cvx_bench_opts[];

/* what: "dit" or "vae" (CVX_EINVAL otherwise). Rank 0 of the mesh prints times and rates by op and its
 * waterfall of one run (model/pipeline/waterfall.h) to `out`, or one JSON object with request.json. A run lasts until the last rank is done. Collective over the mesh. */
cvx_status cvx_bench(const cvx_bench_options *o, const char *what, const cvx_mesh *mesh,
                     FILE *out) CVX_CHECK;

#endif
