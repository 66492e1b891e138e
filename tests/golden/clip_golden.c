/* CLIP against transformers: pixel values, embeddings, scores; the drift rule; broken folders.
 *
 * Two reference runs of models/shapes-clip exist: clip-f32 in float32, which bounds us tightly, and clip,
 * which transformers ran in the checkpoint's bfloat16, so that its values carry bfloat16's rounding of every
 * intermediate. variants/tiny-clip has what the first lacks: float16 shards, gelu, the legacy end-token
 * rule, and a resize of the shortest edge with a centre crop; clip-tiny is its run. */
#include <limits.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "golden.h"
#include "media/video.h"
#include "model/clip/clip.h"
#include "model/clip/preprocess.h"
#include "model/clip/score.h"

#define SHAPES_CLIP CVX_SOURCE_DIR "/models/shapes-clip"
#define TINY_CLIP DATA "variants/tiny-clip"

/* f32 against f32: sums of up to 512 products in another order give about sqrt(512) * 2^-24 = 1.3e-6 per
 * layer, amplified by the layers that follow; ten times that is allowed. */
#define F32_BOUND 1.3e-5
/* The bfloat16 run: some 30 roundings of 2^-9 / sqrt(3) each stand between pixels and embedding, which add
 * up to 6e-3 of the embedding; twice that is allowed. */
#define BF16_BOUND 1.2e-2

typedef struct fixture {
    cvx_ctx *ctx;
    cvx_clip *shapes, *tiny;
    cvx_weights *f32, *bf16, *tiny_golden, *frames;
    uint8_t *rgb; /* the golden video's frames [n, h, w, 3] */
    int64_t n, h, w;
} fixture;

/* frames u8 [.., n, 3, h, w] to [n, h, w, 3] */
static void load_frames(fixture *f)
{
    cvx_tensor t = cvx_weights_at(f->frames, cvx_weights_find(f->frames, "frames"));
    const uint8_t *src = t.data;

    assert_true(t.dtype == CVX_U8 && t.ndim >= 4);
    f->n = t.dim[t.ndim - 4];
    f->h = t.dim[t.ndim - 2];
    f->w = t.dim[t.ndim - 1];
    f->rgb = malloc((size_t)(f->n * f->h * f->w * 3));
    assert_non_null(f->rgb);
    for (int64_t i = 0; i < f->n; i++) {
        for (int64_t c = 0; c < 3; c++) {
            for (int64_t p = 0; p < f->h * f->w; p++) {
                f->rgb[(i * f->h * f->w + p) * 3 + c] = src[(i * 3 + c) * f->h * f->w + p];
            }
        }
    }
}

static int setup(void **state)
{
    static fixture f;

    OK(cvx_ctx_open(&f.ctx,
                    &(cvx_ctx_options){.backend = getenv("CVX_TEST_BACKEND"), .threads = 2}));
    OK(cvx_clip_open(&f.shapes, f.ctx, SHAPES_CLIP));
    OK(cvx_clip_open(&f.tiny, f.ctx, TINY_CLIP));
    OK(cvx_weights_open(&f.f32, DATA "shapes-goldens/clip-f32.safetensors"));
    OK(cvx_weights_open(&f.bf16, DATA "shapes-goldens/clip.safetensors"));
    OK(cvx_weights_open(&f.tiny_golden, DATA "shapes-goldens/clip-tiny.safetensors"));
    OK(cvx_weights_open(&f.frames, DATA "shapes-goldens/red-circle-right.safetensors"));
    load_frames(&f);
    *state = &f;
    return 0;
}

static int teardown(void **state)
{
    fixture *f = *state;

    cvx_clip_close(f->shapes);
    cvx_clip_close(f->tiny);
    cvx_weights_close(f->f32);
    cvx_weights_close(f->bf16);
    cvx_weights_close(f->tiny_golden);
    cvx_weights_close(f->frames);
    cvx_ctx_close(f->ctx);
    free(f->rgb);
    return 0;
}

/* Every step is one correctly rounded operation of numpy's: the values are equal, not just near. */
static void same_pixels(cvx_weights *w, const char *name, const float *got, int64_t n, int64_t at)
{
    cvx_tensor g = golden(w, name);

    for (int64_t i = 0; i < n; i++) {
        if (got[i] != ((float *)g.data)[at + i]) {
            fail_msg("%s: value %lld is %.9g, the golden has %.9g", name, (long long)(at + i),
                     got[i], ((float *)g.data)[at + i]);
        }
    }
    free(g.data);
}

static void pixel_values(void **state)
{
    fixture *f = *state;
    cvx_clip *models[2] = {f->shapes, f->tiny};
    cvx_weights *goldens[2] = {f->bf16, f->tiny_golden};
    const int64_t frames[2] = {f->n, 10}, every[2] = {8, 1}; /* the golden keeps each 8th frame */

    for (int k = 0; k < 2; k++) {
        const cvx_clip_config *c = cvx_clip_get_config(models[k]);
        int64_t values = 3 * c->image_size * c->image_size, w, h;
        float *out = malloc((size_t)values * sizeof *out);
        assert_non_null(out);
        cvx_clip_pixels_size(&c->image, f->w, f->h, &w, &h);
        assert_int_equal(w, c->image_size);
        assert_int_equal(h, c->image_size);
        for (int64_t i = 0; i < frames[k]; i += every[k]) {
            OK(cvx_clip_preprocess(&c->image, out, f->rgb + i * f->h * f->w * 3, f->w, f->h));
            same_pixels(goldens[k], "pixel_values", out, values, i / every[k] * values);
        }
        free(out);
    }
}

static void crop_cases(void **state)
{
    fixture *f = *state;
    cvx_clip_image_config c = cvx_clip_get_config(f->shapes)->image;
    static const char *const names[] = {"noise57x83", "ramp210x133"};
    char name[64];

    c.shortest_edge = c.crop_w = c.crop_h = 96;
    c.do_center_crop = true;
    for (int i = 0; i < 2; i++) {
        snprintf(name, sizeof name, "crop_in_%s", names[i]);
        cvx_tensor in = cvx_weights_at(f->bf16, cvx_weights_find(f->bf16, name));
        float *out = malloc(3 * 96 * 96 * sizeof *out);
        assert_non_null(out);
        OK(cvx_clip_preprocess(&c, out, in.data, in.dim[1], in.dim[0]));
        snprintf(name, sizeof name, "crop_out_%s", names[i]);
        same_pixels(f->bf16, name, out, 3 * 96 * 96, 0);
        free(out);
    }
}

/* A crop wider than the picture: zeros around it, the odd one in front (numpy's ceil). */
static void crop_pads(void **state)
{
    cvx_clip_image_config c = {.do_center_crop = true, .crop_h = 5, .crop_w = 2};
    static const uint8_t rgb[] = {1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4, 5, 5, 5, 6, 6, 6};
    static const float want[] = {0, 0, 0, 0, 1, 2, 4, 5, 0, 0};
    float out[3 * 5 * 2];

    (void)state;
    OK(cvx_clip_preprocess(&c, out, rgb, 3, 2));
    for (int i = 0; i < 10; i++) {
        assert_float_equal(out[i], want[i], 0);
    }
    assert_int_equal(cvx_clip_preprocess(&c, out, rgb, 0, 2), CVX_EINVAL);
}

/* Scores in points: those of a golden text against those of our embeddings. */
static void scores_close(cvx_weights *w, int i, const float *text, const float *images, int64_t n,
                         int64_t dim, double points)
{
    char name[32];
    double worst = 0;

    snprintf(name, sizeof name, "scores_%d", i);
    cvx_tensor g = golden(w, name);
    assert_int_equal(cvx_numel(&g), n);
    for (int64_t k = 0; k < n; k++) {
        worst =
            fmax(worst, fabs(cvx_clip_score(text, images + k * dim, dim) - ((float *)g.data)[k]));
    }
    free(g.data);
    print_message("  %-28s off by %.2e points (bound %.0e)\n", name, worst, points);
    if (!(worst <= points)) {
        fail_msg("%s: off by %.3e points, more than %.0e", name, worst, points);
    }
}

/* Every caption and every frame of one golden file; a score is 100 times a cosine, so its error is at most
 * 100 times the sum of both embeddings' relative errors. */
static void run_golden(fixture *f, cvx_clip *clip, cvx_weights *w, int64_t n, double bound)
{
    const cvx_clip_config *c = cvx_clip_get_config(clip);
    char list[2048], name[32];
    json_t *caps = NULL;
    float *images = malloc((size_t)(n * c->projection_dim) * sizeof *images);
    float *text = malloc((size_t)c->projection_dim * sizeof *text);

    assert_true(images != NULL && text != NULL);
    snprintf(list, sizeof list, "{\"c\": %s}", cvx_weights_meta(w, "captions"));
    OK(cvx_json_parse(&caps, list, strlen(list), "captions"));
    assert_int_equal(json_array_size(json_object_get(caps, "c")), 5);
    OK(cvx_clip_encode_frames(clip, images, f->rgb, n, f->h, f->w));
    close_to(w, "image_embeds", images, n * c->projection_dim, bound);
    for (int i = 0; i < 5; i++) {
        bool truncated;
        OK(cvx_clip_encode_text(
            clip, text, json_string_value(json_array_get(json_object_get(caps, "c"), (size_t)i)),
            &truncated));
        assert_int_equal(truncated, clip == f->tiny && i >= 3);
        snprintf(name, sizeof name, "text_embeds_%d", i);
        close_to(w, name, text, c->projection_dim, bound);
        scores_close(w, i, text, images, n, c->projection_dim, 200 * bound);
    }
    json_decref(caps);
    free(images);
    free(text);
}

static void shapes_f32(void **state)
{
    fixture *f = *state;
    run_golden(f, f->shapes, f->f32, f->n, F32_BOUND);
}

static void shapes_bf16(void **state)
{
    fixture *f = *state;
    run_golden(f, f->shapes, f->bf16, f->n, BF16_BOUND);
}

static void tiny_f32(void **state)
{
    fixture *f = *state;
    run_golden(f, f->tiny, f->tiny_golden, 10, F32_BOUND);
}

/* A frame's embedding has the same bits alone and in a batch. */
static void batches(void **state)
{
    fixture *f = *state;
    float all[17 * 64], one[64];

    assert_int_equal(f->n, 17);
    OK(cvx_clip_encode_frames(f->shapes, all, f->rgb, 17, f->h, f->w));
    for (int64_t i = 0; i < 17; i += 4) {
        OK(cvx_clip_encode_frames(f->shapes, one, f->rgb + i * f->h * f->w * 3, 1, f->h, f->w));
        assert_memory_equal(one, all + i * 64, sizeof one);
    }
}

static void score_frames(void **state)
{
    fixture *f = *state;
    const cvx_prompts prompts = {.n = 1,
                                 .text = {"a red circle moving right on a black background"}};
    cvx_clip_scores s = {0};

    OK(cvx_clip_score_frames(&s, f->ctx, SHAPES_CLIP, &prompts, f->rgb, f->n, f->h, f->w, NULL));
    assert_int_equal(s.n, f->n);
    assert_false(s.truncated);
    cvx_tensor g = golden(f->f32, "scores_0");
    for (int64_t i = 0; i < s.n; i++) { /* F32_BOUND of two embeddings: 2.6e-3 points */
        assert_float_equal(s.score[i], ((float *)g.data)[i], 2.6e-3);
    }
    free(g.data);
    json_t *j = cvx_clip_scores_json(&s);
    assert_int_equal(json_array_size(json_object_get(j, "frames")), f->n);
    assert_true(json_is_object(json_object_get(j, "drift")));
    json_decref(j);
    cvx_clip_scores_free(&s);
}

/* A folder of pictures read as a video gives what its frames in memory give. */
static void score_video(void **state)
{
    fixture *f = *state;
    static const cvx_prompts prompts = {.n = 1, .text = {"a red circle"}};
    cvx_clip_scores a = {0}, b = {0};
    cvx_frames frames = {0};

    OK(cvx_frames_read(&frames, DATA "extra/v2v-input", 0));
    assert_true(frames.n > CVX_CLIP_BATCH); /* more than one batch */
    OK(cvx_clip_score_frames(&a, f->ctx, SHAPES_CLIP, &prompts, frames.rgb, frames.n, frames.h,
                             frames.w, NULL));
    OK(cvx_clip_score_video(&b, f->ctx, SHAPES_CLIP, &prompts, DATA "extra/v2v-input", NULL));
    assert_int_equal(b.n, frames.n);
    assert_memory_equal(a.score, b.score, (size_t)a.n * sizeof *a.score);
    cvx_clip_scores_free(&a);
    cvx_clip_scores_free(&b);
    cvx_frames_free(&frames);
}

static void drift_rule(void **state)
{
    /* median 30, deviations 0 0 .5 .5 1 1 12: MAD .5 */
    static const double score[] = {30, 30.5, 29.5, 18, 31, 29, 30};
    cvx_drift_rule rule = CVX_DRIFT_RULE_INIT;
    cvx_clip_scores s = {0};

    (void)state;
    OK(cvx_clip_scores_make(&s, score, 7, &rule));
    assert_float_equal(s.median, 30, 0);
    assert_float_equal(s.mad, 0.5, 0);
    assert_float_equal(s.mean, 198.0 / 7, 1e-12);
    assert_int_equal(s.min_frame, 3);
    assert_float_equal(s.limit, 30 - 3 * 1.4826 * 0.5, 1e-12);
    assert_int_equal(s.drift_count, 1);
    assert_true(s.drifting[3] && !s.drifting[5]);
    rule = (cvx_drift_rule){.mad = 0, .floor = 0.75, .below = 0};
    OK(cvx_clip_scores_judge(&s, &rule));
    assert_int_equal(s.drift_count, 2); /* 18 and 29 */
    rule = (cvx_drift_rule){.mad = 3, .floor = 20, .below = 0};
    OK(cvx_clip_scores_judge(&s, &rule));
    assert_int_equal(s.drift_count, 0);
    rule.below = 30;
    OK(cvx_clip_scores_judge(&s, &rule));
    assert_int_equal(s.drift_count, 3);
    cvx_clip_scores_free(&s);
    /* an even video: no MAD, the floor decides; an even count: the middle of two */
    OK(cvx_clip_scores_make(&s, (double[]){25, 25, 25, 24.5}, 4, &(cvx_drift_rule){3, 2, 0}));
    assert_int_equal(s.drift_count, 0);
    assert_float_equal(s.median, 25, 0);
    cvx_clip_scores_free(&s);
    assert_int_equal(cvx_clip_scores_make(&s, score, 0, &rule), CVX_EINVAL);
}

static void scores_floor(void **state)
{
    (void)state;
    assert_float_equal(cvx_clip_score((float[]){1, 0}, (float[]){-1, 0}, 2), 0, 0);
    assert_float_equal(cvx_clip_score((float[]){0, 0}, (float[]){1, 0}, 2), 0, 0);
    assert_float_equal(cvx_clip_score((float[]){3, 4}, (float[]){30, 40}, 2), 100, 1e-12);
    assert_float_equal(cvx_clip_score((float[]){1, 0}, (float[]){1, 1}, 2), 100 / sqrt(2), 1e-5);
}

/* ---- broken folders: shapes-clip with one file changed ---- */

static char tmp[PATH_MAX];

static void refused(fixture *f, const char *name, const char *text, cvx_status want,
                    const char *words)
{
    static const char *const files[] = {"config.json", "preprocessor_config.json", "vocab.json",
                                        "merges.txt", "model.safetensors"};
    char from[PATH_MAX], to[2 * PATH_MAX];
    cvx_clip *clip = NULL;

    for (int k = 0; k < 5; k++) {
        snprintf(to, sizeof to, SHAPES_CLIP "/%s", files[k]);
        assert_non_null(realpath(to, from));
        snprintf(to, sizeof to, "%s/%s", tmp, files[k]);
        unlink(to);
        if (strcmp(files[k], name) != 0) {
            assert_int_equal(symlink(from, to), 0);
        } else if (text != NULL) {
            OK(cvx_file_write(to, text, strlen(text)));
        }
    }
    cvx_status st = cvx_clip_open(&clip, f->ctx, tmp);
    if (st != want || strstr(cvx_error(), words) == NULL || strchr(cvx_error(), '\n') != NULL) {
        fail_msg("%s: status %d, \"%s\"; wanted %d, \"%s\"", name, st, st ? cvx_error() : "", want,
                 words);
    }
    assert_null(clip);
    for (int k = 0; k < 5; k++) {
        snprintf(to, sizeof to, "%s/%s", tmp, files[k]);
        unlink(to);
    }
}

#define TOWERS(text, vision)                                                                       \
    "{\"model_type\": \"clip\", \"projection_dim\": 64, \"text_config\": {" text                   \
    "}, \"vision_config\": {" vision "}}"
#define TEXT                                                                                       \
    "\"hidden_size\": 128, \"intermediate_size\": 512, \"num_hidden_layers\": 3, "                 \
    "\"num_attention_heads\": 2, \"vocab_size\": 1024, \"eos_token_id\": 1023"
#define VISION                                                                                     \
    "\"hidden_size\": 128, \"intermediate_size\": 512, \"num_hidden_layers\": 4, "                 \
    "\"num_attention_heads\": 2, \"image_size\": 64, \"patch_size\": 8"

static void broken_folders(void **state)
{
    fixture *f = *state;

    snprintf(tmp, sizeof tmp, "/tmp/cvx-clip-XXXXXX");
    assert_non_null(mkdtemp(tmp));
    refused(f, "config.json", NULL, CVX_EIO, "config.json");
    refused(f, "config.json", "{\"model_type\": \"siglip\"}", CVX_EUNSUPPORTED, "siglip");
    refused(f, "config.json", "{}", CVX_EFORMAT, "text_config");
    refused(f, "config.json", TOWERS(TEXT ", \"hidden_act\": \"relu\"", VISION), CVX_EUNSUPPORTED,
            "relu");
    refused(f, "config.json", TOWERS("\"hidden_size\": 130", VISION), CVX_EFORMAT, "heads");
    refused(f, "config.json", TOWERS(TEXT ", \"max_position_embeddings\": -1", VISION), CVX_EFORMAT,
            "max_position_embeddings");
    refused(f, "config.json", TOWERS(TEXT, "\"image_size\": 65, \"patch_size\": 8"), CVX_EFORMAT,
            "patch");
    refused(f, "config.json", TOWERS(TEXT ", \"max_position_embeddings\": 76", VISION), CVX_EFORMAT,
            "position_embedding");
    refused(f, "config.json", TOWERS("\"vocab_size\": 1000", VISION), CVX_EFORMAT, "vocabulary");
    refused(f, "preprocessor_config.json", NULL, CVX_EIO, "preprocessor_config.json");
    refused(f, "preprocessor_config.json", "{\"resample\": 0}", CVX_EUNSUPPORTED, "resample");
    refused(f, "preprocessor_config.json", "{\"size\": \"big\"}", CVX_EFORMAT, "size");
    refused(f, "preprocessor_config.json", "{\"image_std\": [1, 1, 0]}", CVX_EFORMAT, "image_std");
    refused(f, "preprocessor_config.json", "{}", CVX_EFORMAT, "224x224");
    refused(f, "vocab.json", NULL, CVX_EIO, "vocabulary");
    refused(f, "merges.txt", "g\n", CVX_EFORMAT, "merge 1");
    refused(f, "model.safetensors", NULL, CVX_EIO, "safetensors");
    refused(f, "model.safetensors", "garbage", CVX_EFORMAT, "model.safetensors");
    assert_int_equal(rmdir(tmp), 0);
}

/* Without a crop, a frame whose shortest edge is resized must be square. */
static void wrong_aspect(void **state)
{
    fixture *f = *state;
    cvx_clip_image_config c = cvx_clip_get_config(f->tiny)->image;
    int64_t w, h;

    c.do_center_crop = false;
    cvx_clip_pixels_size(&c, 96, 64, &w, &h);
    assert_int_equal(w, 48);
    assert_int_equal(h, 32);
    cvx_clip_pixels_size(&c, 133, 210, &w, &h);
    assert_int_equal(w, 32);
    assert_int_equal(h, 32 * 210 / 133);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pixel_values),   cmocka_unit_test(crop_cases),
        cmocka_unit_test(crop_pads),      cmocka_unit_test(wrong_aspect),
        cmocka_unit_test(shapes_f32),     cmocka_unit_test(shapes_bf16),
        cmocka_unit_test(tiny_f32),       cmocka_unit_test(batches),
        cmocka_unit_test(score_frames),   cmocka_unit_test(score_video),
        cmocka_unit_test(drift_rule),     cmocka_unit_test(scores_floor),
        cmocka_unit_test(broken_folders),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
