/* A run that came from no queue, told to Redis like a completed job: `cvx-rank --redis URL` without --pool. */
#ifndef CVX_RANKWORKER_RECORD_H
#define CVX_RANKWORKER_RECORD_H

#include "model/pipeline/generate.h"
#include "store/jobs.h"

typedef struct cvx_record {
    const char *url, *owner;
    cvx_ctx_options options; /* where CLIP computes */
    cvx_redis *redis;        /* opened with the first video, as is */
    cvx_ctx *ctx;
} cvx_record;

/* cvx_generator_options.finished; payload: a cvx_record. The video is there whatever happens here: what goes wrong is told on stderr,
 * and the run goes on. */
cvx_status cvx_record_video(void *payload, const cvx_finished *f);
void cvx_record_close(cvx_record *r);

#endif
