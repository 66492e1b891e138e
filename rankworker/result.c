#include "rankworker/result.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "media/image.h"
#include "media/plot.h"
#include "model/clip/score.h"

/* cvx_clip_scores_json's object into the message. */
static cvx_status read_scores(Cvx__Result *out, const json_t *scores)
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
    cvx_media_info info;
    cvx_image first = {0};

    CVX_RETURN_IF(cvx_path_join(thumb, folder, "thumbnail.png"));
    CVX_RETURN_IF(cvx_path_join(sheet, folder, "spritesheet.png"));
    CVX_RETURN_IF(cvx_sheet_of_video(sheet, video, &(cvx_sheet_opts){0}, &info, &first));
    out->num_frames = info.frames;
    out->width = info.w;
    out->height = info.h;
    out->fps = info.fps.den > 0 ? (double)info.fps.num / info.fps.den : 0;
    cvx_status st = cvx_image_write_png(thumb, first.rgb, first.w, first.h);
    cvx_image_free(&first);
    out->thumbnail = strdup(thumb);
    out->spritesheet = strdup(sheet);
    return st;
}

cvx_status cvx_result_score(Cvx__Result *out, cvx_ctx *ctx, const char *clip,
                            const cvx_opt_list *prompt, int64_t times, const char *video,
                            cvx_progress *progress)
{
    cvx_clip_scores scores = {0};
    cvx_prompts prompts;

    CVX_RETURN_IF(cvx_prompts_parse(&prompts, prompt));
    cvx_prompts_stretch(&prompts, times > 0 ? times : 1);
    CVX_RETURN_IF(cvx_clip_score_video(&scores, ctx, clip, &prompts, video, progress));
    json_t *j = cvx_clip_scores_json(&scores);
    cvx_clip_scores_free(&scores);
    cvx_status st = read_scores(out, j);
    json_decref(j);
    return st;
}

cvx_status cvx_result_make(Cvx__Result *out, const char *folder, const char *video,
                           const char *mesh, double seconds)
{
    cvx__result__init(out);
    out->version = 1;
    out->seconds = seconds;
    out->video = strdup(video);
    out->mesh = strdup(mesh);
    CVX_RETURN_IF(pictures(out, folder, video));
    return out->video != NULL && out->mesh != NULL && out->thumbnail != NULL &&
                   out->spritesheet != NULL
               ? CVX_OK
               : cvx_fail(CVX_ENOMEM, "no memory for the result of %s", video);
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
