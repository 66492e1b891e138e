#include "model/clip/score_plot.h"

#include <cairo.h>
#include <math.h>
#include <stdlib.h>

#include "media/image.h"

#define WIDTH 900
#define HEIGHT 360
#define LEFT 60.0
#define RIGHT 20.0
#define TOP 40.0
#define BOTTOM 40.0

typedef struct plot {
    cairo_t *cr;
    const cvx_clip_scores *s;
    double lo, hi, step; /* of the score axis */
} plot;

static double x_of(const plot *p, int64_t frame)
{
    double n = p->s->n > 1 ? (double)(p->s->n - 1) : 1.0;
    return LEFT + (WIDTH - LEFT - RIGHT) * (p->s->n > 1 ? (double)frame / n : 0.5);
}

static double y_of(const plot *p, double score)
{
    return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (score - p->lo) / (p->hi - p->lo);
}

/* The step of 1, 2 or 5 times a power of ten that cuts `range` into at most `most` parts. */
static double round_step(double range, double most)
{
    double step = pow(10.0, floor(log10(range / most)));
    double ratio = range / most / step;
    return step * (ratio <= 1 ? 1 : ratio <= 2 ? 2 : ratio <= 5 ? 5 : 10);
}

/* An axis that holds every score and the limit, with some air, between whole steps. */
static void choose_axis(plot *p)
{
    double lo = p->s->limit, hi = p->s->limit;

    for (int64_t i = 0; i < p->s->n; i++) {
        lo = fmin(lo, p->s->score[i]);
        hi = fmax(hi, p->s->score[i]);
    }
    p->step = round_step(fmax(hi - lo, 1.0), 6);
    p->lo = fmax(0.0, floor((lo - 0.2 * p->step) / p->step) * p->step);
    p->hi = ceil((hi + 0.2 * p->step) / p->step) * p->step;
    if (p->lo >= p->hi) {
        p->hi = p->lo + p->step;
    }
}

static void label(cairo_t *cr, double x, double y, double align, const char *text)
{
    cairo_text_extents_t e;

    cairo_text_extents(cr, text, &e);
    cairo_move_to(cr, x - align * e.x_advance, y);
    cairo_show_text(cr, text);
}

static void draw_axes(const plot *p)
{
    char text[128];
    int64_t every = (int64_t)fmax(1.0, round_step((double)p->s->n, 12));

    cairo_set_line_width(p->cr, 1);
    for (double v = p->lo; v <= p->hi + 0.5 * p->step; v += p->step) {
        double y = floor(y_of(p, v)) + 0.5;
        cairo_set_source_rgb(p->cr, 0.88, 0.88, 0.88);
        cairo_move_to(p->cr, LEFT, y);
        cairo_line_to(p->cr, WIDTH - RIGHT, y);
        cairo_stroke(p->cr);
        cairo_set_source_rgb(p->cr, 0.25, 0.25, 0.25);
        snprintf(text, sizeof text, "%g", v);
        label(p->cr, LEFT - 8, y + 4, 1.0, text);
    }
    for (int64_t i = 0; i < p->s->n; i += every) {
        snprintf(text, sizeof text, "%lld", (long long)i);
        label(p->cr, x_of(p, i), HEIGHT - BOTTOM + 18, 0.5, text);
    }
    label(p->cr, WIDTH - RIGHT, HEIGHT - 6, 1.0, "frame");
    snprintf(text, sizeof text,
             "CLIP score: mean %.2f, lowest %.2f (frame %lld), %lld of %lld frames drift",
             p->s->mean, p->s->min, (long long)p->s->min_frame, (long long)p->s->drift_count,
             (long long)p->s->n);
    label(p->cr, LEFT, TOP - 16, 0.0, text);
}

static void draw_curve(const plot *p)
{
    static const double dashes[] = {6, 4};
    double y = y_of(p, fmax(p->s->limit, p->lo));

    cairo_set_source_rgb(p->cr, 0.80, 0.20, 0.15);
    cairo_set_dash(p->cr, dashes, 2, 0);
    cairo_move_to(p->cr, LEFT, y);
    cairo_line_to(p->cr, WIDTH - RIGHT, y);
    cairo_stroke(p->cr);
    cairo_set_dash(p->cr, NULL, 0, 0);

    cairo_set_source_rgb(p->cr, 0.10, 0.35, 0.65);
    cairo_set_line_width(p->cr, 2);
    cairo_set_line_join(p->cr, CAIRO_LINE_JOIN_ROUND);
    for (int64_t i = 0; i < p->s->n; i++) {
        cairo_line_to(p->cr, x_of(p, i), y_of(p, p->s->score[i]));
    }
    cairo_stroke(p->cr);
    for (int64_t i = 0; i < p->s->n; i++) {
        if (p->s->drifting[i] || p->s->n <= 100) {
            cairo_set_source_rgb(p->cr, p->s->drifting[i] ? 0.80 : 0.10,
                                 p->s->drifting[i] ? 0.20 : 0.35, p->s->drifting[i] ? 0.15 : 0.65);
            cairo_arc(p->cr, x_of(p, i), y_of(p, p->s->score[i]), p->s->drifting[i] ? 5 : 3, 0,
                      2 * M_PI);
            cairo_fill(p->cr);
        }
    }
}

/* cairo's 32-bit pixels to bytes. */
static cvx_status save(cairo_surface_t *surface, const char *path)
{
    uint8_t *rgb = malloc((size_t)WIDTH * HEIGHT * 3);
    const unsigned char *data;

    if (rgb == NULL) {
        return cvx_fail(CVX_ENOMEM, "%s: no memory for a plot", path);
    }
    cairo_surface_flush(surface);
    data = cairo_image_surface_get_data(surface);
    for (int64_t y = 0; y < HEIGHT; y++) {
        const uint32_t *row =
            (const uint32_t *)(data + y * cairo_image_surface_get_stride(surface));
        for (int64_t x = 0; x < WIDTH; x++) {
            for (int c = 0; c < 3; c++) {
                rgb[(y * WIDTH + x) * 3 + c] = (uint8_t)(row[x] >> (16 - 8 * c));
            }
        }
    }
    cvx_status st = cvx_image_write_png(path, rgb, WIDTH, HEIGHT);
    free(rgb);
    return st;
}

cvx_status cvx_clip_scores_plot(const cvx_clip_scores *s, const char *path)
{
    cairo_surface_t *surface = cairo_image_surface_create(CAIRO_FORMAT_RGB24, WIDTH, HEIGHT);
    plot p = {.cr = cairo_create(surface), .s = s};
    cvx_status st = CVX_OK;

    choose_axis(&p);
    cairo_set_source_rgb(p.cr, 1, 1, 1);
    cairo_paint(p.cr);
    /* the font that is built into cairo: the same everywhere, no font files needed */
    cairo_select_font_face(p.cr, "@cairo:", CAIRO_FONT_SLANT_NORMAL, CAIRO_FONT_WEIGHT_NORMAL);
    cairo_set_font_size(p.cr, 13);
    draw_axes(&p);
    draw_curve(&p);
    st = cairo_status(p.cr) == CAIRO_STATUS_SUCCESS
             ? save(surface, path)
             : cvx_fail(CVX_ENOMEM, "%s: cairo: %s", path,
                        cairo_status_to_string(cairo_status(p.cr)));
    cairo_destroy(p.cr);
    cairo_surface_destroy(surface);
    return st;
}
