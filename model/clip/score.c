#include "model/clip/score.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "media/video.h"

#define SIGMA_OF_MAD 1.4826 /* standard deviation over MAD of a normal distribution */
#define BAR 40              /* columns of the longest bar */

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* Sorts v. */
static double median_of(double *v, int64_t n)
{
    qsort(v, (size_t)n, sizeof *v, ascending);
    return n % 2 == 1 ? v[n / 2] : 0.5 * (v[n / 2 - 1] + v[n / 2]);
}

cvx_status cvx_clip_scores_judge(cvx_clip_scores *s, const cvx_drift_rule *rule)
{
    double *v = malloc((size_t)s->n * sizeof *v);

    if (v == NULL) {
        return cvx_fail(CVX_ENOMEM, "no memory for %lld scores", (long long)s->n);
    }
    memcpy(v, s->score, (size_t)s->n * sizeof *v);
    s->median = median_of(v, s->n);
    for (int64_t i = 0; i < s->n; i++) {
        v[i] = fabs(s->score[i] - s->median);
    }
    s->mad = median_of(v, s->n);
    free(v);
    s->rule = *rule;
    s->limit = s->median - fmax(rule->mad * SIGMA_OF_MAD * s->mad, rule->floor);
    s->limit = fmax(s->limit, rule->below);
    s->drift_count = 0;
    for (int64_t i = 0; i < s->n; i++) {
        s->drifting[i] = s->score[i] < s->limit;
        s->drift_count += s->drifting[i];
    }
    return CVX_OK;
}

cvx_status cvx_clip_scores_make(cvx_clip_scores *out, const double *score, int64_t n,
                                const cvx_drift_rule *rule)
{
    cvx_clip_scores s = {.n = n};
    cvx_status st = CVX_OK;

    if (n < 1) {
        return cvx_fail(CVX_EINVAL, "there is no frame to score");
    }
    s.score = malloc((size_t)n * sizeof *s.score);
    s.drifting = calloc((size_t)n, sizeof *s.drifting);
    if (s.score == NULL || s.drifting == NULL) {
        st = cvx_fail(CVX_ENOMEM, "no memory for %lld scores", (long long)n);
        goto done;
    }
    memcpy(s.score, score, (size_t)n * sizeof *score);
    s.min = score[0];
    for (int64_t i = 0; i < n; i++) {
        s.mean += score[i] / (double)n;
        if (score[i] < s.min) {
            s.min = score[i];
            s.min_frame = i;
        }
    }
    CVX_TRY(st, cvx_clip_scores_judge(&s, rule), done);
    *out = s;
    s = (cvx_clip_scores){0};
done:
    cvx_clip_scores_free(&s);
    return st;
}

/* Where frames come from: memory, or a video being read. */
typedef struct frame_source {
    int64_t n, h, w;    /* n: -1 when only the end tells */
    const uint8_t *rgb; /* all frames, or NULL */
    cvx_media_reader *reader;
    uint8_t *buffer; /* of CVX_CLIP_BATCH frames, for the reader */
    int64_t next;
    bool ended;
} frame_source;

/* The next frames, at most CVX_CLIP_BATCH; none after the last. */
static cvx_status take(frame_source *s, const uint8_t **rgb, int64_t *count)
{
    int64_t bytes = s->h * s->w * 3;

    *count = 0;
    if (s->rgb != NULL) {
        *rgb = s->rgb + s->next * bytes;
        *count = s->n - s->next < CVX_CLIP_BATCH ? s->n - s->next : CVX_CLIP_BATCH;
    } else {
        bool got = true;
        *rgb = s->buffer;
        while (*count < CVX_CLIP_BATCH && !s->ended) {
            CVX_RETURN_IF(cvx_media_reader_next(s->reader, s->buffer + *count * bytes, &got));
            s->ended = !got;
            *count += got;
        }
    }
    s->next += *count;
    return CVX_OK;
}

/* The scores of all frames; in batches, so that progress is told and a cancelled job ends soon.
 * *score grows; owned by the caller. */
static cvx_status score_all(cvx_clip *clip, const cvx_prompts *prompts, const float *text,
                            double **score, int64_t *n, frame_source *s, cvx_progress *progress)
{
    int64_t dim = cvx_clip_get_config(clip)->projection_dim, cap = 0, count;
    float *image = malloc((size_t)(CVX_CLIP_BATCH * dim) * sizeof *image);
    const uint8_t *rgb;
    cvx_status st = CVX_OK;

    if (image == NULL) {
        return cvx_fail(CVX_ENOMEM, "CLIP: no memory for embeddings of %lld", (long long)dim);
    }
    for (*n = 0;; *n += count) {
        CVX_TRY(st, take(s, &rgb, &count), done);
        if (count == 0) {
            break;
        }
        CVX_TRY(st, cvx_clip_encode_frames(clip, image, rgb, count, s->h, s->w), done);
        if (*n + count > cap) {
            cap = 2 * cap + CVX_CLIP_BATCH;
            double *more = realloc(*score, (size_t)cap * sizeof *more);
            if (more == NULL) {
                CVX_TRY(st, cvx_fail(CVX_ENOMEM, "no memory for %lld scores", (long long)cap),
                        done);
            }
            *score = more;
        }
        for (int64_t i = 0; i < count; i++) {
            const float *of = text + cvx_prompts_at(prompts, *n + i) * dim;
            (*score)[*n + i] = cvx_clip_score(of, image + i * dim, dim);
        }
        if (progress != NULL) {
            CVX_TRY(st, cvx_progress_step(progress, *n + count), done);
        }
    }
done:
    free(image);
    return st;
}

/* text [prompts, projection_dim]. */
static cvx_status encode_prompts(cvx_clip *clip, const cvx_prompts *prompts, float *text,
                                 bool *truncated, cvx_progress *progress)
{
    int64_t dim = cvx_clip_get_config(clip)->projection_dim;

    *truncated = false;
    for (int i = 0; i < prompts->n; i++) {
        bool cut = false;
        CVX_RETURN_IF(cvx_clip_encode_text(clip, text + i * dim, prompts->text[i], &cut));
        if (cut && progress != NULL) {
            cvx_progress_note(progress,
                              "the prompt is longer than CLIP's text; its end is not scored");
        }
        *truncated |= cut;
    }
    return CVX_OK;
}

static cvx_status score_source(cvx_clip_scores *out, cvx_ctx *ctx, const char *dir,
                               const cvx_prompts *prompts, frame_source *s, cvx_progress *progress)
{
    const cvx_drift_rule rule = CVX_DRIFT_RULE_INIT;
    const cvx_dtype compute = ctx->compute;
    cvx_status st = CVX_OK;
    cvx_clip *clip = NULL;
    float *text = NULL;
    double *score = NULL;
    bool truncated;
    int64_t n = 0;

    ctx->compute = CVX_F32; /* a score must not depend on how the video was made */
    CVX_TRY(st, cvx_clip_open(&clip, ctx, dir), done);
    text = malloc((size_t)(prompts->n * cvx_clip_get_config(clip)->projection_dim) * sizeof *text);
    if (text == NULL) {
        CVX_TRY(st, cvx_fail(CVX_ENOMEM, "CLIP: no memory for an embedding"), done);
    }
    CVX_TRY(st, encode_prompts(clip, prompts, text, &truncated, progress), done);
    CVX_TRY(st, score_all(clip, prompts, text, &score, &n, s, progress), done);
    CVX_TRY(st, cvx_clip_scores_make(out, score, n, &rule), done);
    out->truncated = truncated;
done:
    ctx->compute = compute;
    cvx_clip_close(clip);
    free(text);
    free(score);
    return st;
}

cvx_status cvx_clip_score_frames(cvx_clip_scores *out, cvx_ctx *ctx, const char *dir,
                                 const cvx_prompts *prompts, const uint8_t *rgb, int64_t n,
                                 int64_t h, int64_t w, cvx_progress *progress)
{
    frame_source s = {.n = n, .h = h, .w = w, .rgb = rgb};

    return score_source(out, ctx, dir, prompts, &s, progress);
}

cvx_status cvx_clip_score_video(cvx_clip_scores *out, cvx_ctx *ctx, const char *dir,
                                const cvx_prompts *prompts, const char *path,
                                cvx_progress *progress)
{
    frame_source s = {0};
    cvx_status st = CVX_OK;

    CVX_TRY(st, cvx_media_reader_open(&s.reader, path), done);
    const cvx_media_info *info = cvx_media_reader_info(s.reader);
    s.n = info->frames;
    s.h = info->h;
    s.w = info->w;
    s.buffer = malloc((size_t)(CVX_CLIP_BATCH * s.h * s.w * 3));
    if (s.buffer == NULL) {
        CVX_TRY(st, cvx_fail(CVX_ENOMEM, "%s: no memory for %d frames", path, CVX_CLIP_BATCH),
                done);
    }
    if (progress != NULL) {
        CVX_TRY(st, cvx_progress_begin(progress, "score", s.n > 0 ? s.n : 0), done);
    }
    CVX_TRY(st, score_source(out, ctx, dir, prompts, &s, progress), done);
    if (progress != NULL) {
        progress->total = s.next; /* what the file says of its length is not always so */
        cvx_progress_end(progress);
    }
done:
    cvx_media_reader_close(s.reader);
    free(s.buffer);
    return st;
}

json_t *cvx_clip_scores_json(const cvx_clip_scores *s)
{
    json_t *frames = json_array(), *drifting = json_array();

    for (int64_t i = 0; i < s->n; i++) {
        json_array_append_new(frames, json_real(s->score[i]));
        if (s->drifting[i]) {
            json_array_append_new(drifting, json_integer(i));
        }
    }
    return json_pack("{s:o, s:f, s:f, s:I, s:f, s:f, s:b, s:{s:f, s:f, s:f, s:f, s:o}}", "frames",
                     frames, "mean", s->mean, "min", s->min, "min_frame", (json_int_t)s->min_frame,
                     "median", s->median, "mad", s->mad, "prompt_truncated", (int)s->truncated,
                     "drift", "mad", s->rule.mad, "floor", s->rule.floor, "below", s->rule.below,
                     "limit", s->limit, "frames", drifting);
}

void cvx_clip_scores_print(const cvx_clip_scores *s, FILE *f)
{
    double top = s->score[0];

    for (int64_t i = 1; i < s->n; i++) {
        top = fmax(top, s->score[i]);
    }
    fprintf(f, "frame   score\n");
    for (int64_t i = 0; i < s->n; i++) {
        int bar = top > 0 ? (int)lrint(BAR * s->score[i] / top) : 0;
        fprintf(f, "%5lld  %6.2f  %.*s%s\n", (long long)i, s->score[i], bar,
                "########################################", s->drifting[i] ? "  drifts" : "");
    }
    fprintf(f, "mean %.2f, lowest %.2f (frame %lld), median %.2f\n", s->mean, s->min,
            (long long)s->min_frame, s->median);
    if (s->drift_count == 0) {
        fprintf(f, "no frame drifts (none is below %.2f)\n", s->limit);
    } else {
        fprintf(f, "%lld of %lld frames drift (below %.2f)\n", (long long)s->drift_count,
                (long long)s->n, s->limit);
    }
}

void cvx_clip_scores_free(cvx_clip_scores *s)
{
    free(s->score);
    free(s->drifting);
    *s = (cvx_clip_scores){0};
}
