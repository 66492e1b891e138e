#include "rankworker/result.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "media/image.h"
#include "media/plot.h"
#include "media/video.h"

cvx_status cvx_result_scores(Cvx__Result *out, const json_t *scores)
{
    const json_t *frames = json_object_get(scores, "frames");
    const json_t *drift = json_object_get(json_object_get(scores, "drift"), "frames");
    size_t n = json_array_size(frames), d = json_array_size(drift);

    if (n == 0) {
        return CVX_OK;
    }
    Cvx__FrameScores *s = malloc(sizeof *s);
    double *frame = malloc(n * sizeof *frame);
    int32_t *drifting = malloc((d + 1) * sizeof *drifting);
    if (s == NULL || frame == NULL || drifting == NULL) {
        free(s);
        free(frame);
        free(drifting);
        return cvx_fail(CVX_ENOMEM, "no memory for %zu scores", n);
    }
    cvx__frame_scores__init(s);
    for (size_t i = 0; i < n; i++) {
        frame[i] = json_number_value(json_array_get(frames, i));
    }
    for (size_t i = 0; i < d; i++) {
        drifting[i] = (int32_t)json_integer_value(json_array_get(drift, i));
    }
    s->version = 1;
    s->n_frame = n;
    s->frame = frame;
    s->n_drift = d;
    s->drift = drifting;
    s->mean = json_number_value(json_object_get(scores, "mean"));
    out->scores = s;
    return CVX_OK;
}

static cvx_status pictures(Cvx__Result *out, const char *folder, const char *video)
{
    char thumb[CVX_PATH_MAX], sheet[CVX_PATH_MAX];
    cvx_frames f = {0};

    CVX_RETURN_IF(cvx_path_join(thumb, folder, "thumbnail.png"));
    CVX_RETURN_IF(cvx_path_join(sheet, folder, "spritesheet.png"));
    CVX_RETURN_IF(cvx_frames_read(&f, video, 0));
    out->num_frames = f.n;
    out->width = f.w;
    out->height = f.h;
    out->fps = f.fps.den > 0 ? (double)f.fps.num / f.fps.den : 0;
    cvx_status st = cvx_image_write_png(thumb, f.rgb, f.w, f.h);
    if (st == CVX_OK) {
        st = cvx_sheet_write(sheet, &f, &(cvx_sheet_opts){0});
    }
    cvx_frames_free(&f);
    out->thumbnail = strdup(thumb);
    out->spritesheet = strdup(sheet);
    return st;
}

cvx_status cvx_result_make(Cvx__Result *out, const char *folder, const char *video,
                           const char *mesh, double seconds)
{
    char path[CVX_PATH_MAX];
    json_t *manifest = NULL;

    cvx__result__init(out);
    out->version = 1;
    out->seconds = seconds;
    out->video = strdup(video);
    out->mesh = strdup(mesh);
    CVX_RETURN_IF(pictures(out, folder, video));
    snprintf(path, sizeof path, "%.4000s.json", video);
    CVX_RETURN_IF(cvx_json_load(&manifest, path));
    cvx_status st = cvx_result_scores(out, json_object_get(manifest, "scores"));
    json_decref(manifest);
    if (st == CVX_OK && (out->video == NULL || out->mesh == NULL || out->thumbnail == NULL ||
                         out->spritesheet == NULL)) {
        st = cvx_fail(CVX_ENOMEM, "no memory for the result of %s", video);
    }
    return st;
}

/* protobuf-c's own empty string stands where nothing was set */
static void drop(char *s)
{
    if (s != protobuf_c_empty_string) {
        free(s);
    }
}

void cvx_result_free(Cvx__Result *r)
{
    drop(r->video);
    drop(r->mesh);
    drop(r->thumbnail);
    drop(r->spritesheet);
    if (r->scores != NULL) {
        free(r->scores->frame);
        free(r->scores->drift);
        free(r->scores);
    }
    cvx__result__init(r);
}
