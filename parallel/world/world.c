#include "parallel/world/world.h"

#include <stdlib.h>
#include <string.h>

#include "parallel/tcp/comm_tcp.h"
#ifdef CVX_HAVE_MPI
#include "parallel/mpi/comm_mpi.h"
#endif

/* Chosen by the first call that needs to know; the environment does not change. */
static bool by_tcp(void)
{
    const char *wish = getenv("CVX_LAUNCH");
    cvx_meeting m;
    bool told = false;

    if (wish != NULL && strcmp(wish, "tcp") == 0) {
        return true;
    }
#ifdef CVX_HAVE_MPI
    static const char *const mpi[] = {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_FD"};
    for (size_t i = 0; i < sizeof mpi / sizeof *mpi; i++) {
        if (getenv(mpi[i]) != NULL) {
            return false;
        }
    }
    if (wish != NULL && strcmp(wish, "mpi") == 0) {
        return false;
    }
    /* variables that make no sense are told by cvx_world_open */
    return cvx_meeting_read(&m, &told) != CVX_OK || told;
#else
    (void)m, (void)told;
    return true;
#endif
}

int cvx_world_launched(void)
{
    cvx_meeting m;
    bool told = false;

    if (by_tcp()) {
        return cvx_meeting_read(&m, &told) == CVX_OK && m.local_size > 0 ? m.local_size : 1;
    }
#ifdef CVX_HAVE_MPI
    return cvx_comm_mpi_launched();
#else
    return 1;
#endif
}

cvx_status cvx_world_open(cvx_comm **world, int *argc, char ***argv)
{
    const char *wish = getenv("CVX_LAUNCH");
    cvx_meeting m;
    bool told = false;

    if (wish != NULL && strcmp(wish, "mpi") != 0 && strcmp(wish, "tcp") != 0) {
        return cvx_fail(CVX_EINVAL, "CVX_LAUNCH is '%s': mpi or tcp is needed", wish);
    }
    if (by_tcp()) {
        CVX_RETURN_IF(cvx_meeting_read(&m, &told));
        return cvx_comm_tcp_open(world, &m);
    }
#ifdef CVX_HAVE_MPI
    return cvx_comm_mpi_open(world, argc, argv);
#else
    (void)argc, (void)argv;
    return cvx_comm_self(world);
#endif
}

bool cvx_world_crowded(bool yes)
{
#ifdef CVX_HAVE_MPI
    return !by_tcp() && cvx_comm_mpi_crowded(yes);
#else
    (void)yes;
    return false;
#endif
}

void cvx_world_finish(int code)
{
#ifdef CVX_HAVE_MPI
    if (!by_tcp()) {
        cvx_comm_mpi_finish(code);
    }
#else
    (void)code;
#endif
}

cvx_status cvx_world_node(cvx_comm *world, cvx_comm **out)
{
#ifdef CVX_HAVE_MPI
    if (!by_tcp()) {
        return cvx_comm_mpi_node(world, out);
    }
#endif
    return cvx_comm_tcp_node(world, out);
}
