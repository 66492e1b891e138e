/* The VAE against diffusers: decode and encode, whole and tiled, inside of one chunk; every backend
 * level. */
#include "golden.h"

#include <string.h>

#include "model/vae/vae.h"

#define GIB ((size_t)1 << 30)

/* f32 against f32 in another order of addition, through some 30 layers of up to 27·32 products. */
#define BOUND 1e-4

typedef struct fixture {
    cvx_ctx *ctx;
    cvx_mesh *mesh;
    cvx_arena weights_arena, step;
    cvx_weights *weights, *golden;
    cvx_vae_config cfg;
    cvx_vae *vae;
} fixture;

static void open_fixture(fixture *f, const char *backend, const char *isa, const char *model,
                         const char *file)
{
    char path[512];

    *f = (fixture){0};
    OK(cvx_ctx_open(&f->ctx, &(cvx_ctx_options){.backend = backend, .isa = isa, .threads = 2}));
    OK(cvx_ctx_arena(f->ctx, &f->weights_arena, "weights", GIB));
    OK(cvx_ctx_arena(f->ctx, &f->step, "step", 4 * GIB));
    snprintf(path, sizeof path, DATA "variants/%s/vae", model);
    OK(cvx_vae_config_load(&f->cfg, path));
    OK(cvx_weights_open(&f->weights, path));
    OK(cvx_mesh_self(&f->mesh));
    cvx_load load = {.ctx = f->ctx,
                     .arena = &f->weights_arena,
                     .weights = f->weights,
                     .pack = true,
                     .mesh = f->mesh};
    OK(cvx_vae_open(&f->vae, &load, &f->cfg));
    snprintf(path, sizeof path, DATA "%s", file);
    OK(cvx_weights_open(&f->golden, path));
}

static void close_fixture(fixture *f)
{
    cvx_vae_close(f->vae);
    cvx_weights_close(f->weights);
    cvx_weights_close(f->golden);
    cvx_arena_close(&f->weights_arena);
    cvx_arena_close(&f->step);
    cvx_ctx_close(f->ctx);
    cvx_mesh_close(f->mesh);
}

/* [1, C, F, h, w] as the model takes it: [F, C, h, w], a view. */
static cvx_tensor frames_first(const cvx_tensor *t)
{
    cvx_tensor v = CVX_VIEW(t->data, CVX_F32, t->dim[2], t->dim[1], t->dim[3], t->dim[4]);

    v.stride[0] = t->stride[2];
    v.stride[1] = t->stride[1];
    return v;
}

/* Collects frames as [C, F, H, W], the goldens' order. */
typedef struct video {
    float *data;
    int64_t frames, plane, seen, calls;
} video;

static cvx_status collect(void *payload, const float *rgb, int64_t first, int64_t n)
{
    video *v = payload;

    assert_int_equal(first, v->seen);
    for (int64_t i = 0; i < n; i++) {
        for (int64_t c = 0; c < 3; c++) {
            memcpy(v->data + (c * v->frames + first + i) * v->plane, rgb + (i * 3 + c) * v->plane,
                   (size_t)v->plane * sizeof *rgb);
        }
    }
    v->seen += n;
    v->calls++;
    return CVX_OK;
}

/* Every fifth value of a video against "NAME.every5": five meets every column and channel in turn. */
static void close_to_every5(cvx_weights *golden_file, const char *name, const video *v,
                            double bound)
{
    char key[64];
    int64_t n = v->frames * 3 * v->plane, few = (n + 4) / 5;
    float *some = malloc((size_t)few * sizeof *some);

    for (int64_t i = 0; i < few; i++) {
        some[i] = v->data[5 * i];
    }
    snprintf(key, sizeof key, "%s.every5", name);
    close_to(golden_file, key, some, few, bound);
    free(some);
}

static video decode(fixture *f, const cvx_tensor *z, const cvx_vae_tiling *tiling)
{
    cvx_tensor in = frames_first(z);
    video v = {.frames = cvx_vae_video_frames(&f->cfg, in.dim[0]),
               .plane = in.dim[2] * in.dim[3] * 64};

    v.data = calloc((size_t)(v.frames * 3 * v.plane), sizeof *v.data);
    OK(cvx_vae_decode(f->vae, &f->step, &in, tiling, collect, &v));
    assert_int_equal(v.seen, v.frames);
    assert_int_equal(f->step.used, 0);
    return v;
}

/* Means of the posterior [16, F', h, w] (then the log variances); the caller frees. */
static float *encode(fixture *f, const cvx_tensor *x, const cvx_vae_tiling *tiling, int64_t *n_mean)
{
    cvx_tensor in = frames_first(x), m;
    int64_t lf = cvx_vae_latent_frames(&f->cfg, in.dim[0]), c = f->cfg.latent_channels;

    m = CVX_VIEW(NULL, CVX_F32, 2 * c, lf, in.dim[2] / 8, in.dim[3] / 8);
    m.data = malloc((size_t)cvx_numel(&m) * sizeof(float));
    OK(cvx_vae_encode(f->vae, &f->step, &m, &in, tiling));
    *n_mean = cvx_numel(&m) / 2;
    return m.data;
}

static void variant(const char *backend, const char *isa, const char *model)
{
    fixture f;
    char path[256];

    snprintf(path, sizeof path, "variants/%s/golden.safetensors", model);
    open_fixture(&f, backend, isa, model, path);
    cvx_tensor z = golden(f.golden, "vae_z");
    video v = decode(&f, &z, NULL);
    close_to_every5(f.golden, "vae_decode", &v, BOUND);
    assert_int_equal(v.calls, z.dim[2] / 2);

    /* the reference encoded its own decoded frames, of which ours have just been shown to be the same */
    cvx_tensor x = CVX_VIEW(v.data, CVX_F32, 1, 3, v.frames, z.dim[3] * 8, z.dim[4] * 8);
    for (int64_t i = 0; i < cvx_numel(&x); i++) {
        v.data[i] = v.data[i] < -1 ? -1 : v.data[i] > 1 ? 1 : v.data[i];
    }
    int64_t n;
    float *mean = encode(&f, &x, NULL, &n);
    close_to(f.golden, "vae_encode_mean", mean, n, BOUND);
    free(mean);
    free(v.data);
    free(z.data);
    close_fixture(&f);
}

static void tiled_5b(const char *backend, const char *isa)
{
    const cvx_vae_tiling tiling = {.enabled = true,
                                   .sample_min_height = 48,
                                   .sample_min_width = 80};
    fixture f;

    open_fixture(&f, backend, isa, "tiny-5b", "variants/tiny-5b/golden.safetensors");
    cvx_tensor z = golden(f.golden, "vae_tiled_z");
    video v = decode(&f, &z, &tiling);
    close_to_every5(f.golden, "vae_tiled_decode", &v, BOUND);
    free(v.data);
    free(z.data);
    close_fixture(&f);
}

/* The value of `from` (dims 2 .. 4) at a place between its values, as torch's trilinear interpolate reads it. */
static double between(const cvx_tensor *from, const int64_t *size, const int64_t at[4])
{
    int64_t low[3], step[3];
    double part[3], sum = 0;

    for (int d = 0; d < 3; d++) {
        int64_t n = from->dim[2 + d];
        double p = ((double)at[1 + d] + 0.5) * (double)n / (double)size[d] - 0.5;
        p = p < 0 ? 0 : p;
        low[d] = (int64_t)p;
        step[d] = low[d] < n - 1;
        part[d] = p - (double)low[d];
    }
    for (int k = 0; k < 8; k++) {
        const int up[3] = {k >> 2, k >> 1 & 1, k & 1};
        int64_t i = at[0];
        double w = 1;
        for (int d = 0; d < 3; d++) {
            i = i * from->dim[2 + d] + low[d] + up[d] * step[d];
            w *= up[d] ? part[d] : 1 - part[d];
        }
        sum += w * (double)((float *)from->data)[i];
    }
    return sum;
}

/* to [1, 3, F, H, W] <- 2·from - 1, enlarged and rounded to f16: the reference's input, but for an ulp here and there where its
 * single precision rounds otherwise (some 1e-6 in the mean square). */
static void enlarge(const cvx_tensor *to, const cvx_tensor *from)
{
    const int64_t *d = to->dim;

    for (int64_t i = 0; i < cvx_numel(to); i++) {
        int64_t at[4] = {i / d[4] / d[3] / d[2], i / d[4] / d[3] % d[2], i / d[4] % d[3], i % d[4]};
        float v = (float)(between(from, d + 2, at) * 2 - 1);
        ((float *)to->data)[i] = cvx_f16_to_f32(cvx_f32_to_f16(v));
    }
}

static void tiled_extra(const char *backend, const char *isa)
{
    const cvx_vae_tiling tiling = {.enabled = true,
                                   .sample_min_height = 48,
                                   .sample_min_width = 80};
    fixture f;
    int64_t n;

    open_fixture(&f, backend, isa, "tiny-5b", "extra/vae-tiled.safetensors");
    cvx_tensor small = golden(f.golden, "x.small");
    cvx_tensor x = CVX_VIEW(NULL, CVX_F32, 1, 3, 9, 96, 144);
    x.data = malloc((size_t)cvx_numel(&x) * sizeof(float));
    enlarge(&x, &small);
    free(small.data);
    float *mean = encode(&f, &x, NULL, &n);
    close_to(f.golden, "encode_mean", mean, n, BOUND);
    free(mean);
    mean = encode(&f, &x, &tiling, &n);
    close_to(f.golden, "encode_tiled_mean", mean, n, BOUND);
    free(mean);
    cvx_tensor z = golden(f.golden, "encode_tiled_mean");
    video v = decode(&f, &z, &tiling);
    /* stored in f16: rounding alone is up to 2^-11 of each value, 2^-12.8 in the mean square */
    close_to_every5(f.golden, "decode_tiled_of_it", &v, 3e-4);
    free(v.data);
    free(z.data);
    free(x.data);
    close_fixture(&f);
}

typedef struct inside {
    cvx_weights *golden;
    int seen;
} inside;

static void on_part(void *payload, const char *name, const cvx_tensor *t)
{
    static const char *const pairs[][2] = {{"conv_in", "vae.conv_in"},
                                           {"mid", "vae.mid"},
                                           {"block0", "vae.up0"}};
    inside *in = payload;
    const int64_t *d = t->dim;
    int64_t n = d[0] * d[1] * d[2] * d[3], at = 0;

    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        if (strcmp(name, pairs[i][0]) != 0) {
            continue;
        }
        float *flat = malloc((size_t)n * sizeof *flat);
        for (int64_t c = 0; c < d[3]; c++) {
            for (int64_t f = 0; f < d[0]; f++) {
                for (int64_t r = 0; r < d[1]; r++) {
                    for (int64_t x = 0; x < d[2]; x++, at++) {
                        flat[at] = ((float *)t->data)[f * t->stride[0] + r * t->stride[1] +
                                                      x * t->stride[2] + c];
                    }
                }
            }
        }
        close_to(in->golden, pairs[i][1], flat, n, BOUND);
        free(flat);
        in->seen++;
    }
}

static void inside_5b(const char *backend, const char *isa)
{
    fixture f;

    open_fixture(&f, backend, isa, "tiny-5b", "extra/inside-5b.safetensors");
    cvx_tensor l = golden(f.golden, "latents_2"); /* [1, F, C, h, w] */
    cvx_tensor z = CVX_VIEW(l.data, CVX_F32, l.dim[1], l.dim[2], l.dim[3], l.dim[4]);
    float *p = l.data;
    for (int64_t i = 0; i < cvx_numel(&l); i++) {
        p[i] = (float)(1 / f.cfg.scaling_factor) * p[i];
    }
    inside in = {.golden = f.golden};
    video v = {.frames = 9, .plane = 32 * 48};
    v.data = calloc((size_t)(v.frames * 3 * v.plane), sizeof *v.data);
    cvx_vae_set_tap(f.vae, on_part, &in);
    OK(cvx_vae_decode(f.vae, &f.step, &z, NULL, collect, &v));
    assert_int_equal(in.seen, 3);
    free(v.data);
    free(l.data);
    close_fixture(&f);
}

static void every(const char *backend, const char *isa)
{
    static const char *const models[] = {"tiny-2b", "tiny-5b", "tiny-5b-i2v", "tiny-1.5-5b",
                                         "tiny-1.5-5b-i2v"};

    if (strcmp(backend, "cpu") == 0 && cvx_cpu_ops(isa) == NULL) {
        print_message("  SKIP: this machine has no %s\n", isa);
        skip();
    }
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        print_message("%s %s\n", isa, models[i]);
        variant(backend, isa, models[i]);
    }
    tiled_5b(backend, isa);
    tiled_extra(backend, isa);
    inside_5b(backend, isa);
}

LEVEL_TESTS(every)

/* A measured decode tells what a real one takes, byte for byte, and touches nothing. */
static void test_measure(void **state)
{
    fixture f;
    cvx_arena counted;

    (void)state;
    open_fixture(&f, "cpu", "auto", "tiny-5b", "variants/tiny-5b/golden.safetensors");
    cvx_tensor z = golden(f.golden, "vae_z");
    video v = decode(&f, &z, NULL);
    cvx_arena_open_measure(&counted, "step");
    cvx_tensor in = frames_first(&z);
    f.ctx->measure = true;
    OK(cvx_vae_decode(f.vae, &counted, &in, NULL, NULL, NULL));
    assert_int_equal(counted.peak, f.step.peak);
    free(v.data);
    free(z.data);
    close_fixture(&f);
}

static cvx_status drop(void *payload, const float *rgb, int64_t first, int64_t n)
{
    (void)payload, (void)rgb, (void)first, (void)n;
    return CVX_OK;
}

/* In tiles, too, of which a measured decode walks two of each size: 24 tiles of four sizes here. */
static void test_measure_tiles(void **state)
{
    const cvx_vae_tiling tiles = {.enabled = true, .sample_min_height = 48, .sample_min_width = 40};
    cvx_op_stat real[CVX_OP_COUNT];
    cvx_arena counted;
    fixture f;

    (void)state;
    open_fixture(&f, "cpu", "auto", "tiny-5b", "variants/tiny-5b/golden.safetensors");
    float *values = calloc(2 * 16 * 16 * 24, sizeof *values);
    assert_non_null(values);
    cvx_tensor z = CVX_VIEW(values, CVX_F32, 2, 16, 16, 24);
    OK(cvx_vae_decode(f.vae, &f.step, &z, &tiles, drop, NULL)); /* packs the weights */
    memset(f.ctx->stat, 0, sizeof f.ctx->stat);
    OK(cvx_vae_decode(f.vae, &f.step, &z, &tiles, drop, NULL));
    memcpy(real, f.ctx->stat, sizeof real);
    memset(f.ctx->stat, 0, sizeof f.ctx->stat);
    cvx_arena_open_measure(&counted, "step");
    f.ctx->measure = true;
    OK(cvx_vae_decode(f.vae, &counted, &z, &tiles, NULL, NULL));
    assert_int_equal(counted.peak, f.step.peak);
    for (int i = 0; i < CVX_OP_COUNT; i++) {
        assert_int_equal(f.ctx->stat[i].calls, real[i].calls);
        assert_true(fabs(f.ctx->stat[i].flops - real[i].flops) <= 1e-9 * real[i].flops);
        assert_true(fabs(f.ctx->stat[i].bytes - real[i].bytes) <= 1e-9 * real[i].bytes);
    }
    assert_true(real[CVX_OP_ID_conv3d].calls > 0);
    free(values);
    close_fixture(&f);
}

static void test_frames(void **state)
{
    const cvx_vae_config c = {.n_blocks = 4, .temporal_compression_ratio = 4};
    static const int64_t latent[][2] = {{1, 1},  {2, 8},   {3, 9},  {4, 16},
                                        {5, 17}, {13, 49}, {21, 81}};
    static const int64_t video_frames[][2] = {{1, 1},  {5, 2},  {8, 2},  {9, 3},
                                              {16, 4}, {17, 5}, {49, 13}};

    (void)state;
    for (size_t i = 0; i < sizeof latent / sizeof *latent; i++) {
        assert_int_equal(cvx_vae_video_frames(&c, latent[i][0]), latent[i][1]);
    }
    for (size_t i = 0; i < sizeof video_frames / sizeof *video_frames; i++) {
        assert_int_equal(cvx_vae_latent_frames(&c, video_frames[i][0]), video_frames[i][1]);
    }
}

static void test_tiling(void **state)
{
    const cvx_vae_config c = {.n_blocks = 4, .sample_height = 64, .sample_width = 96};
    const cvx_vae_config real = {.n_blocks = 4, .sample_height = 480, .sample_width = 720};
    cvx_vae_tiling t = {.enabled = true};

    (void)state;
    /* tiles of 32 x 48 at 64 x 96: diffusers makes 70 x 110 of it */
    assert_int_equal(cvx_vae_check_tiling(&c, &t, 64, 96), CVX_EINVAL);
    assert_non_null(strstr(cvx_error(), "height 32"));
    t.sample_min_height = 48;
    assert_int_equal(cvx_vae_check_tiling(&c, &t, 64, 96), CVX_EINVAL);
    assert_non_null(strstr(cvx_error(), "width 48"));
    assert_non_null(strstr(cvx_error(), "40"));
    t.sample_min_width = 80;
    assert_int_equal(cvx_vae_check_tiling(&c, &t, 64, 96), CVX_OK);
    assert_int_equal(cvx_vae_check_tiling(&real, &(cvx_vae_tiling){.enabled = true}, 480, 720),
                     CVX_OK);
    assert_int_equal(cvx_vae_check_tiling(&c, &(cvx_vae_tiling){0}, 64, 96), CVX_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_frames),  cmocka_unit_test(test_tiling),        LEVEL_TEST_LIST,
        cmocka_unit_test(test_measure), cmocka_unit_test(test_measure_tiles),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
