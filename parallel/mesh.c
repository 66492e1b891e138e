#include "parallel/mesh.h"

#include <stdlib.h>

const char *const cvx_mesh_names[CVX_MESH_DIMS] = {"data", "cfg", "ring", "ulysses", "tensor"};

int cvx_mesh_size(const cvx_degrees *d)
{
    int n = 1;
    for (int i = 0; i < CVX_MESH_DIMS; i++) {
        n *= d->n[i];
    }
    return n;
}

void cvx_mesh_place(const cvx_degrees *d, int rank, int out[CVX_MESH_DIMS])
{
    for (int i = CVX_MESH_DIMS - 1; i >= 0; i--) {
        out[i] = rank % d->n[i];
        rank /= d->n[i];
    }
}

/* The communicator of the ranks that differ only along the dimensions of `mask` (bit i: dimension i): the
 * others' places make the colour, theirs the order. */
static cvx_status split(cvx_mesh *m, unsigned mask, cvx_comm **out)
{
    int colour = 0, key = 0;

    for (int i = 0; i < CVX_MESH_DIMS; i++) {
        if (mask & 1u << i) {
            key = key * m->degrees.n[i] + m->at[i];
        } else {
            colour = colour * m->degrees.n[i] + m->at[i];
        }
    }
    return cvx_comm_split(m->world, colour, key, out);
}

cvx_status cvx_mesh_open(cvx_mesh **out, cvx_comm *world, const cvx_degrees *degrees)
{
    const unsigned seq = 1u << CVX_MESH_RING | 1u << CVX_MESH_ULYSSES;
    const unsigned all = (1u << CVX_MESH_DIMS) - 1;
    cvx_status st = CVX_OK;
    cvx_mesh *m = calloc(1, sizeof *m);

    if (m == NULL) {
        return cvx_fail(CVX_ENOMEM, "no memory for a mesh");
    }
    m->degrees = *degrees;
    m->world = world;
    if (cvx_mesh_size(degrees) != world->size) {
        st = cvx_fail(CVX_EINVAL,
                      "mesh data %d x cfg %d x ring %d x ulysses %d x tensor %d needs %d ranks, "
                      "there are %d",
                      degrees->n[0], degrees->n[1], degrees->n[2], degrees->n[3], degrees->n[4],
                      cvx_mesh_size(degrees), world->size);
        goto done;
    }
    cvx_mesh_place(degrees, world->rank, m->at);
    for (int i = 0; i < CVX_MESH_DIMS; i++) {
        CVX_TRY(st, split(m, 1u << i, &m->dim[i]), done);
    }
    CVX_TRY(st, split(m, seq, &m->sequence), done);
    CVX_TRY(st, split(m, seq | 1u << CVX_MESH_CFG, &m->branches), done);
    CVX_TRY(st, split(m, all & ~(1u << CVX_MESH_DATA), &m->replica), done);
    *out = m;
    m = NULL;
done:
    cvx_mesh_close(m);
    return st;
}

cvx_status cvx_mesh_self(cvx_mesh **out)
{
    cvx_comm *world = NULL;
    cvx_degrees one = CVX_DEGREES_ONE;

    CVX_RETURN_IF(cvx_comm_self(&world));
    cvx_status st = cvx_mesh_open(out, world, &one);
    if (st != CVX_OK) {
        cvx_comm_close(world);
        return st;
    }
    (*out)->own_world = true;
    return CVX_OK;
}

void cvx_mesh_close(cvx_mesh *m)
{
    if (m == NULL) {
        return;
    }
    for (int i = 0; i < CVX_MESH_DIMS; i++) {
        cvx_comm_close(m->dim[i]);
    }
    cvx_comm_close(m->sequence);
    cvx_comm_close(m->branches);
    cvx_comm_close(m->replica);
    if (m->own_world) {
        cvx_comm_close(m->world);
    }
    free(m);
}

void cvx_mesh_set_measure(const cvx_mesh *m, bool measure)
{
    for (int i = 0; i < CVX_MESH_DIMS; i++) {
        m->dim[i]->measure = measure;
    }
    m->sequence->measure = measure;
    m->branches->measure = measure;
    m->replica->measure = measure;
}

static void add(cvx_comm_stat *to, const cvx_comm *c, cvx_comm_kind kind)
{
    if (c != NULL) {
        to->calls += c->stat[kind].calls;
        to->bytes_sent += c->stat[kind].bytes_sent;
        to->seconds += c->stat[kind].seconds;
    }
}

cvx_comm_stat cvx_mesh_stat(const cvx_mesh *m, cvx_comm_kind kind)
{
    cvx_comm_stat s = {0};

    for (int i = 0; i < CVX_MESH_DIMS; i++) {
        add(&s, m->dim[i], kind);
    }
    add(&s, m->sequence, kind);
    add(&s, m->branches, kind);
    add(&s, m->replica, kind);
    add(&s, m->world, kind);
    return s;
}
