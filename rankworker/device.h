/* Ranks on GPUs: whether a job's ranks compute on their devices, and the communicator for device memory. */
#ifndef CVX_RANKWORKER_DEVICE_H
#define CVX_RANKWORKER_DEVICE_H

#include "model/pipeline/request.h"

/* Decides a backend of "auto" for all ranks alike: "cuda" if every rank has a device, else "cpu" (r->backend is set).
 * With "cuda" *out is a communicator of world's ranks for device memory, which the caller closes before world; else
 * *out is world itself. note[200]: what was decided, "" on the CPU. CVX_DEVICE_EXCHANGE=nccl, mpi or staged in the
 * environment chooses how device memory is exchanged. Collective over world. */
cvx_status cvx_device_world(cvx_comm **out, cvx_comm *world, cvx_request *r,
                            char note[200]) CVX_CHECK;

#endif
