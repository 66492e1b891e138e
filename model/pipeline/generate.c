#include "model/pipeline/generate.h"

#include <string.h>

#include "model/pipeline/arrange.h"
#include "model/pipeline/finish.h"
#include "model/pipeline/generator.h"
#include "model/pipeline/manifest.h"
#include "parallel/same.h"

static cvx_status check_places(const cvx_generator *g)
{
    const cvx_request *r = g->request;

    if (!cvx_generator_leads(g)) {
        return CVX_OK;
    }
    cvx_stages_plan out = {.w = g->job.width, .h = g->job.height, .fps = g->job.fps};
    if (cvx_finish_wanted(r)) {
        CVX_RETURN_IF(cvx_finish_measure(&out, g->ctx, r, out.w, out.h, out.fps));
    }
    CVX_RETURN_IF(cvx_places_check(r, out.w, out.h, out.fps));
    return r->preview_dir != NULL ? cvx_mkdirs(r->preview_dir) : CVX_OK;
}

/* Each rank's own preparations. */
static cvx_status prepare(cvx_generator *g, const json_t *replayed)
{
    const cvx_request *r = g->request;
    cvx_source source;

    CVX_RETURN_IF(cvx_request_check(r));
    CVX_RETURN_IF(cvx_generator_open_model(g));
    CVX_RETURN_IF(cvx_source_look(&source, r));
    CVX_RETURN_IF(cvx_job_resolve(&g->job, &g->ckpt, r, &source));
    CVX_RETURN_IF(check_places(g));
    if (g->job.note[0] != 0) {
        cvx_progress_note(&g->progress, "%s", g->job.note);
    }
    CVX_RETURN_IF(cvx_generator_plan(g, &g->job, &g->plan));
    CVX_RETURN_IF(cvx_plan_admit(&g->plan, g->ctx, &g->ckpt, &g->job));
    CVX_RETURN_IF(cvx_generator_open_pipeline(g, &g->plan));
    if (!cvx_generator_leads(g)) {
        return CVX_OK;
    }
    CVX_RETURN_IF(cvx_manifest_hashes(&g->hashes, &g->ckpt, r));
    return replayed == NULL ? CVX_OK : cvx_manifest_verify(replayed, g->hashes, r->replay);
}

/* Whether every rank means the same job by the same checkpoint. */
static cvx_status agree_on_job(const cvx_generator *g)
{
    json_t *what = cvx_opts_shared(cvx_request_opts, g->request);
    cvx_status st = cvx_checkpoint_print(&g->ckpt, what);

    st = cvx_comm_agree(cvx_generator_everyone(g), st);
    st = st == CVX_OK ? cvx_comm_same(cvx_generator_everyone(g), what) : st;
    json_decref(what);
    return st;
}

static cvx_status one_video(cvx_generator *g, int64_t k)
{
    cvx_video v;
    cvx_status st = cvx_video_make(g, &v, k, false, NULL);

    if (st == CVX_OK) {
        st = cvx_video_finish(&v);
    }
    cvx_video_close(&v);
    return st;
}

static cvx_status run_request(cvx_generator *g, const json_t *replayed, bool skip_done)
{
    const cvx_request *r = g->request;

    CVX_RETURN_IF(cvx_comm_agree(cvx_generator_everyone(g), prepare(g, replayed)));
    CVX_RETURN_IF(agree_on_job(g));
    if (r->best_of > 1) {
        return cvx_best_of(g);
    }
    for (int64_t k = 0; k < r->num_videos_per_prompt; k++) {
        cvx_turn what = CVX_TURN_MAKE;
        if (!cvx_video_own(g, k)) {
            continue;
        }
        CVX_RETURN_IF(cvx_video_turn(g, k, skip_done, &what));
        if (what == CVX_TURN_STOP) {
            return cvx_video_stopped(r);
        }
        if (what == CVX_TURN_MAKE) {
            CVX_RETURN_IF(one_video(g, k));
        }
    }
    return CVX_OK;
}

/* Rings and tensor shards order sums: other degrees than the manifest's would make other bytes. */
static cvx_status check_order(const cvx_request *r, const cvx_degrees *mesh)
{
    static const int ordered[] = {CVX_MESH_RING, CVX_MESH_TENSOR};
    cvx_degrees want = CVX_DEGREES_ONE;
    bool same = true;
    char text[160];

    for (int k = 0; k < 2; k++) {
        int i = ordered[k];
        want.n[i] = r->degree[i] > 0 ? (int)r->degree[i] : 1;
        same = same && want.n[i] == mesh->n[i];
    }
    return same ? CVX_OK
                : cvx_fail(CVX_EINVAL,
                           "%s: made on a mesh of %s, which orders sums: start cvx-rank on a "
                           "multiple of %d ranks, or give other degrees for other bytes",
                           r->replay, cvx_degrees_describe(&want, text, sizeof text),
                           cvx_mesh_size(&want));
}

cvx_status cvx_generator_run(cvx_generator *g, const cvx_request *r, bool skip_done)
{
    cvx_request replay = CVX_REQUEST_INIT;
    json_t *doc = NULL;
    cvx_status st = CVX_OK;

    g->request = r;
    if (r->replay != NULL) { /* a file that each rank reads */
        st = cvx_manifest_replay(&doc, &replay, r);
        st = st == CVX_OK ? check_order(&replay, &g->opt.mesh->degrees) : st;
        CVX_TRY(st, cvx_comm_agree(cvx_generator_everyone(g), st), done);
        g->request = &replay;
    }
    /* of several videos an earlier run may have made some */
    skip_done |= g->request->checkpoint_dir != NULL && g->request->num_videos_per_prompt > 1;
    st = run_request(g, doc, skip_done);
done:
    cvx_generator_end_request(g);
    json_decref(doc);
    return st;
}

cvx_status cvx_generate(const cvx_request *r, const cvx_generator_options *opt)
{
    cvx_generator *g = NULL;

    CVX_RETURN_IF(cvx_generator_open(&g, opt));
    cvx_status st = cvx_generator_run(g, r, false);
    cvx_generator_close(g);
    return st;
}
