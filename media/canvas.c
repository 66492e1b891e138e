#include "media/canvas.h"

#include <stdlib.h>
#include <string.h>

#include "media/image.h"

cvx_status cvx_canvas_open(cvx_canvas *c, int w, int h)
{
    cairo_font_options_t *fonts = cairo_font_options_create();

    *c = (cvx_canvas){.w = w, .h = h};
    c->surface = cairo_image_surface_create(CAIRO_FORMAT_RGB24, w, h);
    c->cr = cairo_create(c->surface);
    /* Not the desktop's settings: the picture may be shown anywhere. */
    cairo_font_options_set_antialias(fonts, CAIRO_ANTIALIAS_GRAY);
    cairo_font_options_set_hint_style(fonts, CAIRO_HINT_STYLE_SLIGHT);
    cairo_font_options_set_hint_metrics(fonts, CAIRO_HINT_METRICS_ON);
    cairo_set_font_options(c->cr, fonts);
    cairo_font_options_destroy(fonts);
    cairo_set_source_rgb(c->cr, 1, 1, 1);
    cairo_paint(c->cr);
    if (cairo_status(c->cr) != CAIRO_STATUS_SUCCESS) {
        cvx_canvas_close(c);
        return cvx_fail(CVX_ENOMEM, "no memory for a page of %dx%d", w, h);
    }
    return CVX_OK;
}

void cvx_canvas_close(cvx_canvas *c)
{
    if (c->cr != NULL) {
        cairo_destroy(c->cr);
        cairo_surface_destroy(c->surface);
    }
    *c = (cvx_canvas){0};
}

cvx_status cvx_canvas_save(cvx_canvas *c, const char *path)
{
    cairo_status_t err = cairo_status(c->cr);

    CVX_RETURN_IF(cvx_image_check_png(path));
    if (err != CAIRO_STATUS_SUCCESS) {
        return cvx_fail(err == CAIRO_STATUS_NO_MEMORY ? CVX_ENOMEM : CVX_EUNSUPPORTED,
                        "cannot draw %s: %s", path, cairo_status_to_string(err));
    }
    cairo_surface_flush(c->surface);
    const uint8_t *data = cairo_image_surface_get_data(c->surface);
    int stride = cairo_image_surface_get_stride(c->surface);
    uint8_t *rgb = malloc((size_t)c->w * (size_t)c->h * 3), *out = rgb;
    if (rgb == NULL) {
        return cvx_fail(CVX_ENOMEM, "cannot write %s: out of memory", path);
    }
    for (int y = 0; y < c->h; y++) {
        for (int x = 0; x < c->w; x++, out += 3) {
            uint32_t p;
            memcpy(&p, data + (size_t)y * (size_t)stride + (size_t)x * 4, 4);
            out[0] = (uint8_t)(p >> 16);
            out[1] = (uint8_t)(p >> 8);
            out[2] = (uint8_t)p;
        }
    }
    cvx_status st = cvx_image_write_png(path, rgb, c->w, c->h);
    free(rgb);
    return st;
}

void cvx_canvas_colour(cvx_canvas *c, unsigned rgb, double alpha)
{
    cairo_set_source_rgba(c->cr, (rgb >> 16) / 255.0, (rgb >> 8 & 255) / 255.0, (rgb & 255) / 255.0,
                          alpha);
}

void cvx_canvas_font(cvx_canvas *c, double size, bool bold)
{
    cairo_select_font_face(c->cr, "sans-serif", CAIRO_FONT_SLANT_NORMAL,
                           bold ? CAIRO_FONT_WEIGHT_BOLD : CAIRO_FONT_WEIGHT_NORMAL);
    cairo_set_font_size(c->cr, size);
}

static double text_width(cvx_canvas *c, const char *text)
{
    cairo_text_extents_t e;

    cairo_text_extents(c->cr, text, &e);
    return e.x_advance;
}

double cvx_canvas_text(cvx_canvas *c, double x, double y, cvx_align align, const char *text)
{
    double w = text_width(c, text);

    cairo_move_to(c->cr, align == CVX_LEFT ? x : align == CVX_CENTRE ? x - w / 2 : x - w, y);
    cairo_show_text(c->cr, text);
    cairo_new_path(c->cr);
    return w;
}

/* ---- wrapping --------------------------------------------------------------------------------- */

/* The length of the UTF-8 sequence at s, 0 if it is none. Surrogates and overlong forms are not. */
static size_t sequence(const unsigned char *s)
{
    unsigned c = s[0];
    size_t n = c < 0x80 ? 1 : c >= 0xc2 && c < 0xe0 ? 2 : c >= 0xe0 && c < 0xf0 ? 3 : 4;

    if (c >= 0x80 && (c < 0xc2 || c > 0xf4)) {
        return 0;
    }
    for (size_t i = 1; i < n; i++) {
        if ((s[i] & 0xc0) != 0x80) {
            return 0;
        }
    }
    bool overlong = (c == 0xe0 && s[1] < 0xa0) || (c == 0xf0 && s[1] < 0x90);
    bool beyond = (c == 0xed && s[1] > 0x9f) || (c == 0xf4 && s[1] > 0x8f);
    return n > 1 && (overlong || beyond) ? 0 : n;
}

/* Valid UTF-8, single spaces, no control characters; cut (between characters) at `room`. */
static void clean(char *out, size_t room, const char *text)
{
    size_t n = 0;
    const unsigned char *s = (const unsigned char *)text;

    while (*s != 0) {
        size_t len = sequence(s);
        bool blank = len == 1 && (*s <= ' ' || *s == 0x7f);
        if (n + 5 > room) {
            break;
        }
        if (blank && (n == 0 || out[n - 1] == ' ')) {
            s++;
            continue;
        }
        if (len <= 1) {
            out[n++] = blank ? ' ' : len == 0 ? '?' : (char)*s;
            s++;
        } else {
            memcpy(out + n, s, len);
            n += len;
            s += len;
        }
    }
    n -= n > 0 && out[n - 1] == ' ';
    out[n] = 0;
}

/* How many bytes of text fit into width: the end of the last word that does, or of the last character
 * if not even one word does. */
static size_t fitting(cvx_canvas *c, const char *text, double width)
{
    char part[2 * CVX_LINE_MAX];
    size_t word = 0, any = 0;

    for (size_t i = 0; text[i] != 0;) {
        i += sequence((const unsigned char *)text + i);
        memcpy(part, text, i);
        part[i] = 0;
        if (text_width(c, part) > width) {
            break;
        }
        any = i;
        if (text[i] == 0 || text[i] == ' ') {
            word = i;
        }
    }
    return word > 0 ? word : any;
}

static void put_line(char *line, const char *text, size_t n, const char *end)
{
    size_t room = CVX_LINE_MAX - 8;

    while (n > room || (n > 0 && ((unsigned char)text[n] & 0xc0) == 0x80)) {
        n--;
    }
    memcpy(line, text, n);
    memcpy(line + n, end, strlen(end) + 1);
}

int cvx_canvas_wrap(cvx_canvas *c, char line[2][CVX_LINE_MAX], const char *text, double width)
{
    static const char ellipsis[] = "\xe2\x80\xa6";
    char all[2 * CVX_LINE_MAX];
    const char *rest;

    clean(all, sizeof all, text == NULL ? "" : text);
    if (all[0] == 0) {
        return 0;
    }
    size_t n = fitting(c, all, width);
    put_line(line[0], all, n, "");
    rest = all + n;
    rest += *rest == ' ';
    if (*rest == 0) {
        return 1;
    }
    n = fitting(c, rest, width);
    if (rest[n] == 0) {
        put_line(line[1], rest, n, "");
        return 2;
    }
    n = fitting(c, rest, width - text_width(c, ellipsis));
    while (n > 0 && strchr(" .,;:", rest[n - 1]) != NULL) {
        n--;
    }
    put_line(line[1], rest, n, ellipsis);
    return 2;
}
