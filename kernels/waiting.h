/* How OpenMP's threads wait for work. */
#ifndef CVX_KERNELS_WAITING_H
#define CVX_KERNELS_WAITING_H

#include <stdbool.h>

/* The first thing main does. Threads that spin for long while they wait make everything several times slower as
 * soon as another process wants a core; threads that sleep at once double the time of a small model's step
 * (a region lasts 50 us, a wake-up as long). So they spin for some ten microseconds, then sleep; where
 * processes outnumber cores (`crowded`) they sleep at once. The runtime reads this before main: a start
 * without OMP_WAIT_POLICY or GOMP_SPINCOUNT starts the program again with it. */
void cvx_wait_briefly(char **argv, bool crowded);

#endif
