/* The one status type, and the one-line message of the first place that knew the cause.
 *
 * A function that can fail returns cvx_status: CVX_OK (0) or a negative code. The place that finds
 * the cause calls cvx_fail() once; callers pass the code on and add nothing. Library code never
 * exits the process. Thread safety: the message is thread-local.
 */
#ifndef CVX_BASE_STATUS_H
#define CVX_BASE_STATUS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum cvx_status {
    CVX_OK = 0,
    CVX_EINVAL = -1,       /* an argument, flag or prompt is wrong */
    CVX_EIO = -2,          /* the operating system refused: open, read, write, rename */
    CVX_EFORMAT = -3,      /* a file's bytes are not what its format says */
    CVX_ENOMEM = -4,       /* memory, also "this job cannot fit" */
    CVX_EUNSUPPORTED = -5, /* well formed, but this build or machine has no way to do it */
    CVX_EPEER = -6,        /* another rank is gone */
    CVX_ECANCELLED = -7,   /* the user or a signal asked to stop */
    CVX_EINTERNAL = -8,    /* a bug in cvx */
    CVX_EREQUEUE = -9, /* stopped by a signal, with what is done kept: the same command goes on */
} cvx_status;

#define CVX_CHECK __attribute__((warn_unused_result))
#define CVX_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))

/* Records one line (printf style, no newline; newlines inside are turned into spaces, invalid
 * UTF-8 into '?') as the thread's error and returns `code`. */
cvx_status cvx_fail(cvx_status code, const char *fmt, ...) CVX_PRINTF(2, 3);

/* One line of printable UTF-8 in place: newlines and other control characters become spaces, what is no UTF-8 '?'. For texts
 * that quote foreign bytes. */
void cvx_clean_line(char *s);

/* The thread's last message; "" if there was none. Borrowed, valid until the next cvx_fail. */
const char *cvx_error(void);

/* Like cvx_fail, puts "prefix: " before the present message and returns `code` unchanged: only for
 * context that the first place cannot know (which job of a batch, which rank). */
cvx_status cvx_fail_prefix(cvx_status code, const char *fmt, ...) CVX_PRINTF(2, 3);

/* Takes over another rank's failure: records "rank R failed: ..." and returns that rank's code. Programs print
 * nothing for it, since rank R does. */
cvx_status cvx_fail_peer(cvx_status code, int rank);
/* Whether the thread's last message is from cvx_fail_peer. */
bool cvx_error_is_peer(void);

/* "invalid argument", "I/O error", ... */
const char *cvx_status_name(cvx_status code);

/* Process exit code of a status: 0 ok, 2 CVX_EINVAL, 3 CVX_EIO, 4 CVX_EFORMAT, 5 CVX_ENOMEM,
 * 6 CVX_EUNSUPPORTED, 7 CVX_EPEER, 8 CVX_ECANCELLED, 70 CVX_EINTERNAL, 75 CVX_EREQUEUE (sysexits' EX_TEMPFAIL: run
 * the same command again). */
int cvx_status_exit(cvx_status code);

/* status = expr; on failure jump to label. */
#define CVX_TRY(st, expr, label)                                                                   \
    do {                                                                                           \
        (st) = (expr);                                                                             \
        if ((st) != CVX_OK) {                                                                      \
            goto label;                                                                            \
        }                                                                                          \
    } while (0)

/* return expr's status on failure: where nothing is to be undone. */
#define CVX_RETURN_IF(expr)                                                                        \
    do {                                                                                           \
        cvx_status cvx_return_st_ = (expr);                                                        \
        if (cvx_return_st_ != CVX_OK) {                                                            \
            return cvx_return_st_;                                                                 \
        }                                                                                          \
    } while (0)

/* Programmer errors only; active in release; never with side effects. */
#define CVX_ASSERT(cond)                                                                           \
    do {                                                                                           \
        if (!(cond)) {                                                                             \
            cvx_assert_failed(#cond, __FILE__, __LINE__);                                          \
        }                                                                                          \
    } while (0)
_Noreturn void cvx_assert_failed(const char *cond, const char *file, int line);

#endif
