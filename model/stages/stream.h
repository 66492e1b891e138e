/* A clip through the stages, frame by frame: rank 0 reads and writes, every rank makes its share of the units. Memory
 * does not grow with the clip. */
#ifndef CVX_MODEL_STAGES_STREAM_H
#define CVX_MODEL_STAGES_STREAM_H

#include "base/progress.h"
#include "model/stages/stages.h"
#include "parallel/comm.h"

/* Where frames come from and go to; called on rank 0 alone. */
typedef struct cvx_stream {
    cvx_status (*read)(void *payload, uint8_t *rgb,
                       bool *got); /* the next frame; *got false after the last */
    void *read_payload;
    cvx_status (*write)(void *payload, const uint8_t *rgb); /* in order; on a thread of its own */
    void *write_payload;
    cvx_progress *progress; /* begun by the caller; steps are input frames */
    bool
        resumes; /* a signal ends it with CVX_EREQUEUE: there is a checkpoint; else CVX_ECANCELLED */
} cvx_stream;

/* Collective over comm: every rank brings stages that were opened alike. *frames (may be NULL): how many were written
 * (rank 0). A clip without frames is CVX_EFORMAT. The bytes are the same for any number of ranks. */
cvx_status cvx_stream_run(const cvx_stream *st, cvx_stages *s, cvx_comm *comm,
                          int64_t *frames) CVX_CHECK;

/* What `cvx interpolate` and `cvx upscale` do. */
typedef struct cvx_stages_job {
    const char *in, *out;
    cvx_stages_options stages;
    cvx_event_fn event; /* rank 0's */
    void *event_payload;
    FILE *report; /* NULL: nothing is said */
} cvx_stages_job;

/* Video, GIF, picture or folder to whatever cvx_media_writer knows. Collective; only rank 0 touches `in` and `out`. */
cvx_status cvx_stages_file(const cvx_stages_job *job, cvx_ctx *ctx, cvx_comm *comm) CVX_CHECK;

#endif
