/* The log of a program that stays: one line an event on stderr, each written at once. As text
 *
 *     2026-11-28T16:05:09.123Z info cvx-coordinator[4711] video_6f1c...: completed
 *
 * or as JSON: {"time", "level", "program", "pid", "job", "message"} and what else the event has. Before cvx_log_open the
 * line is "PROGRAM: message": a program that runs once tells its user no more. Any thread may log. */
#ifndef CVX_BASE_LOG_H
#define CVX_BASE_LOG_H

#include <jansson.h>

#include "base/opts.h"

typedef enum cvx_log_level {
    CVX_LOG_ERROR,
    CVX_LOG_WARN,
    CVX_LOG_INFO,
    CVX_LOG_DEBUG
} cvx_log_level;

typedef struct cvx_log_options {
    const char *format, *level; /* NULL: text, info */
} cvx_log_options;

/* Options for a program's table, of an object that has a cvx_log_options `log`. */
#define CVX_LOG_OPTS(type)                                                                         \
    {"log-format",                                                                                 \
     CVX_OPT_CHOICE,                                                                               \
     offsetof(type, log.format),                                                                   \
     NULL,                                                                                         \
     "lines of the log (default: text)",                                                           \
     0,                                                                                            \
     0,                                                                                            \
     "text|json"},                                                                                 \
    {                                                                                              \
        "log-level", CVX_OPT_CHOICE, offsetof(type, log.level), NULL,                              \
            "the least that is logged (default: info; debug has a line for every request)", 0, 0,  \
            "error|warn|info|debug"                                                                \
    }

/* From now on lines have the form and the level of the options. */
void cvx_log_open(const cvx_log_options *opt);

/* Whether cvx_log_open was called. */
bool cvx_log_opened(void);
/* Whether a line of this level is written. */
bool cvx_log_on(cvx_log_level level);

/* job: the id of the job that the line is about; NULL: of none. */
void cvx_log(cvx_log_level level, const char *job, const char *fmt, ...) CVX_PRINTF(3, 4);
/* With fields of its own, whose reference is taken; in text they stand behind the message as NAME=VALUE. */
void cvx_log_fields(cvx_log_level level, const char *job, json_t *fields, const char *fmt, ...)
    CVX_PRINTF(4, 5);

#endif
