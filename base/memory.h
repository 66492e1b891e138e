/* What memory this process has and may have. Linux: /proc and control groups. */
#ifndef CVX_BASE_MEMORY_H
#define CVX_BASE_MEMORY_H

#include <stddef.h>

/* Bytes that may still be used: of the machine, and within the limits of the process's control groups (a Slurm job's, a container's). */
size_t cvx_memory_available(void);

/* Resident size of this process now, and its highest so far. */
size_t cvx_memory_resident(void);
size_t cvx_memory_peak(void);

/* What the control groups leave of `free` bytes: the least over the process's own group and all above it, of version 2 or 1. Pages of
 * files do not count as used, as they go when memory is wanted. root: "", in tests a folder that stands for "/". */
size_t cvx_memory_in_groups(const char *root, size_t free);

#endif
