#include "media/plot.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "media/axis.h"
#include "media/canvas.h"

typedef struct plot {
    const cvx_plot_opts *o;
    cvx_canvas page;
    double x0, x1, y0, y1; /* of the axes, in pixels; y0 is the lower one */
    double lo, hi, step;   /* of the vertical axis */
    double mean;
    int64_t drifting;
} plot;

static double x_of(const plot *p, int64_t i)
{
    if (p->o->n == 1) {
        return (p->x0 + p->x1) / 2;
    }
    return p->x0 + 8 + (p->x1 - p->x0 - 16) * (double)i / (double)(p->o->n - 1);
}

static double y_of(const plot *p, double v)
{
    return p->y0 + (p->y1 - p->y0) * (v - p->lo) / (p->hi - p->lo);
}

static cvx_status measure(plot *p)
{
    double lo = INFINITY, hi = -INFINITY, sum = 0;
    int64_t finite = 0;

    for (int64_t i = 0; i < p->o->n; i++) {
        double v = p->o->score[i];
        if (isfinite(v)) {
            lo = fmin(lo, v);
            hi = fmax(hi, v);
            sum += v;
            finite++;
        }
        p->drifting += p->o->drift != NULL && p->o->drift[i];
    }
    if (finite == 0) {
        return cvx_fail(CVX_EINVAL, "plot: none of the %lld scores is a finite number",
                        (long long)p->o->n);
    }
    p->mean = sum / (double)finite;
    /* Room above and below, and no magnified rounding noise on a flat curve. */
    double span = fmax(hi - lo, fmax(0.02, 1e-6 * fmax(fabs(lo), fabs(hi))));
    double middle = (lo + hi) / 2;
    p->step = cvx_axis_nice(span * 1.2 / 5, true);
    p->lo = floor((middle - span * 0.58) / p->step) * p->step;
    p->lo = lo >= 0 ? fmax(p->lo, 0) : p->lo; /* no room below what a score can be */
    p->hi = ceil((middle + span * 0.58) / p->step) * p->step;
    return CVX_OK;
}

static double draw_title(plot *p)
{
    char line[2][CVX_LINE_MAX];
    double y = 30;

    cvx_canvas_font(&p->page, 15, true);
    cvx_canvas_colour(&p->page, CVX_INK, 1);
    int n = cvx_canvas_wrap(&p->page, line, p->o->title, p->page.w - 48);
    for (int i = 0; i < n; i++) {
        cvx_canvas_text(&p->page, 24, y, CVX_LEFT, line[i]);
        y += 20;
    }
    return n > 0 ? y + 4 : y - 2;
}

static void dot(plot *p, double x, double y, double r, unsigned colour)
{
    cairo_arc(p->page.cr, x, y, r + 1.5, 0, 2 * M_PI);
    cvx_canvas_colour(&p->page, 0xffffff, 1);
    cairo_fill(p->page.cr);
    cairo_arc(p->page.cr, x, y, r, 0, 2 * M_PI);
    cvx_canvas_colour(&p->page, colour, 1);
    cairo_fill(p->page.cr);
}

static void stroke(plot *p, double xa, double ya, double xb, double yb, double width)
{
    cairo_set_line_width(p->page.cr, width);
    cairo_move_to(p->page.cr, xa, ya);
    cairo_line_to(p->page.cr, xb, yb);
    cairo_stroke(p->page.cr);
}

static void mean_style(plot *p, bool on)
{
    static const double dashes[] = {6, 4};

    cairo_set_dash(p->page.cr, dashes, on ? 2 : 0, 0);
    cvx_canvas_colour(&p->page, CVX_MUTED, 1);
}

/* One row under the title. */
static void draw_legend(plot *p, double y)
{
    const char *label = p->o->y_label != NULL ? p->o->y_label : "score";
    char text[64];
    double x = 24;
    cvx_canvas *c = &p->page;

    cvx_canvas_font(c, 12, false);
    cvx_canvas_colour(c, CVX_BLUE, 1);
    stroke(p, x, y - 4, x + 22, y - 4, 2);
    dot(p, x + 11, y - 4, 2.5, CVX_BLUE);
    cvx_canvas_colour(c, CVX_INK, 1);
    x += 30 + cvx_canvas_text(c, x + 30, y, CVX_LEFT, label) + 22;
    mean_style(p, true);
    stroke(p, x, y - 4, x + 22, y - 4, 1.5);
    mean_style(p, false);
    snprintf(text, sizeof text, "mean %.*f", cvx_axis_decimals(p->step) + 1, p->mean);
    cvx_canvas_colour(c, CVX_INK, 1);
    x += 30 + cvx_canvas_text(c, x + 30, y, CVX_LEFT, text) + 22;
    if (p->o->drift != NULL) {
        dot(p, x + 5, y - 4, 4.5, CVX_RED);
        snprintf(text, sizeof text, "drifting: %lld of %lld frames", (long long)p->drifting,
                 (long long)p->o->n);
        cvx_canvas_colour(c, CVX_INK, 1);
        cvx_canvas_text(c, x + 16, y, CVX_LEFT, text);
    }
}

static void draw_y_axis(plot *p)
{
    char text[64];
    int digits = cvx_axis_decimals(p->step);
    int64_t n = llrint((p->hi - p->lo) / p->step);

    cvx_canvas_font(&p->page, 11, false);
    for (int64_t i = 0; i <= n; i++) {
        double v = p->lo + (double)i * p->step, y = rint(y_of(p, v)) + 0.5;
        cvx_canvas_colour(&p->page, i == 0 ? 0x9ca3af : CVX_RULE, 1);
        stroke(p, p->x0, y, p->x1, y, 1);
        cvx_canvas_colour(&p->page, CVX_MUTED, 1);
        snprintf(text, sizeof text, "%.*f", digits, fabs(v) < p->step / 2 ? 0.0 : v);
        cvx_canvas_text(&p->page, p->x0 - 8, y + 4, CVX_RIGHT, text);
    }
}

static void draw_x_axis(plot *p)
{
    char text[64];
    double room = fmax(2, floor((p->x1 - p->x0) / 64));
    int64_t step = (int64_t)fmax(1, cvx_axis_nice((double)p->o->n / room, false));

    cvx_canvas_font(&p->page, 11, false);
    for (int64_t i = 0; i < p->o->n; i += step) {
        double x = rint(x_of(p, i)) + 0.5;
        cvx_canvas_colour(&p->page, 0x9ca3af, 1);
        stroke(p, x, p->y0, x, p->y0 + 5, 1);
        cvx_canvas_colour(&p->page, CVX_MUTED, 1);
        snprintf(text, sizeof text, "%lld", (long long)i);
        cvx_canvas_text(&p->page, x, p->y0 + 18, CVX_CENTRE, text);
    }
    cvx_canvas_colour(&p->page, CVX_MUTED, 1);
    cvx_canvas_text(&p->page, (p->x0 + p->x1) / 2, p->y0 + 36, CVX_CENTRE, "frame");
}

/* The curve over each run of finite scores, with a light area below it. */
static void draw_curve(plot *p)
{
    cairo_t *cr = p->page.cr;
    const double *s = p->o->score;

    for (int64_t i = 0; i < p->o->n; i++) {
        int64_t first = i;
        if (!isfinite(s[i])) {
            continue;
        }
        cairo_move_to(cr, x_of(p, i), y_of(p, s[i]));
        while (i + 1 < p->o->n && isfinite(s[i + 1])) {
            i++;
            cairo_line_to(cr, x_of(p, i), y_of(p, s[i]));
        }
        cairo_path_t *path = cairo_copy_path(cr);
        cairo_line_to(cr, x_of(p, i), p->y0);
        cairo_line_to(cr, x_of(p, first), p->y0);
        cairo_close_path(cr);
        cvx_canvas_colour(&p->page, CVX_BLUE, 0.07);
        cairo_fill(cr);
        cairo_append_path(cr, path);
        cairo_path_destroy(path);
        cairo_set_line_width(cr, 2);
        cairo_set_line_join(cr, CAIRO_LINE_JOIN_ROUND);
        cvx_canvas_colour(&p->page, CVX_BLUE, 1);
        cairo_stroke(cr);
    }
}

static void draw_points(plot *p)
{
    bool roomy = (p->x1 - p->x0) / (double)p->o->n > 9;

    for (int64_t i = 0; i < p->o->n; i++) {
        double v = p->o->score[i];
        if (isfinite(v) && (roomy || p->o->n == 1)) {
            dot(p, x_of(p, i), y_of(p, v), 2.5, CVX_BLUE);
        }
    }
    for (int64_t i = 0; p->o->drift != NULL && i < p->o->n; i++) {
        if (p->o->drift[i]) { /* a drifting frame without a score sits on the axis */
            double v = isfinite(p->o->score[i]) ? p->o->score[i] : p->lo;
            dot(p, x_of(p, i), y_of(p, v), 4.5, CVX_RED);
        }
    }
}

cvx_status cvx_plot_scores(const char *path, const cvx_plot_opts *o)
{
    plot p = {.o = o};
    int64_t w = o->w > 0 ? o->w : 900, h = o->h > 0 ? o->h : 420;
    cvx_status st;

    if (o->n < 1 || w < 320 || h < 200 || w > CVX_MEDIA_MAX_SIDE || h > CVX_MEDIA_MAX_SIDE) {
        return cvx_fail(CVX_EINVAL,
                        "plot %s: %lld scores at %lldx%lld; it needs a score and 320x200", path,
                        (long long)o->n, (long long)w, (long long)h);
    }
    CVX_RETURN_IF(measure(&p));
    CVX_RETURN_IF(cvx_canvas_open(&p.page, (int)w, (int)h));
    double y = draw_title(&p);
    draw_legend(&p, y);
    p.x0 = 68;
    p.x1 = (double)w - 24;
    p.y1 = y + 18;
    p.y0 = (double)h - 50;
    draw_y_axis(&p);
    draw_x_axis(&p);
    draw_curve(&p);
    mean_style(&p, true);
    stroke(&p, p.x0, y_of(&p, p.mean), p.x1, y_of(&p, p.mean), 1.5);
    mean_style(&p, false);
    draw_points(&p);
    st = cvx_canvas_save(&p.page, path);
    cvx_canvas_close(&p.page);
    return st;
}
