/* cvx score: how well each frame of a video fits a prompt. */
#include <stdio.h>

#include "cli/cli.h"
#include "media/video.h"
#include "model/clip/score.h"

typedef struct options {
    const char *clip_model, *prompt;
    bool json;
} options;

static const cvx_opt opts[] = {
    {"clip-model", CVX_OPT_STR, offsetof(options, clip_model), "DIR", "CLIP checkpoint", 0, 0, NULL},
    {"prompt", CVX_OPT_STR, offsetof(options, prompt), "TEXT", "what the video should show", 0, 0, NULL},
    {"json", CVX_OPT_FLAG, offsetof(options, json), NULL, "as JSON", 0, 0, NULL},
    {NULL, 0, 0, NULL, NULL, 0, 0, NULL},
};

static cvx_status score(const options *o, const char *video)
{
    cvx_frames f = {0};
    cvx_ctx *ctx = NULL;
    cvx_clip_scores s = {0};
    cvx_status st = CVX_OK;

    if (o->clip_model == NULL || o->prompt == NULL) {
        return cvx_fail(CVX_EINVAL, "--clip-model and --prompt are needed (--help tells more)");
    }
    CVX_RETURN_IF(cvx_frames_read(&f, video, 0));
    CVX_TRY(st, cvx_ctx_open(&ctx, &(cvx_ctx_options){0}), done);
    CVX_TRY(st, cvx_clip_score_frames(&s, ctx, o->clip_model, o->prompt, f.rgb, f.n, f.h, f.w, NULL),
            done);
    if (o->json) {
        json_t *j = cvx_clip_scores_json(&s);
        json_dumpf(j, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(8));
        printf("\n");
        json_decref(j);
    } else {
        cvx_clip_scores_print(&s, stdout);
    }
done:
    cvx_clip_scores_free(&s);
    cvx_ctx_close(ctx);
    cvx_frames_free(&f);
    return st;
}

static int run(int argc, char **argv)
{
    options o = {0};
    const char *pos[1];
    int n, code;

    if (!cvx_cli_begin(&cvx_cmd_score, &o, argc, argv, pos, 1, 1, &n, &code)) {
        return code;
    }
    return cvx_cli_finish(score(&o, pos[0]));
}

const cvx_command cvx_cmd_score = {
    .name = "cvx score",
    .args = "VIDEO",
    .summary = "Scores every frame of a video against a prompt with CLIP.",
    .opts = opts,
    .run = run,
};
