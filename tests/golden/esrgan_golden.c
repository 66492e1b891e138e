/* Real-ESRGAN against the reference (agrees with ncnn and spandrel to 3e-6), and tiles against the whole picture.
 * Goldens in tests/data hold every third row and column, some in f16 (2^-11 of rounding for values around 1); with
 * CVX_FIXTURES in the environment the larger networks and whole pictures are tested too. */
#include "model/esrgan/esrgan.h"
#include "stages_golden.h"

#define BOUND 2e-3 /* what is asked for; f32 gives some 1e-5, the goldens' f16 5e-4 */

typedef struct fixture {
    bench_top b;
    cvx_esrgan_config cfg;
    cvx_esrgan *m;
} fixture;

static void open_fixture(fixture *f, const char *backend, const char *isa, const char *dir)
{
    bench_open(&f->b, backend, isa, dir);
    OK(cvx_esrgan_config_load(&f->cfg, dir));
    OK(cvx_esrgan_open(&f->m, &f->b.load, &f->cfg));
}

static void close_fixture(fixture *f)
{
    cvx_esrgan_close(f->m);
    bench_close(&f->b);
}

/* The picture in one piece, then by cubic interpolation to `scale`; caller frees. */
static float *whole(fixture *f, const float *x, int64_t h, int64_t w, double scale)
{
    int64_t n = f->cfg.factor, sh = (int64_t)((double)h * scale), sw = (int64_t)((double)w * scale);
    float *y = malloc((size_t)(h * w * n * n * 3) * sizeof *y);
    cvx_tensor in = CVX_VIEW((void *)(uintptr_t)x, CVX_F32, h, w, 3);
    cvx_tensor out = CVX_VIEW(y, CVX_F32, h * n, w * n, 3);

    OK(cvx_esrgan_run(f->m, &f->b.step, &out, &in));
    if (scale == (double)n) {
        return y;
    }
    float *small = malloc((size_t)(sh * sw * 3) * sizeof *small);
    cvx_tensor to = CVX_VIEW(small, CVX_F32, sh, sw, 3);
    OK(cvx_op_resize(
        f->b.ctx, &(cvx_resize_args){
                      .y = &to, .x = &out, .step = (double)n / scale, .gain = 1, .cubic = true}));
    free(y);
    return small;
}

static void one(fixture *f, cvx_weights *g, const char *in_name, const char *want_name,
                double scale, int64_t every)
{
    cvx_tensor in = golden(g, in_name), want = golden(g, want_name);
    int64_t h = in.dim[2], w = in.dim[3];
    float *x = picture_of(&in, stored_as(g, in_name), 0, h, w, 3);
    float *y = whole(f, x, h, w, scale);
    double e = picture_error(y, (int64_t)((double)w * scale), 3, &want, 0, every);

    print_message("  %-24s greatest difference %.1e\n", want_name, e);
    assert_true(e < BOUND);
    free(x);
    free(y);
    free(in.data);
    free(want.data);
}

/* The demo's tiles, ramps and all, which do not hide that each sees its own part only. */
static void demo_tiles(fixture *f, cvx_weights *g, const char *in_name, const char *want_name,
                       int64_t every)
{
    cvx_tensor in = golden(g, in_name), want = golden(g, want_name);
    int64_t h = in.dim[2], w = in.dim[3], n = f->cfg.factor;
    float *x = picture_of(&in, stored_as(g, in_name), 0, h, w, 3);
    float *y = malloc((size_t)(h * w * n * n * 3) * sizeof *y);

    OK(cvx_esrgan_tiled(f->m, &f->b.step, y, x, h, w,
                        &(cvx_esrgan_tiling){.tile = 32, .overlap = 8}));
    double e = picture_error(y, w * n, 3, &want, 0, every);
    print_message("  %-24s greatest difference %.1e\n", want_name, e);
    assert_true(e < BOUND);
    free(x);
    free(y);
    free(in.data);
    free(want.data);
}

/* Tiles with the default margin against one piece. */
static double seams(fixture *f, const float *x, int64_t h, int64_t w, int64_t tile)
{
    cvx_esrgan_tiling t = cvx_esrgan_default_tiling(&f->cfg);
    int64_t n = f->cfg.factor, count = h * w * n * n * 3;
    float *y = whole(f, x, h, w, (double)n), *z = malloc((size_t)count * sizeof *z);
    double most = 0;

    t.tile = tile;
    OK(cvx_esrgan_tiled(f->m, &f->b.step, z, x, h, w, &t));
    for (int64_t i = 0; i < count; i++) {
        most = fmax(most, fabs((double)y[i] - (double)z[i]));
    }
    print_message("  tiles of %-3lld of %lldx%lld  greatest difference from one piece %.1e\n",
                  (long long)tile, (long long)w, (long long)h, most);
    free(y);
    free(z);
    return most;
}

static void compact(fixture *f)
{
    cvx_weights *g = NULL;

    OK(cvx_weights_open(&g, DATA "stages/realesr-animevideov3.safetensors"));
    one(f, g, "tiny.in", "tiny.x4", 4, 3);
    if (strcmp(f->b.ctx->ops->name, "ref") != 0) { /* slow, and the levels are tested against it */
        one(f, g, "odd.in", "odd.x4", 4, 3);
        one(f, g, "tiny.in", "tiny.x2", 2, 3);
        one(f, g, "odd.in", "odd.x2", 2, 3);
        demo_tiles(f, g, "tiled.in", "tiled.tile32_overlap8", 3);
        cvx_tensor in = golden(g, "odd.in");
        float *x = picture_of(&in, CVX_U8, 0, in.dim[2], in.dim[3], 3);
        /* the margin is as wide as the network sees: the same numbers, but for their rounding */
        assert_true(seams(f, x, in.dim[2], in.dim[3], 16) < 2e-5);
        assert_true(seams(f, x, in.dim[2], in.dim[3], 33) < 2e-5);
        assert_true(seams(f, x, 21, in.dim[3], 64) < 2e-5);
        free(x);
        free(in.data);
    }
    cvx_weights_close(g);
}

/* A picture repeated to the right, every second time mirrored, in tiles whose margins end far from its ends: 1/255 is asked
 * for. */
static void strip(fixture *f, cvx_weights *g)
{
    cvx_tensor in = golden(g, "a.in");
    int64_t h = in.dim[2], w = in.dim[3], times = 5, all = w * times;
    float *x = picture_of(&in, CVX_F32, 0, h, w, 3);
    float *wide = malloc((size_t)(h * all * 3) * sizeof *wide);

    for (int64_t i = 0; i < h * all; i++) {
        int64_t c = i % all, from = c / w % 2 == 0 ? c % w : w - 1 - c % w;
        memcpy(wide + 3 * i, x + (i / all * w + from) * 3, 3 * sizeof *x);
    }
    assert_true(seams(f, wide, h, all, 96) < 1.0 / 255);
    free(wide);
    free(x);
    free(in.data);
}

/* The networks that are too large to be kept here. */
static void from_fixtures(const char *backend, const char *isa, const char *name, bool seamless)
{
    const char *fixtures = getenv("CVX_FIXTURES");
    char path[400];
    cvx_weights *g = NULL;
    fixture f;

    if (fixtures == NULL || strcmp(backend, "ref") == 0) {
        return;
    }
    print_message("%s\n", name);
    snprintf(path, sizeof path, "%s/stages/models/%s", fixtures, name);
    open_fixture(&f, backend, isa, path);
    snprintf(path, sizeof path, "%s/stages/goldens/%s.safetensors", fixtures, name);
    OK(cvx_weights_open(&g, path));
    one(&f, g, "tiny.in", "tiny.out", f.cfg.scale, 1);
    one(&f, g, "a.in", "a.out", f.cfg.scale, 1);
    one(&f, g, "odd.in", "odd.out", f.cfg.scale, 1);
    if (seamless && isa != NULL && strcmp(isa, cvx_cpu_isa()) == 0) {
        strip(&f, g);
    }
    cvx_weights_close(g);
    close_fixture(&f);
}

/* A small RRDBNet of random weights, of which every part must stand in its place: the picture in one piece against the same
 * network on `ref`, in two bands and more of rows (32 source rows make a band). */
static void small_rrdb(const char *backend, const char *isa)
{
    static const char *const dir = DATA "variants/tiny-rrdb";
    cvx_weights *g = NULL;
    fixture f;

    open_fixture(&f, backend, isa, dir);
    OK(cvx_weights_open(&g, DATA "variants/tiny-rrdb/golden.safetensors"));
    one(&f, g, "in", "out", 4, 3);
    cvx_weights_close(g);
    close_fixture(&f);
}

static void on_level(const char *backend, const char *isa)
{
    fixture f;

    if (isa != NULL && cvx_cpu_ops(isa) == NULL) {
        print_message("  SKIP: this machine has no %s\n", isa);
        skip();
    }
    open_fixture(&f, backend, isa, CVX_SOURCE_DIR "/models/realesr-animevideov3");
    compact(&f);
    close_fixture(&f);
    small_rrdb(backend, isa);
    from_fixtures(backend, isa, "realesr-animevideov3-x4", false);
    from_fixtures(backend, isa, "realesr-animevideov3-x2", false);
    from_fixtures(backend, isa, "realesrgan-x4plus-anime-6b", true);
    from_fixtures(backend, isa, "realesrgan-x4plus", false);
}

LEVEL_TESTS(on_level)

int main(void)
{
    const struct CMUnitTest tests[] = {LEVEL_TEST_LIST};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
