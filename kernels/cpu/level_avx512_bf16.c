/* AVX-512 with products of pairs of bf16; in f32 it is avx512, bit for bit. */
#define CVX_LEVEL(x) x##avx512_bf16
#define CVX_LEVEL_NAME "avx512_bf16"
#include "kernels/cpu/level.inc.h"
