#include "rankworker/place.h"

#include <hwloc.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/ops.h"
#include "kernels/waiting.h"
#include "parallel/world/world.h"

/* CPUs that a binding is told about: beyond these, ranks count as sharing nothing. */
#define CPUS 4096

typedef struct binding {
    uint64_t cpu[CPUS / 64];
} binding;

/* Physical cores of this process's binding, and its CPUs. */
static cvx_status look(int *cores, binding *b)
{
    hwloc_topology_t t;
    hwloc_cpuset_t set = hwloc_bitmap_alloc();
    cvx_status st = CVX_OK;
    int i;

    memset(b, 0, sizeof *b);
    if (set == NULL || hwloc_topology_init(&t) != 0) {
        hwloc_bitmap_free(set);
        return cvx_fail(CVX_ENOMEM, "no memory for the machine's topology");
    }
    if (hwloc_topology_load(t) != 0) {
        st = cvx_fail(CVX_EIO, "hwloc cannot read the machine's topology");
        goto done;
    }
    if (hwloc_get_cpubind(t, set, HWLOC_CPUBIND_PROCESS) != 0) {
        hwloc_bitmap_copy(set, hwloc_topology_get_allowed_cpuset(t));
    }
    *cores = hwloc_get_nbobjs_inside_cpuset_by_type(t, set, HWLOC_OBJ_CORE);
    if (*cores < 1) { /* part of a core, or no core is known */
        int cpus = hwloc_bitmap_weight(set);
        *cores = cpus > 1 ? cpus : 1;
    }
    hwloc_bitmap_foreach_begin(i, set) if (i < CPUS) b->cpu[i / 64] |= (uint64_t)1 << i % 64;
    hwloc_bitmap_foreach_end();
done:
    hwloc_topology_destroy(t);
    hwloc_bitmap_free(set);
    return st;
}

static bool overlap(const binding *a, const binding *b)
{
    for (int i = 0; i < CPUS / 64; i++) {
        if (a->cpu[i] & b->cpu[i]) {
            return true;
        }
    }
    return false;
}

cvx_status cvx_place_find(cvx_place *out, cvx_comm *world)
{
    cvx_place p = {0};
    cvx_comm *node = NULL;
    binding own, *all = NULL;
    cvx_status st = CVX_OK;

    CVX_RETURN_IF(cvx_comm_agree(world, look(&p.cores, &own)));
    CVX_RETURN_IF(cvx_world_node(world, &node));
    p.node_ranks = node->size;
    all = calloc((size_t)node->size, sizeof *all);
    if (all == NULL) {
        st = cvx_fail(CVX_ENOMEM, "no memory for the bindings of %d ranks", node->size);
    }
    CVX_TRY(st, cvx_comm_agree(node, st), done);
    CVX_TRY(st, cvx_comm_gather_each(node, &own, sizeof own, all), done);
    for (int i = 0; i < node->size; i++) {
        p.sharers += i == node->rank || overlap(&own, &all[i]);
    }
    p.threads = p.cores / p.sharers > 1 ? p.cores / p.sharers : 1;
    (void)cvx_world_crowded(p.sharers > p.cores);
    *out = p;
done:
    free(all);
    cvx_comm_close(node);
    return st;
}

cvx_status cvx_place_isa(const char **out, cvx_comm *world)
{
    int best = 0;

    for (int i = 0; cvx_cpu_levels[i] != NULL; i++) {
        best = strcmp(cvx_cpu_levels[i], cvx_cpu_isa()) == 0 ? i : best;
    }
    CVX_RETURN_IF(cvx_comm_least(world, &best));
    *out = cvx_cpu_levels[best];
    return CVX_OK;
}

void cvx_place_prepare(char **argv)
{
    binding unused;
    int cores = 1;
    bool crowded = look(&cores, &unused) == CVX_OK && cvx_world_launched() > cores;

    if (crowded) { /* for what waits inside MPI itself: starting, splitting, ending */
        setenv("OMPI_MCA_mpi_yield_when_idle", "1", 0);
    }
    cvx_wait_briefly(argv, crowded);
}
