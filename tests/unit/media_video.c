/* Clips: what is written is read back with its count, rate and colours; the bytes repeat; failures
 * leave nothing behind. */
#include <dirent.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>
#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>

#include "base/file.h"
#include "media/video.h"

#define DATA "tests/data/media/"

static char dir[] = "/tmp/cvx-media-video-XXXXXX";

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

/* Up to four names at a time. */
static const char *in_dir(const char *name)
{
    static char path[4][256];
    static int k;

    k = (k + 1) % 4;
    snprintf(path[k], sizeof path[k], "%s/%s", dir, name);
    return path[k];
}

static void ok(cvx_status st)
{
    if (st != CVX_OK) {
        fail_msg("%s", cvx_error());
    }
}

static void expect_error(cvx_status st, cvx_status want, const char *words)
{
    assert_int_equal(st, want);
    if (strstr(cvx_error(), words) == NULL) {
        fail_msg("the message lacks '%s': %s", words, cvx_error());
    }
}

static int entries(const char *path)
{
    int n = 0;
    DIR *d = opendir(path);

    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d)) != NULL;) {
        n += strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
    }
    closedir(d);
    return n;
}

/* A smooth ramp with a flat square that moves right by four pixels a frame; the square's grey level
 * tells the frame's number. */
static void draw(uint8_t *rgb, int64_t w, int64_t h, int64_t t)
{
    for (int64_t y = 0; y < h; y++) {
        for (int64_t x = 0; x < w; x++, rgb += 3) {
            bool in = y >= 8 && y < 24 && x >= 8 + 4 * t && x < 24 + 4 * t;
            rgb[0] = in ? (uint8_t)(10 * t + 40) : (uint8_t)(60 + x);
            rgb[1] = in ? (uint8_t)(10 * t + 40) : (uint8_t)(80 + y);
            rgb[2] = in ? (uint8_t)(10 * t + 40) : 120;
        }
    }
}

/* n bytes that end where a page ends, the next one being out of bounds: whoever reads on dies. */
typedef struct fenced {
    uint8_t *at;
    void *map;
    size_t size;
} fenced;

static fenced fence(size_t n)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), room = (n + page - 1) / page * page;
    fenced f = {.size = room + page};

    f.map = mmap(NULL, f.size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(f.map != MAP_FAILED);
    assert_int_equal(mprotect((char *)f.map + room, page, PROT_NONE), 0);
    f.at = (uint8_t *)f.map + room - n;
    return f;
}

static void write_clip(const char *path, int64_t w, int64_t h, double fps, int64_t n)
{
    cvx_media_writer *out = NULL;
    cvx_media_writer_opts o = {.w = w, .h = h, .fps = fps, .title = "a \xc3\xa9", .comment = "b"};
    fenced frame = fence((size_t)(w * h * 3));

    ok(cvx_media_writer_open(&out, path, &o));
    for (int64_t t = 0; t < n; t++) {
        draw(frame.at, w, h, t);
        ok(cvx_media_writer_frame(out, frame.at));
        memset(frame.at, 0, (size_t)(w * h * 3)); /* the writer must have taken a copy */
    }
    ok(cvx_media_writer_commit(&out));
    assert_null(out);
    munmap(frame.map, frame.size);
}

static double mean_error(const uint8_t *a, const uint8_t *b, int64_t n)
{
    double sum = 0;

    for (int64_t i = 0; i < n; i++) {
        sum += abs(a[i] - b[i]);
    }
    return sum / (double)n;
}

/* The squares' level after a round trip identifies each frame; the mean error bounds the colours. */
static void check_clip(const char *path, int64_t w, int64_t h, int64_t n, double bound)
{
    cvx_frames f = {0};
    uint8_t *want = malloc((size_t)(w * h * 3));

    ok(cvx_frames_read(&f, path, 0));
    assert_int_equal(f.n, n);
    assert_true(f.w >= w && f.w <= w + 1 && f.h >= h && f.h <= h + 1);
    for (int64_t t = 0; t < n; t++) {
        const uint8_t *got = f.rgb + t * f.w * f.h * 3;
        int level = got[(16 * f.w + 16 + 4 * t) * 3 + 1];
        assert_in_range(level + 100, 10 * t + 40 + 100 - 5, 10 * t + 40 + 100 + 5);
        draw(want, w, h, t);
        double e = 0;
        for (int64_t y = 0; y < h; y++) {
            e += mean_error(got + y * f.w * 3, want + y * w * 3, w * 3) / (double)h;
        }
        if (e > bound) {
            fail_msg("%s, frame %d: mean error %g", path, (int)t, e);
        }
    }
    free(want);
    cvx_frames_free(&f);
}

/* ---- rates ------------------------------------------------------------------------------------ */

static void rates_become_the_fractions_that_are_meant(void **state)
{
    static const struct {
        double fps;
        int64_t num, den;
    } cases[] = {{8, 8, 1},
                 {16, 16, 1},
                 {7.5, 15, 2},
                 {12.5, 25, 2},
                 {24, 24, 1},
                 {23.976, 24000, 1001},
                 {23.98, 24000, 1001},
                 {29.97, 30000, 1001},
                 {59.94, 60000, 1001},
                 {0.1, 1, 10},
                 {119.88, 120000, 1001},
                 {1.0 / 3, 1, 3},
                 {8.333333333, 25, 3},
                 {1000, 1000, 1}};
    cvx_fps f;

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        ok(cvx_fps_from_double(&f, cases[i].fps));
        assert_int_equal(f.num, cases[i].num);
        assert_int_equal(f.den, cases[i].den);
    }
    assert_int_equal(cvx_fps_from_double(&f, 0), CVX_EINVAL);
    assert_int_equal(cvx_fps_from_double(&f, -8), CVX_EINVAL);
    assert_int_equal(cvx_fps_from_double(&f, 0.0 / 0.0), CVX_EINVAL);
    assert_int_equal(cvx_fps_from_double(&f, 1001), CVX_EINVAL);
}

/* ---- MP4 -------------------------------------------------------------------------------------- */

/* Offset of a top-level box. */
static long box_at(const char *data, size_t len, const char *type)
{
    for (size_t at = 0; at + 8 <= len;) {
        const unsigned char *p = (const unsigned char *)data + at;
        size_t size = (size_t)p[0] << 24 | (size_t)p[1] << 16 | (size_t)p[2] << 8 | p[3];
        if (memcmp(p + 4, type, 4) == 0) {
            return (long)at;
        }
        if (size < 8) {
            break;
        }
        at += size;
    }
    return -1;
}

/* Straight through libav: what another program sees. */
static void check_mp4_stream(const char *path, int64_t w, int64_t h, int num, int den, int64_t n)
{
    AVFormatContext *f = NULL;
    AVPacket *pkt = av_packet_alloc();
    int64_t packets = 0;

    assert_true(avformat_open_input(&f, path, NULL, NULL) >= 0);
    assert_true(avformat_find_stream_info(f, NULL) >= 0);
    assert_int_equal(f->nb_streams, 1);
    const AVCodecParameters *p = f->streams[0]->codecpar;
    assert_int_equal(p->codec_id, AV_CODEC_ID_H264);
    assert_int_equal(p->format, AV_PIX_FMT_YUV420P);
    assert_int_equal(p->width, w);
    assert_int_equal(p->height, h);
    assert_int_equal(p->color_space, AVCOL_SPC_BT709);
    assert_int_equal(p->color_primaries, AVCOL_PRI_BT709);
    assert_int_equal(p->color_trc, AVCOL_TRC_BT709);
    assert_int_equal(p->color_range, AVCOL_RANGE_MPEG);
    assert_int_equal(f->streams[0]->avg_frame_rate.num, num);
    assert_int_equal(f->streams[0]->avg_frame_rate.den, den);
    assert_int_equal(f->streams[0]->nb_frames, n);
    assert_int_equal(av_rescale_q(n, (AVRational){den, num}, f->streams[0]->time_base),
                     f->streams[0]->duration);
    assert_string_equal(av_dict_get(f->metadata, "title", NULL, 0)->value, "a \xc3\xa9");
    assert_string_equal(av_dict_get(f->metadata, "comment", NULL, 0)->value, "b");
    while (av_read_frame(f, pkt) >= 0) {
        packets++;
        av_packet_unref(pkt);
    }
    assert_int_equal(packets, n);
    av_packet_free(&pkt);
    avformat_close_input(&f);
}

static void mp4_has_every_frame_at_its_rate(void **state)
{
    static const struct {
        double fps;
        int num, den;
    } rates[] = {{8, 8, 1}, {16, 16, 1}, {23.976, 24000, 1001}, {7.5, 15, 2}, {0.5, 1, 2}};
    char *data = NULL;
    size_t len = 0;

    (void)state;
    for (size_t i = 0; i < sizeof rates / sizeof rates[0]; i++) {
        const char *path = in_dir("a.mp4");
        write_clip(path, 96, 64, rates[i].fps, 13);
        check_mp4_stream(path, 96, 64, rates[i].num, rates[i].den, 13);
        /* CRF 17 on a smooth picture, chroma at half size. */
        check_clip(path, 96, 64, 13, 2.0);
        ok(cvx_file_read(&data, &len, path, 1 << 20));
        long moov = box_at(data, len, "moov"), mdat = box_at(data, len, "mdat");
        assert_true(moov > 0 && moov < mdat);
        free(data);
        assert_int_equal(unlink(path), 0);
    }
}

static void one_frame_is_a_clip_too(void **state)
{
    (void)state;
    write_clip(in_dir("one.mp4"), 96, 64, 8, 1);
    check_mp4_stream(in_dir("one.mp4"), 96, 64, 8, 1, 1);
    check_clip(in_dir("one.mp4"), 96, 64, 1, 2.0);
    assert_int_equal(unlink(in_dir("one.mp4")), 0);
}

/* Flat colours go through 4:2:0 unharmed, so each must come back: 8-bit BT.709 in limited range keeps
 * them to about 2, the quantiser adds little. A matrix mistaken for BT.601 would be 20 off in green. */
static void colours_come_back(void **state)
{
    static const uint8_t colours[][3] = {{255, 0, 0},     {0, 255, 0},    {0, 0, 255},
                                         {255, 255, 0},   {0, 0, 0},      {255, 255, 255},
                                         {128, 128, 128}, {200, 120, 40}, {30, 90, 160},
                                         {255, 0, 255}};
    static const char *const names[] = {"c.mp4", "c.webm", "c.gif"};
    uint8_t *rgb = malloc(64 * 48 * 3);

    (void)state;
    for (size_t k = 0; k < 3; k++) {
        for (size_t i = 0; i < sizeof colours / sizeof colours[0]; i++) {
            cvx_media_writer *out = NULL;
            cvx_media_writer_opts o = {.w = 64, .h = 48, .fps = 8};
            cvx_frames f = {0};
            for (int p = 0; p < 64 * 48; p++) {
                memcpy(rgb + p * 3, colours[i], 3);
            }
            ok(cvx_media_writer_open(&out, in_dir(names[k]), &o));
            ok(cvx_media_writer_frame(out, rgb));
            ok(cvx_media_writer_frame(out, rgb));
            ok(cvx_media_writer_commit(&out));
            ok(cvx_frames_read(&f, in_dir(names[k]), 0));
            assert_int_equal(f.n, 2);
            for (int c = 0; c < 3; c++) {
                int got = f.rgb[(24 * 64 + 32) * 3 + c];
                if (abs(got - colours[i][c]) > 4) {
                    fail_msg("%s colour %zu channel %d: %d, wanted %d", names[k], i, c, got,
                             colours[i][c]);
                }
            }
            cvx_frames_free(&f);
            assert_int_equal(unlink(in_dir(names[k])), 0);
        }
    }
    free(rgb);
}

static void same_frames_give_the_same_bytes(void **state)
{
    static const char *const names[] = {"s.mp4", "s.webm", "s.gif"};

    (void)state;
    for (size_t k = 0; k < 3; k++) {
        char *a = NULL, *b = NULL;
        size_t na = 0, nb = 0;
        write_clip(in_dir(names[k]), 96, 64, 8, 9);
        ok(cvx_file_read(&a, &na, in_dir(names[k]), 1 << 22));
        assert_int_equal(setenv("OMP_NUM_THREADS", "3", 1), 0);
        write_clip(in_dir(names[k]), 96, 64, 8, 9); /* also: an existing file is replaced */
        assert_int_equal(unsetenv("OMP_NUM_THREADS"), 0);
        ok(cvx_file_read(&b, &nb, in_dir(names[k]), 1 << 22));
        assert_int_equal(na, nb);
        assert_memory_equal(a, b, na);
        free(a);
        free(b);
        assert_int_equal(unlink(in_dir(names[k])), 0);
    }
}

static void odd_sides_are_padded_by_one(void **state)
{
    static const char *const names[] = {"o.mp4", "o.webm"};
    cvx_frames f = {0};

    (void)state;
    for (int k = 0; k < 2; k++) {
        write_clip(in_dir(names[k]), 97, 63, 8, 5);
        check_clip(in_dir(names[k]), 97, 63, 5, 2.5);
        ok(cvx_frames_read(&f, in_dir(names[k]), 1));
        assert_int_equal(f.n, 1);
        assert_int_equal(f.w, 98);
        assert_int_equal(f.h, 64);
        /* the repeated column and row hold what is beside them */
        assert_in_range(f.rgb[97 * 3] + 10, f.rgb[96 * 3] + 10 - 6, f.rgb[96 * 3] + 10 + 6);
        cvx_frames_free(&f);
        assert_int_equal(unlink(in_dir(names[k])), 0);
    }
}

/* libswscale goes through whole vectors of pixels: of any frame it must see no byte beyond the last. */
static void frames_of_any_size_are_written(void **state)
{
    static const int64_t sizes[][2] = {{16, 16},  {32, 32},  {48, 112}, {112, 16}, {112, 80},
                                       {96, 64},  {101, 17}, {136, 24}, {352, 32}, {240, 160},
                                       {720, 48}, {16, 128}, {3, 2}};
    static const char *const names[] = {"s.mp4", "s.webm", "s.gif"};

    (void)state;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        for (int k = 0; k < 3; k++) {
            write_clip(in_dir(names[k]), sizes[i][0], sizes[i][1], 8, 2);
            assert_int_equal(unlink(in_dir(names[k])), 0);
        }
    }
}

/* ---- WebM, GIF, folders ----------------------------------------------------------------------- */

static void webm_comes_back(void **state)
{
    cvx_media_reader *r = NULL;

    (void)state;
    write_clip(in_dir("a.webm"), 96, 64, 7.5, 10);
    check_clip(in_dir("a.webm"), 96, 64, 10, 2.5);
    ok(cvx_media_reader_open(&r, in_dir("a.webm")));
    assert_int_equal(cvx_media_reader_info(r)->fps.num, 15);
    assert_int_equal(cvx_media_reader_info(r)->fps.den, 2);
    cvx_media_reader_close(r);
    assert_int_equal(unlink(in_dir("a.webm")), 0);
}

/* Delays are whole centiseconds: 8 frames at 8 per second are 100 of them, not 8 x 12 or 8 x 13. */
static void gif_keeps_the_mean_rate(void **state)
{
    static const struct {
        double fps;
        int64_t n, num, den;
    } cases[] = {{8, 8, 8, 1},    {8, 16, 8, 1},  {16, 16, 16, 1},
                 {30, 30, 30, 1}, {50, 3, 50, 1}, {7.5, 15, 15, 2}};

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        cvx_media_reader *r = NULL;
        write_clip(in_dir("a.gif"), 128, 33, cases[i].fps, cases[i].n);
        ok(cvx_media_reader_open(&r, in_dir("a.gif")));
        assert_int_equal(cvx_media_reader_info(r)->frames, cases[i].n);
        assert_int_equal(cvx_media_reader_info(r)->fps.num, cases[i].num);
        assert_int_equal(cvx_media_reader_info(r)->fps.den, cases[i].den);
        cvx_media_reader_close(r);
        /* 255 colours for a ramp of about 2,000: dithered, each channel within a few levels */
        if (cases[i].n <= 10) {
            check_clip(in_dir("a.gif"), 128, 33, cases[i].n, 5.0);
        }
        assert_int_equal(unlink(in_dir("a.gif")), 0);
    }
}

static void remove_frames(const char *path, int n)
{
    for (int i = 0; i < n; i++) {
        char name[300];
        snprintf(name, sizeof name, "%s/%04d.png", path, i);
        assert_int_equal(unlink(name), 0);
    }
    assert_int_equal(rmdir(path), 0);
}

static void folders_hold_exact_frames(void **state)
{
    (void)state;
    write_clip(in_dir("new"), 33, 21, 8, 4); /* no extension, does not exist */
    assert_int_equal(entries(in_dir("new")), 4);
    check_clip(in_dir("new"), 33, 21, 4, 0.0);
    assert_int_equal(entries(dir), 1);
    write_clip(in_dir("new/"), 35, 31, 8, 2); /* replaces the four frames */
    assert_int_equal(entries(in_dir("new")), 2);
    check_clip(in_dir("new"), 35, 31, 2, 0.0);
    remove_frames(in_dir("new"), 2);
    write_clip(in_dir("v1.5/"), 33, 31, 8, 1); /* a dot in the name, but a slash at its end */
    remove_frames(in_dir("v1.5"), 1);
}

static void a_folder_with_other_things_is_refused(void **state)
{
    cvx_media_writer *out = NULL;
    cvx_media_writer_opts o = {.w = 8, .h = 8, .fps = 8};
    uint8_t rgb[8 * 8 * 3] = {0};

    (void)state;
    ok(cvx_mkdirs(in_dir("home")));
    ok(cvx_file_write(in_dir("home/thesis.txt"), "x", 1));
    expect_error(cvx_media_writer_open(&out, in_dir("home"), &o), CVX_EINVAL, "thesis.txt");
    assert_null(out);
    expect_error(cvx_media_writer_check(in_dir("home/"), &o), CVX_EINVAL, "thesis.txt");
    assert_int_equal(entries(in_dir("home")), 1);
    assert_int_equal(unlink(in_dir("home/thesis.txt")), 0);
    /* It appears between open and commit: nothing is removed, nothing of ours stays. */
    ok(cvx_media_writer_open(&out, in_dir("home"), &o));
    ok(cvx_media_writer_frame(out, rgb));
    ok(cvx_file_write(in_dir("home/0001.png.bak"), "x", 1));
    expect_error(cvx_media_writer_commit(&out), CVX_EINVAL, "0001.png.bak");
    assert_int_equal(entries(in_dir("home")), 1);
    assert_int_equal(unlink(in_dir("home/0001.png.bak")), 0);
    assert_int_equal(rmdir(in_dir("home")), 0);
}

static void folders_are_read_in_natural_order(void **state)
{
    static const char *const names[] = {"f/frame10.png", "f/frame9.png", "f/frame100.png",
                                        "f/frame02.png"};
    static const uint8_t order[] = {3, 1, 0, 2};
    cvx_frames f = {0};

    (void)state;
    ok(cvx_mkdirs(in_dir("f")));
    for (uint8_t i = 0; i < 4; i++) {
        uint8_t px[3] = {i, i, i};
        ok(cvx_image_write_png(in_dir(names[i]), px, 1, 1));
    }
    ok(cvx_file_write(in_dir("f/notes.txt"), "x", 1));
    ok(cvx_frames_read(&f, in_dir("f"), 0));
    assert_int_equal(f.n, 4);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(f.rgb[i * 3], order[i]);
    }
    assert_int_equal(f.fps.num, 0);
    cvx_frames_free(&f);
    /* one of another size */
    ok(cvx_image_write_png(in_dir(names[0]), (const uint8_t[6]){0}, 2, 1));
    expect_error(cvx_frames_read(&f, in_dir("f"), 0), CVX_EFORMAT, "frame10.png");
    for (int i = 0; i < 4; i++) {
        assert_int_equal(unlink(in_dir(names[i])), 0);
    }
    expect_error(cvx_frames_read(&f, in_dir("f"), 0), CVX_EFORMAT, "holds no");
    assert_int_equal(unlink(in_dir("f/notes.txt")), 0);
    assert_int_equal(rmdir(in_dir("f")), 0);
}

/* ---- reading what others wrote ---------------------------------------------------------------- */

static void rotation_is_applied(void **state)
{
    static const int turns[] = {90, 180, 270};

    (void)state;
    for (int i = 0; i < 3; i++) {
        char path[256];
        cvx_frames f = {0};
        cvx_image want = {0};
        snprintf(path, sizeof path, DATA "turned-%d.mp4", turns[i]);
        ok(cvx_frames_read(&f, path, 0));
        snprintf(path, sizeof path, DATA "turned-%d.want.png", turns[i]);
        ok(cvx_image_read(&want, path));
        assert_int_equal(f.n, 4);
        assert_int_equal(f.w, want.w);
        assert_int_equal(f.h, want.h);
        /* ffmpeg scales chroma by other means: 5 on this sharp test card; a wrong turn gives 60. */
        double e = mean_error(f.rgb, want.rgb, f.w * f.h * 3);
        if (e > 10) {
            fail_msg("turn by %d: mean difference %g", turns[i], e);
        }
        cvx_frames_free(&f);
        cvx_image_free(&want);
    }
}

static void deep_colour_and_alpha_are_read(void **state)
{
    cvx_frames deep = {0}, flat = {0}, alpha = {0};

    (void)state;
    ok(cvx_frames_read(&deep, DATA "deep.mp4", 0));
    ok(cvx_frames_read(&flat, DATA "flat.mp4", 0));
    assert_int_equal(deep.n, 4);
    /* The same picture at the same quality in 10 and in 8 bits. */
    assert_true(mean_error(deep.rgb, flat.rgb, flat.n * flat.w * flat.h * 3) < 3.0);
    ok(cvx_frames_read(&alpha, DATA "alpha.mov", 0));
    assert_int_equal(alpha.n, 2);
    assert_in_range(alpha.rgb[0], 126, 129); /* red at half opacity on black */
    assert_int_equal(alpha.rgb[1], 0);
    cvx_frames_free(&deep);
    cvx_frames_free(&flat);
    cvx_frames_free(&alpha);
}

static void a_picture_is_one_frame(void **state)
{
    cvx_frames f = {0};

    (void)state;
    ok(cvx_frames_read(&f, DATA "kind-turn6.jpg", 0));
    assert_int_equal(f.n, 1);
    assert_int_equal(f.w, 32);
    assert_int_equal(f.h, 48);
    cvx_frames_free(&f);
}

static void bad_sources_are_refused_by_name(void **state)
{
    cvx_media_reader *r = NULL;
    cvx_frames f = {0};
    char *data = NULL;
    size_t len = 0;
    static const char list[] = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nflat.mp4\n";

    (void)state;
    expect_error(cvx_media_reader_open(&r, in_dir("none.mp4")), CVX_EIO, "none.mp4");
    expect_error(cvx_media_reader_open(&r, DATA "sound.m4a"), CVX_EFORMAT, "no video");
    ok(cvx_file_write(in_dir("x.mp4"), "this is no video\n", 17));
    expect_error(cvx_media_reader_open(&r, in_dir("x.mp4")), CVX_EFORMAT, "x.mp4");
    ok(cvx_file_write(in_dir("x.mp4"), "", 0));
    expect_error(cvx_media_reader_open(&r, in_dir("x.mp4")), CVX_EFORMAT, "x.mp4");
    ok(cvx_file_write(in_dir("x.mp4"), list, sizeof list - 1));
    expect_error(cvx_media_reader_open(&r, in_dir("x.mp4")), CVX_EFORMAT, "x.mp4");
    assert_int_equal(unlink(in_dir("x.mp4")), 0);
    /* cut short in the frames: the index at the front still promises all of them */
    write_clip(in_dir("x.mp4"), 96, 64, 8, 13);
    ok(cvx_file_read(&data, &len, in_dir("x.mp4"), 1 << 22));
    long mdat = box_at(data, len, "mdat");
    for (size_t cut = (size_t)mdat + 16; cut < len; cut += (len - (size_t)mdat) / 5) {
        ok(cvx_file_write(in_dir("x.mp4"), data, cut));
        expect_error(cvx_frames_read(&f, in_dir("x.mp4"), 0), CVX_EFORMAT, "x.mp4");
        assert_null(f.rgb);
    }
    ok(cvx_file_write(in_dir("x.mp4"), data, 300));
    expect_error(cvx_frames_read(&f, in_dir("x.mp4"), 0), CVX_EFORMAT, "x.mp4");
    free(data);
    assert_int_equal(unlink(in_dir("x.mp4")), 0);
}

/* ---- failing to write ------------------------------------------------------------------------- */

static void wrong_outputs_are_refused(void **state)
{
    cvx_media_writer *out = NULL;
    cvx_media_writer_opts o = {.w = 96, .h = 64, .fps = 8};

    (void)state;
    expect_error(cvx_media_writer_open(&out, in_dir("a.avi"), &o), CVX_EINVAL, ".mp4, .webm, .gif");
    expect_error(cvx_media_writer_open(&out, "", &o), CVX_EINVAL, "name of a file or a folder");
    expect_error(cvx_media_writer_open(&out, in_dir("no/a.mp4"), &o), CVX_EIO, "no/a.mp4");
    expect_error(cvx_media_writer_open(&out, in_dir("no/frames"), &o), CVX_EIO, "no/frames");
    o.w = 0;
    expect_error(cvx_media_writer_open(&out, in_dir("a.mp4"), &o), CVX_EINVAL, "0x64");
    o = (cvx_media_writer_opts){.w = 20000, .h = 64, .fps = 8};
    expect_error(cvx_media_writer_open(&out, in_dir("a.mp4"), &o), CVX_EINVAL, "16384");
    o = (cvx_media_writer_opts){.w = 96, .h = 64, .fps = 0};
    expect_error(cvx_media_writer_open(&out, in_dir("a.mp4"), &o), CVX_EINVAL, "frame rate");
    o = (cvx_media_writer_opts){.w = 96, .h = 64, .fps = 60};
    expect_error(cvx_media_writer_open(&out, in_dir("a.gif"), &o), CVX_EINVAL, "at most 50");
    o = (cvx_media_writer_opts){.w = 96, .h = 64, .fps = 8, .crf = 60};
    expect_error(cvx_media_writer_open(&out, in_dir("a.mp4"), &o), CVX_EINVAL, "0 to 51");
    assert_null(out);
    assert_int_equal(entries(dir), 0);
}

static void abort_and_empty_leave_nothing(void **state)
{
    static const char *const names[] = {"q.mp4", "q.webm", "q.gif", "q"};
    cvx_media_writer_opts o = {.w = 96, .h = 64, .fps = 8};
    uint8_t *rgb = calloc(96 * 64, 3);

    (void)state;
    for (int k = 0; k < 4; k++) {
        cvx_media_writer *out = NULL;
        ok(cvx_media_writer_open(&out, in_dir(names[k]), &o));
        ok(cvx_media_writer_frame(out, rgb));
        assert_int_equal(access(in_dir(names[k]), F_OK), -1); /* not there before commit */
        cvx_media_writer_abort(out);
        assert_int_equal(entries(dir), 0);
        ok(cvx_media_writer_open(&out, in_dir(names[k]), &o));
        expect_error(cvx_media_writer_commit(&out), CVX_EINVAL, "no frames");
        assert_null(out);
        assert_int_equal(entries(dir), 0);
    }
    cvx_media_writer_abort(NULL);
    free(rgb);
}

/* A file size limit stands for a full disk: writing fails in the middle. */
static void a_full_disk_is_one_clear_error(void **state)
{
    static const char *const names[] = {"d.mp4", "d.webm", "d.gif", "d"};
    cvx_media_writer_opts o = {.w = 256, .h = 256, .fps = 8};
    struct rlimit old, low;
    uint8_t *rgb = malloc(256 * 256 * 3);
    uint32_t x = 1;

    (void)state;
    for (int i = 0; i < 256 * 256 * 3; i++) { /* noise does not compress */
        x = x * 1664525u + 1013904223u;
        rgb[i] = (uint8_t)(x >> 24);
    }
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    low = old;
    low.rlim_cur = 20000;
    for (int k = 0; k < 4; k++) {
        cvx_media_writer *out = NULL;
        cvx_status st = CVX_OK;
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &low), 0);
        ok(cvx_media_writer_open(&out, in_dir(names[k]), &o));
        for (int i = 0; i < 3 && st == CVX_OK; i++) {
            st = cvx_media_writer_frame(out, rgb);
        }
        if (st == CVX_OK) {
            st = cvx_media_writer_commit(&out);
        }
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
        expect_error(st, CVX_EIO, "File too large");
        cvx_media_writer_abort(out);
        assert_int_equal(entries(dir), 0);
    }
    free(rgb);
}

/* ---- conversion ------------------------------------------------------------------------------- */

static void gif_conversion_resamples_time_and_size(void **state)
{
    cvx_media_reader *r = NULL;

    (void)state;
    write_clip(in_dir("in.mp4"), 96, 64, 8, 12);
    ok(cvx_media_gif_convert(in_dir("in.mp4"), in_dir("out.gif"), 0, 0));
    ok(cvx_media_reader_open(&r, in_dir("out.gif")));
    assert_int_equal(cvx_media_reader_info(r)->frames, 12);
    assert_int_equal(cvx_media_reader_info(r)->fps.num, 8);
    assert_int_equal(cvx_media_reader_info(r)->w, 96);
    cvx_media_reader_close(r);
    ok(cvx_media_gif_convert(in_dir("in.mp4"), in_dir("out.gif"), 4, 48));
    ok(cvx_media_reader_open(&r, in_dir("out.gif")));
    assert_int_equal(cvx_media_reader_info(r)->frames, 6);
    assert_int_equal(cvx_media_reader_info(r)->fps.num, 4);
    assert_int_equal(cvx_media_reader_info(r)->w, 48);
    assert_int_equal(cvx_media_reader_info(r)->h, 32);
    cvx_media_reader_close(r);
    ok(cvx_media_gif_convert(in_dir("in.mp4"), in_dir("frames/"), 16, 0));
    ok(cvx_media_reader_open(&r, in_dir("frames")));
    assert_int_equal(cvx_media_reader_info(r)->frames, 24);
    cvx_media_reader_close(r);
    remove_frames(in_dir("frames"), 24);
    expect_error(cvx_media_gif_convert(in_dir("in.mp4"), in_dir("out.gif"), 80, 0), CVX_EINVAL,
                 "50");
    expect_error(cvx_media_gif_convert(in_dir("in.mp4"), in_dir("out.gif"), 8, -1), CVX_EINVAL,
                 "width");
    expect_error(cvx_media_gif_convert(in_dir("in.mp4"), in_dir("in.mp4"), 8, 0), CVX_EINVAL,
                 "same");
    assert_int_equal(unlink(in_dir("out.gif")), 0);
    assert_int_equal(unlink(in_dir("in.mp4")), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rates_become_the_fractions_that_are_meant),
        cmocka_unit_test(mp4_has_every_frame_at_its_rate),
        cmocka_unit_test(one_frame_is_a_clip_too),
        cmocka_unit_test(colours_come_back),
        cmocka_unit_test(same_frames_give_the_same_bytes),
        cmocka_unit_test(odd_sides_are_padded_by_one),
        cmocka_unit_test(frames_of_any_size_are_written),
        cmocka_unit_test(webm_comes_back),
        cmocka_unit_test(gif_keeps_the_mean_rate),
        cmocka_unit_test(folders_hold_exact_frames),
        cmocka_unit_test(a_folder_with_other_things_is_refused),
        cmocka_unit_test(folders_are_read_in_natural_order),
        cmocka_unit_test(rotation_is_applied),
        cmocka_unit_test(deep_colour_and_alpha_are_read),
        cmocka_unit_test(a_picture_is_one_frame),
        cmocka_unit_test(bad_sources_are_refused_by_name),
        cmocka_unit_test(wrong_outputs_are_refused),
        cmocka_unit_test(abort_and_empty_leave_nothing),
        cmocka_unit_test(a_full_disk_is_one_clear_error),
        cmocka_unit_test(gif_conversion_resamples_time_and_size),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
