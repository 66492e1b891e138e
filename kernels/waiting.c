#include "kernels/waiting.h"

#include <stdlib.h>
#include <unistd.h>

void cvx_wait_briefly(char **argv, bool crowded)
{
    if (getenv("OMP_WAIT_POLICY") == NULL && getenv("GOMP_SPINCOUNT") == NULL) {
        setenv("GOMP_SPINCOUNT", crowded ? "0" : "5000", 1);
        execv("/proc/self/exe", argv); /* where that fails, waiting is only slower */
    }
}
