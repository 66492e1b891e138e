/* The score plot and the contact sheet: looked at pixel by pixel where it matters. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "media/plot.h"

/* fontconfig keeps its parsed configuration until the process ends. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void)
{
    return "leak:libfontconfig";
}

static char file[] = "/tmp/cvx-media-plot-XXXXXX.png";

static int make_file(void **state)
{
    (void)state;
    int fd = mkstemps(file, 4);
    return fd < 0 ? -1 : close(fd);
}

static int remove_file(void **state)
{
    (void)state;
    return unlink(file);
}

static cvx_image drawn(cvx_status st)
{
    cvx_image img = {0};

    if (st != CVX_OK || cvx_image_read(&img, file) != CVX_OK) {
        fail_msg("%s", cvx_error());
    }
    return img;
}

static bool is_red(const uint8_t *p)
{
    return p[0] > 180 && p[1] < 80 && p[2] < 80;
}

static bool is_blue(const uint8_t *p)
{
    return p[0] < 80 && p[1] < 130 && p[2] > 200;
}

/* Pixels below the legend for which `what` holds, with their mean position. */
static int64_t count(const cvx_image *img, bool (*what)(const uint8_t *), double *x, double *y)
{
    int64_t n = 0;

    *x = *y = 0;
    for (int64_t v = 60; v < img->h; v++) {
        for (int64_t u = 0; u < img->w; u++) {
            if (what(img->rgb + (v * img->w + u) * 3)) {
                *x += (double)u;
                *y += (double)v;
                n++;
            }
        }
    }
    *x /= n > 0 ? (double)n : 1;
    *y /= n > 0 ? (double)n : 1;
    return n;
}

static void a_drifting_frame_is_one_red_dot_in_its_place(void **state)
{
    double score[41], x, y;
    bool drift[41] = {false};
    cvx_plot_opts o = {.score = score, .n = 41, .drift = drift, .title = "a red circle"};

    (void)state;
    for (int i = 0; i < 41; i++) {
        score[i] = 0.5;
    }
    score[20] = 0.3;
    cvx_image img = drawn(cvx_plot_scores(file, &o));
    assert_int_equal(img.w, 900);
    assert_int_equal(img.h, 420);
    assert_int_equal(count(&img, is_red, &x, &y), 0);
    assert_true(count(&img, is_blue, &x, &y) > 500);
    cvx_image_free(&img);
    drift[20] = true;
    img = drawn(cvx_plot_scores(file, &o));
    int64_t n = count(&img, is_red, &x, &y);
    assert_in_range(n, 40, 80);   /* a disc of radius 4.5 has 64 pixels */
    assert_in_range(x, 468, 476); /* the middle of an axis from 68 to 876 */
    assert_in_range(y, 300, 372); /* the lowest score: near the lower end of the axis */
    cvx_image_free(&img);
}

static void hard_scores_are_drawn(void **state)
{
    double gaps[5] = {0.5, NAN, 0.6, INFINITY, 0.55}, flat[3] = {7, 7, 7}, big[2] = {-1e9, 1e9}, x,
           y;
    double *many = calloc(5000, sizeof *many);
    bool drift[5] = {false, true, false, true, false};
    cvx_plot_opts o = {.score = gaps, .n = 5, .drift = drift};

    (void)state;
    cvx_image img = drawn(cvx_plot_scores(file, &o));
    assert_true(count(&img, is_red, &x, &y) > 80); /* both marks, though they have no score */
    cvx_image_free(&img);
    o = (cvx_plot_opts){.score = gaps, .n = 1, .w = 320, .h = 200};
    img = drawn(cvx_plot_scores(file, &o));
    assert_int_equal(img.w, 320);
    assert_int_equal(img.h, 200);
    cvx_image_free(&img);
    o = (cvx_plot_opts){.score = flat, .n = 3};
    img = drawn(cvx_plot_scores(file, &o));
    assert_true(count(&img, is_blue, &x, &y) > 500);
    cvx_image_free(&img);
    o = (cvx_plot_opts){.score = big, .n = 2};
    img = drawn(cvx_plot_scores(file, &o));
    assert_true(count(&img, is_blue, &x, &y) > 300);
    cvx_image_free(&img);
    o = (cvx_plot_opts){.score = many, .n = 5000};
    img = drawn(cvx_plot_scores(file, &o));
    cvx_image_free(&img);
    free(many);
}

/* A score is never below 0, so the axis does not go there: the curve of zeros lies on it. */
static void scores_of_nothing_lie_on_the_axis(void **state)
{
    const double score[] = {0, 3, 0, 0, 0, 0};
    double x, y;

    (void)state;
    cvx_image img = drawn(cvx_plot_scores(file, &(cvx_plot_opts){.score = score, .n = 6}));
    assert_true(count(&img, is_blue, &x, &y) > 0);
    for (int64_t v = img.h - 50 + 6; v < img.h; v++) { /* below the axis and its dots */
        for (int64_t u = 0; u < img.w; u++) {
            assert_false(is_blue(img.rgb + (v * img.w + u) * 3));
        }
    }
    const uint8_t *on_axis = img.rgb + ((img.h - 51) * img.w + 68 + 8 + (img.w - 108) * 7 / 10) * 3;
    assert_true(is_blue(on_axis) || is_blue(on_axis + img.w * 3));
    cvx_image_free(&img);
}

static void titles_of_any_bytes_are_drawn(void **state)
{
    static const char *const titles[] = {"",
                                         "   ",
                                         "caf\xc3\xa9 \xe7\x8a\xac",
                                         "\xff\xfe\xc3",
                                         "\xed\xa0\x80 \xc0\xaf \xf4\x90\x80\x80",
                                         "two\nlines\tand\x01 more",
                                         "%s%n"};
    double score[2] = {0.1, 0.2};
    char *word = malloc(100001);

    (void)state;
    for (size_t i = 0; i < sizeof titles / sizeof titles[0]; i++) {
        cvx_plot_opts o = {.score = score, .n = 2, .title = titles[i]};
        cvx_image img = drawn(cvx_plot_scores(file, &o));
        cvx_image_free(&img);
    }
    for (int k = 0; k < 3; k++) { /* one endless word; of long characters; many words */
        for (int i = 0; i < 100000; i++) {
            word[i] = k == 0 ? 'W' : k == 1 ? "\xe7\x8a\xac"[i % 3] : "ab "[i % 3];
        }
        word[100000] = 0;
        cvx_plot_opts o = {.score = score, .n = 2, .title = word};
        cvx_image img = drawn(cvx_plot_scores(file, &o));
        cvx_image_free(&img);
    }
    free(word);
}

static void impossible_plots_are_refused(void **state)
{
    double score[2] = {NAN, INFINITY};
    cvx_plot_opts o = {.score = score, .n = 2};

    (void)state;
    assert_int_equal(cvx_plot_scores(file, &o), CVX_EINVAL);
    o.n = 0;
    assert_int_equal(cvx_plot_scores(file, &o), CVX_EINVAL);
    score[0] = 1;
    o = (cvx_plot_opts){.score = score, .n = 1, .w = 100, .h = 100};
    assert_int_equal(cvx_plot_scores(file, &o), CVX_EINVAL);
    o = (cvx_plot_opts){.score = score, .n = 1};
    assert_int_equal(cvx_plot_scores("/no/such/folder/a.png", &o), CVX_EIO);
}

/* Frames of one gray level each, so that a tile tells which frame it shows. */
static cvx_frames gray_clip(int64_t n, int64_t w, int64_t h)
{
    cvx_frames f = {.n = n, .w = w, .h = h, .fps = {8, 1}};

    f.rgb = malloc((size_t)(n * w * h * 3));
    for (int64_t i = 0; i < n; i++) {
        memset(f.rgb + i * w * h * 3, (int)(10 + 4 * i), (size_t)(w * h * 3));
    }
    return f;
}

static void a_sheet_shows_evenly_spread_frames(void **state)
{
    static const int64_t want[] = {0, 16, 32, 48}; /* of 49, first and last included */
    bool drift[49] = {false};
    cvx_frames f = gray_clip(49, 72, 48);
    cvx_sheet_opts o = {.tiles = 4, .columns = 2, .tile_w = 120, .drift = drift};

    (void)state;
    drift[32] = true;
    cvx_image img = drawn(cvx_sheet_write(file, &f, &o));
    assert_int_equal(img.w, 24 + 120 + 16 + 120 + 24);
    for (int64_t t = 0; t < 4; t++) {
        int64_t x = 24 + t % 2 * 136 + 60, y = 24 + t / 2 * (80 + 22 + 16) + 40;
        assert_int_equal(img.rgb[(y * img.w + x) * 3], 10 + 4 * want[t]);
        /* just outside the left edge: the border */
        assert_int_equal(is_red(img.rgb + (y * img.w + x - 62) * 3), want[t] == 32);
    }
    cvx_image_free(&img);
    cvx_frames_free(&f);
}

static void sheets_of_any_shape_are_drawn(void **state)
{
    static const int64_t shapes[][3] = {{1, 64, 64}, {3, 1, 200}, {13, 300, 2}, {12, 96, 64}};

    (void)state;
    for (int i = 0; i < 4; i++) {
        cvx_frames f = gray_clip(shapes[i][0], shapes[i][1], shapes[i][2]);
        cvx_sheet_opts o = {.title = "a title that does not fit on so narrow a sheet, at all, ever",
                            .tile_w = i == 1 ? 4 : 0};
        cvx_image img = drawn(cvx_sheet_write(file, &f, &o));
        assert_true(img.w <= CVX_MEDIA_MAX_SIDE && img.h <= CVX_MEDIA_MAX_SIDE);
        cvx_image_free(&img);
        cvx_frames_free(&f);
    }
}

/* Frames that are very wide or high are seen, and their sheet stays a picture that can be written. */
static void extreme_frames_have_sheets_too(void **state)
{
    static const int64_t shapes[][4] = {/* w, h of a frame; at least so wide, at most so high */
                                        {2000, 20, 1200, 1000},
                                        {20, 2000, 288, 900},
                                        {1, 4096, 288, 900},
                                        {4096, 1, 1200, 1000},
                                        {48, 72, 1000, 1400}};

    (void)state;
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        cvx_frames f = gray_clip(12, shapes[i][0], shapes[i][1]);
        cvx_image img = drawn(cvx_sheet_write(file, &f, &(cvx_sheet_opts){.title = "x"}));
        assert_in_range(img.w, shapes[i][2], CVX_MEDIA_MAX_SIDE);
        assert_in_range(img.h, 1, shapes[i][3]);
        cvx_image_free(&img);
        cvx_frames_free(&f);
    }
}

/* Captions of small tiles stay below them: nothing is written between two. */
static void captions_of_small_tiles_do_not_meet(void **state)
{
    cvx_frames f = gray_clip(60, 48, 32);
    cvx_sheet_opts o = {.tiles = 60, .columns = 10, .tile_w = 32};

    (void)state;
    f.fps = (cvx_fps){1, 60};
    cvx_image img = drawn(cvx_sheet_write(file, &f, &o));
    for (int64_t y = 0; y < img.h; y++) {
        for (int64_t column = 1; column < 10; column++) {
            int64_t x = 24 + column * 48 - 8;
            assert_int_equal(img.rgb[(y * img.w + x) * 3], 255);
        }
    }
    cvx_image_free(&img);
    cvx_frames_free(&f);
}

static void impossible_sheets_are_refused(void **state)
{
    cvx_frames f = gray_clip(2, 8, 8);
    cvx_sheet_opts o = {.tiles = -1};

    (void)state;
    assert_int_equal(cvx_sheet_write(file, &f, &o), CVX_EINVAL);
    o = (cvx_sheet_opts){.tile_w = 16384};
    assert_int_equal(cvx_sheet_write(file, &f, &o), CVX_EINVAL);
    o = (cvx_sheet_opts){0};
    assert_int_equal(cvx_sheet_write("/no/such/folder/a.png", &f, &o), CVX_EIO);
    f.n = 0;
    assert_int_equal(cvx_sheet_write(file, &f, &o), CVX_EINVAL);
    cvx_frames_free(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_drifting_frame_is_one_red_dot_in_its_place),
        cmocka_unit_test(hard_scores_are_drawn),
        cmocka_unit_test(scores_of_nothing_lie_on_the_axis),
        cmocka_unit_test(titles_of_any_bytes_are_drawn),
        cmocka_unit_test(impossible_plots_are_refused),
        cmocka_unit_test(a_sheet_shows_evenly_spread_frames),
        cmocka_unit_test(sheets_of_any_shape_are_drawn),
        cmocka_unit_test(extreme_frames_have_sheets_too),
        cmocka_unit_test(captions_of_small_tiles_do_not_meet),
        cmocka_unit_test(impossible_sheets_are_refused),
    };
    return cmocka_run_group_tests(tests, make_file, remove_file);
}
