/* Drawing on a white page: what plots and contact sheets share. Not for other folders. */
#ifndef CVX_MEDIA_CANVAS_H
#define CVX_MEDIA_CANVAS_H

#include <cairo.h>

#include "base/status.h"

#define CVX_INK 0x1f2937   /* titles */
#define CVX_MUTED 0x6b7280 /* labels */
#define CVX_RULE 0xe5e7eb  /* grid and borders */
#define CVX_BLUE 0x2563eb
#define CVX_RED 0xdc2626

typedef struct cvx_canvas {
    cairo_surface_t *surface;
    cairo_t *cr;
    int w, h;
} cvx_canvas;

typedef enum cvx_align { CVX_LEFT, CVX_CENTRE, CVX_RIGHT } cvx_align;

/* A white page. Sides within 1..CVX_MEDIA_MAX_SIDE are the caller's affair. CVX_ENOMEM. */
cvx_status cvx_canvas_open(cvx_canvas *c, int w, int h) CVX_CHECK;
void cvx_canvas_close(cvx_canvas *c);

/* Reports what went wrong while drawing, then writes the page as a PNG, whose name must say so. */
cvx_status cvx_canvas_save(cvx_canvas *c, const char *path) CVX_CHECK;

void cvx_canvas_colour(cvx_canvas *c, unsigned rgb, double alpha);
void cvx_canvas_font(cvx_canvas *c, double size, bool bold);

/* One line; y is the baseline. Returns its width. `text` must be valid UTF-8. */
double cvx_canvas_text(cvx_canvas *c, double x, double y, cvx_align align, const char *text);

/* Breaks any text (cleaned of what is not UTF-8, runs of white space as one space) into at most two
 * lines of `width` in the present font; what is left over is cut with an ellipsis. Returns how many
 * lines there are (0 for NULL or blank). */
#define CVX_LINE_MAX 512
int cvx_canvas_wrap(cvx_canvas *c, char line[2][CVX_LINE_MAX], const char *text, double width);

#endif
