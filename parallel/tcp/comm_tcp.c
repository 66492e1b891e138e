#include "parallel/tcp/comm_tcp.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "parallel/rounds.h"
#include "parallel/tcp/wire.h"

/* Kinds of messages (wire.h). */
enum { DATA = 1, AGREEMENT };
/* Seconds that a rank with a failure of its own waits for the others to come and hear of it. */
#define FAILED_PATIENCE 30.0

/* What the communicators of a process share. */
typedef struct shared {
    cvx_wire *wire;
    int users;
    uint32_t next_group; /* above every group that this process has been in */
} shared;

typedef struct impl {
    shared *all;
    uint32_t group;
    int *ranks; /* [size]: of the whole job */
} impl;

static impl *impl_of(const cvx_comm *c)
{
    return c->impl;
}

/* A send and a receive on their way. */
typedef struct transfer {
    cvx_message out, in;
    cvx_message *list[2];
    int n;
} transfer;

static cvx_status begin(cvx_comm *c, transfer *t, const void *send, int64_t send_bytes, int to,
                        void *recv, int64_t recv_bytes, int from, uint32_t kind)
{
    impl *i = impl_of(c);

    *t = (transfer){.n = 0};
    if (to == c->rank && from == c->rank) {
        CVX_ASSERT(send_bytes == recv_bytes);
        if (recv != NULL && send != NULL && send_bytes > 0) {
            memmove(recv, send, (size_t)send_bytes);
        }
        return CVX_OK;
    }
    CVX_ASSERT(to != c->rank && from != c->rank);
    if (from >= 0) {
        t->in = (cvx_message){.data = recv, .bytes = recv_bytes, .group = i->group, .kind = kind};
        CVX_RETURN_IF(cvx_wire_receive(i->all->wire, i->ranks[from], &t->in));
        t->list[t->n++] = &t->in;
    }
    if (to >= 0) {
        t->out = (cvx_message){
            .data = (void *)send, .bytes = send_bytes, .group = i->group, .kind = kind};
        CVX_RETURN_IF(cvx_wire_send(i->all->wire, i->ranks[to], &t->out));
        t->list[t->n++] = &t->out;
    }
    return CVX_OK;
}

static cvx_status exchange(cvx_comm *c, const void *send, int64_t send_bytes, int to, void *recv,
                           int64_t recv_bytes, int from, uint32_t kind, double patience)
{
    transfer t;
    cvx_status st = begin(c, &t, send, send_bytes, to, recv, recv_bytes, from, kind);

    st = st == CVX_OK ? cvx_wire_wait(impl_of(c)->all->wire, t.list, t.n, patience) : st;
    if (st != CVX_OK) { /* the wire holds on to the messages of this frame, and is not used again */
        cvx_wire_break(impl_of(c)->all->wire);
    }
    return st;
}

static cvx_status sendrecv(cvx_comm *c, const void *send, int64_t send_bytes, int to, void *recv,
                           int64_t recv_bytes, int from)
{
    return exchange(c, send, send_bytes, to, recv, recv_bytes, from, DATA, 0);
}

static cvx_status start_sendrecv(cvx_comm *c, cvx_comm_pending *p, const void *send,
                                 int64_t send_bytes, int to, void *recv, int64_t recv_bytes,
                                 int from)
{
    transfer *t = malloc(sizeof *t);

    if (t == NULL) { /* the partners still get their data */
        return sendrecv(c, send, send_bytes, to, recv, recv_bytes, from);
    }
    cvx_status st = begin(c, t, send, send_bytes, to, recv, recv_bytes, from, DATA);
    if (st != CVX_OK) {
        cvx_wire_break(impl_of(c)->all->wire);
        free(t);
        return st;
    }
    p->impl = t;
    return CVX_OK;
}

/* A failure is told by the wait. */
static void poll_transfer(cvx_comm *c, cvx_comm_pending *p)
{
    (void)p;
    if (!cvx_wire_broken(impl_of(c)->all->wire) && cvx_wire_move(impl_of(c)->all->wire) != CVX_OK) {
        cvx_wire_break(impl_of(c)->all->wire);
    }
}

static cvx_status wait_transfer(cvx_comm *c, cvx_comm_pending *p)
{
    transfer *t = p->impl;
    cvx_status st = cvx_wire_wait(impl_of(c)->all->wire, t->list, t->n, 0);

    if (st != CVX_OK) {
        cvx_wire_break(impl_of(c)->all->wire);
    }
    free(t);
    p->impl = NULL;
    return st;
}

/* A binomial tree from the root. */
static cvx_status broadcast(cvx_comm *c, void *buf, int64_t bytes, int root)
{
    int me = (c->rank - root + c->size) % c->size, step = 1;

    while (step < c->size) {
        step *= 2;
    }
    for (step /= 2; step > 0; step /= 2) {
        if (me % (2 * step) == 0 && me + step < c->size) {
            CVX_RETURN_IF(sendrecv(c, buf, bytes, (me + step + root) % c->size, NULL, 0, -1));
        } else if (me % (2 * step) == step) {
            CVX_RETURN_IF(sendrecv(c, NULL, 0, -1, buf, bytes, (me - step + root) % c->size));
        }
    }
    return CVX_OK;
}

/* In round k a rank tells rank + 2^k the least it knows of, so that after log2(size) rounds all know it. A rank that failed
 * amid other collectives comes here while its peers wait in those: they learn of it by the kind of the message, or
 * when this rank gives up. */
static cvx_status agree(cvx_comm *c, int *least)
{
    double patience = *least < 0 ? FAILED_PATIENCE : 0;

    if (cvx_wire_broken(impl_of(c)->all->wire)) {
        return CVX_EPEER;
    }
    for (int step = 1; step < c->size; step *= 2) {
        int to = (c->rank + step) % c->size, from = (c->rank - step + c->size) % c->size;
        int theirs = 0;
        cvx_status st = exchange(c, least, sizeof *least, to, &theirs, sizeof theirs, from,
                                 AGREEMENT, patience);
        if (st != CVX_OK) {
            return patience > 0 ? CVX_EPEER : st;
        }
        *least = theirs < *least ? theirs : *least;
    }
    return CVX_OK;
}

static cvx_status wrap(cvx_comm **out, shared *all, uint32_t group, int rank, int size,
                       const int *ranks);

/* What the ranks tell each other before a split. */
typedef struct card {
    int32_t colour, key;
    uint32_t next_group;
    int32_t place, rank; /* in the parent, of the whole job */
} card;

static int by_key(const void *a, const void *b)
{
    const card *x = a, *y = b;
    return x->key != y->key ? (x->key < y->key ? -1 : 1) : x->place - y->place;
}

/* The members of one colour; colours are numbered by the first rank that has them. */
static cvx_status split_cards(cvx_comm *c, card *all, cvx_comm **out)
{
    impl *i = impl_of(c);
    int colour = all[c->rank].colour, me = i->ranks[c->rank], n = 0, mine = -1;
    uint32_t next = 0, number = 0, colours = 0;
    int *ranks = calloc((size_t)c->size, sizeof *ranks);

    if (ranks == NULL) {
        return cvx_fail(CVX_ENOMEM, "no memory for a communicator");
    }
    for (int r = 0; r < c->size; r++) {
        bool is_new = true;
        next = all[r].next_group > next ? all[r].next_group : next;
        for (int k = 0; k < r; k++) {
            is_new = is_new && all[k].colour != all[r].colour;
        }
        number = is_new && all[r].colour == colour ? colours : number;
        colours += is_new;
    }
    for (int r = 0; r < c->size; r++) {
        if (all[r].colour == colour) {
            all[n++] = all[r];
        }
    }
    qsort(all, (size_t)n, sizeof *all, by_key);
    for (int r = 0; r < n; r++) {
        ranks[r] = all[r].rank;
        mine = all[r].rank == me ? r : mine;
    }
    i->all->next_group = next + colours;
    cvx_status st = colour < 0 ? CVX_OK : wrap(out, i->all, next + number, mine, n, ranks);
    free(ranks);
    return st;
}

/* A colour below 0: no communicator. */
static cvx_status split(cvx_comm *c, int colour, int key, cvx_comm **out)
{
    impl *i = impl_of(c);
    card own = {colour, key, i->all->next_group, c->rank, i->ranks[c->rank]};
    card *all = calloc((size_t)c->size, sizeof *all);
    int64_t *list = calloc(2 * (size_t)c->size, sizeof *list);
    cvx_status st =
        all != NULL && list != NULL ? CVX_OK : cvx_fail(CVX_ENOMEM, "no memory for a split");

    *out = NULL;
    for (int r = 0; st == CVX_OK && r < c->size; r++) {
        list[r] = (int64_t)sizeof own;
        list[c->size + r] = r * (int64_t)sizeof own;
    }
    if (st == CVX_OK) {
        st = cvx_rounds_allgatherv(c, &own, sizeof own, all, list, list + c->size);
    }
    st = st == CVX_OK ? split_cards(c, all, out) : st;
    free(all);
    free(list);
    return st;
}

static cvx_status first(cvx_comm *c, int n, cvx_comm **out)
{
    return split(c, c->rank < n ? 0 : -1, c->rank, out);
}

static void close_tcp(cvx_comm *c)
{
    impl *i = impl_of(c);

    if (--i->all->users == 0) {
        cvx_wire_close(i->all->wire);
        free(i->all);
    }
    free(i->ranks);
    free(i);
}

static cvx_status wrap(cvx_comm **out, shared *all, uint32_t group, int rank, int size,
                       const int *ranks)
{
    static const cvx_comm_ops ops = {.name = "tcp",
                                     CVX_ROUNDS_OPS,
                                     .sendrecv = sendrecv,
                                     .start_sendrecv = start_sendrecv,
                                     .poll = poll_transfer,
                                     .wait = wait_transfer,
                                     .broadcast = broadcast,
                                     .agree = agree,
                                     .split = split,
                                     .first = first,
                                     .close = close_tcp};
    impl *i = malloc(sizeof *i);
    int *copy = malloc((size_t)size * sizeof *copy);
    cvx_status st = i != NULL && copy != NULL
                        ? cvx_comm_new(out, &ops, rank, size, i)
                        : cvx_fail(CVX_ENOMEM, "no memory for a communicator");

    if (st != CVX_OK) {
        free(i);
        free(copy);
        return st;
    }
    memcpy(copy, ranks, (size_t)size * sizeof *copy);
    *i = (impl){.all = all, .group = group, .ranks = copy};
    all->users++;
    return CVX_OK;
}

cvx_status cvx_comm_tcp_open(cvx_comm **world, const cvx_meeting *m)
{
    int *list = calloc(2 * (size_t)m->size, sizeof *list);
    shared *all = calloc(1, sizeof *all);
    cvx_status st = list != NULL && all != NULL
                        ? CVX_OK
                        : cvx_fail(CVX_ENOMEM, "no memory for %d ranks", m->size);

    for (int r = 0; st == CVX_OK && r < m->size; r++) {
        list[m->size + r] = r;
    }
    CVX_TRY(st, st == CVX_OK ? cvx_meeting_hold(m, list) : st, done);
    CVX_TRY(st, cvx_wire_open(&all->wire, m->rank, m->size, list), done);
    all->next_group = 1;
    CVX_TRY(st, wrap(world, all, 0, m->rank, m->size, list + m->size), done);
    all = NULL;
done:
    if (all != NULL) {
        cvx_wire_close(all->wire);
    }
    free(all);
    free(list);
    return st;
}

/* A machine's name; the lowest rank with the same one is the colour. */
cvx_status cvx_comm_tcp_node(cvx_comm *world, cvx_comm **out)
{
    enum { LEN = 256 };
    char own[LEN] = "", *all = calloc((size_t)world->size, LEN);
    int64_t *list = calloc(2 * (size_t)world->size, sizeof *list);
    cvx_status st =
        all != NULL && list != NULL ? CVX_OK : cvx_fail(CVX_ENOMEM, "no memory for the nodes");
    int colour = 0;

    *out = NULL;
    gethostname(own, sizeof own - 1);
    for (int r = 0; st == CVX_OK && r < world->size; r++) {
        list[r] = LEN;
        list[world->size + r] = r * (int64_t)LEN;
    }
    if (st == CVX_OK) {
        st = cvx_rounds_allgatherv(world, own, LEN, all, list, list + world->size);
    }
    while (st == CVX_OK && strcmp(all + colour * LEN, own) != 0) {
        colour++;
    }
    st = st == CVX_OK ? split(world, colour, world->rank, out) : st;
    free(all);
    free(list);
    return st;
}
