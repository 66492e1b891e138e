/* Plain C, no instruction set asked for. */
#define CVX_LEVEL(x) x##portable
#define CVX_LEVEL_NAME "portable"
#include "kernels/cpu/level.inc.h"
