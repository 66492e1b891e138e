/* AVX-512 with AMX tiles for the matrix products. */
#define CVX_LEVEL(x) x##amx
#define CVX_LEVEL_NAME "amx"
#include "kernels/cpu/level.inc.h"
