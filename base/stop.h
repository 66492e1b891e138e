/* The wish to stop: SIGTERM and SIGUSR1 are noted, and the work looks at the note where it can stop well. */
#ifndef CVX_BASE_STOP_H
#define CVX_BASE_STOP_H

#include <stdbool.h>

/* From now on SIGTERM and SIGUSR1 are noted instead of ending the process, and a file that grows over its
 * limit (SIGXFSZ) is a failed write. For programs, not libraries. */
void cvx_stop_install(void);

/* SIGINT and SIGHUP too; a second one ends the process at once. For commands that look at the note often: an output that is
 * half written goes away. */
void cvx_stop_on_interrupt(void);

/* Whether one of them came. */
bool cvx_stop_asked(void);

#endif
