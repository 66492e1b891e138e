/* Communicators for device memory, beside a communicator of the same ranks for host memory (MPI). Device buffers go
 * through NCCL, or where that cannot be had through the other communicator: directly, if that is of an MPI that takes
 * device memory, else through host memory ("staged"); host buffers, agreements and bootstrap always go the other's way. */
#ifndef CVX_PARALLEL_NCCL_COMM_NCCL_H
#define CVX_PARALLEL_NCCL_COMM_NCCL_H

#include "parallel/comm.h"

typedef enum cvx_device_exchange {
    CVX_DEVICE_AUTO =
        0, /* NCCL; where some rank cannot open it MPI, if it takes device memory, else staged */
    CVX_DEVICE_NCCL,
    CVX_DEVICE_MPI,
    CVX_DEVICE_STAGED
} cvx_device_exchange;

/* A communicator of host's ranks on this process's device. host stays the caller's, is not to be used by others
 * meanwhile, and outlives it. note[200]: which way was taken and why, one line. Errors: CVX_EUNSUPPORTED without a
 * device, for devices of different models (naming both), or where NCCL or MPI is asked for and cannot be had. Collective
 * over host.
 *
 * Collectives are queued on the process's compute stream and return at once; start_sendrecv goes on a stream of its
 * own beside the work queued meanwhile. A watching thread polls NCCL's errors and the queue: after an error, or where a
 * collective that the device has come to does not end within CVX_NCCL_TIMEOUT seconds (environment; default 120), all
 * communicators of the process are aborted, what is queued ends, and the next call of each returns CVX_EPEER.
 *
 * Several ranks on one device (tests): NCCL takes them for ranks of different hosts (NCCL_HOSTID) and uses
 * sockets; set here when the ranks' devices are found to be the same. */
cvx_status cvx_comm_device_open(cvx_comm **out, cvx_comm *host, cvx_device_exchange how,
                                char note[200]) CVX_CHECK;

/* The first part of the above, for tests without a device: makes an id, gives it to every rank of host and opens and
 * closes an NCCL communicator. Without a driver CVX_EUNSUPPORTED; nothing stays allocated. */
cvx_status cvx_nccl_try(cvx_comm *host) CVX_CHECK;

#endif
