#include "base/fault.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int my_rank;

typedef struct fault {
    enum { UNREAD = 0, NONE, SIGNAL, HANG, NOMEM } kind;
    int signal, rank;
    long left; /* times that the point is still passed before it strikes */
    char point[16];
} fault;

static fault read_fault(void)
{
    static const struct {
        const char *name;
        int kind, signal;
    } kinds[] = {{"kill", SIGNAL, SIGKILL}, {"stop", SIGNAL, SIGSTOP}, {"term", SIGNAL, SIGTERM},
                 {"usr1", SIGNAL, SIGUSR1}, {"hang", HANG, 0},         {"nomem", NOMEM, 0}};
    const char *text = getenv("CVX_FAULT");
    char kind[16];
    fault f = {.kind = NONE};

    if (text == NULL ||
        sscanf(text, "%15[^:]:%d:%15[^:]:%ld", kind, &f.rank, f.point, &f.left) != 4) {
        return f;
    }
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        if (strcmp(kind, kinds[i].name) == 0) {
            f.kind = kinds[i].kind;
            f.signal = kinds[i].signal;
        }
    }
    return f;
}

void cvx_fault_rank(int rank)
{
    my_rank = rank;
}

cvx_status cvx_fault(const char *point)
{
    static fault f;

    if (f.kind == UNREAD) {
        f = read_fault();
    }
    if (f.kind == NONE || f.rank != my_rank || strcmp(f.point, point) != 0 || --f.left != 0) {
        return CVX_OK;
    }
    if (f.kind == NOMEM) {
        return cvx_fail(CVX_ENOMEM, "no memory (CVX_FAULT, at %s)", point);
    }
    while (f.kind == HANG) {
        pause();
    }
    kill(getpid(), f.signal);
    return CVX_OK;
}

void cvx_fault_at(const char *point)
{
    cvx_status ignored = cvx_fault(point);
    (void)ignored;
}
