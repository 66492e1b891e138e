#include "cli/remote.h"

#include <stdlib.h>
#include <string.h>

typedef struct watcher {
    const char *job;
    bool json, quiet;
    char stage[32], state[24], cause[800];
    int64_t total; /* of the stage; 0: its end was told */
    double began;
} watcher;

static void print_event(const watcher *w, const char *event, const json_t *data)
{
    json_t *line = json_pack("{s:s, s:s}", "id", w->job, "event", event);

    json_object_update(line, (json_t *)data);
    cvx_remote_print(line, true);
    json_decref(line);
}

static void draw_at(watcher *w, int64_t done, int64_t total)
{
    cvx_event e = {.kind = done >= total ? CVX_EVENT_STAGE_END : CVX_EVENT_STEP,
                   .stage = w->stage,
                   .done = done,
                   .total = total,
                   .seconds = cvx_now() - w->began};
    cvx_status drawn = cvx_events_bars(stderr, &e);
    (void)drawn;
    w->total = done >= total ? 0 : total;
}

/* The bar of the stage. The service tells the newest progress, not each: the end of the stage before may have gone untold. */
static void draw(watcher *w, const json_t *p)
{
    const char *stage = json_string_value(json_object_get(p, "stage"));
    int64_t done = json_integer_value(json_object_get(p, "step"));
    int64_t total = json_integer_value(json_object_get(p, "steps"));
    double left = json_number_value(json_object_get(p, "eta_seconds"));
    char name[sizeof w->stage];

    snprintf(name, sizeof name, "%s", stage != NULL ? stage : "");
    if (strcmp(name, w->stage) != 0) { /* begun before we were told */
        if (w->total > 0) {
            draw_at(w, w->total, w->total);
        }
        bool known = done > 0 && done < total;
        w->began = cvx_now() - (known ? left * (double)done / (double)(total - done) : 0);
        snprintf(w->stage, sizeof w->stage, "%s", name);
    }
    if (total > 0 && (done < total || w->total > 0)) {
        draw_at(w, done, total);
    }
}

static cvx_status on_event(void *payload, const char *event, const json_t *data)
{
    watcher *w = payload;

    if (strcmp(event, "state") == 0) {
        const char *state = json_string_value(json_object_get(data, "status"));
        const char *cause = json_string_value(json_object_get(data, "error"));
        bool retried = state != NULL && strcmp(state, "queued") == 0 && cause != NULL;
        snprintf(w->state, sizeof w->state, "%s", state != NULL ? state : "");
        snprintf(w->cause, sizeof w->cause, "%s", cause != NULL ? cause : "");
        if (retried && !w->json && !w->quiet) {
            fprintf(stderr, "cvx: note: %s: waits again: %s\n", w->job, cause);
        }
    }
    if (w->json) {
        print_event(w, event, data);
    } else if (strcmp(event, "progress") == 0 && !w->quiet) {
        draw(w, data);
    }
    return CVX_OK;
}

cvx_status cvx_remote_watch(cvx_client *c, const char *job, bool json, bool quiet)
{
    watcher w = {.job = job, .json = json, .quiet = quiet};
    char path[160];

    CVX_RETURN_IF(cvx_remote_path(path, "/v1/videos/", job, ""));
    CVX_RETURN_IF(cvx_client_follow(c, job, on_event, &w));
    if (strcmp(w.state, "completed") == 0) {
        return CVX_OK;
    }
    return strcmp(w.state, "cancelled") == 0
               ? cvx_fail(CVX_ECANCELLED, "%s: cancelled", job)
               : cvx_fail(CVX_EIO, "%s: %s: %s", job, w.state, w.cause);
}

void cvx_remote_print_wait(FILE *f, const json_t *v)
{
    const json_t *wait = json_object_get(json_object_get(v, "cvx"), "wait_seconds");
    double s = json_number_value(wait);

    if (json_is_number(wait) && s < 1) {
        fprintf(f, ", begins now");
    } else if (json_is_number(wait)) {
        fprintf(f, ", begins in about %.0f s", s);
    }
}

cvx_status cvx_remote_path(char out[160], const char *before, const char *job, const char *after)
{
    size_t n = strlen(job);

    if (n == 0 || n > 60 ||
        strspn(job, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") != n) {
        return cvx_fail(CVX_EINVAL, "'%.80s': a video's id is meant (cvx list shows them)", job);
    }
    snprintf(out, 160, "%.30s%s%.60s", before, job, after);
    return CVX_OK;
}

cvx_status cvx_remote_fetch(cvx_client *c, const char *job, const char *variant, const char *out)
{
    char path[160], after[60];

    snprintf(after, sizeof after, "/content?variant=%.30s", variant);
    CVX_RETURN_IF(cvx_remote_path(path, "/v1/videos/", job, after));
    return cvx_client_download(c, path, out);
}

void cvx_remote_print(const json_t *j, bool lines)
{
    char *text = json_dumps(j, lines ? JSON_COMPACT : JSON_INDENT(2));

    if (text != NULL) {
        puts(text);
        fflush(stdout);
    }
    free(text);
}
