/* The mesh: how the ranks of a job share its work.
 *
 *     data x cfg x ring x ulysses x tensor        (tensor varies fastest with the rank)
 *
 * data: whole replicas, different videos. cfg: the two branches of classifier-free guidance. ring and
 * ulysses: the rows of the joint sequence [text; video]; together they are the dimension `sequence`, whose
 * rank r holds the r-th of its even contiguous shards. tensor: the columns and rows of the weights. The
 * dimensions that talk most vary fastest, so that they fall inside a node. */
#ifndef CVX_PARALLEL_MESH_H
#define CVX_PARALLEL_MESH_H

#include "parallel/comm.h"

typedef enum cvx_mesh_dim {
    CVX_MESH_DATA = 0,
    CVX_MESH_CFG,
    CVX_MESH_RING,
    CVX_MESH_ULYSSES,
    CVX_MESH_TENSOR,
    CVX_MESH_DIMS
} cvx_mesh_dim;

/* "data", "cfg", "ring", "ulysses", "tensor". */
extern const char *const cvx_mesh_names[CVX_MESH_DIMS];

typedef struct cvx_degrees {
    int n[CVX_MESH_DIMS];
} cvx_degrees;
#define CVX_DEGREES_ONE ((cvx_degrees){{1, 1, 1, 1, 1}})

typedef struct cvx_mesh {
    cvx_degrees degrees;
    int at[CVX_MESH_DIMS]; /* this rank's place along each dimension */
    cvx_comm *world;       /* every rank; borrowed, unless own_world */
    bool own_world;
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

/* Whether the mesh's communicators only count (measure mode) or also move data. */
void cvx_mesh_set_measure(const cvx_mesh *m, bool measure);

/* Total over the mesh's communicators of one kind of call (world included). */
cvx_comm_stat cvx_mesh_stat(const cvx_mesh *m, cvx_comm_kind kind);

/* The `rank`-th of `size` even contiguous shards of 0 .. total: no shard is more than one longer than
 * another, and any total goes (also less than size: then some are empty). */
typedef struct cvx_shard {
    int64_t start, len;
} cvx_shard;
static inline cvx_shard cvx_shard_of(int64_t total, int size, int rank)
{
    int64_t a = total * rank / size, b = total * (rank + 1) / size;
    return (cvx_shard){a, b - a};
}

#endif
