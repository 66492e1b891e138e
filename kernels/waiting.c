#include "kernels/waiting.h"

#include <stdlib.h>
#include <unistd.h>

#include "base/file.h"

void cvx_wait_briefly(char **argv, bool crowded)
{
    char self[CVX_PATH_MAX] =
        ""; /* by its path: ps and killall know it by the name of what is started */

    if (getenv("OMP_WAIT_POLICY") == NULL && getenv("GOMP_SPINCOUNT") == NULL &&
        readlink("/proc/self/exe", self, sizeof self - 1) > 0) {
        setenv("GOMP_SPINCOUNT", crowded ? "0" : "5000", 1);
        execv(self, argv); /* where that fails, waiting is only slower */
    }
}
