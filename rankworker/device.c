#include "rankworker/device.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/ops.h"
#ifdef CVX_HAVE_CUDA
#include "parallel/nccl/comm_nccl.h"
#endif

#ifdef CVX_HAVE_CUDA
static cvx_status asked(cvx_device_exchange *how)
{
    /* in the enumeration's order */
    static const char *const names[] = {"auto", "nccl", "mpi", "staged"};
    const char *v = getenv("CVX_DEVICE_EXCHANGE");

    *how = CVX_DEVICE_AUTO;
    for (int i = 0; v != NULL && i < 4; i++) {
        if (strcmp(v, names[i]) == 0) {
            *how = (cvx_device_exchange)i;
            return CVX_OK;
        }
    }
    return v == NULL
               ? CVX_OK
               : cvx_fail(CVX_EINVAL,
                          "CVX_DEVICE_EXCHANGE=%.40s: one of auto, nccl, mpi, staged is possible",
                          v);
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
        cvx_device_exchange how;
        CVX_RETURN_IF(cvx_comm_agree(world, asked(&how)));
        return cvx_comm_device_open(out, world, how, note);
    }
#endif
    return CVX_OK;
}
