#include "base/progress.h"

#include <jansson.h>
#include <stdarg.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "base/beat.h"

#define BAR_WIDTH 30

double cvx_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static cvx_status tell(cvx_progress *p, int kind, int64_t done, const char *text)
{
    cvx_event e = {.kind = kind,
                   .stage = p->stage ? p->stage : "",
                   .done = done,
                   .total = p->total,
                   .seconds = cvx_now() - p->start,
                   .text = text};
    cvx_beat();
    return p->fn == NULL ? CVX_OK : p->fn(p->payload, &e);
}

cvx_status cvx_progress_begin(cvx_progress *p, const char *stage, int64_t total)
{
    p->stage = stage;
    p->total = total;
    p->start = cvx_now();
    return tell(p, CVX_EVENT_STAGE, 0, NULL);
}

cvx_status cvx_progress_step(cvx_progress *p, int64_t done)
{
    return tell(p, CVX_EVENT_STEP, done, NULL);
}

double cvx_progress_end(cvx_progress *p)
{
    /* the stage's work is over: a wish to stop now is heard at the next stage's begin */
    cvx_status ignored = tell(p, CVX_EVENT_STAGE_END, p->total, NULL);
    (void)ignored;
    return cvx_now() - p->start;
}

void cvx_progress_preview(cvx_progress *p, int64_t done, const char *path)
{
    cvx_status ignored = tell(p, CVX_EVENT_PREVIEW, done, path);
    (void)ignored;
}

void cvx_progress_note(cvx_progress *p, const char *fmt, ...)
{
    char text[1024];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    cvx_status ignored = tell(p, CVX_EVENT_NOTE, 0, text);
    (void)ignored;
}

static void duration(char *buf, size_t size, double s)
{
    int64_t t = (int64_t)(s + 0.5);
    if (t >= 3600) {
        snprintf(buf, size, "%lld:%02lld:%02lld", (long long)(t / 3600), (long long)(t / 60 % 60),
                 (long long)(t % 60));
    } else {
        snprintf(buf, size, "%lld:%02lld", (long long)(t / 60), (long long)(t % 60));
    }
}

static void draw(FILE *f, const cvx_event *e)
{
    char bar[BAR_WIDTH + 1], spent[32], left[32] = "-:--";
    int64_t full = e->total > 0 ? e->done * BAR_WIDTH / e->total : 0;

    for (int i = 0; i < BAR_WIDTH; i++) {
        bar[i] = i < full ? '=' : i == full ? '>' : ' ';
    }
    bar[BAR_WIDTH] = 0;
    duration(spent, sizeof spent, e->seconds);
    if (e->done > 0) {
        duration(left, sizeof left, e->seconds / (double)e->done * (double)(e->total - e->done));
    }
    fprintf(f, "\r%-8s [%s] %lld/%lld  %s, %s left  ", e->stage, bar, (long long)e->done,
            (long long)e->total, spent, left);
}

cvx_status cvx_events_quiet(void *payload, const cvx_event *e)
{
    if (e->kind == CVX_EVENT_NOTE) {
        fprintf((FILE *)payload, "cvx: note: %s\n", e->text);
    }
    return CVX_OK;
}

cvx_status cvx_events_bars(void *payload, const cvx_event *e)
{
    FILE *f = payload;
    bool terminal = isatty(fileno(f));

    if (e->kind == CVX_EVENT_NOTE) {
        fprintf(f, "%scvx: note: %s\n", terminal ? "\r\033[K" : "", e->text);
    } else if (e->kind == CVX_EVENT_STAGE_END) {
        fprintf(f, "%s%-8s %lld/%lld in %.2f s\n", terminal ? "\r\033[K" : "", e->stage,
                (long long)e->total, (long long)e->total, e->seconds);
    } else if (terminal && e->kind != CVX_EVENT_PREVIEW) {
        draw(f, e);
    }
    fflush(f);
    return CVX_OK;
}

cvx_status cvx_events_json(void *payload, const cvx_event *e)
{
    static const char *const kinds[] = {"stage", "step", "stage_end", "note", "preview"};
    json_t *j = json_object();

    json_object_set_new(j, "event", json_string(kinds[e->kind]));
    if (e->kind == CVX_EVENT_NOTE) {
        json_object_set_new(j, "text", json_string(e->text));
    } else if (e->kind == CVX_EVENT_PREVIEW) {
        json_object_set_new(j, "file", json_string(e->text));
        json_object_set_new(j, "done", json_integer(e->done));
    } else {
        json_object_set_new(j, "stage", json_string(e->stage));
        json_object_set_new(j, "done", json_integer(e->done));
        json_object_set_new(j, "total", json_integer(e->total));
        json_object_set_new(j, "seconds", json_real(e->seconds));
        if (e->kind == CVX_EVENT_STEP && e->done > 0) {
            double eta = e->seconds / (double)e->done * (double)(e->total - e->done);
            json_object_set_new(j, "eta_seconds", json_real(eta));
        }
    }
    char *line = json_dumps(j, JSON_COMPACT | JSON_REAL_PRECISION(9));
    if (line != NULL) {
        fprintf((FILE *)payload, "%s\n", line);
        fflush((FILE *)payload);
    }
    free(line);
    json_decref(j);
    return CVX_OK;
}
