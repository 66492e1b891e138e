#include "base/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define TEXT_MAX 2000

static const char *const levels[] = {"error", "warn", "info", "debug"};

static struct {
    bool open, json;
    cvx_log_level least;
    char program[40];
} state = {.least = CVX_LOG_INFO};

void cvx_log_open(const cvx_log_options *opt)
{
    state.open = true;
    snprintf(state.program, sizeof state.program, "%s", program_invocation_short_name);
    for (char *space; (space = strchr(state.program, ' ')) != NULL;) {
        *space = '-'; /* "cvx serve" */
    }
    state.json = opt->format != NULL && strcmp(opt->format, "json") == 0;
    for (int i = 0; opt->level != NULL && i < 4; i++) {
        if (strcmp(opt->level, levels[i]) == 0) {
            state.least = (cvx_log_level)i;
        }
    }
}

bool cvx_log_opened(void)
{
    return state.open;
}

bool cvx_log_on(cvx_log_level level)
{
    return level <= state.least;
}

static void now(char out[40])
{
    struct timespec t;
    struct tm tm;
    char text[24];

    clock_gettime(CLOCK_REALTIME, &t);
    gmtime_r(&t.tv_sec, &tm);
    strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(out, 40, "%s.%03ldZ", text, t.tv_nsec / 1000000);
}

/* One write for the whole line: lines of several processes in one file stay whole. */
static void put(char *line, size_t n)
{
    size_t done = 0;

    while (done < n) {
        ssize_t k = write(STDERR_FILENO, line + done, n - done);
        if (k < 0 && errno != EINTR) {
            return;
        }
        done += k > 0 ? (size_t)k : 0;
    }
}

static void put_json(cvx_log_level level, const char *job, json_t *fields, const char *message)
{
    char time[40];

    now(time);
    json_t *j =
        json_pack("{s:s, s:s, s:s, s:i, s:s*, s:s}", "time", time, "level", levels[level],
                  "program", state.program, "pid", (int)getpid(), "job", job, "message", message);
    json_object_update(j, fields);
    char *text = json_dumps(j, JSON_COMPACT | JSON_PRESERVE_ORDER);
    size_t n = text != NULL ? strlen(text) : 0;
    if (text != NULL) {
        text[n] = '\n'; /* the line's end in place of the text's */
        put(text, n + 1);
    }
    free(text);
    json_decref(j);
}

/* Whether a field's text needs no quotes, so that whatever it holds, a line stays a line. */
static bool is_word(const char *s)
{
    for (; *s != 0; s++) {
        if ((unsigned char)*s <= ' ' || *s == 127 || strchr("\"\\=", *s) != NULL) {
            return false;
        }
    }
    return true;
}

static void put_text(cvx_log_level level, const char *job, const json_t *fields,
                     const char *message)
{
    char line[TEXT_MAX + 2000], time[40];
    const char *key;
    json_t *v;

    now(time);
    size_t n = (size_t)snprintf(line, sizeof line, "%s %s %s[%d]%s%.60s: %s", time, levels[level],
                                state.program, (int)getpid(), job != NULL ? " " : "",
                                job != NULL ? job : "", message);
    json_object_foreach((json_t *)fields, key, v)
    {
        char *text = json_is_string(v) && is_word(json_string_value(v))
                         ? strdup(json_string_value(v))
                         : json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(6));
        if (text != NULL && n + strlen(key) + strlen(text) + 3 < sizeof line) {
            n += (size_t)snprintf(line + n, sizeof line - n, " %s=%s", key, text);
        }
        free(text);
    }
    line[n++] = '\n';
    put(line, n);
}

static void log_line(cvx_log_level level, const char *job, json_t *fields, const char *fmt,
                     va_list ap)
{
    char message[TEXT_MAX];

    if (cvx_log_on(level)) {
        vsnprintf(message, sizeof message, fmt, ap);
        cvx_clean_line(message);
        if (!state.open) {
            fprintf(stderr, "%s: %s\n", program_invocation_short_name, message);
        } else if (state.json) {
            put_json(level, job, fields, message);
        } else {
            put_text(level, job, fields, message);
        }
    }
    json_decref(fields);
}

void cvx_log(cvx_log_level level, const char *job, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    log_line(level, job, NULL, fmt, ap);
    va_end(ap);
}

void cvx_log_fields(cvx_log_level level, const char *job, json_t *fields, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    log_line(level, job, fields, fmt, ap);
    va_end(ap);
}
