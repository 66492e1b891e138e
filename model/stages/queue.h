/* A short queue of frames to a writer on a thread of its own: encoding goes on while the next frames are made. */
#ifndef CVX_MODEL_STAGES_QUEUE_H
#define CVX_MODEL_STAGES_QUEUE_H

#include "base/status.h"

typedef struct cvx_queue cvx_queue;

/* `room` frames of `bytes` each wait at most. */
cvx_status cvx_queue_open(cvx_queue **out, size_t bytes, int room,
                          cvx_status (*write)(void *payload, const uint8_t *frame),
                          void *payload) CVX_CHECK;
/* Copies the frame; waits while the queue is full. Gives the writer's failure, message and all. */
cvx_status cvx_queue_put(cvx_queue *q, const uint8_t *frame) CVX_CHECK;
/* Waits until all is written; gives the writer's failure. Frees q. Accepts NULL (CVX_OK). */
cvx_status cvx_queue_close(cvx_queue *q) CVX_CHECK;

#endif
