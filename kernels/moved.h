/* How many bytes an op cannot but move: each operand read or written once, whatever a backend's caches do. With a device's
 * bandwidth that is the least time that an op with few operations may take (Williams et al., "Roofline", 2009). */
#ifndef CVX_KERNELS_MOVED_H
#define CVX_KERNELS_MOVED_H

#include "kernels/ops.h"

/* Operands must be those that the op's contract asks for. */
#define CVX_OP(op) double cvx_moved_##op(const cvx_##op##_args *a);
#include "kernels/ops.def"
#undef CVX_OP

#endif
