/* Communicators over MPI (Open MPI). The only place besides rankworker's main that knows MPI. */
#ifndef CVX_PARALLEL_MPI_COMM_MPI_H
#define CVX_PARALLEL_MPI_COMM_MPI_H

#include "parallel/comm.h"

/* Ranks on this machine as launchers (Open MPI, MPICH, Slurm) tell it in the environment before MPI starts; 1 if
 * none does. */
int cvx_comm_mpi_launched(void);

/* Starts MPI (thread level funneled) and gives MPI_COMM_WORLD. Once a process. */
cvx_status cvx_comm_mpi_open(cvx_comm **world, int *argc, char ***argv) CVX_CHECK;
/* Whether ranks outnumber the cores they share: then a rank that waits sleeps between its polls. As the launcher's
 * count and the machine's cores say, until this is called. Returns how it was before. */
bool cvx_comm_mpi_crowded(bool yes);
/* Ends MPI after the last communicator is closed. Collective; but if a call of this rank failed, or the others did not
 * come to hear of this rank's failure within 30 s, it ends every rank at once with `code` as the exit code. */
void cvx_comm_mpi_finish(int code);

/* The ranks of this rank's machine (which share memory), in the order of world; the caller closes it, before
 * world. Collective over world. */
cvx_status cvx_comm_mpi_node(cvx_comm *world, cvx_comm **out) CVX_CHECK;

#endif
