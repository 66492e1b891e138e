/* AVX2 with FMA and F16C. */
#define CVX_LEVEL(x) x##avx2
#define CVX_LEVEL_NAME "avx2"
#include "kernels/cpu/level.inc.h"
