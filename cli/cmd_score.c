/* cvx score: how well each frame of a video fits a prompt. */
#include <stdio.h>
#include <stdlib.h>

#include "base/file.h"
#include "cli/cli.h"
#include "media/plot.h"
#include "model/clip/score.h"

typedef struct options {
    cvx_opt_list prompt;
    const char *clip_model, *plot, *sheet, *backend, *isa;
    cvx_drift_rule rule;
    int64_t threads;
    bool json, quiet;
} options;

static const cvx_opt opts[] = {
    {"clip-model", CVX_OPT_STR, offsetof(options, clip_model), "DIR",
     "CLIP checkpoint: config.json, model.safetensors, vocabulary (needed)", 0, 0, NULL},
    {"prompt", CVX_OPT_LIST, offsetof(options, prompt), "TEXT",
     "what the video should show (needed); several, each as \"FRAME: text\", take turns", 0, 0,
     NULL},
    {"json", CVX_OPT_FLAG, offsetof(options, json), NULL,
     "print one JSON object instead of a table", 0, 0, NULL},
    {"plot", CVX_OPT_STR, offsetof(options, plot), "FILE", "also draw the scores into this PNG", 0,
     0, NULL},
    {"sheet", CVX_OPT_STR, offsetof(options, sheet), "FILE",
     "also write a contact sheet with each frame's score (PNG)", 0, 0, NULL},
    {"", 0, 0, NULL, "Drift", 0, 0, NULL},
    {"drift-mad", CVX_OPT_DOUBLE, offsetof(options, rule.mad), "K",
     "a frame drifts K standard deviations below the median (default: 3)", 0, 1000, NULL},
    {"drift-floor", CVX_OPT_DOUBLE, offsetof(options, rule.floor), "POINTS",
     "and at least this far below it (default: 2)", 0, 100, NULL},
    {"drift-below", CVX_OPT_DOUBLE, offsetof(options, rule.below), "POINTS",
     "and in any case below this score (default: no such limit)", 0, 100, NULL},
    {"", 0, 0, NULL, "Machine", 0, 0, NULL},
    {"threads", CVX_OPT_INT, offsetof(options, threads), "N", "CPU threads (default: all cores)", 1,
     1024, NULL},
    {"backend", CVX_OPT_CHOICE, offsetof(options, backend), NULL,
     "where to compute (default: auto)", 0, 0, "auto|ref|cpu|cuda"},
    {"isa", CVX_OPT_CHOICE, offsetof(options, isa), NULL,
     "highest CPU instruction set (default: auto)", 0, 0, "auto|" CVX_CPU_LEVELS},
    {"quiet", CVX_OPT_FLAG, offsetof(options, quiet), NULL, "no progress", 0, 0, NULL},
    {NULL, 0, 0, NULL, NULL, 0, 0, NULL},
};

static cvx_status print_json(const cvx_clip_scores *s)
{
    json_t *j = cvx_clip_scores_json(s);
    char *text = j == NULL ? NULL : json_dumps(j, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
    cvx_status st = CVX_OK;

    if (text == NULL) {
        st = cvx_fail(CVX_ENOMEM, "no memory for the scores as JSON");
    } else {
        puts(text);
    }
    free(text);
    json_decref(j);
    return st;
}

static cvx_status draw(const options *o, const cvx_clip_scores *s, const char *video)
{
    char title[512];

    cvx_prompts_title(&o->prompt, title, sizeof title);
    if (o->plot != NULL) {
        CVX_RETURN_IF(cvx_plot_scores(o->plot, &(cvx_plot_opts){.score = s->score,
                                                                .n = s->n,
                                                                .drift = s->drifting,
                                                                .title = title,
                                                                .y_label = "CLIP score"}));
    }
    if (o->sheet == NULL) {
        return CVX_OK;
    }
    return cvx_sheet_of_video(
        o->sheet, video, &(cvx_sheet_opts){.title = title, .score = s->score, .drift = s->drifting},
        NULL, NULL);
}

/* A picture that cannot be written is known before the scores are computed. */
static cvx_status check_pictures(const options *o, const char *video)
{
    const char *const picture[] = {o->plot, o->sheet};

    for (int i = 0; i < 2; i++) {
        if (picture[i] == NULL) {
            continue;
        }
        CVX_RETURN_IF(cvx_image_check_png(picture[i]));
        if (cvx_same_file(picture[i], video)) {
            return cvx_fail(CVX_EINVAL, "the input and the output are the same: %s", video);
        }
    }
    return o->plot != NULL && o->sheet != NULL && cvx_same_file(o->plot, o->sheet)
               ? cvx_fail(CVX_EINVAL, "--plot and --sheet are the same file: %s", o->plot)
               : CVX_OK;
}

static cvx_status score(const options *o, const char *video)
{
    cvx_status st = CVX_OK;
    cvx_ctx *ctx = NULL;
    cvx_clip_scores s = {0};
    cvx_prompts prompts;
    cvx_progress progress = {.fn = o->json || o->quiet ? cvx_events_quiet : cvx_events_bars,
                             .payload = stderr};

    if (o->clip_model == NULL) {
        return cvx_fail(CVX_EINVAL, "cvx score needs --clip-model DIR (--help tells more)");
    }
    CVX_RETURN_IF(cvx_prompts_parse(&prompts, &o->prompt));
    CVX_RETURN_IF(check_pictures(o, video));
    CVX_TRY(st,
            cvx_ctx_open(&ctx, &(cvx_ctx_options){.backend = o->backend,
                                                  .isa = o->isa,
                                                  .threads = (int)o->threads}),
            done);
    CVX_TRY(st, cvx_clip_score_video(&s, ctx, o->clip_model, &prompts, video, &progress), done);
    CVX_TRY(st, cvx_clip_scores_judge(&s, &o->rule), done);
    CVX_TRY(st, draw(o, &s, video), done);
    if (o->json) {
        CVX_TRY(st, print_json(&s), done);
    } else {
        cvx_clip_scores_print(&s, stdout);
    }
done:
    cvx_clip_scores_free(&s);
    cvx_ctx_close(ctx);
    return st;
}

static int run(int argc, char **argv)
{
    options o = {.rule = CVX_DRIFT_RULE_INIT, .backend = "auto", .isa = "auto"};
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
    .details =
        "VIDEO is a video, a GIF, a picture or a folder of frames. A score is 100 times the cosine "
        "of the frame's and the prompt's CLIP embeddings, never below 0 (torchmetrics' CLIPScore); "
        "what is high depends on the CLIP model, so compare within one model only.\n\n"
        "A frame drifts when it scores below median - max(K x 1.4826 x MAD, floor), where MAD is "
        "the median absolute deviation of the scores: K robust standard deviations, but never "
        "less than the floor. --drift-below adds a limit of its own.",
    .opts = opts,
    .run = run,
};
