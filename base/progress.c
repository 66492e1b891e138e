#include "base/progress.h"

#include <jansson.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "base/beat.h"

#define BAR_WIDTH 30
#define BAR_LEAST 5

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

/* Of the terminal; a usual number where it does not say. */
static int columns_of(FILE *f)
{
    struct winsize size;
    return ioctl(fileno(f), TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

static void draw(FILE *f, const cvx_event *e)
{
    char bar[BAR_WIDTH + 4] = "", tail[128], line[256], spent[32], left[32] = "-:--";
    int width, columns = columns_of(f);

    duration(spent, sizeof spent, e->seconds);
    if (e->done > 0) {
        duration(left, sizeof left, e->seconds / (double)e->done * (double)(e->total - e->done));
    }
    snprintf(tail, sizeof tail, "%lld/%lld  %s, %s left", (long long)e->done, (long long)e->total,
             spent, left);
    /* what a line has room for beside "stage    [] tail" and the cursor; none of it may wrap */
    width = columns - 1 - 8 - 4 - (int)strlen(tail);
    width = width < BAR_WIDTH ? width : BAR_WIDTH;
    if (width >= BAR_LEAST) {
        int full = e->total > 0 ? (int)(e->done * width / e->total) : 0;
        bar[0] = '[';
        for (int i = 0; i < width; i++) {
            bar[1 + i] = i < full ? '=' : i == full ? '>' : ' ';
        }
        memcpy(bar + 1 + width, "] ", 3);
    }
    snprintf(line, sizeof line, "%-8s %s%s", e->stage, bar, tail);
    fprintf(f, "\r%.*s\033[K", columns - 1, line);
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
