#include "model/pipeline/batch.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/hash.h"
#include "parallel/same.h"

#define BATCH_MAX_BYTES ((size_t)256 << 20)

typedef struct batch {
    const cvx_request *defaults;
    const cvx_mesh *mesh;
    cvx_generator *generator;
    FILE *errors;
    char *text;
    size_t len;
    json_t *outputs;      /* of the lines so far, of all groups: the line's number by its output */
    int64_t jobs, failed; /* of all groups; of this group */
    cvx_status worst;     /* of this group's failures: the least code */
} batch;

cvx_status cvx_batch_line(cvx_request *r, json_t **doc, const char *text, size_t len,
                          const char *what)
{
    cvx_request job = *r;
    json_t *j = NULL;
    const char *key;
    json_t *v;

    CVX_RETURN_IF(cvx_json_parse(&j, text, len, what));
    json_object_foreach(j, key, v)
    {
        const cvx_opt *o = cvx_opts_find(cvx_request_opts, key);
        if (o != NULL && strcmp(o->name, "batch") == 0) {
            json_decref(j);
            return cvx_fail(CVX_EINVAL, "%s: \"batch\": a job of a batch is no batch", what);
        }
        if (o != NULL && o->type == CVX_OPT_LIST) { /* the line's list instead of the default's */
            *(cvx_opt_list *)(void *)((char *)&job + o->offset) = (cvx_opt_list){0};
        }
    }
    cvx_status st = cvx_request_from_json(&job, j, what);
    if (st != CVX_OK) {
        json_decref(j);
        return st;
    }
    job.batch = NULL;
    *r = job;
    *doc = j;
    return CVX_OK;
}

/* The line at *p, whose length is *len; *p moves to the next. NULL after the last. */
static const char *next_line(const char **p, const char *end, size_t *len)
{
    const char *text = *p, *stop;

    if (text >= end) {
        return NULL;
    }
    stop = memchr(text, '\n', (size_t)(end - text));
    *len = (size_t)((stop != NULL ? stop : end) - text);
    *p = text + *len + (stop != NULL);
    return text;
}

cvx_status cvx_batch_example(cvx_request *out, json_t **doc, const cvx_request *defaults,
                             bool (*fits)(const cvx_request *r))
{
    char *text = NULL;
    const char *p, *line;
    size_t len = 0, n = 0;

    *doc = NULL;
    CVX_RETURN_IF(cvx_file_read(&text, &len, defaults->batch, BATCH_MAX_BYTES));
    for (p = text; *doc == NULL && (line = next_line(&p, text + len, &n)) != NULL;) {
        *out = *defaults;
        if (cvx_batch_line(out, doc, line, n, defaults->batch) == CVX_OK && !fits(out)) {
            json_decref(*doc);
            *doc = NULL;
        }
    }
    free(text);
    return CVX_OK;
}

/* A failed job: told once, by the rank 0 of its group unless the cause is another rank's. Returns whether the ranks
 * can still talk. */
static cvx_status tell_failure(batch *b, int64_t line, cvx_status st)
{
    const cvx_comm *c = b->mesh->replica;
    const char *path = b->defaults->batch;
    int own = st != CVX_EPEER ? c->rank : CVX_MAX_RANKS, first = own;

    CVX_RETURN_IF(cvx_comm_least(b->mesh->replica, &first));
    if (first == own && b->errors != NULL) {
        bool named = strncmp(cvx_error(), path, strlen(path)) == 0; /* the line's own errors */
        if (named) {
            fprintf(b->errors, "%s\n", cvx_error());
        } else {
            fprintf(b->errors, "%s:%lld: %s\n", path, (long long)line, cvx_error());
        }
        fflush(b->errors);
    }
    if (st != CVX_EPEER && st < b->worst) {
        b->worst = st;
    }
    b->failed++;
    return CVX_OK;
}

/* The line's request; *doc outlives it. */
static cvx_status read_line(const batch *b, cvx_request *r, json_t **doc, const char *text,
                            size_t len, int64_t line)
{
    char what[CVX_PATH_MAX + 32];

    *r = *b->defaults;
    snprintf(what, sizeof what, "%s:%lld", b->defaults->batch, (long long)line);
    return cvx_batch_line(r, doc, text, len, what);
}

static cvx_status run_line(batch *b, const char *text, size_t len, int64_t line)
{
    cvx_request r;
    json_t *doc = NULL;

    CVX_RETURN_IF(read_line(b, &r, &doc, text, len, line));
    cvx_status st = cvx_generator_run(b->generator, &r, true);
    json_decref(doc);
    return st;
}

/* A job's output is its own: of two lines that name the same one the later is refused. A line that cannot be read is told by
 * whoever runs it. */
static cvx_status claim_output(batch *b, const char *text, size_t len, int64_t line)
{
    json_t *j = NULL;
    cvx_status st = CVX_OK;

    if (cvx_json_parse(&j, text, len, "") != CVX_OK) {
        return CVX_OK;
    }
    const char *own = json_string_value(json_object_get(j, "output"));
    const char *path = own != NULL ? own : b->defaults->output;
    const json_t *first = path != NULL ? json_object_get(b->outputs, path) : NULL;
    if (first != NULL) {
        st = cvx_fail(CVX_EINVAL, "output %s: line %lld writes it", path,
                      (long long)json_integer_value(first));
    } else if (path != NULL) {
        json_object_set_new_nocheck(b->outputs, path, json_integer(line));
    }
    json_decref(j);
    return st;
}

cvx_status cvx_batch_each(const cvx_request *defaults,
                          void (*fn)(void *payload, int64_t line, cvx_status st,
                                     const cvx_request *r),
                          void *payload)
{
    batch b = {.defaults = defaults};
    const char *text, *p;
    size_t len = 0;

    CVX_RETURN_IF(cvx_file_read(&b.text, &b.len, defaults->batch, BATCH_MAX_BYTES));
    b.outputs = json_object();
    p = b.text;
    for (int64_t line = 1; (text = next_line(&p, b.text + b.len, &len)) != NULL; line++) {
        cvx_request r;
        json_t *doc = NULL;
        if (strspn(text, " \t\r\n") >= len) {
            continue;
        }
        cvx_status st = claim_output(&b, text, len, line);
        st = st == CVX_OK ? read_line(&b, &r, &doc, text, len, line) : st;
        fn(payload, line, st, st == CVX_OK ? &r : NULL);
        json_decref(doc);
    }
    json_decref(b.outputs);
    free(b.text);
    return CVX_OK;
}

static bool stops(cvx_status st)
{
    return st == CVX_EREQUEUE || st == CVX_ECANCELLED;
}

/* The lines of this rank's group. Returns at once when the batch is to stop. */
static cvx_status run_lines(batch *b)
{
    int64_t line = 0;
    const cvx_mesh *m = b->mesh;

    const char *p = b->text, *text;
    size_t len = 0;

    while ((text = next_line(&p, b->text + b->len, &len)) != NULL) {
        line++;
        if (strspn(text, " \t\r\n") >= len) {
            continue;
        }
        cvx_status st = claim_output(b, text, len, line);
        if (b->jobs++ % m->degrees.n[CVX_MESH_DATA] != m->at[CVX_MESH_DATA]) {
            continue;
        }
        st = st == CVX_OK ? run_line(b, text, len, line) : st;
        if (stops(st)) {
            return st;
        }
        if (st != CVX_OK) {
            CVX_RETURN_IF(tell_failure(b, line, st));
        }
    }
    return CVX_OK;
}

/* The same status everywhere: a stop, or the failures of all groups. */
static cvx_status conclude(batch *b, cvx_status st)
{
    const cvx_mesh *m = b->mesh;
    int worst = st != CVX_OK ? st : b->worst;
    float failed = m->replica->rank == 0 ? (float)b->failed : 0;

    CVX_RETURN_IF(cvx_comm_least(m->world, &worst));
    CVX_RETURN_IF(cvx_comm_allreduce_f32(m->world, &failed, 1));
    if (worst == CVX_OK || st != CVX_OK) {
        return st;
    }
    if (stops((cvx_status)worst)) {
        return cvx_fail((cvx_status)worst, "stopped by a signal on another rank");
    }
    if (m->world->rank > 0) { /* one of them tells it */
        return cvx_fail_peer((cvx_status)worst, 0);
    }
    return cvx_fail((cvx_status)worst, "%s: %.0f of %lld jobs failed", b->defaults->batch,
                    (double)failed, (long long)b->jobs);
}

/* Every rank reads the file: what they took from it is the same. */
static cvx_status agree_on_lines(const batch *b, cvx_comm *world)
{
    cvx_sha256 h;
    char hex[65];
    json_t *what = json_object();

    cvx_sha256_init(&h);
    cvx_sha256_add(&h, b->text, b->len);
    cvx_sha256_hex(&h, hex);
    json_object_set_new(what, "SHA-256 of the batch", json_string(hex));
    cvx_status st = cvx_comm_same(world, what);
    json_decref(what);
    return st;
}

cvx_status cvx_batch(const cvx_request *defaults, const cvx_generator_options *opt, FILE *errors)
{
    const cvx_mesh *mesh = opt->mesh;
    cvx_generator_options alone = *opt;
    batch b = {.defaults = defaults, .mesh = mesh, .errors = errors, .outputs = json_object()};
    cvx_status st = CVX_OK;

    if (defaults->replay != NULL) {
        return cvx_fail(CVX_EINVAL, "--batch and --replay cannot be given together");
    }
    CVX_TRY(st,
            cvx_comm_agree(mesh->world,
                           cvx_file_read(&b.text, &b.len, defaults->batch, BATCH_MAX_BYTES)),
            done);
    CVX_TRY(st, agree_on_lines(&b, mesh->world), done);
    alone.group_alone = true;
    CVX_TRY(st, cvx_generator_open(&b.generator, &alone), done);
    st = conclude(&b, run_lines(&b));
done:
    cvx_generator_close(b.generator);
    json_decref(b.outputs);
    free(b.text);
    return st;
}
