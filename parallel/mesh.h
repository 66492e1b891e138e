/* The mesh: how the ranks of a job share its work.
 *
 *     data x window x cfg x ring x ulysses x tensor        (tensor varies fastest with the rank)
 *
 * data: whole replicas, different videos. window: the windows of a long video. cfg: the two branches of classifier-free guidance. ring and
 * ulysses: the rows of the joint sequence [text; video]; together they are the dimension `sequence`, whose
 * rank r holds the r-th of its even contiguous shards. tensor: the columns and rows of the weights. The
 * dimensions that talk most vary fastest, so that they fall inside a node. */
#ifndef CVX_PARALLEL_MESH_H
#define CVX_PARALLEL_MESH_H

#include "parallel/comm.h"

typedef enum cvx_mesh_dim {
    CVX_MESH_DATA = 0,
    CVX_MESH_WINDOW,
    CVX_MESH_CFG,
    CVX_MESH_RING,
    CVX_MESH_ULYSSES,
    CVX_MESH_TENSOR,
    CVX_MESH_DIMS
} cvx_mesh_dim;

typedef struct cvx_degrees {
    int n[CVX_MESH_DIMS];
} cvx_degrees;
#define CVX_DEGREES_ONE ((cvx_degrees){{1, 1, 1, 1, 1, 1}})

typedef struct cvx_mesh {
    cvx_degrees degrees;
    int at[CVX_MESH_DIMS]; /* this rank's place along each dimension */
    cvx_comm *world;       /* every rank; borrowed, unless own_world */
    bool own_world;
    int node_ranks; /* ranks of the job on this rank's machine, which share its memory and cores */
    cvx_comm *dim[CVX_MESH_DIMS]; /* the ranks that differ along one dimension only */
    cvx_comm *sequence;           /* ring x ulysses */
    cvx_comm *branches;           /* cfg x ring x ulysses: who exchanges velocities after a step */
    cvx_comm *replica;            /* everything but data: who works on one video */
} cvx_mesh;

/* A rank's place for degrees d: out[i] = index along dimension i. */
void cvx_mesh_place(const cvx_degrees *d, int rank, int out[CVX_MESH_DIMS]);
/* Product of the degrees. */
int cvx_mesh_size(const cvx_degrees *d);

/* Builds the communicators by splitting `world`, whose size must be the product of the degrees
 * (CVX_EINVAL names both otherwise). Collective over world. */
cvx_status cvx_mesh_open(cvx_mesh **out, cvx_comm *world, const cvx_degrees *degrees) CVX_CHECK;
/* The mesh of one rank, with a world of its own that cvx_mesh_close closes too. */
cvx_status cvx_mesh_self(cvx_mesh **out) CVX_CHECK;
/* Accepts NULL; world stays open (but for cvx_mesh_self's). */
void cvx_mesh_close(cvx_mesh *m);

/* The mesh as rank `rank` would see it, of communicators that only count (cvx_comm_dry). */
cvx_status cvx_mesh_dry(cvx_mesh **out, const cvx_degrees *degrees, int rank) CVX_CHECK;

/* The mesh's communicators by number: the dimensions, then sequence, branches, replica, world. */
enum {
    CVX_MESH_SEQUENCE = CVX_MESH_DIMS,
    CVX_MESH_BRANCHES,
    CVX_MESH_REPLICA,
    CVX_MESH_WORLD,
    CVX_MESH_COMMS
};
/* Their names: "data", "window" ... "tensor", "sequence", "branches", "replica", "world". */
extern const char *const cvx_mesh_names[CVX_MESH_COMMS];
cvx_comm *cvx_mesh_comm(const cvx_mesh *m, int i);
/* Which dimensions vary within communicator i: bit d for dimension d. */
unsigned cvx_mesh_mask(int i);

#endif
