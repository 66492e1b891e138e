#include "model/clip/score.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

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

/* Scores in batches, so that progress is told and a cancelled job ends soon. */
static cvx_status score_all(cvx_clip *clip, const float *text, double *score, const uint8_t *rgb,
                            int64_t n, int64_t h, int64_t w, cvx_progress *progress)
{
    int64_t dim = cvx_clip_get_config(clip)->projection_dim;
    float *image = malloc((size_t)(CVX_CLIP_BATCH * dim) * sizeof *image);
    cvx_status st = CVX_OK;

    if (image == NULL) {
        return cvx_fail(CVX_ENOMEM, "CLIP: no memory for embeddings of %lld", (long long)dim);
    }
    for (int64_t first = 0; first < n; first += CVX_CLIP_BATCH) {
        int64_t count = n - first < CVX_CLIP_BATCH ? n - first : CVX_CLIP_BATCH;
        CVX_TRY(st, cvx_clip_encode_frames(clip, image, rgb + first * h * w * 3, count, h, w),
                done);
        for (int64_t i = 0; i < count; i++) {
            score[first + i] = cvx_clip_score(text, image + i * dim, dim);
        }
        if (progress != NULL) {
            CVX_TRY(st, cvx_progress_step(progress, first + count), done);
        }
    }
done:
    free(image);
    return st;
}

cvx_status cvx_clip_score_frames(cvx_clip_scores *out, cvx_ctx *ctx, const char *dir,
                                 const char *prompt, const uint8_t *rgb, int64_t n, int64_t h,
                                 int64_t w, cvx_progress *progress)
{
    const cvx_drift_rule rule = CVX_DRIFT_RULE_INIT;
    cvx_status st = CVX_OK;
    cvx_clip *clip = NULL;
    float *text = NULL;
    double *score = NULL;
    bool truncated;

    if (n < 1) {
        return cvx_fail(CVX_EINVAL, "there is no frame to score");
    }
    CVX_TRY(st, cvx_clip_open(&clip, ctx, dir), done);
    text = malloc((size_t)cvx_clip_get_config(clip)->projection_dim * sizeof *text);
    score = malloc((size_t)n * sizeof *score);
    if (text == NULL || score == NULL) {
        st = cvx_fail(CVX_ENOMEM, "CLIP: no memory for %lld scores", (long long)n);
        goto done;
    }
    CVX_TRY(st, cvx_clip_encode_text(clip, text, prompt, &truncated), done);
    CVX_TRY(st, score_all(clip, text, score, rgb, n, h, w, progress), done);
    CVX_TRY(st, cvx_clip_scores_make(out, score, n, &rule), done);
    out->truncated = truncated;
done:
    cvx_clip_close(clip);
    free(text);
    free(score);
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
