/* What a long work tells its user: stages, steps, warnings. The work calls the event function; a program
 * picks one of the sinks here or brings its own. */
#ifndef CVX_BASE_PROGRESS_H
#define CVX_BASE_PROGRESS_H

#include <stdio.h>

#include "base/status.h"

typedef struct cvx_event {
    enum {
        CVX_EVENT_STAGE,
        CVX_EVENT_STEP,
        CVX_EVENT_STAGE_END,
        CVX_EVENT_NOTE,
        CVX_EVENT_PREVIEW
    } kind;
    const char *stage;   /* "load", "encode", "denoise", "decode", "score", "mux" */
    int64_t done, total; /* of the stage's units */
    double seconds;      /* since the stage began */
    const char *text;    /* NOTE: one line for the user; PREVIEW: a picture's file */
} cvx_event;

/* Returns CVX_OK, or CVX_ECANCELLED (after cvx_fail) to stop the work at this point. */
typedef cvx_status (*cvx_event_fn)(void *payload, const cvx_event *e);

/* A stage's clock and teller. The stage is told at begin, each step and end. */
typedef struct cvx_progress {
    cvx_event_fn fn; /* may be NULL */
    void *payload;
    const char *stage;
    int64_t total;
    double start;
} cvx_progress;

cvx_status cvx_progress_begin(cvx_progress *p, const char *stage, int64_t total) CVX_CHECK;
cvx_status cvx_progress_step(cvx_progress *p, int64_t done) CVX_CHECK;
/* Returns the stage's seconds. */
double cvx_progress_end(cvx_progress *p);
/* Tells that the picture at `path` shows the work after `done` units. */
void cvx_progress_preview(cvx_progress *p, int64_t done, const char *path);
void cvx_progress_note(cvx_progress *p, const char *fmt, ...) CVX_PRINTF(2, 3);

/* Monotonic seconds. */
double cvx_now(void);

/* Sinks. payload: a FILE*. bars: a line per stage with share, rate and ETA, redrawn on a terminal and
 * printed once at its end elsewhere. json: one JSON object a line. quiet: only notes. */
cvx_status cvx_events_bars(void *payload, const cvx_event *e);
cvx_status cvx_events_json(void *payload, const cvx_event *e);
cvx_status cvx_events_quiet(void *payload, const cvx_event *e);

#endif
