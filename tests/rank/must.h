/* For tests on several ranks: a call that fails ends the process, and with it the others: mpirun ends them, over TCP they see the
 * connections break. */
#ifndef CVX_TESTS_RANK_MUST_H
#define CVX_TESTS_RANK_MUST_H

#include <stdio.h>
#include <stdlib.h>

#include "base/status.h"

#define MUST(expr)                                                                                 \
    do {                                                                                           \
        if ((expr) != CVX_OK) {                                                                    \
            fprintf(stderr, "%s: %s\n", #expr, cvx_error());                                       \
            _Exit(1);                                                                              \
        }                                                                                          \
    } while (0)

#endif
