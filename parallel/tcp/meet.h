/* How the processes of a job find each other without MPI: by the variables of torchrun (RANK, WORLD_SIZE, MASTER_ADDR,
 * MASTER_PORT; any launcher can set them) or of a Slurm step (SLURM_PROCID, SLURM_STEP_NUM_TASKS, SLURM_STEP_NODELIST). */
#ifndef CVX_PARALLEL_TCP_MEET_H
#define CVX_PARALLEL_TCP_MEET_H

#include "base/status.h"

typedef struct cvx_meeting {
    int rank, size;
    int local_size; /* processes on this machine as the launcher tells; 0: it does not */
    char host[256]; /* rank 0's */
    int port; /* where it listens: CVX_MASTER_PORT if that is set; MASTER_PORT, or the next one under torchrun,
                     * whose agent has that one itself; 20000 + the step's id modulo 10000 in a Slurm step */
} cvx_meeting;

/* Reads the environment: *told false where no launcher says anything. CVX_EINVAL for values that make no sense, naming the
 * variable. */
cvx_status cvx_meeting_read(cvx_meeting *m, bool *told) CVX_CHECK;

/* Connects every two of the processes: sockets [size], the caller's to close, its own being -1. All ranks call it. CVX_EPEER
 * when some have not come after CVX_TCP_TIMEOUT seconds (environment; default 120). */
cvx_status cvx_meeting_hold(const cvx_meeting *m, int *sockets) CVX_CHECK;

#endif
