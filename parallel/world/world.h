/* The processes of a job, however they were started: by MPI (mpirun, srun --mpi=pmix) where this build has it and its
 * launcher says so, over TCP where torchrun's or a Slurm step's variables tell of others (parallel/tcp/meet.h), else one
 * process alone. CVX_LAUNCH=mpi or tcp decides where both could be meant. Host memory. */
#ifndef CVX_PARALLEL_WORLD_WORLD_H
#define CVX_PARALLEL_WORLD_WORLD_H

#include "parallel/comm.h"

/* Processes on this machine as launchers tell it in the environment, before anything starts; 1 if none does. */
int cvx_world_launched(void);

/* The communicator of all processes. Once a process; closed by the caller, then cvx_world_finish. */
cvx_status cvx_world_open(cvx_comm **world, int *argc, char ***argv) CVX_CHECK;
/* Whether ranks outnumber the cores they share: then a rank that waits sleeps between its polls (MPI; over TCP a rank always
 * does). As the launcher's count and the machine's cores say, until this is called. Returns how it was before. */
bool cvx_world_crowded(bool yes);
/* Ends what cvx_world_open began, after the last communicator is closed. Collective with MPI; but if a call of this rank
 * failed, or the others did not come to hear of this rank's failure within 30 s, it ends every rank at once with `code` as
 * the exit code (over TCP: they see the connections break). */
void cvx_world_finish(int code);
/* The ranks of this rank's machine, in the order of world; the caller closes it, before world. Collective over world. */
cvx_status cvx_world_node(cvx_comm *world, cvx_comm **out) CVX_CHECK;

#endif
