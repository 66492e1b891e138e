/* Numbers on an axis. Not for other folders. */
#ifndef CVX_MEDIA_AXIS_H
#define CVX_MEDIA_AXIS_H

#include <stdbool.h>

/* The smallest of 1, 2, 2.5 (if `halves`) and 5 times a power of ten that is at least x > 0. */
double cvx_axis_nice(double x, bool halves);

/* Decimals that multiples of `step` need. */
int cvx_axis_decimals(double step);

#endif
