/* The complete table. */
#include "kernels/ref/ref.h"

const cvx_ops cvx_ref_ops = {
    .name = "ref",
#define CVX_OP(op) .op = cvx_ref_##op,
#include "kernels/ops.def"
#undef CVX_OP
    .packed_bytes = cvx_ref_packed_bytes,
};
