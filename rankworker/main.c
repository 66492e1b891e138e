/* cvx-rank: `mpirun -n 8 cvx-rank --model DIR --prompt TEXT --output FILE`: cvx generate on N MPI ranks. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/beat.h"
#include "base/fault.h"
#include "base/file.h"
#include "base/stop.h"
#include "model/pipeline/arrange.h"
#include "model/pipeline/batch.h"
#include "model/pipeline/bench.h"
#include "model/stages/command.h"
#include "parallel/same.h"
#include "parallel/world/world.h"
#include "rankworker/device.h"
#include "rankworker/place.h"
#include "rankworker/pool.h"
#include "rankworker/record.h"
#include "rankworker/stats.h"
#include "rankworker/supervise.h"

typedef struct options {
    cvx_request request; /* first: the request's table speaks of it */
    cvx_supervise supervise;
    cvx_pool_options pool;
} options;

static size_t count(const cvx_opt *opts)
{
    size_t n = 0;

    while (opts[n].name != NULL) {
        n++;
    }
    return n;
}

/* The request's options, then the supervisor's and the pool's. Caller frees. */
static cvx_opt *make_table(void)
{
    const size_t n = count(cvx_request_opts), supervise = count(cvx_supervise_opts);
    const size_t pool = count(cvx_pool_opts);
    cvx_opt *t = calloc(n + supervise + pool + 1, sizeof *t);

    if (t != NULL) {
        memcpy(t, cvx_request_opts, n * sizeof *t);
        memcpy(t + n, cvx_supervise_opts, supervise * sizeof *t);
        for (size_t i = n; i < n + supervise; i++) {
            t[i].offset += offsetof(options, supervise);
        }
        memcpy(t + n + supervise, cvx_pool_opts, pool * sizeof *t);
        for (size_t i = n + supervise; i < n + supervise + pool; i++) {
            t[i].offset += offsetof(options, pool);
        }
    }
    return t;
}

/* The communicator of device memory, if that is what `world` became. */
static void close_device(cvx_comm *world, const cvx_comm *host)
{
    if (world != host) {
        cvx_comm_close(world);
    }
}

static cvx_status work(cvx_comm *world, const cvx_place *place, cvx_request *r,
                       const cvx_pool_options *pool)
{
    cvx_comm *host = world;
    cvx_mesh *mesh = NULL;
    cvx_event_fn fn = r->json ? cvx_events_json : r->quiet ? cvx_events_quiet : cvx_events_bars;
    FILE *report = r->json || r->quiet ? NULL : stdout, *events = r->json ? stdout : stderr;
    bool first = world->rank == 0;
    cvx_progress notes = {.fn = first ? fn : NULL, .payload = events};

    r->threads = r->threads > 0 ? r->threads : place->threads;
    char note[200];
    if (pool->pool) {
        cvx_log_open(&pool->log); /* what is told from here on is a line of the log */
    }
    CVX_RETURN_IF(cvx_device_world(&world, world, r, note));
    if (strcmp(r->isa, "auto") == 0 &&
        (strcmp(r->backend, "auto") == 0 || strcmp(r->backend, "cpu") == 0)) {
        CVX_RETURN_IF(cvx_place_isa(&r->isa, world));
    }
    if (note[0] != 0 && first && pool->pool) {
        cvx_log(CVX_LOG_INFO, NULL, "%s", note);
    } else if (note[0] != 0 && first && !r->quiet) {
        cvx_progress_note(&notes, "%s", note);
    }
    if (pool->pool) {
        cvx_status st = cvx_pool_run(pool, r, host, world, place->node_ranks);
        close_device(world, host);
        return st;
    }
    cvx_status made = cvx_arrange_world(&mesh, r, world, place->node_ranks, &notes);
    if (made != CVX_OK) {
        close_device(world, host);
        return made;
    }
    if (!first) { /* the first rank of another data group has notes of its own */
        fn = mesh->replica->rank == 0 && !r->json ? cvx_events_quiet : NULL;
    }
    cvx_record record = {
        .url = pool->redis,
        .owner = pool->owner,
        .options = {.backend = r->backend, .isa = r->isa, .threads = (int)r->threads}};
    const cvx_generator_options opt = {.mesh = mesh,
                                       .event = fn,
                                       .payload = events,
                                       .report = report,
                                       .finished = pool->redis != NULL ? cvx_record_video : NULL,
                                       .finished_payload = &record};
    cvx_status st = r->batch != NULL ? cvx_batch(r, &opt, stderr) : cvx_generate(r, &opt);
    cvx_record_close(&record);
    if (st == CVX_OK && r->stats) {
        st = cvx_stats_print(mesh, stdout, r->json);
    }
    cvx_mesh_close(mesh);
    close_device(world, host);
    return st;
}

static cvx_status bench(cvx_comm *world, const cvx_place *place, cvx_bench_options *o,
                        const char *what)
{
    const cvx_comm *host = world;
    char note[200];
    cvx_mesh *mesh = NULL;
    cvx_request *r = &o->request;
    cvx_degrees d = CVX_DEGREES_ONE;

    r->threads = r->threads > 0 ? r->threads : place->threads;
    d.n[CVX_MESH_CFG] = r->enable_cfg_parallel ? 2 : 1;
    for (int i = CVX_MESH_RING; i < CVX_MESH_DIMS;
         i++) { /* one pass of a model: no windows, no data */
        d.n[i] = r->degree[i] > 0 ? (int)r->degree[i] : 1;
    }
    if (r->degree[CVX_MESH_ULYSSES] == 0) { /* what is left */
        d.n[CVX_MESH_ULYSSES] =
            world->size / cvx_mesh_size(&d) > 1 ? world->size / cvx_mesh_size(&d) : 1;
    }
    CVX_RETURN_IF(cvx_device_world(&world, world, r, note));
    cvx_status st = cvx_mesh_open(&mesh, world, &d);
    if (st == CVX_OK) {
        mesh->node_ranks = place->node_ranks;
        st = cvx_bench(o, what, mesh, stdout);
        cvx_mesh_close(mesh);
    }
    close_device(world, host);
    return st;
}

/* After the arguments were read, with `st`: every rank could, and has the same command, program and options. */
static cvx_status agree_on_options(cvx_comm *world, cvx_status st, const char *command,
                                   const cvx_opt *opts, const void *obj)
{
    json_t *shared = json_object(), *own = cvx_opts_shared(opts, obj);

    json_object_set_new(shared, "version of cvx", json_string(CVX_VERSION));
    json_object_set_new(shared, "command", json_string(command));
    json_object_update(shared, own);
    st = cvx_comm_agree(world, st);
    st = st == CVX_OK ? cvx_comm_same(world, shared) : st;
    json_decref(shared);
    json_decref(own);
    return st;
}

/* `cvx-rank interpolate IN OUT`, `cvx-rank upscale IN OUT`: every rank makes its share of the frames. */
static cvx_status stages(cvx_comm *world, int argc, char **argv, bool interpolate)
{
    const cvx_command cmd = {.name = interpolate ? "cvx-rank interpolate" : "cvx-rank upscale",
                             .args = "IN OUT",
                             .summary = "The stages after the frames on the ranks of an MPI job.",
                             .details = interpolate ? cvx_interpolate_details : cvx_upscale_details,
                             .opts = interpolate ? cvx_interpolate_opts : cvx_upscale_opts};
    cvx_stages_request r = CVX_STAGES_REQUEST_INIT;
    cvx_place place;
    const char *pos[2];
    bool help = false;
    int n = 0;
    cvx_status st = cvx_opts_parse(&cmd, &r, argc, argv, pos, 2, &n, &help);

    if (st == CVX_OK && n < 2 && !help) {
        st = cvx_fail(CVX_EINVAL, "%s needs IN OUT", cmd.name);
    }
    if (help) {
        return CVX_OK;
    }
    CVX_RETURN_IF(agree_on_options(world, st, cmd.name, cmd.opts, &r));
    CVX_RETURN_IF(cvx_place_find(&place, world));
    r.threads = r.threads > 0 ? r.threads : place.threads;
    if (strcmp(r.isa, "auto") == 0 && strcmp(r.backend, "ref") != 0) {
        CVX_RETURN_IF(cvx_place_isa(&r.isa, world));
    }
    r.quiet |= world->rank > 0;
    return cvx_stages_command(&r, interpolate, pos[0], pos[1], world, r.json ? stdout : stderr,
                              world->rank == 0 ? stdout : NULL);
}

static void complain(const cvx_comm *world)
{
    if (cvx_log_opened()) {
        cvx_log(CVX_LOG_ERROR, NULL, "rank %d: %s", world->rank, cvx_error());
    } else {
        fprintf(stderr, "cvx-rank %d: %s\n", world->rank, cvx_error());
    }
}

/* Tells a failure once, and gives every rank the exit code of its cause: the launcher passes on any rank's. What can
 * only be one rank's own trouble is told before the others are asked, in case they no longer answer. */
static cvx_status conclude(cvx_comm *world, cvx_status st)
{
    bool own = st != CVX_OK && !cvx_error_is_peer(), told = false;
    int first = own ? world->rank : CVX_MAX_RANKS, worst = st;

    if (own && (world->rank == 0 || st == CVX_EIO || st == CVX_ENOMEM || st == CVX_EINTERNAL)) {
        complain(world);
        told = true;
    }
    bool heard = cvx_comm_least(world, &first) == CVX_OK && cvx_comm_least(world, &worst) == CVX_OK;
    if (own && !told && (!heard || first == world->rank)) {
        complain(world);
    }
    return heard ? (cvx_status)worst : st == CVX_OK ? CVX_EPEER : st;
}

/* Every rank reads the same arguments; the first one tells what is wrong with them. */
static cvx_status run(cvx_comm *world, const cvx_command *cmd, options *o, int argc, char **argv)
{
    static const cvx_command benches = {.name = "cvx-rank bench",
                                        .args = "dit|vae",
                                        .opts = cvx_bench_opts,
                                        .summary = "cvx bench on the ranks of an MPI job."};
    bool benching = argc > 1 && strcmp(argv[1], "bench") == 0, help = false;
    cvx_bench_options b = CVX_BENCH_INIT;
    cvx_place place;
    const char *pos[1];
    int n = 0;

    for (int i = 1; world->rank > 0 && i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            return CVX_OK; /* the first rank prints it */
        }
    }
    for (int k = 0; k < 2; k++) {
        if (argc > 1 && strcmp(argv[1], k == 0 ? "interpolate" : "upscale") == 0) {
            return stages(world, argc - 1, argv + 1, k == 0);
        }
    }
    cvx_status st = benching ? cvx_opts_parse(&benches, &b, argc - 1, argv + 1, pos, 1, &n, &help)
                             : cvx_opts_parse(cmd, o, argc, argv, NULL, 0, &n, &help);
    if (st == CVX_OK && benching && n == 0 && !help) {
        st = cvx_fail(CVX_EINVAL, "bench: dit or vae is needed");
    }
    if (help) {
        return CVX_OK;
    }
    st = benching ? agree_on_options(world, st, pos[0], cvx_bench_opts, &b)
                  : agree_on_options(world, st, o->pool.pool ? "pool" : "generate",
                                     cvx_request_opts, &o->request);
    CVX_RETURN_IF(st);
    CVX_RETURN_IF(cvx_place_find(&place, world));
    return benching ? bench(world, &place, &b, pos[0]) : work(world, &place, &o->request, &o->pool);
}

static int run_rank(const cvx_command *cmd, options *o, int argc, char **argv)
{
    const char *beats = getenv(CVX_BEAT_DIR);
    cvx_comm *world = NULL;
    cvx_status st = beats != NULL ? cvx_beat_start(beats) : CVX_OK;

    cvx_stop_install(); /* MPI may take long to start */
    if (st == CVX_OK) {
        st = cvx_world_open(&world, &argc, &argv);
    }
    if (st != CVX_OK) {
        fprintf(stderr, "cvx-rank: %s\n", cvx_error());
        return cvx_status_exit(st);
    }
    cvx_beat_rank(world->rank);
    cvx_fault_rank(world->rank);
    st = conclude(world, run(world, cmd, o, argc, argv));
    cvx_comm_close(world);
    cvx_world_finish(cvx_status_exit(st));
    cvx_beat_stop();
    return cvx_status_exit(st);
}

/* Whether the arguments ask for a supervisor. */
static bool asks_supervisor(int argc, char **argv)
{
    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++) {
        if (strncmp(argv[i], "--supervise", 11) == 0 && (argv[i][11] == 0 || argv[i][11] == '=')) {
            return true;
        }
    }
    return false;
}

/* The arguments without the supervisor's own, for the ranks. Caller frees; NULL without memory. */
static char **rank_args(const cvx_opt *table, int argc, char **argv)
{
    char **out = calloc((size_t)argc + 1, sizeof *out);
    int n = 0;

    for (int i = 1; out != NULL && i < argc; i++) {
        char name[64];
        size_t len = strcspn(argv[i], "=");
        bool option = strncmp(argv[i], "--", 2) == 0 && len > 2 && len < sizeof name;
        snprintf(name, sizeof name, "%.*s", option ? (int)len - 2 : 0, argv[i] + (option ? 2 : 0));
        const cvx_opt *o = option ? cvx_opts_find(table, name) : NULL;
        bool mine = option && cvx_opts_find(cvx_supervise_opts, name) != NULL;
        bool two = o != NULL && argv[i][len] == 0 && o->type != CVX_OPT_FLAG &&
                   !(o->type == CVX_OPT_CHOICE && o->meta != NULL);
        for (int k = 0; !mine && k < 1 + two && i + k < argc; k++) {
            if (strcmp(argv[i], "--") != 0) {
                out[n++] = argv[i + k];
            }
        }
        i += two;
    }
    return out;
}

static int run_supervisor(const cvx_command *cmd, options *o, int argc, char **argv)
{
    const char *pos[1];
    int n, code = 0;
    bool help = false;
    char self[CVX_PATH_MAX] = "";
    char **args = rank_args(cmd->opts, argc, argv);
    cvx_status st = args == NULL || readlink("/proc/self/exe", self, sizeof self - 1) < 0
                        ? cvx_fail(CVX_ENOMEM, "cannot tell the ranks' arguments")
                        : CVX_OK;

    /* `--supervise N -- FLAGS`: what comes after the dashes is read as options too */
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--") == 0) {
            memmove(argv + i, argv + i + 1, (size_t)(argc - i) * sizeof *argv);
            argc--;
            break;
        }
    }
    if (st == CVX_OK) {
        st = cvx_opts_parse(cmd, o, argc, argv, pos, 0, &n, &help);
    }
    if (st == CVX_OK && o->pool.pool) {
        cvx_log_open(&o->pool.log);
    }
    if (st == CVX_OK && !help) {
        code = cvx_supervise_run(&o->supervise, self, args, &st);
    }
    if (st != CVX_OK) {
        fprintf(stderr, "cvx-rank supervisor: %s\n", cvx_error());
        code = code != 0 ? code : cvx_status_exit(st);
    }
    free(args);
    return code;
}

int main(int argc, char **argv)
{
    cvx_open_standard();
    options o = {.request = CVX_REQUEST_INIT, .supervise = CVX_SUPERVISE_INIT};
    cvx_opt *table = make_table();
    const cvx_command cmd = {
        .name = "cvx-rank",
        .args = "",
        .opts = table,
        .summary = "cvx generate on the ranks of an MPI job.",
        .details =
            "mpirun -n 8 cvx-rank FLAGS, srun --mpi=pmix cvx-rank FLAGS, or cvx-rank --supervise 8 "
            "FLAGS, which starts mpirun itself and starts it again from the last checkpoint when a "
            "rank dies or hangs.\n\n"
            "SIGTERM or SIGUSR1 to any rank ends the work after the running step, with a checkpoint "
            "where --checkpoint-dir is given. (mpirun passes SIGUSR1 on to its ranks; a SIGTERM it "
            "turns into their death within seconds.)\n\n"
            "Exit codes as of cvx generate (75: run the same command again), and 7: another rank "
            "is gone, or the supervisor gave up."};
    if (table == NULL) {
        fprintf(stderr, "cvx-rank: no memory\n");
        return cvx_status_exit(CVX_ENOMEM);
    }
    if (!asks_supervisor(argc, argv)) {
        cvx_place_prepare(argv);
    }
    int code = asks_supervisor(argc, argv) ? run_supervisor(&cmd, &o, argc, argv)
                                           : run_rank(&cmd, &o, argc, argv);
    free(table);
    return code;
}
