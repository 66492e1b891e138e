/* CLIP scores of a video, frame by frame, and which frames drift away from the
 * prompt.
 *
 * The drift rule: with m the median of the scores and d their median absolute
 * deviation, a frame drifts if it scores below m - max(mad * 1.4826 * d,
 * floor). 1.4826 d estimates the standard deviation but is not moved by the
 * very frames that are looked for; the floor keeps frames of an even video,
 * where d is almost nothing, from counting as drifting for a fraction of a
 * point. `below` adds a limit that does not depend on the other frames: for
 * videos that miss the prompt from the first frame to the last. */
#ifndef CVX_MODEL_CLIP_SCORE_H
#define CVX_MODEL_CLIP_SCORE_H

#include <stdio.h>

#include "base/json.h"
#include "base/progress.h"
#include "model/clip/clip.h"
#include "model/prompts.h"

typedef struct cvx_drift_rule {
    double mad;   /* how many standard deviations below the median */
    double floor; /* and at least this many points below it */
    double below; /* a frame below this many points drifts in any case; 0: none
                   does */
} cvx_drift_rule;

#define CVX_DRIFT_RULE_INIT                                                                        \
    {                                                                                              \
        .mad = 3.0, .floor = 2.0, .below = 0.0                                                     \
    }

typedef struct cvx_clip_scores {
    int64_t n;
    double *score;  /* [n], 0 .. 100; owned */
    bool *drifting; /* [n]; owned */
    double mean, min, median, mad;
    int64_t min_frame; /* the first of the lowest */
    cvx_drift_rule rule;
    double limit; /* frames below this drift */
    int64_t drift_count;
    bool truncated; /* a prompt was longer than CLIP's text */
} cvx_clip_scores;

/* Opens the CLIP model at `dir` and scores n >= 1 frames rgb [n, h, w, 3], each against the prompt that
 * holds at it, by
 * the default rule and in f32 whatever ctx->compute says. progress (may be NULL) is stepped by
 * frames within a stage that the caller began, and is told when the prompt is cut.
 * cvx_clip_scores_free when done. Errors of cvx_clip_open and cvx_clip_encode_*; CVX_ECANCELLED. */
cvx_status cvx_clip_score_frames(cvx_clip_scores *out, cvx_ctx *ctx, const char *dir,
                                 const cvx_prompts *prompts, const uint8_t *rgb, int64_t n,
                                 int64_t h, int64_t w, cvx_progress *progress) CVX_CHECK;

/* The same for a video, GIF, picture or folder of frames, read as it is scored (a few frames are
 * held). The stage "score" is begun and ended here. Also the errors of cvx_media_reader_*. */
cvx_status cvx_clip_score_video(cvx_clip_scores *out, cvx_ctx *ctx, const char *dir,
                                const cvx_prompts *prompts, const char *path,
                                cvx_progress *progress) CVX_CHECK;

/* From n >= 1 scores (copied). CVX_EINVAL for n < 1, CVX_ENOMEM. */
cvx_status cvx_clip_scores_make(cvx_clip_scores *out, const double *score, int64_t n,
                                const cvx_drift_rule *rule) CVX_CHECK;

/* Judges the frames by another rule. CVX_ENOMEM. */
cvx_status cvx_clip_scores_judge(cvx_clip_scores *s, const cvx_drift_rule *rule) CVX_CHECK;

/* {"frames": [..], "mean", "min", "min_frame", "median", "mad",
 * "prompt_truncated", "drift": {"mad", "floor", "below", "limit", "frames":
 * [indices]}}; new reference, NULL without memory. */
json_t *cvx_clip_scores_json(const cvx_clip_scores *s);

/* A line per frame: number, score, a bar, "drifts"; then a summary. */
void cvx_clip_scores_print(const cvx_clip_scores *s, FILE *f);

/* Accepts a zeroed or freed one. */
void cvx_clip_scores_free(cvx_clip_scores *s);

#endif
