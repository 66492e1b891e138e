/* Faults on demand, for tests of what must survive them: the environment variable CVX_FAULT names what
 * goes wrong, on which rank, where and the how manieth time that place is reached:
 *
 *     CVX_FAULT=KIND:RANK:POINT:COUNT          kill:1:step:3
 *
 * KIND: kill (SIGKILL), stop (SIGSTOP), term (SIGTERM), usr1 (SIGUSR1), hang (the place waits for ever), nomem
 * (the place fails with CVX_ENOMEM, where it can fail). COUNT: 1 is the first time. Points:
 *
 *     encode      before the prompt is encoded
 *     step        before a denoising step
 *     block       before a block of the transformer, amid the step's collectives
 *     collective  on the way into a collective, while the others wait inside it
 *     checkpoint  with half of a checkpoint's bytes in its temporary
 *     decode      before the decoder
 *     frames      between two chunks of decoded frames (rank 0 of a video's ranks)
 *     stage       before a round of frames is interpolated or enlarged (likewise)
 *     deliver     with every frame made and no output written (likewise)
 *
 * Without the variable a point costs one comparison. The supervisor takes the variable away from every
 * start but the first. */
#ifndef CVX_BASE_FAULT_H
#define CVX_BASE_FAULT_H

#include "base/status.h"

/* Which rank this process is (default 0), for RANK. */
void cvx_fault_rank(int rank);

/* A point where a fault may strike. CVX_ENOMEM if it is one of kind nomem, else CVX_OK. */
cvx_status cvx_fault(const char *point) CVX_CHECK;
/* The same where nothing can fail: nomem strikes nothing there. */
void cvx_fault_at(const char *point);

#endif
