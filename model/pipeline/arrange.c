#include "model/pipeline/arrange.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/pipeline/batch.h"
#include "model/pipeline/generate.h"
#include "model/pipeline/manifest.h"

/* Up to so many ranks a mesh with the bits of one rank is good enough to look no further. */
#define MANY_RANKS 16

char *cvx_degrees_describe(const cvx_degrees *d, char *buf, size_t size)
{
    size_t n = 0;

    snprintf(buf, size, "one rank");
    for (int i = 0; i < CVX_MESH_DIMS && n < size; i++) {
        if (d->n[i] > 1) {
            int k = snprintf(buf + n, size - n, "%s%s %d", n > 0 ? " x " : "", cvx_mesh_names[i],
                             d->n[i]);
            n += k > 0 ? (size_t)k : 0;
        }
    }
    return buf;
}

/* Seconds of the stage's compute that can hide the ring's transfers: they run beside attention. */
static double stage_seconds(const cvx_cluster *c, const cvx_degrees *d, int rank,
                            const cvx_stage_cost *s, double *exchange)
{
    double ring = cvx_cluster_comm_seconds(c, d, rank, CVX_MESH_RING, s->comm[CVX_MESH_RING]);
    double attention = s->flops[CVX_OP_ID_attention] / c->rate[CVX_OP_ID_attention];

    *exchange = ring > attention ? ring - attention : 0;
    for (int i = 0; i < CVX_MESH_COMMS; i++) {
        if (i != CVX_MESH_RING) {
            *exchange += cvx_cluster_comm_seconds(c, d, rank, i, s->comm[i]);
        }
    }
    return cvx_plan_seconds(s, c->rate) + *exchange;
}

static int64_t sent_bytes(const cvx_stage_cost *c)
{
    int64_t n = 0;

    for (int i = 0; i < CVX_MESH_COMMS; i++) {
        for (int k = 0; k < CVX_COMM_KINDS; k++) {
            n += c->comm[i][k].bytes_sent;
        }
    }
    return n;
}

/* What every candidate is measured with. */
typedef struct search {
    const cvx_ctx *ctx;
    const cvx_checkpoint *ckpt;
    const cvx_job *job;
    const cvx_pipeline_options *opt;
    const cvx_cluster *cluster;
} search;

/* Walks the job as `rank` of the layout; what is larger there than known so far is taken over. */
static cvx_status walk(cvx_arrangement *l, const search *s, int rank)
{
    cvx_stage_cost cost[CVX_STAGE_COUNT];
    cvx_pipeline_options o = *s->opt;
    cvx_mesh *dry = NULL;
    double total = 0, exchanges = 0, steps = (double)s->job->request->num_inference_steps;
    int64_t sent = 0;

    CVX_RETURN_IF(cvx_mesh_dry(&dry, &l->degrees, rank));
    o.mesh = dry;
    cvx_status st = cvx_pipeline_measure(s->ctx, s->ckpt, &o, s->job, cost);
    cvx_mesh_close(dry);
    CVX_RETURN_IF(st);
    for (int i = 0; i < CVX_STAGE_COUNT; i++) {
        const cvx_stage_cost *c = &cost[i];
        double exchange, t = stage_seconds(s->cluster, &l->degrees, rank, c, &exchange);
        size_t bytes = c->weights + c->mapped + c->job + c->step;
        if (i == CVX_STAGE_DENOISE && t / steps > l->step_seconds) {
            l->step_seconds = t / steps;
        }
        l->step[i] = c->step > l->step[i] ? c->step : l->step[i];
        total += t;
        exchanges += exchange;
        l->bytes = bytes > l->bytes ? bytes : l->bytes;
        sent += sent_bytes(c);
    }
    l->sent = sent > l->sent ? sent : l->sent;
    if (total > l->seconds) {
        l->seconds = total;
        l->exchange = exchanges / total;
    }
    return CVX_OK;
}

static cvx_status evaluate(cvx_arrangement *l, const search *s)
{
    const int *n = l->degrees.n;
    int size = cvx_mesh_size(&l->degrees);
    int64_t videos = cvx_request_videos(s->job->request);

    /* the first rank does what one does for all; the last has the longer shards */
    CVX_RETURN_IF(walk(l, s, 0));
    if (size > 1) {
        CVX_RETURN_IF(walk(l, s, size / n[CVX_MESH_DATA] - 1));
    }
    l->seconds *= (double)((videos + n[CVX_MESH_DATA] - 1) / n[CVX_MESH_DATA]);
    l->exact = n[CVX_MESH_RING] == 1 && n[CVX_MESH_TENSOR] == 1;
    l->fits = (double)l->bytes <= s->cluster->memory;
    return CVX_OK;
}

/* The next mesh of `ranks` ranks after *d in counting order; false after the last. */
static bool next_degrees(cvx_degrees *d, int ranks)
{
    int left, i = CVX_MESH_DIMS - 2;

    do {
        while (i >= 0 && d->n[i] == ranks) {
            d->n[i--] = 1;
        }
        if (i < 0) {
            return false;
        }
        d->n[i]++;
        i = CVX_MESH_DIMS - 2;
        left = ranks;
        for (int k = 0; k < CVX_MESH_DIMS - 1; k++) {
            left = left > 0 && left % d->n[k] == 0 ? left / d->n[k] : 0;
        }
    } while (left == 0);
    d->n[CVX_MESH_TENSOR] = left;
    return true;
}

static bool allowed(const cvx_degrees *d, const cvx_degrees *fixed, const cvx_job *job,
                    const cvx_checkpoint *ckpt)
{
    const int *n = d->n;
    bool ok = true;

    for (int i = 0; fixed != NULL && i < CVX_MESH_DIMS; i++) {
        ok = ok && (fixed->n[i] == 0 || fixed->n[i] == n[i]);
    }
    if (fixed == NULL || fixed->n[CVX_MESH_DATA] == 0) {
        ok = ok && n[CVX_MESH_DATA] <= cvx_request_videos(job->request);
    }
    if (fixed == NULL || fixed->n[CVX_MESH_CFG] == 0) {
        ok = ok && n[CVX_MESH_CFG] <= (job->guided ? 2 : 1);
    }
    if (fixed == NULL || fixed->n[CVX_MESH_WINDOW] == 0) {
        ok = ok && n[CVX_MESH_WINDOW] <= job->windows.n;
    }
    if (fixed == NULL || fixed->n[CVX_MESH_TENSOR] == 0) { /* more would hold no head */
        ok = ok && n[CVX_MESH_TENSOR] <= ckpt->dit.num_attention_heads;
    }
    return ok;
}

static int faster(const void *a, const void *b)
{
    const cvx_arrangement *x = a, *y = b;
    return x->seconds < y->seconds ? -1 : x->seconds > y->seconds;
}

/* The list is sorted: the first with the properties is the fastest with them. */
static int first(const cvx_arrangements *l, bool fits, bool exact)
{
    for (int i = 0; i < l->n; i++) {
        if ((!fits || l->item[i].fits) && (!exact || l->item[i].exact)) {
            return i;
        }
    }
    return -1;
}

static void choose(cvx_arrangements *l)
{
    int fit = first(l, true, false), exact = first(l, true, true);
    const char *why = "the fastest with the bits of one rank";

    l->best = exact;
    if (exact >= 0 && l->item[fit].seconds < 0.5 * l->item[exact].seconds) {
        l->best = fit;
        why = "twice as fast as any with the bits of one rank";
    } else if (exact < 0 && fit >= 0) {
        l->best = fit;
        why = "the fastest that fits in memory; it reorders sums, so bits differ from one rank's";
    } else if (fit < 0) {
        l->best = 0;
        for (int i = 1; i < l->n; i++) {
            l->best = l->item[i].bytes < l->item[l->best].bytes ? i : l->best;
        }
        why = "none fits in memory; this one needs the least";
    }
    snprintf(l->reason, sizeof l->reason, "%s", l->n == 1 ? "no other is possible" : why);
}

static cvx_status add(cvx_arrangements *l, const cvx_degrees *d, const search *s)
{
    cvx_arrangement *more = realloc(l->item, (size_t)(l->n + 1) * sizeof *more);

    if (more == NULL) {
        return cvx_fail(CVX_ENOMEM, "no memory for a list of meshes");
    }
    l->item = more;
    l->item[l->n] = (cvx_arrangement){.degrees = *d};
    CVX_RETURN_IF(evaluate(&l->item[l->n], s));
    l->n++;
    return CVX_OK;
}

/* The candidates that have the bits of one rank, or the others. */
static cvx_status add_all(cvx_arrangements *l, const search *s, int ranks, const cvx_degrees *fixed,
                          bool exact)
{
    cvx_degrees d = CVX_DEGREES_ONE;

    d.n[CVX_MESH_TENSOR] = ranks;
    do {
        bool same = d.n[CVX_MESH_RING] == 1 && d.n[CVX_MESH_TENSOR] == 1;
        if (same == exact && allowed(&d, fixed, s->job, s->ckpt)) {
            CVX_RETURN_IF(add(l, &d, s));
        }
    } while (next_degrees(&d, ranks));
    return CVX_OK;
}

cvx_status cvx_arrange(cvx_arrangements *out, const cvx_ctx *ctx, const cvx_checkpoint *ckpt,
                       const cvx_job *job, const cvx_pipeline_options *opt,
                       const cvx_cluster *cluster, int ranks, const cvx_degrees *fixed, bool all)
{
    const search s = {ctx, ckpt, job, opt, cluster};
    cvx_arrangements l = {.best = -1};
    cvx_status st = CVX_OK;

    CVX_TRY(st, add_all(&l, &s, ranks, fixed, true), done);
    qsort(l.item, (size_t)l.n, sizeof *l.item, faster);
    if (all || first(&l, true, true) < 0 || ranks > MANY_RANKS) {
        CVX_TRY(st, add_all(&l, &s, ranks, fixed, false), done);
        qsort(l.item, (size_t)l.n, sizeof *l.item, faster);
    }
    if (l.n == 0) {
        st = cvx_fail(CVX_EINVAL,
                      "no mesh of %d ranks has the degrees asked for: their product must be the "
                      "number of ranks",
                      ranks);
        goto done;
    }
    choose(&l);
    *out = l;
    return CVX_OK;
done:
    free(l.item);
    return st;
}

void cvx_arrangements_free(cvx_arrangements *l)
{
    free(l->item);
    *l = (cvx_arrangements){.best = -1};
}

cvx_degrees cvx_request_degrees(const cvx_request *r)
{
    cvx_degrees d;

    for (int i = 0; i < CVX_MESH_DIMS; i++) {
        d.n[i] = (int)r->degree[i];
    }
    d.n[CVX_MESH_CFG] = r->enable_cfg_parallel ? 2 : 0;
    return d;
}

static cvx_status resolve(cvx_job *j, cvx_checkpoint *c, const cvx_request *r)
{
    cvx_source source;

    CVX_RETURN_IF(cvx_request_check(r));
    CVX_RETURN_IF(cvx_checkpoint_open(c, r->model));
    CVX_RETURN_IF(cvx_source_look(&source, r));
    return cvx_job_resolve(j, c, r, &source);
}

static cvx_status pick(cvx_degrees *out, const cvx_request *r, int ranks, int node_ranks,
                       cvx_progress *progress)
{
    cvx_checkpoint c;
    cvx_job j;
    cvx_cluster cluster;
    cvx_ctx *ctx = NULL;
    cvx_arrangements l = {0};
    const cvx_pipeline_options opt = {.pack = true, .lora = &r->lora};
    cvx_degrees fixed = cvx_request_degrees(r);
    char text[160];
    cvx_status st = CVX_OK;

    if (r->ranks != 0 && r->ranks != ranks) {
        return cvx_fail(CVX_EINVAL,
                        "--ranks %lld, but there are %d: start so many by mpirun or srun",
                        (long long)r->ranks, ranks);
    }
    CVX_RETURN_IF(resolve(&j, &c, r));
    CVX_RETURN_IF(cvx_request_ctx(&ctx, r));
    CVX_TRY(st,
            r->cluster != NULL ? cvx_cluster_load(&cluster, r->cluster)
                               : cvx_cluster_here(&cluster, ctx, ranks, node_ranks, 0),
            done);
    CVX_TRY(st, cvx_arrange(&l, ctx, &c, &j, &opt, &cluster, ranks, &fixed, false), done);
    *out = l.item[l.best].degrees;
    if (progress != NULL && ranks > 1) {
        cvx_progress_note(progress, "%d ranks as %s: %s", ranks,
                          cvx_degrees_describe(out, text, sizeof text), l.reason);
    }
done:
    cvx_arrangements_free(&l);
    cvx_ctx_close(ctx);
    return st;
}

static bool resolves(const cvx_request *r)
{
    cvx_checkpoint c;
    cvx_job j;

    return resolve(&j, &c, r) == CVX_OK;
}

/* A replay's mesh is chosen for what its manifest asks, a batch's for the first of its jobs that can be made. Where there is
 * none any mesh will do to tell why. */
static cvx_status pick_for(cvx_degrees *out, const cvx_request *r, int ranks, int node_ranks,
                           cvx_progress *progress)
{
    cvx_request wanted = *r;
    json_t *doc = NULL;
    cvx_status st = CVX_OK;

    if (r->replay != NULL) {
        wanted = (cvx_request)CVX_REQUEST_INIT;
        st = cvx_manifest_replay(&doc, &wanted, r);
    } else if (r->batch != NULL) {
        st = cvx_batch_example(&wanted, &doc, r, resolves);
        if (st == CVX_OK && doc == NULL) {
            out->n[CVX_MESH_ULYSSES] = ranks;
            return CVX_OK;
        }
    }
    if (st == CVX_OK) {
        st = pick(out, &wanted, ranks, node_ranks, progress);
    }
    json_decref(doc);
    return st;
}

cvx_status cvx_arrange_world(cvx_mesh **out, const cvx_request *r, cvx_comm *world, int node_ranks,
                             cvx_progress *progress)
{
    cvx_degrees d = CVX_DEGREES_ONE;

    CVX_RETURN_IF(cvx_comm_agree(
        world, world->rank == 0 ? pick_for(&d, r, world->size, node_ranks, progress) : CVX_OK));
    CVX_RETURN_IF(cvx_comm_broadcast(world, &d, sizeof d, 0));
    CVX_RETURN_IF(cvx_mesh_open(out, world, &d));
    (*out)->node_ranks = node_ranks;
    return CVX_OK;
}
