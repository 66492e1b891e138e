#include "media/chart.h"

#include <math.h>
#include <stdio.h>

#include "media/axis.h"
#include "media/canvas.h"

#define BARS_MAX 64

typedef struct chart {
    const cvx_chart *o;
    cvx_canvas page;
    double x0, x1, y0, y1, top, step; /* of the axes in pixels; of the values */
} chart;

static double y_of(const chart *c, double v)
{
    return c->y0 + (c->y1 - c->y0) * v / c->top;
}

static double x_of(const chart *c, int64_t i)
{
    return c->x0 + (c->x1 - c->x0) * ((double)i + 0.5) / (double)c->o->n;
}

static cvx_status measure(chart *c)
{
    double top = 0;

    if (c->o->n < 1 || c->o->n > BARS_MAX) {
        return cvx_fail(CVX_EINVAL, "chart: %lld bars; 1 to %d can be drawn", (long long)c->o->n,
                        BARS_MAX);
    }
    for (int64_t i = 0; i < c->o->n; i++) {
        double v[2] = {c->o->bars[i], c->o->line != NULL ? c->o->line[i] : 0};
        for (int k = 0; k < 2; k++) {
            if (!isfinite(v[k]) || v[k] < 0) {
                return cvx_fail(CVX_EINVAL,
                                "chart: value %lld is %g; it must be finite and not below 0",
                                (long long)i + 1, v[k]);
            }
            top = fmax(top, v[k]);
        }
    }
    top = top > 0 ? top : 1;
    c->step = cvx_axis_nice(top * 1.08 / 5, true);
    c->top = ceil(top * 1.08 / c->step) * c->step;
    return CVX_OK;
}

static void box(cvx_canvas *p, double x, double y, double w, double h, unsigned colour)
{
    cairo_rectangle(p->cr, x, y, w, h);
    cvx_canvas_colour(p, colour, 1);
    cairo_fill(p->cr);
}

static void head(chart *c)
{
    char line[2][CVX_LINE_MAX];
    cvx_canvas *p = &c->page;
    double y = 30, x = 24;

    cvx_canvas_font(p, 15, true);
    cvx_canvas_colour(p, CVX_INK, 1);
    int n = cvx_canvas_wrap(p, line, c->o->title, p->w - 48);
    for (int i = 0; i < n; i++, y += 20) {
        cvx_canvas_text(p, 24, y, CVX_LEFT, line[i]);
    }
    cvx_canvas_font(p, 12, false);
    const char *label[2] = {c->o->bars_label, c->o->line != NULL ? c->o->line_label : NULL};
    for (int i = 0; i < 2; i++) {
        if (cvx_canvas_wrap(p, line, label[i], p->w / 2.0) == 0) {
            continue;
        }
        box(p, x, i == 0 ? y - 6 : y, 22, i == 0 ? 10 : 2, i == 0 ? CVX_BLUE : CVX_RED);
        cvx_canvas_colour(p, CVX_INK, 1);
        x += 30 + cvx_canvas_text(p, x + 30, y + 4, CVX_LEFT, line[0]) + 22;
    }
    c->y1 = y + 38;
}

static void axes(chart *c)
{
    char text[64], line[2][CVX_LINE_MAX];
    cvx_canvas *p = &c->page;
    int digits = cvx_axis_decimals(c->step);

    cvx_canvas_font(p, 11, false);
    for (int64_t i = 0; i <= llrint(c->top / c->step); i++) {
        double y = rint(y_of(c, (double)i * c->step)) + 0.5;
        box(p, c->x0, y - 0.5, c->x1 - c->x0, 1, i == 0 ? 0x9ca3af : CVX_RULE);
        snprintf(text, sizeof text, "%.*f", digits, (double)i * c->step);
        cvx_canvas_colour(p, CVX_MUTED, 1);
        cvx_canvas_text(p, c->x0 - 8, y + 4, CVX_RIGHT, text);
    }
    for (int64_t i = 0; i < c->o->n; i++) {
        if (cvx_canvas_wrap(p, line, c->o->x[i], (c->x1 - c->x0) / (double)c->o->n) > 0) {
            cvx_canvas_text(p, x_of(c, i), c->y0 + 18, CVX_CENTRE, line[0]);
        }
    }
    if (cvx_canvas_wrap(p, line, c->o->x_label, 400) > 0) {
        cvx_canvas_text(p, (c->x0 + c->x1) / 2, c->y0 + 36, CVX_CENTRE, line[0]);
    }
    if (cvx_canvas_wrap(p, line, c->o->y_label, 400) > 0) {
        cvx_canvas_text(p, 24, c->y1 - 14, CVX_LEFT, line[0]);
    }
}

static void values(chart *c)
{
    cairo_t *cr = c->page.cr;
    double w = fmin(80, 0.6 * (c->x1 - c->x0) / (double)c->o->n);
    char text[64];

    for (int64_t i = 0; i < c->o->n; i++) {
        double v = c->o->bars[i], y = y_of(c, v);
        box(&c->page, x_of(c, i) - w / 2, y, w, c->y0 - y, CVX_BLUE);
        snprintf(text, sizeof text, "%.*f", v < 10 ? 2 : v < 100 ? 1 : 0, v);
        cvx_canvas_colour(&c->page, CVX_INK, 1);
        cvx_canvas_text(&c->page, x_of(c, i), y - 6, CVX_CENTRE, text);
    }
    for (int64_t i = 0; c->o->line != NULL && i < c->o->n; i++) {
        (i == 0 ? cairo_move_to : cairo_line_to)(cr, x_of(c, i), y_of(c, c->o->line[i]));
    }
    if (c->o->line != NULL) {
        cairo_set_line_width(cr, 2);
        cvx_canvas_colour(&c->page, CVX_RED, 1);
        cairo_stroke(cr);
    }
}

cvx_status cvx_chart_write(const char *path, const cvx_chart *o)
{
    chart c = {.o = o, .x0 = 76, .x1 = 876, .y0 = 370};

    CVX_RETURN_IF(measure(&c));
    CVX_RETURN_IF(cvx_canvas_open(&c.page, 900, 420));
    head(&c);
    axes(&c);
    values(&c);
    cvx_status st = cvx_canvas_save(&c.page, path);
    cvx_canvas_close(&c.page);
    return st;
}
