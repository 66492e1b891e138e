/* cvx plan: what a job will need, before it runs. */
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "media/image.h"
#include "model/pipeline/arrange.h"
#include "model/pipeline/batch.h"
#include "model/pipeline/manifest.h"
#include "model/pipeline/output.h"

#define MIB (1024.0 * 1024.0)

static void print_table(const cvx_checkpoint *c, const cvx_job *j, const cvx_ctx *ctx,
                        const cvx_plan *p, const double rate[CVX_OP_COUNT])
{
    char what[160];
    double total = 0;

    printf(
        "%s\n%lld frames of %lldx%lld (latents %lldx%lldx%lld), %lld steps, %s on %s, %d threads, "
        "weights %s\n\n",
        cvx_checkpoint_describe(c, what, sizeof what), (long long)j->num_frames,
        (long long)j->width, (long long)j->height, (long long)(j->latent_frames + j->padding),
        (long long)j->latent_height, (long long)j->latent_width,
        (long long)j->request->num_inference_steps, cvx_dtype_name(j->dtype), ctx->ops->name,
        ctx->threads, p->options.pack ? "packed" : "read in place");
    printf("%-8s %12s %12s %10s %10s %12s %10s\n", "stage", "weights MiB", "in place MiB",
           "job MiB", "step MiB", "TFLOP", "about s");
    for (int i = 0; i < CVX_STAGE_COUNT; i++) {
        const cvx_stage_cost *s = &p->stage[i];
        if (i == CVX_STAGE_FINISH && s->weights == 0) { /* not asked for */
            continue;
        }
        double flops = 0, seconds = cvx_plan_seconds(s, rate);
        for (int k = 0; k < CVX_OP_COUNT; k++) {
            flops += s->flops[k];
        }
        total += seconds;
        printf("%-8s %12.1f %12.1f %10.1f %10.1f %12.3f %10.1f\n", cvx_stage_names[i],
               (double)s->weights / MIB, (double)s->mapped / MIB, (double)s->job / MIB,
               (double)(s->step + s->finish) / MIB, flops / 1e12, seconds);
    }
    printf(
        "\nframes kept for the output: %.1f MiB; the program itself: %.1f MiB\n"
        "highest resident size: %.1f MiB; of these needed at once: %.1f MiB; available: %.1f MiB\n"
        "time: about %.1f s\n",
        (double)p->output_bytes / MIB, (double)p->base_bytes / MIB, (double)p->peak_bytes / MIB,
        (double)p->needed_bytes / MIB, (double)p->available_bytes / MIB, total);
}

static void print_json(const cvx_checkpoint *c, const cvx_job *j, const cvx_ctx *ctx,
                       const cvx_plan *p, const double rate[CVX_OP_COUNT], bool fits)
{
    json_t *stages = json_array();
    double total = 0;

    for (int i = 0; i < CVX_STAGE_COUNT; i++) {
        const cvx_stage_cost *s = &p->stage[i];
        if (i == CVX_STAGE_FINISH && s->weights == 0) {
            continue;
        }
        double flops = 0, seconds = cvx_plan_seconds(s, rate);
        for (int k = 0; k < CVX_OP_COUNT; k++) {
            flops += s->flops[k];
        }
        total += seconds;
        json_array_append_new(
            stages, json_pack("{s:s, s:I, s:I, s:I, s:I, s:f, s:f}", "stage", cvx_stage_names[i],
                              "weights_bytes", (json_int_t)s->weights, "mapped_bytes",
                              (json_int_t)s->mapped, "job_bytes", (json_int_t)s->job, "step_bytes",
                              (json_int_t)(s->step + s->finish), "tflop", flops / 1e12, "seconds",
                              seconds));
    }
    json_t *out =
        json_pack("{s:I, s:I, s:I, s:f, s:s, s:i, s:b, s:o, s:I, s:I, s:I, s:f, s:b}", "num_frames",
                  (json_int_t)j->num_frames, "height", (json_int_t)j->height, "width",
                  (json_int_t)j->width, "fps", j->fps, "backend", ctx->ops->name, "threads",
                  ctx->threads, "packed_weights", p->options.pack, "stages", stages, "peak_bytes",
                  (json_int_t)p->peak_bytes, "needed_bytes", (json_int_t)p->needed_bytes,
                  "available_bytes", (json_int_t)p->available_bytes, "seconds", total, "fits",
                  fits);
    json_object_set_new(out, "image_to_video", json_boolean(c->image_to_video));
    json_dumpf(out, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
    printf("\n");
    json_decref(out);
}

static void print_candidates(const cvx_arrangements *l, int ranks)
{
    char text[160];

    printf("%d ranks\n  %-44s %10s %10s %9s %10s %10s  %s\n", ranks, "mesh", "video s", "step s",
           "exchange", "MiB a rank", "MiB sent", "bits");
    for (int i = 0; i < l->n; i++) {
        const cvx_arrangement *a = &l->item[i];
        printf("%s %-44s %10.2f %10.4f %8.1f%% %10.0f %10.1f  %s%s\n", i == l->best ? "*" : " ",
               cvx_degrees_describe(&a->degrees, text, sizeof text), a->seconds, a->step_seconds,
               100 * a->exchange, (double)a->bytes / MIB, (double)a->sent / MIB,
               a->exact ? "one rank's" : "own", a->fits ? "" : ", does not fit");
    }
    printf("* %s\n", l->reason);
}

static json_t *candidates_json(const cvx_arrangements *l, int ranks)
{
    json_t *list = json_array();

    for (int i = 0; i < l->n; i++) {
        const cvx_arrangement *a = &l->item[i];
        json_t *mesh = json_object();
        for (int d = 0; d < CVX_MESH_DIMS; d++) {
            json_object_set_new(mesh, cvx_mesh_names[d], json_integer(a->degrees.n[d]));
        }
        json_t *step = json_object();
        for (int k = 0; k < CVX_STAGE_COUNT; k++) {
            json_object_set_new(step, cvx_stage_names[k], json_integer((json_int_t)a->step[k]));
        }
        json_array_append_new(
            list, json_pack("{s:o, s:o, s:f, s:f, s:f, s:I, s:I, s:b, s:b, s:b}", "mesh", mesh,
                            "step_bytes", step, "seconds", a->seconds, "step_seconds",
                            a->step_seconds, "exchange_share", a->exchange, "rank_bytes",
                            (json_int_t)a->bytes, "sent_bytes", (json_int_t)a->sent, "same_bits",
                            a->exact, "fits", a->fits, "chosen", i == l->best));
    }
    return json_pack("{s:i, s:s, s:o}", "ranks", ranks, "reason", l->reason, "candidates", list);
}

/* Scaling over a cluster: the chosen mesh of each power of two of ranks. */
static cvx_status plan_scaling(const cvx_request *r, cvx_ctx *ctx, const cvx_checkpoint *c,
                               const cvx_job *j, const cvx_cluster *cluster)
{
    const cvx_pipeline_options opt = {.lora = &r->lora};
    cvx_degrees fixed = cvx_request_degrees(r);
    json_t *list = json_array();
    double one = 0;
    char text[160];

    for (int n = 1; n <= cluster->nodes * cluster->node_ranks; n *= 2) {
        cvx_arrangements l = {0};
        cvx_status st = cvx_arrange(&l, ctx, c, j, &opt, cluster, n, &fixed, true);
        if (st != CVX_OK) {
            json_decref(list);
            return st;
        }
        const cvx_arrangement *a = &l.item[l.best];
        one = n == 1 ? a->seconds : one;
        if (r->json) {
            json_array_append_new(list, candidates_json(&l, n));
        } else if (n == 1) {
            printf("%5s  %-44s %10s %10s %9s %10s %10s %10s\n", "ranks", "mesh", "video s",
                   "step s", "exchange", "efficiency", "MiB a rank", "MiB sent");
        }
        if (!r->json) {
            printf("%5d  %-44s %10.2f %10.4f %8.1f%% %9.0f%% %10.0f %10.1f%s\n", n,
                   cvx_degrees_describe(&a->degrees, text, sizeof text), a->seconds,
                   a->step_seconds, 100 * a->exchange, 100 * one / a->seconds / n,
                   (double)a->bytes / MIB, (double)a->sent / MIB, a->fits ? "" : "  does not fit");
        }
        cvx_arrangements_free(&l);
    }
    if (r->json) {
        json_dumpf(list, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
        printf("\n");
    }
    json_decref(list);
    return CVX_OK;
}

/* The meshes of --ranks, on the machines of --cluster or on ones like this. */
static cvx_status plan_ranks(const cvx_request *r, cvx_ctx *ctx, const cvx_checkpoint *c,
                             const cvx_job *j)
{
    const cvx_pipeline_options opt = {.lora = &r->lora, .pack = r->cluster == NULL};
    cvx_degrees fixed = cvx_request_degrees(r);
    cvx_cluster cluster;
    cvx_arrangements l = {0};

    CVX_RETURN_IF(r->cluster != NULL
                      ? cvx_cluster_load(&cluster, r->cluster)
                      : cvx_cluster_here(&cluster, ctx, (int)r->ranks, (int)r->ranks, ctx->cores));
    if (r->ranks == 0) {
        return plan_scaling(r, ctx, c, j, &cluster);
    }
    CVX_RETURN_IF(cvx_arrange(&l, ctx, c, j, &opt, &cluster, (int)r->ranks, &fixed, true));
    if (r->json) {
        json_t *out = candidates_json(&l, (int)r->ranks);
        json_dumpf(out, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
        printf("\n");
        json_decref(out);
    } else {
        print_candidates(&l, (int)r->ranks);
    }
    cvx_arrangements_free(&l);
    return CVX_OK;
}

/* A job that is planned: what it is, where it would run, what it needs there. */
typedef struct subject {
    cvx_checkpoint c;
    cvx_job j;
    cvx_ctx *ctx;
    cvx_mesh *mesh;
    cvx_plan p;
} subject;

/* Reads what the job is of; strict: as a run would, else a prompt, an output and an image may be left out. The caller leaves
 * it, also after a failure. */
static cvx_status look(subject *s, cvx_request *r, bool strict)
{
    cvx_source source;
    cvx_image picture = {0};

    if (!strict && r->prompt.n == 0) {
        r->prompt = (cvx_opt_list){{""}, 1};
    }
    if (!strict && r->output == NULL) {
        r->output = "plan.mp4";
    }
    CVX_RETURN_IF(cvx_request_check(r));
    CVX_RETURN_IF(cvx_checkpoint_open(&s->c, r->model));
    CVX_RETURN_IF(cvx_source_look(&source, r));
    bool given = r->image != NULL;
    if (s->c.image_to_video && !given && r->extend == NULL && !strict) {
        r->image = "image.png"; /* measured by the job's size, never read */
    }
    CVX_RETURN_IF(cvx_job_resolve(&s->j, &s->c, r, &source));
    if (given) { /* whoever asks wants to know whether the job can be */
        CVX_RETURN_IF(cvx_image_read(&picture, r->image));
        cvx_image_free(&picture);
    }
    return cvx_request_ctx(&s->ctx, r);
}

static cvx_status measure(subject *s)
{
    CVX_RETURN_IF(cvx_mesh_self(&s->mesh));
    return cvx_plan_make(&s->p, s->ctx, &s->c, &s->j, s->mesh,
                         cvx_output_is_tensor(s->j.request->output));
}

static void leave(subject *s)
{
    cvx_mesh_close(s->mesh);
    cvx_ctx_close(s->ctx);
}

static cvx_status plan(cvx_request *r)
{
    subject s = {0};
    double rate[CVX_OP_COUNT];
    cvx_status st = CVX_OK;

    CVX_TRY(st, look(&s, r, false), done);
    if (r->ranks > 0 || r->cluster != NULL) {
        st = plan_ranks(r, s.ctx, &s.c, &s.j);
        goto done;
    }
    CVX_TRY(st, measure(&s), done);
    CVX_TRY(st, cvx_plan_rates(s.ctx, rate), done);
    st = cvx_plan_admit(&s.p, s.ctx, &s.c, &s.j);
    if (r->json) {
        print_json(&s.c, &s.j, s.ctx, &s.p, rate, st == CVX_OK);
    } else {
        print_table(&s.c, &s.j, s.ctx, &s.p, rate);
    }
done:
    leave(&s);
    return st;
}

static cvx_status plan_replay(const cvx_request *r)
{
    cvx_request wanted = CVX_REQUEST_INIT;
    json_t *doc = NULL;

    CVX_RETURN_IF(cvx_manifest_replay(&doc, &wanted, r));
    wanted.json = r->json;
    cvx_status st = plan(&wanted);
    json_decref(doc);
    return st;
}

/* --- a batch: one job after the other --- */

typedef struct batch_plan {
    const char *file;
    json_t *jobs; /* NULL: a table is printed */
    int64_t n, failed, videos;
    size_t peak, needed, available; /* of the greatest; of the last */
    double seconds;                 /* of all */
    cvx_status worst;               /* the least code */
} batch_plan;

static void print_row(const cvx_job *j, const cvx_plan *p, int64_t line, int64_t videos,
                      double seconds, bool fits, bool first)
{
    char size[48];

    if (first) {
        printf("%6s %6s %7s %11s %6s %11s %11s %10s  %s\n", "line", "videos", "frames", "size",
               "steps", "highest MiB", "needed MiB", "about s", "output");
    }
    snprintf(size, sizeof size, "%lldx%lld", (long long)j->width, (long long)j->height);
    printf("%6lld %6lld %7lld %11s %6lld %11.1f %11.1f %10.1f  %s%s\n", (long long)line,
           (long long)videos, (long long)j->num_frames, size,
           (long long)j->request->num_inference_steps, (double)p->peak_bytes / MIB,
           (double)p->needed_bytes / MIB, seconds, j->request->output,
           fits ? "" : ", does not fit");
}

static void add_job(batch_plan *b, int64_t line, const subject *s, const double rate[CVX_OP_COUNT],
                    bool fits)
{
    const cvx_job *j = &s->j;
    const cvx_plan *p = &s->p;
    int64_t videos = cvx_request_videos(j->request);
    double seconds = 0;

    for (int i = 0; i < CVX_STAGE_COUNT; i++) {
        seconds += (double)videos * cvx_plan_seconds(&p->stage[i], rate);
    }
    if (b->jobs == NULL) {
        print_row(j, p, line, videos, seconds, fits, b->videos == 0);
    } else {
        json_array_append_new(
            b->jobs, json_pack("{s:I, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:b}", "line",
                               (json_int_t)line, "output", j->request->output, "videos",
                               (json_int_t)videos, "num_frames", (json_int_t)j->num_frames,
                               "height", (json_int_t)j->height, "width", (json_int_t)j->width,
                               "peak_bytes", (json_int_t)p->peak_bytes, "needed_bytes",
                               (json_int_t)p->needed_bytes, "seconds", seconds, "fits", fits));
    }
    b->videos += videos;
    b->seconds += seconds;
    b->peak = p->peak_bytes > b->peak ? p->peak_bytes : b->peak;
    b->needed = p->needed_bytes > b->needed ? p->needed_bytes : b->needed;
    b->available = p->available_bytes;
}

static cvx_status plan_job(batch_plan *b, int64_t line, cvx_request *r)
{
    subject s = {0};
    double rate[CVX_OP_COUNT];
    cvx_status st = CVX_OK;

    CVX_TRY(st, look(&s, r, true), done);
    CVX_TRY(st, measure(&s), done);
    CVX_TRY(st, cvx_plan_rates(s.ctx, rate), done);
    st = cvx_plan_admit(&s.p, s.ctx, &s.c, &s.j);
    add_job(b, line, &s, rate, st == CVX_OK);
done:
    leave(&s);
    return st;
}

/* A line of the file; one that would fail is told as its run would tell it. */
static void plan_line(void *payload, int64_t line, cvx_status st, const cvx_request *of)
{
    batch_plan *b = payload;

    b->n++;
    if (st == CVX_OK) {
        cvx_request r = *of;
        st = plan_job(b, line, &r);
    }
    if (st == CVX_OK) {
        return;
    }
    b->failed++;
    b->worst = st < b->worst ? st : b->worst;
    bool named = strncmp(cvx_error(), b->file, strlen(b->file)) == 0; /* the line's own errors */
    if (!named) {
        (void)cvx_fail_prefix(st, "%s:%lld", b->file, (long long)line);
    }
    fprintf(stderr, "%s\n", cvx_error());
}

static cvx_status plan_batch(const cvx_request *r)
{
    batch_plan b = {.file = r->batch, .jobs = r->json ? json_array() : NULL};

    if (r->replay != NULL || r->ranks > 0 || r->cluster != NULL) {
        return cvx_fail(CVX_EINVAL,
                        "--batch is planned for one rank, without --replay, --ranks and --cluster");
    }
    cvx_status st = cvx_batch_each(r, plan_line, &b);
    if (st == CVX_OK && r->json) {
        json_t *out =
            json_pack("{s:O, s:I, s:I, s:I, s:f, s:b}", "jobs", b.jobs, "peak_bytes",
                      (json_int_t)b.peak, "needed_bytes", (json_int_t)b.needed, "available_bytes",
                      (json_int_t)b.available, "seconds", b.seconds, "fits", b.failed == 0);
        json_dumpf(out, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
        printf("\n");
        json_decref(out);
    } else if (st == CVX_OK) {
        printf("%s%lld jobs, %lld videos\n"
               "highest resident size of one: %.1f MiB; of these needed at once: %.1f MiB; "
               "available: %.1f MiB\ntime of all: about %.1f s\n",
               b.videos > 0 ? "\n" : "", (long long)b.n, (long long)b.videos, (double)b.peak / MIB,
               (double)b.needed / MIB, (double)b.available / MIB, b.seconds);
    }
    json_decref(b.jobs);
    return st != CVX_OK || b.failed == 0 ? st
                                         : cvx_fail(b.worst, "%s: %lld of %lld jobs would fail",
                                                    b.file, (long long)b.failed, (long long)b.n);
}

static int run(int argc, char **argv)
{
    cvx_request r = CVX_REQUEST_INIT;
    int n, code;

    if (!cvx_cli_begin(&cvx_cmd_plan, &r, argc, argv, NULL, 0, 0, &n, &code)) {
        return code;
    }
    return cvx_cli_finish(r.batch != NULL    ? plan_batch(&r)
                          : r.replay != NULL ? plan_replay(&r)
                                             : plan(&r));
}

const cvx_command cvx_cmd_plan = {
    .name = "cvx plan",
    .args = "",
    .summary = "Tells the memory of each stage and the time of a job, before it runs.",
    .details =
        "Takes the options of cvx generate. Memory comes from a walk through the job with nothing "
        "computed; time from short runs of the main kernels on this machine. Exit code 5 if the "
        "job does not fit, with the nearest that does. --replay MANIFEST: of the job that made it; --batch FILE: of each of its "
        "jobs, the greatest memory of one and the time of all. With --ranks N: the meshes of N ranks, the one "
        "that cvx-rank would take marked; with --cluster FILE: on the machines that the file "
        "describes, and without --ranks for every power of two of its GPUs.",
    .opts = cvx_request_opts,
    .run = run,
};
