/* AVX-512 (F, BW, VL, DQ). */
#define CVX_LEVEL(x) x##avx512
#define CVX_LEVEL_NAME "avx512"
#include "kernels/cpu/level.inc.h"
