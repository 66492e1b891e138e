/* Pictures: resizing against Pillow's own results, reading each kind of file, refusing bad ones. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "media/image.h"

#define DATA "tests/data/media/"

static char dir[] = "/tmp/cvx-media-image-XXXXXX";

static int make_dir(void **state)
{
    (void)state;
    return mkdtemp(dir) == NULL ? -1 : 0;
}

static int remove_dir(void **state)
{
    (void)state;
    return rmdir(dir); /* fails if anything was left behind */
}

static const char *in_dir(const char *name)
{
    static char path[256];

    snprintf(path, sizeof path, "%s/%s", dir, name);
    return path;
}

static cvx_image must_read(const char *path)
{
    cvx_image img = {0};

    if (cvx_image_read(&img, path) != CVX_OK) {
        fail_msg("%s", cvx_error());
    }
    return img;
}

static int worst(const cvx_image *a, const cvx_image *b)
{
    int max = 0;

    assert_int_equal(a->w, b->w);
    assert_int_equal(a->h, b->h);
    for (int64_t i = 0; i < a->w * a->h * 3; i++) {
        int d = abs(a->rgb[i] - b->rgb[i]);
        max = d > max ? d : max;
    }
    return max;
}

static void resize_has_the_bits_of_pillow(void **state)
{
    static const char *const names[] = {"bilinear", "bicubic", "lanczos"};
    static const int64_t sizes[][2] = {{64, 48}, {13, 9}, {41, 12}, {20, 31}, {35, 10}};
    cvx_image src = must_read(DATA "noise.png");

    (void)state;
    for (int f = 0; f < 3; f++) {
        for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
            char path[256];
            int64_t w = sizes[i][0], h = sizes[i][1];
            snprintf(path, sizeof path, DATA "noise-%s-%dx%d.png", names[f], (int)w, (int)h);
            cvx_image want = must_read(path), got = {w, h, malloc((size_t)(w * h * 3))};
            assert_int_equal(cvx_image_resize(got.rgb, w, h, src.rgb, src.w, src.h, (cvx_filter)f),
                             CVX_OK);
            assert_int_equal(worst(&got, &want), 0); /* the same integers in the same order */
            cvx_image_free(&want);
            cvx_image_free(&got);
        }
    }
    cvx_image_free(&src);
}

static void resize_keeps_flat_colour_and_refuses_no_size(void **state)
{
    uint8_t src[7 * 5 * 3], dst[16 * 3 * 3];

    (void)state;
    memset(src, 201, sizeof src);
    assert_int_equal(cvx_image_resize(dst, 16, 3, src, 7, 5, CVX_FILTER_LANCZOS), CVX_OK);
    for (size_t i = 0; i < sizeof dst; i++) {
        assert_int_equal(dst[i], 201); /* weights sum to 1 within 2^-22 times the taps */
    }
    assert_int_equal(cvx_image_resize(dst, 0, 3, src, 7, 5, CVX_FILTER_LANCZOS), CVX_EINVAL);
    assert_int_equal(cvx_image_resize(dst, 1, 16385, src, 7, 5, CVX_FILTER_LANCZOS), CVX_EINVAL);
}

static void every_kind_reads_as_pillow_reads_it(void **state)
{
    static const char *const kinds[] = {
        "rgb.png",        "rgba.png",  "la.png",      "gray.png",      "bits.png",
        "gray2.png",      "gray4.png", "palette.png", "deep.png",      "exif.png",
        "interlaced.png", "bmp.bmp",   "half.jpg",    "lossless.webp", "gray8.jpg",
        "turn1.jpg",      "turn2.jpg", "turn3.jpg",   "turn4.jpg",     "turn5.jpg",
        "turn6.jpg",      "turn7.jpg", "turn8.jpg",   "turned.tiff",   "pale.tiff"};

    (void)state;
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        char path[256];
        int stem = (int)(strrchr(kinds[i], '.') - kinds[i]);
        snprintf(path, sizeof path, DATA "kind-%.*s.want.png", stem, kinds[i]);
        cvx_image want = must_read(path);
        snprintf(path, sizeof path, DATA "kind-%s", kinds[i]);
        cvx_image got = must_read(path);
        int d = worst(&got, &want);
        if (d != 0) {
            fail_msg("%s is off by %d", kinds[i], d);
        }
        cvx_image_free(&got);
        cvx_image_free(&want);
    }
}

/* 16 bits of gray span black to white, as 8 bits do. */
static void deep_gray_is_cut_to_its_high_byte(void **state)
{
    static const uint8_t high[] = {0, 1, 16, 77, 128, 235, 254, 255};
    char pgm[64];
    size_t n = (size_t)snprintf(pgm, sizeof pgm, "P5\n8 1\n65535\n");

    (void)state;
    for (size_t i = 0; i < sizeof high; i++) {
        pgm[n++] = (char)high[i];
        pgm[n++] = (char)high[i];
    }
    assert_int_equal(cvx_file_write(in_dir("deep.pgm"), pgm, n), CVX_OK);
    cvx_image img = must_read(in_dir("deep.pgm"));
    for (size_t i = 0; i < sizeof high; i++) {
        for (size_t c = 0; c < 3; c++) {
            assert_in_range(img.rgb[3 * i + c] + 1, high[i], high[i] + 2);
        }
    }
    cvx_image_free(&img);
    assert_int_equal(unlink(in_dir("deep.pgm")), 0);
}

static void orientation_turns_the_right_way(void **state)
{
    /* a b     c a      6: a quarter turn clockwise; 8 turns back
     * c d  -> d b */
    static const uint8_t turned[] = {3, 3, 3, 1, 1, 1, 4, 4, 4, 2, 2, 2};
    cvx_image img = {2, 2, malloc(12)};

    (void)state;
    for (int i = 0; i < 12; i++) {
        img.rgb[i] = (uint8_t)(i / 3 + 1);
    }
    assert_int_equal(cvx_image_orient(&img, 6), CVX_OK);
    assert_memory_equal(img.rgb, turned, 12);
    assert_int_equal(cvx_image_orient(&img, 8), CVX_OK);
    assert_int_equal(img.rgb[0], 1);
    assert_int_equal(img.rgb[3], 2);
    assert_int_equal(cvx_image_orient(&img, 99), CVX_OK);
    assert_int_equal(img.rgb[0], 1);
    cvx_image_free(&img);
}

static void png_comes_back_and_is_always_the_same(void **state)
{
    char *first = NULL, *second = NULL;
    size_t n1 = 0, n2 = 0;
    cvx_image src = must_read(DATA "noise.png");

    (void)state;
    assert_int_equal(cvx_image_write_png(in_dir("a.png"), src.rgb, src.w, src.h), CVX_OK);
    cvx_image back = must_read(in_dir("a.png"));
    assert_int_equal(worst(&src, &back), 0);
    assert_int_equal(cvx_file_read(&first, &n1, in_dir("a.png"), 1 << 20), CVX_OK);
    assert_int_equal(cvx_image_write_png(in_dir("a.png"), src.rgb, src.w, src.h), CVX_OK);
    assert_int_equal(cvx_file_read(&second, &n2, in_dir("a.png"), 1 << 20), CVX_OK);
    assert_int_equal(n1, n2);
    assert_memory_equal(first, second, n1);
    assert_int_equal(unlink(in_dir("a.png")), 0);
    free(first);
    free(second);
    cvx_image_free(&src);
    cvx_image_free(&back);
}

/* Writes the first n bytes of a good picture, with byte `flip` inverted, and expects a refusal. */
static void expect_bad(const char *good, const char *what, size_t n, size_t flip)
{
    char *data = NULL;
    size_t len = 0;
    cvx_image img = {0};

    assert_int_equal(cvx_file_read(&data, &len, good, 1 << 20), CVX_OK);
    n = n < len ? n : len;
    if (flip < n) {
        data[flip] = (char)~data[flip];
    }
    assert_int_equal(cvx_file_write(in_dir("bad.png"), data, n), CVX_OK);
    if (cvx_image_read(&img, in_dir("bad.png")) != CVX_EFORMAT) {
        fail_msg("%s was not refused", what);
    }
    assert_non_null(strstr(cvx_error(), "bad.png"));
    assert_null(img.rgb);
    assert_int_equal(unlink(in_dir("bad.png")), 0);
    free(data);
}

static void bad_pictures_are_refused_by_name(void **state)
{
    cvx_image img = {0};

    (void)state;
    expect_bad(DATA "noise.png", "half a file", 2000, SIZE_MAX);
    expect_bad(DATA "noise.png", "a header alone", 20, SIZE_MAX);
    expect_bad(DATA "noise.png", "a wrong checksum", SIZE_MAX, 1000);
    expect_bad(DATA "noise.png", "an immense width", SIZE_MAX,
               16); /* first byte of the width: 4 billion pixels */
    expect_bad(DATA "kind-half.jpg", "half a JPEG", 700, SIZE_MAX);
    expect_bad(DATA "kind-half.jpg", "a JPEG header alone", 30, SIZE_MAX);
    assert_int_equal(cvx_image_read(&img, in_dir("missing.png")), CVX_EIO);
    assert_int_equal(cvx_image_read(&img, dir), CVX_EIO);
    assert_non_null(strstr(cvx_error(), "a folder"));
    assert_int_equal(cvx_image_read(&img, "/dev/null"), CVX_EIO);
    assert_non_null(strstr(cvx_error(), "a device"));
    /* libav would give a black picture */
    assert_int_equal(cvx_image_read(&img, DATA "jpeg-within.tiff"), CVX_EUNSUPPORTED);
    assert_int_equal(cvx_file_write(in_dir("words.jpg"), "no picture at all\n", 18), CVX_OK);
    assert_int_equal(cvx_image_read(&img, in_dir("words.jpg")), CVX_EFORMAT);
    assert_int_equal(cvx_file_write(in_dir("words.jpg"), "", 0), CVX_OK);
    assert_int_equal(cvx_image_read(&img, in_dir("words.jpg")), CVX_EFORMAT);
    assert_int_equal(unlink(in_dir("words.jpg")), 0);
}

static void png_into_nowhere_leaves_nothing(void **state)
{
    uint8_t px[3] = {1, 2, 3};

    (void)state;
    assert_int_equal(cvx_image_write_png(in_dir("no/such/a.png"), px, 1, 1), CVX_EIO);
    assert_int_equal(cvx_image_write_png(in_dir("a.png"), px, 0, 1), CVX_EINVAL);
    assert_int_equal(cvx_image_write_png(in_dir("a.png"), px, 1, 16385), CVX_EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(resize_has_the_bits_of_pillow),
        cmocka_unit_test(resize_keeps_flat_colour_and_refuses_no_size),
        cmocka_unit_test(every_kind_reads_as_pillow_reads_it),
        cmocka_unit_test(deep_gray_is_cut_to_its_high_byte),
        cmocka_unit_test(orientation_turns_the_right_way),
        cmocka_unit_test(png_comes_back_and_is_always_the_same),
        cmocka_unit_test(bad_pictures_are_refused_by_name),
        cmocka_unit_test(png_into_nowhere_leaves_nothing),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
