#include "media/axis.h"

#include <math.h>

double cvx_axis_nice(double x, bool halves)
{
    double p = pow(10.0, floor(log10(x)));
    double m = x / p;

    return p * (m <= 1.0001             ? 1
                : m <= 2.0001           ? 2
                : halves && m <= 2.5001 ? 2.5
                : m <= 5.0001           ? 5
                                        : 10);
}

int cvx_axis_decimals(double step)
{
    for (int d = 0; d < 9; d++) {
        double v = step * pow(10.0, d);
        if (fabs(v - rint(v)) < 1e-6 * v) {
            return d;
        }
    }
    return 9;
}
