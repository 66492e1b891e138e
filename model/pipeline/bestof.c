/* --best-of: of several seeds the video that CLIP likes best. */
#include <limits.h>
#include <math.h>
#include <stdlib.h>

#include "model/pipeline/generator.h"

/* The candidates: the best of this group's own so far; of every candidate its score and that of its preview, in millionths below
 * zero so that the lowest is the best (INT_MAX: none, or not known here); where its loop goes on after the trial. The
 * checkpoints of all stay until the best one is written. */
typedef struct contest {
    cvx_video best; /* k < 0: none yet */
    cvx_resume *resume;
    cvx_snapshot *half;
    int *score, *preview;
} contest;

static int millionths(double score)
{
    return -(int)llround(score * 1e6);
}

static cvx_status own_score(cvx_generator *g, const cvx_output *o, const cvx_prompts *prompts,
                            json_t **list, double *mean)
{
    cvx_status st = cvx_generator_leads(g) ? cvx_video_score(g, o, prompts, list, mean) : CVX_OK;
    return cvx_comm_agree(g->opt.mesh->replica, st);
}

static cvx_status take_turn(const cvx_generator *g, int64_t k)
{
    cvx_turn what = CVX_TURN_MAKE;

    CVX_RETURN_IF(cvx_video_turn(g, k, false, &what));
    return what == CVX_TURN_STOP ? cvx_video_stopped(g->request) : CVX_OK;
}

/* The prompt that holds at the frame that a preview shows: the first one, of an extended clip a new one. */
static cvx_prompts preview_prompt(const cvx_job *j)
{
    return (cvx_prompts){.n = 1,
                         .text = {j->prompts.text[cvx_prompts_at(&j->prompts, j->extension.kept)]}};
}

/* The first half of a candidate's steps, and the score of what it looks like then. */
static cvx_status try_half(cvx_generator *g, contest *c, int64_t k)
{
    cvx_video v = {.g = g};
    const cvx_prompts prompt = preview_prompt(&g->job);
    json_t *list = NULL;
    double mean = 0;

    CVX_RETURN_IF(take_turn(g, k));
    cvx_status st = cvx_video_make(g, &v, k, true, NULL);
    if (st == CVX_OK) {
        st = own_score(g, &v.preview, &prompt, &list, &mean);
    }
    if (st == CVX_OK && cvx_generator_leads(g)) {
        c->preview[k] = millionths(mean);
        c->half[k] = v.resume.at;
        v.resume.at = (cvx_snapshot){0};
    }
    json_decref(list);
    cvx_video_close(&v);
    return st;
}

/* Whether a candidate's preview was clearly below the best one; the same on every rank once the scores are shared. */
static bool dropped(const contest *c, const cvx_request *r, int64_t k)
{
    int best = INT_MAX;

    for (int64_t i = 0; i < r->best_of; i++) {
        best = c->preview[i] < best ? c->preview[i] : best;
    }
    return r->early_stop > 0 && c->preview[k] - best > (int64_t)(r->early_stop * 1e6);
}

/* With --early-stop: the trials of all candidates. All of them end before one goes on, so that the choice does not depend on the
 * number of groups. */
static cvx_status trials(cvx_generator *g, contest *c)
{
    const cvx_request *r = g->request;
    cvx_status st = CVX_OK;
    int64_t left = 0;

    for (int64_t k = 0; st == CVX_OK && k < r->best_of; k++) {
        st = cvx_video_own(g, k) ? try_half(g, c, k) : CVX_OK;
    }
    CVX_RETURN_IF(cvx_comm_agree(cvx_generator_everyone(g), st));
    for (int64_t k = 0; k < r->best_of; k++) {
        CVX_RETURN_IF(cvx_comm_least(cvx_generator_everyone(g), &c->preview[k]));
    }
    for (int64_t k = 0; k < r->best_of; k++) {
        left += !dropped(c, r, k);
    }
    if (cvx_generator_everyone(g)->rank == 0) {
        cvx_progress_note(&g->progress, "%lld of %lld candidates go on after half of the steps",
                          (long long)left, (long long)r->best_of);
    }
    return CVX_OK;
}

static cvx_status try_candidate(cvx_generator *g, contest *c, int64_t k)
{
    cvx_video v = {.g = g};

    CVX_RETURN_IF(take_turn(g, k));
    cvx_status st = cvx_video_make(g, &v, k, false, &c->half[k]);
    if (st == CVX_OK) {
        st = own_score(g, &v.output, &g->job.prompts, &v.scores, &v.mean);
    }
    if (st == CVX_OK && cvx_generator_leads(g)) {
        c->score[k] = millionths(v.mean);
        c->resume[k] = v.resume;
        cvx_snapshot_free(&c->resume[k].at);
        v.resume = (cvx_resume){0};
    }
    if (st == CVX_OK && (c->best.k < 0 || v.mean > c->best.mean)) {
        cvx_video worse = c->best;
        c->best = v;
        v = worse;
    }
    cvx_video_close(&v);
    return st;
}

/* Which candidate has won, the first of equals; and the list for the manifest. */
static cvx_status judge(cvx_generator *g, contest *c, int64_t *winner, json_t **list)
{
    const cvx_request *r = g->request;

    *winner = 0;
    *list = json_array();
    for (int64_t k = 0; k < r->best_of; k++) {
        CVX_RETURN_IF(cvx_comm_least(cvx_generator_everyone(g), &c->score[k]));
        *winner = c->score[k] < c->score[*winner] ? k : *winner;
        json_t *one = json_pack("{s:I}", "seed", (json_int_t)(r->seed + k));
        if (r->early_stop > 0) {
            json_object_set_new(one, "preview_score", json_real(-1e-6 * c->preview[k]));
        }
        json_object_set_new(one, "score",
                            dropped(c, r, k) ? json_null() : json_real(-1e-6 * c->score[k]));
        json_array_append_new(*list, one);
    }
    return CVX_OK;
}

/* The winner's group writes it. */
static cvx_status crown(cvx_generator *g, contest *c)
{
    json_t *list = NULL;
    int64_t winner = 0;
    cvx_status st = judge(g, c, &winner, &list);

    if (st == CVX_OK) {
        cvx_progress quiet = {0};
        cvx_progress_note(cvx_generator_everyone(g)->rank == 0 ? &g->progress : &quiet,
                          "the best of %lld: seed %lld, CLIP score %.2f",
                          (long long)g->request->best_of, (long long)(g->request->seed + winner),
                          -1e-6 * c->score[winner]);
        if (cvx_video_own(g, winner)) {
            c->best.candidates = list;
            list = NULL;
            st = cvx_video_finish(&c->best);
        }
        st = cvx_comm_agree(cvx_generator_everyone(g), st);
    }
    json_decref(list);
    for (int64_t k = 0; st == CVX_OK && k < g->request->best_of; k++) {
        cvx_resume_clear(&c->resume[k]);
    }
    return st;
}

static void contest_close(contest *c, size_t n)
{
    cvx_video_close(&c->best);
    for (size_t k = 0; c->resume != NULL && k < n; k++) {
        cvx_resume_close(&c->resume[k]);
    }
    for (size_t k = 0; c->half != NULL && k < n; k++) {
        cvx_snapshot_free(&c->half[k]);
    }
    free(c->resume);
    free(c->half);
    free(c->score);
    free(c->preview);
}

static cvx_status contest_open(contest *c, cvx_generator *g, size_t n)
{
    *c = (contest){.best = {.g = g, .k = -1},
                   .resume = calloc(n, sizeof *c->resume),
                   .half = calloc(n, sizeof *c->half),
                   .score = calloc(n, sizeof *c->score),
                   .preview = calloc(n, sizeof *c->preview)};
    if (c->resume == NULL || c->half == NULL || c->score == NULL || c->preview == NULL) {
        return cvx_fail(CVX_ENOMEM, "no memory for %zu candidates", n);
    }
    for (size_t k = 0; k < n; k++) {
        c->score[k] = c->preview[k] = INT_MAX;
    }
    return CVX_OK;
}

cvx_status cvx_best_of(cvx_generator *g)
{
    size_t n = (size_t)g->request->best_of;
    contest c;
    cvx_status st = contest_open(&c, g, n);

    st = cvx_comm_agree(cvx_generator_everyone(g), st);
    if (st == CVX_OK && g->request->early_stop > 0) {
        st = trials(g, &c);
    }
    for (int64_t k = 0; st == CVX_OK && k < (int64_t)n; k++) {
        bool mine = cvx_video_own(g, k) && !dropped(&c, g->request, k);
        st = mine ? try_candidate(g, &c, k) : CVX_OK;
    }
    st = cvx_comm_agree(cvx_generator_everyone(g), st);
    st = st == CVX_OK ? crown(g, &c) : st;
    contest_close(&c, n);
    return st;
}
