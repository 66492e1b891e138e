#include "parallel/mesh.h"

#include <stdlib.h>

const char *const cvx_mesh_names[CVX_MESH_COMMS] = {"data",    "window", "cfg",      "ring",
                                                    "ulysses", "tensor", "sequence", "branches",
                                                    "replica", "world"};

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

unsigned cvx_mesh_mask(int i)
{
    const unsigned seq = 1u << CVX_MESH_RING | 1u << CVX_MESH_ULYSSES;
    const unsigned all = (1u << CVX_MESH_DIMS) - 1;

    return i < CVX_MESH_DIMS        ? 1u << i
           : i == CVX_MESH_SEQUENCE ? seq
           : i == CVX_MESH_BRANCHES ? seq | 1u << CVX_MESH_CFG
           : i == CVX_MESH_REPLICA  ? all & ~(1u << CVX_MESH_DATA)
                                    : all;
}

static cvx_comm **slot(cvx_mesh *m, int i)
{
    return i < CVX_MESH_DIMS        ? &m->dim[i]
           : i == CVX_MESH_SEQUENCE ? &m->sequence
           : i == CVX_MESH_BRANCHES ? &m->branches
           : i == CVX_MESH_REPLICA  ? &m->replica
                                    : &m->world;
}

cvx_comm *cvx_mesh_comm(const cvx_mesh *m, int i)
{
    return *slot((cvx_mesh *)m, i);
}

/* The communicator of the ranks that differ only along the dimensions of its mask: the others' places make the
 * colour, theirs the order. Without a world, one that only counts. */
static cvx_status make_comm(cvx_mesh *m, int i)
{
    unsigned mask = cvx_mesh_mask(i);
    int colour = 0, key = 0, size = 1;

    for (int d = 0; d < CVX_MESH_DIMS; d++) {
        if (mask & 1u << d) {
            key = key * m->degrees.n[d] + m->at[d];
            size *= m->degrees.n[d];
        } else {
            colour = colour * m->degrees.n[d] + m->at[d];
        }
    }
    if (size == 1) {
        return cvx_comm_self(slot(m, i));
    }
    return m->own_world ? cvx_comm_dry(slot(m, i), key, size)
                        : cvx_comm_split(m->world, colour, key, slot(m, i));
}

/* world NULL: the mesh owns one of its own. */
static cvx_status open_mesh(cvx_mesh **out, cvx_comm *world, const cvx_degrees *degrees, int rank)
{
    cvx_status st = CVX_OK;
    cvx_mesh *m = calloc(1, sizeof *m);

    if (m == NULL) {
        return cvx_fail(CVX_ENOMEM, "no memory for a mesh");
    }
    *m = (cvx_mesh){
        .degrees = *degrees, .world = world, .own_world = world == NULL, .node_ranks = 1};
    cvx_mesh_place(degrees, rank, m->at);
    if (world == NULL) {
        CVX_TRY(st, cvx_comm_dry(&m->world, rank, cvx_mesh_size(degrees)), done);
    }
    for (int i = 0; i < CVX_MESH_WORLD; i++) {
        CVX_TRY(st, make_comm(m, i), done);
    }
    *out = m;
    m = NULL;
done:
    cvx_mesh_close(m);
    return st;
}

cvx_status cvx_mesh_open(cvx_mesh **out, cvx_comm *world, const cvx_degrees *degrees)
{
    const int *n = degrees->n;

    if (cvx_mesh_size(degrees) != world->size) {
        return cvx_fail(
            CVX_EINVAL,
            "mesh data %d x window %d x cfg %d x ring %d x ulysses %d x tensor %d needs "
            "%d ranks, there are %d",
            n[0], n[1], n[2], n[3], n[4], n[5], cvx_mesh_size(degrees), world->size);
    }
    return open_mesh(out, world, degrees, world->rank);
}

cvx_status cvx_mesh_dry(cvx_mesh **out, const cvx_degrees *degrees, int rank)
{
    return open_mesh(out, NULL, degrees, rank);
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
