/* A bar chart with a line over it: throughput by ranks. */
#ifndef CVX_MEDIA_CHART_H
#define CVX_MEDIA_CHART_H

#include "base/status.h"

typedef struct cvx_chart {
    const char *title, *x_label, *y_label; /* NULL for none */
    int64_t n;
    const char *const *x; /* [n]: what stands below each bar */
    const double *bars;   /* [n], finite, not negative */
    const double *line;   /* [n], likewise; NULL for none */
    const char *bars_label, *line_label;
} cvx_chart;

/* Writes a PNG of 900 x 420 pixels. CVX_EINVAL (n < 1 or above 64, a value that is not finite or below 0), CVX_EIO,
 * CVX_ENOMEM. Texts are UTF-8; of others the bytes are replaced. */
cvx_status cvx_chart_write(const char *path, const cvx_chart *o) CVX_CHECK;

#endif
