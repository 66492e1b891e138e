/* Messages between the processes of a job over TCP: one connection for each two of them. One thread of a process uses it.
 *
 * A message has a group and a kind; of one sender, group by group, messages come in the order of their sending, and each
 * must meet a receive of its kind and length: anything else means that ranks are at different collectives, which is an
 * error (CVX_EPEER). What comes before its receive is kept until then.
 *
 * A process that ends, or whose machine goes (keep-alive probes: half a minute), breaks the connection; from then on every
 * call fails with CVX_EPEER. */
#ifndef CVX_PARALLEL_TCP_WIRE_H
#define CVX_PARALLEL_TCP_WIRE_H

#include "base/status.h"

typedef struct cvx_wire cvx_wire;

typedef struct cvx_message {
    void *data; /* the caller's, until done */
    int64_t bytes;
    uint32_t group, kind;
    bool done;
    /* wire.c's own */
    int64_t at;
    struct cvx_message *next;
} cvx_message;

/* Takes over sockets [size], that of `rank` being -1, also where it fails. Caller closes. */
cvx_status cvx_wire_open(cvx_wire **out, int rank, int size, const int *sockets) CVX_CHECK;
/* Lets what was sent go out first, for at most 5 s. Accepts NULL. */
void cvx_wire_close(cvx_wire *w);
/* Something failed: nothing can be said to the others any more. */
bool cvx_wire_broken(const cvx_wire *w);
void cvx_wire_break(cvx_wire *w);

/* Puts a message on its way; m lives until it is done. Peers are other ranks. */
cvx_status cvx_wire_send(cvx_wire *w, int peer, cvx_message *m) CVX_CHECK;
cvx_status cvx_wire_receive(cvx_wire *w, int peer, cvx_message *m) CVX_CHECK;
/* Moves what can be moved now. */
cvx_status cvx_wire_move(cvx_wire *w) CVX_CHECK;
/* Until all n messages are done; patience: seconds, then CVX_EPEER (0: as long as it takes). */
cvx_status cvx_wire_wait(cvx_wire *w, cvx_message *const *m, int n, double patience) CVX_CHECK;

#endif
