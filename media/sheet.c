#include "media/plot.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "media/canvas.h"

enum { MARGIN = 24, GAP = 16, CAPTION = 22 };
/* By default frames are WIDTH wide, but no higher than TALL and, as far as WIDE allows, no lower than LOW; a place on the sheet
 * has room for a number in any case, and the page for a title. */
enum { WIDTH = 240, WIDE = 1200, TALL = 720, LOW = 40, PLACE = 32, PAGE = 288 };

typedef struct sheet {
    const cvx_frames *f;
    const cvx_sheet_opts *o;
    cvx_canvas page;
    int64_t frames; /* of the clip */
    int64_t tiles, columns, rows, tile_w, tile_h;
    int64_t place;  /* of a tile: its width, or what its number needs */
    uint8_t *small; /* [tile_h, tile_w, 3] */
} sheet;

/* The number of columns that brings the sheet nearest to 3:2, where unfilled places count too. */
static int64_t choose_columns(const sheet *s)
{
    int64_t best = 1;
    double least = INFINITY;

    for (int64_t c = 1; c <= s->tiles; c++) {
        int64_t rows = (s->tiles + c - 1) / c;
        double w = (double)(c * (s->place + GAP)), h = (double)(rows * (s->tile_h + CAPTION + GAP));
        double waste = (double)(rows * c - s->tiles) / (double)s->tiles;
        double cost = fabs(log(w / h / 1.5)) + waste;
        if (cost < least) {
            least = cost;
            best = c;
        }
    }
    return best;
}

static int64_t wanted(const cvx_sheet_opts *o)
{
    return o->tiles > 0 ? o->tiles : 12;
}

static int64_t default_width(const cvx_frames *f)
{
    int64_t most = TALL * f->w / f->h, least = LOW * f->w / f->h;
    int64_t w = least > WIDE ? WIDE : least > WIDTH ? least : WIDTH;

    return w <= most ? w : most > 0 ? most : 1;
}

static cvx_status layout(sheet *s, const char *path)
{
    const cvx_frames *f = s->f;
    int64_t want = wanted(s->o), all = s->o->of > 0 ? s->o->of : f->n;

    if (f->n < 1 || s->o->tiles < 0 || s->o->columns < 0 || s->o->tile_w < 0 ||
        s->o->tile_w > CVX_MEDIA_MAX_SIDE || s->o->columns > CVX_MEDIA_MAX_SIDE) {
        return cvx_fail(CVX_EINVAL,
                        "contact sheet %s: %lld tiles of %lld frames, %lld columns, width "
                        "%lld; none may be negative and there must be a frame",
                        path, (long long)s->o->tiles, (long long)f->n, (long long)s->o->columns,
                        (long long)s->o->tile_w);
    }
    s->tiles = want < all ? want : all;
    s->frames = all;
    CVX_ASSERT(s->o->of == 0 || f->n == s->tiles);
    s->tile_w = s->o->tile_w > 0 ? s->o->tile_w : default_width(f);
    s->place = s->tile_w > PLACE ? s->tile_w : PLACE;
    s->tile_h = (2 * s->tile_w * f->h + f->w) / (2 * f->w);
    s->tile_h = s->tile_h < 1 ? 1 : s->o->tile_w == 0 && s->tile_h > TALL ? TALL : s->tile_h;
    s->columns = s->o->columns > 0 ? s->o->columns : choose_columns(s);
    s->columns = s->columns < s->tiles ? s->columns : s->tiles;
    s->rows = (s->tiles + s->columns - 1) / s->columns;
    return CVX_OK;
}

/* Frame numbers spread evenly, first and last included. */
static int64_t frame_of(int64_t tile, int64_t tiles, int64_t frames)
{
    return tiles == 1 ? 0 : (2 * tile * (frames - 1) + tiles - 1) / (2 * (tiles - 1));
}

static cvx_status draw_picture(sheet *s, int64_t frame, double x, double y)
{
    const uint8_t *src = s->f->rgb + frame * s->f->h * s->f->w * 3;
    cairo_surface_t *page = s->page.surface;
    int stride = cairo_image_surface_get_stride(page);

    CVX_RETURN_IF(cvx_image_resize(s->small, s->tile_w, s->tile_h, src, s->f->w, s->f->h,
                                   CVX_FILTER_LANCZOS));
    cairo_surface_flush(page);
    uint8_t *data = cairo_image_surface_get_data(page);
    for (int64_t v = 0; v < s->tile_h; v++) {
        const uint8_t *p = s->small + v * s->tile_w * 3;
        uint8_t *q = data + (int64_t)(y + (double)v) * stride + (int64_t)x * 4;
        for (int64_t u = 0; u < s->tile_w; u++, p += 3, q += 4) {
            uint32_t pixel = (uint32_t)p[0] << 16 | (uint32_t)p[1] << 8 | p[2];
            memcpy(q, &pixel, 4);
        }
    }
    cairo_surface_mark_dirty(page);
    return CVX_OK;
}

/* Number, score and time of frame i, as far as there is room; y: of the baseline. */
static void draw_caption(sheet *s, int64_t i, bool drift, double x, double y)
{
    cvx_canvas *c = &s->page;
    double w = (double)s->tile_w;
    char text[64];

    cvx_canvas_font(c, 12, drift);
    cvx_canvas_colour(c, drift ? CVX_RED : CVX_INK, 1);
    snprintf(text, sizeof text, w >= 160 ? "frame %lld" : "%lld", (long long)i);
    cvx_canvas_text(c, x, y, CVX_LEFT, text);
    cvx_canvas_font(c, 12, false);
    cvx_canvas_colour(c, CVX_MUTED, 1);
    if (s->f->fps.num > 0 && w >= 100) {
        snprintf(text, sizeof text, "%.2f s",
                 (double)i * (double)s->f->fps.den / (double)s->f->fps.num);
        cvx_canvas_text(c, x + w, y, CVX_RIGHT, text);
    }
    if (s->o->score != NULL && isfinite(s->o->score[i]) && w >= 180) {
        snprintf(text, sizeof text, "%.3f", s->o->score[i]);
        cvx_canvas_text(c, x + w / 2, y, CVX_CENTRE, text);
    }
}

static cvx_status draw_tile(sheet *s, int64_t tile, double top)
{
    cvx_canvas *c = &s->page;
    int64_t i = frame_of(tile, s->tiles, s->frames);
    double x = (double)(MARGIN + tile % s->columns * (s->place + GAP));
    double y = top + (double)(tile / s->columns * (s->tile_h + CAPTION + GAP));
    double w = (double)s->tile_w, h = (double)s->tile_h;
    bool drift = s->o->drift != NULL && s->o->drift[i];

    CVX_RETURN_IF(draw_picture(s, s->o->of > 0 ? tile : i, x, y));
    cvx_canvas_colour(c, drift ? CVX_RED : 0xd1d5db, 1);
    double line = drift ? 3 : 1;
    cairo_set_line_width(c->cr, line);
    cairo_rectangle(c->cr, x - line / 2, y - line / 2, w + line, h + line);
    cairo_stroke(c->cr);

    draw_caption(s, i, drift, x, y + h + 17);
    return CVX_OK;
}

/* The title needs a page to be measured on, and the page's height needs the title. */
static cvx_status title_lines(char line[2][CVX_LINE_MAX], int *n, const char *title, int64_t width)
{
    cvx_canvas c;

    CVX_RETURN_IF(cvx_canvas_open(&c, 1, 1));
    cvx_canvas_font(&c, 15, true);
    *n = cvx_canvas_wrap(&c, line, title, (double)(width - 2 * MARGIN));
    cvx_canvas_close(&c);
    return CVX_OK;
}

cvx_status cvx_sheet_write(const char *path, const cvx_frames *f, const cvx_sheet_opts *o)
{
    sheet s = {.f = f, .o = o};
    char line[2][CVX_LINE_MAX];
    int lines = 0;
    cvx_status st;

    CVX_RETURN_IF(layout(&s, path));
    int64_t w = 2 * MARGIN - GAP + s.columns * (s.place + GAP);
    w = w < PAGE ? PAGE : w;
    CVX_RETURN_IF(title_lines(line, &lines, o->title, w));
    int64_t top = MARGIN + (lines > 0 ? lines * 20 + 8 : 0);
    int64_t h = top + s.rows * (s.tile_h + CAPTION + GAP) - GAP + MARGIN - 8;
    if (w > CVX_MEDIA_MAX_SIDE || h > CVX_MEDIA_MAX_SIDE) {
        return cvx_fail(CVX_EINVAL, "contact sheet %s would be %lldx%lld; sides go up to %d", path,
                        (long long)w, (long long)h, CVX_MEDIA_MAX_SIDE);
    }
    s.small = malloc((size_t)(s.tile_w * s.tile_h * 3));
    if (s.small == NULL) {
        return cvx_fail(CVX_ENOMEM, "contact sheet %s: out of memory", path);
    }
    CVX_TRY(st, cvx_canvas_open(&s.page, (int)w, (int)h), done);
    cvx_canvas_font(&s.page, 15, true);
    cvx_canvas_colour(&s.page, CVX_INK, 1);
    for (int i = 0; i < lines; i++) {
        cvx_canvas_text(&s.page, MARGIN, MARGIN + 14 + i * 20, CVX_LEFT, line[i]);
    }
    for (int64_t t = 0; t < s.tiles; t++) {
        CVX_TRY(st, draw_tile(&s, t, (double)top), done);
    }
    st = cvx_canvas_save(&s.page, path);
done:
    cvx_canvas_close(&s.page);
    free(s.small);
    return st;
}

static cvx_status count(const char *video, int64_t *n)
{
    cvx_media_reader *r = NULL;
    bool got = true;

    CVX_RETURN_IF(cvx_media_reader_open(&r, video));
    const cvx_media_info *i = cvx_media_reader_info(r);
    uint8_t *rgb = malloc((size_t)(i->w * i->h * 3));
    cvx_status st = rgb != NULL ? CVX_OK : cvx_fail(CVX_ENOMEM, "%s: no memory for a frame", video);
    for (*n = 0; st == CVX_OK && got; *n += st == CVX_OK && got) {
        st = cvx_media_reader_next(r, rgb, &got);
    }
    free(rgb);
    cvx_media_reader_close(r);
    return st;
}

/* The frames that the sheet shows, of all there are. */
static cvx_status pick(cvx_media_reader *r, const char *video, cvx_frames *f, int64_t frames)
{
    bool got = true;
    int64_t k = 0, frame = f->w * f->h * 3;

    f->rgb =
        malloc((size_t)(f->n + 1) * (size_t)frame); /* the last place is for what is not shown */
    if (f->rgb == NULL) {
        return cvx_fail(CVX_ENOMEM, "%s: no memory for %lld frames", video, (long long)f->n);
    }
    for (int64_t i = 0; i < frames && got; i++) {
        CVX_RETURN_IF(cvx_media_reader_next(r, f->rgb + k * frame, &got));
        k += k < f->n && i == frame_of(k, f->n, frames);
    }
    return k == f->n ? CVX_OK : cvx_fail(CVX_EFORMAT, "%s: has changed while it was read", video);
}

cvx_status cvx_sheet_of_video(const char *path, const char *video, const cvx_sheet_opts *o,
                              cvx_media_info *info, cvx_image *first)
{
    cvx_media_reader *r = NULL;
    cvx_sheet_opts opts = *o;
    cvx_frames f = {0};
    cvx_status st;

    if (cvx_same_file(path, video)) {
        return cvx_fail(CVX_EINVAL, "the input and the output are the same: %s", video);
    }
    CVX_RETURN_IF(cvx_image_check_png(path));
    CVX_RETURN_IF(count(video, &opts.of));
    if (opts.of == 0) {
        return cvx_fail(CVX_EFORMAT, "%s: no frame in it", video);
    }
    CVX_TRY(st, cvx_media_reader_open(&r, video), done);
    cvx_media_info i = *cvx_media_reader_info(r);
    i.frames = opts.of;
    f = (cvx_frames){.w = i.w, .h = i.h, .fps = i.fps};
    f.n = wanted(o) < opts.of ? wanted(o) : opts.of;
    CVX_TRY(st, pick(r, video, &f, opts.of), done);
    CVX_TRY(st, cvx_sheet_write(path, &f, &opts), done);
    if (info != NULL) {
        *info = i;
    }
    if (first != NULL) { /* the rest goes back with the next call for memory */
        *first = (cvx_image){.w = f.w, .h = f.h, .rgb = f.rgb};
        f.rgb = NULL;
    }
done:
    cvx_media_reader_close(r);
    cvx_frames_free(&f);
    return st;
}
