#include "rankworker/device.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/ops.h"
#ifdef CVX_HAVE_CUDA
#include "parallel/nccl/comm_nccl.h"
#endif

#ifdef CVX_HAVE_CUDA
static cvx_device_exchange asked(void)
{
    const char *v = getenv("CVX_DEVICE_EXCHANGE");

    return v == NULL                  ? CVX_DEVICE_AUTO
           : strcmp(v, "nccl") == 0   ? CVX_DEVICE_NCCL
           : strcmp(v, "staged") == 0 ? CVX_DEVICE_STAGED
                                      : CVX_DEVICE_AUTO;
}
#endif

cvx_status cvx_device_world(cvx_comm **out, cvx_comm *world, cvx_request *r, char note[200])
{
    char what[160];
    int usable = cvx_cuda_usable(what);

    note[0] = 0;
    *out = world;
    if (strcmp(r->backend, "auto") == 0 && cvx_cuda_built()) {
        CVX_RETURN_IF(cvx_comm_least(world, &usable));
        r->backend = usable ? "cuda" : "cpu";
        if (!usable) {
            snprintf(note, 200, "not every rank has a GPU (here: %.140s): computing on the CPU",
                     what);
        }
    }
#ifdef CVX_HAVE_CUDA
    if (strcmp(r->backend, "cuda") == 0) {
        return cvx_comm_device_open(out, world, asked(), note);
    }
#endif
    return CVX_OK;
}
