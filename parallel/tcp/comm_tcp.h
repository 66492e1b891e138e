/* Communicators of host memory over TCP, for jobs that are started without MPI: see meet.h for how ranks find each other, wire.h
 * for what happens when one is gone. */
#ifndef CVX_PARALLEL_TCP_COMM_TCP_H
#define CVX_PARALLEL_TCP_COMM_TCP_H

#include "parallel/comm.h"
#include "parallel/tcp/meet.h"

/* The communicator of all ranks of a meeting. Once a process; the last close of a communicator of the job ends the
 * connections. Collective. */
cvx_status cvx_comm_tcp_open(cvx_comm **world, const cvx_meeting *m) CVX_CHECK;
/* The ranks of this rank's machine, in the order of world; the caller closes it. Collective over world. */
cvx_status cvx_comm_tcp_node(cvx_comm *world, cvx_comm **out) CVX_CHECK;

#endif
