#include "rankworker/supervise.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/beat.h"
#include "base/file.h"
#include "base/log.h"
#include "base/progress.h"

#define RANKS_MAX 1024
#define POLL_SECONDS 0.1
/* What a launcher gets to end its ranks before all of them are killed. */
#define GRACE_SECONDS 3.0

#define AT(f) offsetof(cvx_supervise, f)
const cvx_opt cvx_supervise_opts[] = {
    {"", 0, 0, NULL,
     "Watching the ranks from outside (cvx-rank --supervise N FLAGS, without mpirun)", 0, 0, NULL},
    {"supervise", CVX_OPT_INT, AT(ranks), "N",
     "start N ranks, and start them again from the last checkpoint when one dies or hangs", 1,
     RANKS_MAX, NULL},
    {"max-restarts", CVX_OPT_INT, AT(max_restarts), "N", "at most so often (default: 3)", 0, 1e6,
     NULL},
    {"hang-timeout", CVX_OPT_DOUBLE, AT(hang_timeout), "SECONDS",
     "without a sign of life from a rank, or of progress from any (default: 600)", 1, 1e6, NULL},
    {"min-ranks", CVX_OPT_INT, AT(min_ranks), "N",
     "after two failed starts in a row halve the ranks, down to N (default: never)", 1, RANKS_MAX,
     NULL},
    {"launcher", CVX_OPT_STR, AT(launcher), "COMMAND",
     "what starts the ranks, before \"-n N cvx-rank\" (default: mpirun; for more ranks than cores "
     "\"mpirun --oversubscribe\")",
     0, 0, NULL},
    {"run-dir", CVX_OPT_STR, AT(run_dir), "DIR",
     "for signs of life; on several hosts a folder that all of them see (default: one of its own "
     "in memory)",
     0, 0, NULL},
    {NULL, 0, 0, NULL, NULL, 0, 0, NULL},
};

/* One rank as its file of signs tells it. */
typedef struct sign {
    char name[NAME_MAX + 1];
    cvx_beat_record last;
    double silent; /* seconds without a new tick */
    bool here;     /* the file was there at the last look */
} sign;

typedef struct start {
    const cvx_supervise *opt;
    char dir[CVX_PATH_MAX];   /* of this start alone */
    char beats[CVX_PATH_MAX]; /* in it: the ranks' signs of life */
    int64_t ranks;
    pid_t launcher;
    sign signs[RANKS_MAX];
    int n_signs;   /* ranks that were seen so far */
    double idle;   /* seconds in which nothing changed anywhere */
    double looked; /* clock of the last look */
    int forwarded; /* signals passed on */
} start;

static volatile sig_atomic_t stop_signals, kill_signal;

static void on_stop(int sig)
{
    (void)sig;
    stop_signals++;
}

static void on_kill(int sig)
{
    kill_signal = sig;
}

static void pause_for(double seconds)
{
    struct timespec t = {.tv_sec = (time_t)seconds};

    t.tv_nsec = (long)((seconds - (double)t.tv_sec) * 1e9);
    nanosleep(&t, NULL);
}

static void say(const char *fmt, ...) CVX_PRINTF(1, 2);
static void say(const char *fmt, ...)
{
    char text[1000];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (cvx_log_opened()) { /* of a pool */
        cvx_log(CVX_LOG_WARN, NULL, "supervisor: %s", text);
    } else {
        fprintf(stderr, "cvx-rank supervisor: %s\n", text);
    }
}

/* --- the processes of a start: all of the launcher's session, since Open MPI gives each rank a group --- */

/* Of /proc/PID/stat: the session, 0 where the process is gone or waits to be reaped. */
static long session_of(const char *pid)
{
    char path[64], line[512], state = 'Z';
    long session = 0;

    snprintf(path, sizeof path, "/proc/%.20s/stat", pid);
    FILE *f = fopen(path, "r");
    size_t n = f != NULL ? fread(line, 1, sizeof line - 1, f) : 0;
    if (f != NULL) {
        fclose(f);
    }
    line[n] = 0;
    const char *p = strrchr(line, ')'); /* the name before it may hold anything */
    if (p == NULL || sscanf(p + 1, " %c %*d %*d %ld", &state, &session) != 2 || state == 'Z') {
        return 0;
    }
    return session;
}

/* Kills what is left of the session; how many there were. */
static int kill_session(pid_t session)
{
    DIR *d = opendir("/proc");
    int n = 0;

    for (struct dirent *e; d != NULL && (e = readdir(d)) != NULL;) {
        char *end;
        long pid = strtol(e->d_name, &end, 10);
        if (*end == 0 && pid > 1 && session_of(e->d_name) == session) {
            kill((pid_t)pid, SIGKILL);
            n++;
        }
    }
    if (d != NULL) {
        closedir(d);
    }
    return n;
}

/* The launcher first, so that it can end ranks on other hosts; then whatever is left here. */
static void end_group(const start *s, bool launcher_runs)
{
    double until = cvx_now() + GRACE_SECONDS;

    if (launcher_runs) {
        kill(s->launcher, SIGTERM);
        while (cvx_now() < until && waitpid(s->launcher, NULL, WNOHANG) == 0) {
            pause_for(POLL_SECONDS);
        }
    }
    until = cvx_now() + GRACE_SECONDS;
    while (kill_session(s->launcher) > 0 && cvx_now() < until) {
        pause_for(POLL_SECONDS / 10);
    }
    while (waitpid(-1, NULL, WNOHANG) > 0) {
    }
}

/* --- signs of life --- */

static sign *find_sign(start *s, const char *name)
{
    for (int i = 0; i < s->n_signs; i++) {
        if (strcmp(s->signs[i].name, name) == 0) {
            return &s->signs[i];
        }
    }
    if (s->n_signs == RANKS_MAX) {
        return NULL;
    }
    sign *g = &s->signs[s->n_signs++];
    *g = (sign){0};
    snprintf(g->name, sizeof g->name, "%s", name);
    return g;
}

/* One look at a rank's file, `passed` seconds after the last; whether it tells of progress. */
static bool look_at(start *s, const char *name, double passed)
{
    char path[CVX_PATH_MAX];
    cvx_beat_record r;
    int before = s->n_signs;
    sign *g = find_sign(s, name);

    if (g == NULL || cvx_path_join(path, s->beats, name) != CVX_OK ||
        cvx_beat_read(&r, path) != CVX_OK) {
        return false;
    }
    bool progress = s->n_signs > before || r.work != g->last.work;
    g->silent = r.ticks != g->last.ticks ? 0 : g->silent + passed;
    g->last = r;
    g->here = true;
    return progress;
}

static void look(start *s)
{
    double now = cvx_now(), passed = now - s->looked;
    bool progress = false;
    int here = 0;
    DIR *d = opendir(s->beats);

    /* a pause of the supervisor itself is no silence of the ranks */
    passed = passed < 1 ? passed : 1;
    s->looked = now;
    for (int i = 0; i < s->n_signs; i++) {
        here += s->signs[i].here;
        s->signs[i].here = false;
    }
    for (struct dirent *e; d != NULL && (e = readdir(d)) != NULL;) {
        if (e->d_name[0] != '.') {
            progress |= look_at(s, e->d_name, passed);
        }
    }
    if (d != NULL) {
        closedir(d);
    }
    for (int i = 0; i < s->n_signs; i++) { /* a file that went: its rank ended well */
        here -= s->signs[i].here;
    }
    s->idle = progress || here != 0 ? 0 : s->idle + passed;
}

/* Whether the start hangs; then `why` says it. */
static bool hangs(const start *s, char *why, size_t size)
{
    double limit = s->opt->hang_timeout;

    for (int i = 0; i < s->n_signs; i++) {
        const sign *g = &s->signs[i];
        if (g->here && g->silent >= limit) {
            char rank[32] = "a rank that was still starting";
            if (g->last.rank >= 0) {
                snprintf(rank, sizeof rank, "rank %lld", (long long)g->last.rank);
            }
            snprintf(why, size, "%s (%s) gave no sign of life for %.0f s", rank, g->name,
                     g->silent);
            return true;
        }
    }
    if (s->idle < limit) {
        return false;
    }
    if (s->n_signs < s->ranks) {
        snprintf(why, size, "only %d of %lld ranks came up within %.0f s", s->n_signs,
                 (long long)s->ranks, s->idle);
    } else {
        snprintf(why, size, "no rank made progress for %.0f s", s->idle);
    }
    return true;
}

/* --- one start --- */

static int remove_one(const char *path, const struct stat *sb, int type, struct FTW *ftw)
{
    (void)sb;
    (void)type;
    (void)ftw;
    return remove(path);
}

static void remove_tree(const char *path)
{
    nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* Open MPI's session folder and shared-memory segments of this start go into its folder, and with it: but not
 * where the user has placed them, nor on several hosts, which lack it. */
static void place_shared_memory(const start *s)
{
    if (s->opt->run_dir == NULL) {
        setenv("OMPI_MCA_orte_tmpdir_base", s->dir, 0);
        setenv("OMPI_MCA_btl_vader_backing_directory", s->dir, 0);
        setenv("PRTE_MCA_prte_tmpdir_base", s->dir, 0);
        setenv("OMPI_MCA_btl_sm_backing_directory", s->dir, 0);
    }
}

/* The words of a launcher command; `words` has room for all of them. */
static int split_words(char *text, char **words)
{
    int n = 0;
    char *save = NULL;

    for (char *w = strtok_r(text, " \t", &save); w != NULL; w = strtok_r(NULL, " \t", &save)) {
        words[n++] = w;
    }
    return n;
}

/* In the child: becomes the launcher. */
static _Noreturn void become_launcher(const start *s, const char *program, char **args)
{
    char *text = strdup(s->opt->launcher), count[24];
    size_t n_args = 0, n = 0;

    while (args[n_args] != NULL) {
        n_args++;
    }
    char **argv = calloc(strlen(s->opt->launcher) + n_args + 5, sizeof *argv);
    if (text != NULL && argv != NULL) {
        n = (size_t)split_words(text, argv);
        snprintf(count, sizeof count, "%lld", (long long)s->ranks);
        argv[n++] = "-n";
        argv[n++] = count;
        argv[n++] = (char *)program;
        memcpy(argv + n, args, n_args * sizeof *argv);
        setsid();
        prctl(PR_SET_PDEATHSIG, SIGTERM); /* without a supervisor nothing is left behind */
        setenv(CVX_BEAT_DIR, s->beats, 1);
        place_shared_memory(s);
        execvp(argv[0], argv);
    }
    fprintf(stderr, "cvx-rank supervisor: cannot start %s: %s\n", s->opt->launcher,
            strerror(errno));
    _exit(127);
}

/* Passes on what came for the ranks. Returns false when they are to be killed. */
static bool pass_signals(start *s)
{
    int come = stop_signals;

    if (kill_signal != 0 || come > 1) {
        return false;
    }
    if (come > s->forwarded) {
        kill(s->launcher, SIGUSR1);
        s->forwarded = come;
    }
    return true;
}

typedef enum ending { ENDED, HUNG, KILLED_BY_US } ending;

/* Until the launcher ends: its exit code (128 + signal as shells say). */
static ending watch(start *s, int *code, char *why, size_t size)
{
    for (;;) {
        int status = 0;
        pid_t pid = waitpid(s->launcher, &status, WNOHANG);
        if (pid == s->launcher) {
            *code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
            snprintf(why, size, "the ranks ended with code %d", *code);
            end_group(s, false);
            return ENDED;
        }
        look(s);
        if (!pass_signals(s)) {
            end_group(s, true);
            return KILLED_BY_US;
        }
        if (hangs(s, why, size)) {
            end_group(s, true);
            return HUNG;
        }
        pause_for(POLL_SECONDS);
    }
}

static cvx_status launch(start *s, const char *program, char **args)
{
    CVX_RETURN_IF(cvx_path_join(s->beats, s->dir, "beats"));
    CVX_RETURN_IF(cvx_mkdirs(s->beats));
    s->looked = cvx_now();
    s->launcher = fork();
    if (s->launcher == 0) {
        become_launcher(s, program, args);
    }
    return s->launcher > 0 ? CVX_OK : cvx_fail(CVX_EIO, "cannot fork: %s", strerror(errno));
}

/* --- start after start --- */

/* Codes after which another start would end in the same way. */
static bool is_final(int code)
{
    return code == 0 || (code >= 2 && code <= 6) || code == 8 || code == 70 || code == 75;
}

#define RUN_PREFIX "cvx-run-"

/* Folders of supervisors that were killed themselves: their number is no process of this machine any more. */
static void remove_stale(const char *dir)
{
    DIR *d = opendir(dir);

    for (struct dirent *e; d != NULL && (e = readdir(d)) != NULL;) {
        char path[CVX_PATH_MAX], *end;
        struct stat sb;
        size_t n = strlen(RUN_PREFIX);
        if (strncmp(e->d_name, RUN_PREFIX, n) != 0 ||
            cvx_path_join(path, dir, e->d_name) != CVX_OK) {
            continue;
        }
        long pid = strtol(e->d_name + n, &end, 10);
        if (pid > 1 && *end == '-' && kill((pid_t)pid, 0) != 0 && errno == ESRCH &&
            lstat(path, &sb) == 0 && S_ISDIR(sb.st_mode) && sb.st_uid == getuid()) {
            remove_tree(path);
        }
    }
    if (d != NULL) {
        closedir(d);
    }
}

static cvx_status make_base(const cvx_supervise *o, char base[CVX_PATH_MAX])
{
    const char *dir = o->run_dir != NULL              ? o->run_dir
                      : access("/dev/shm", W_OK) == 0 ? "/dev/shm"
                                                      : "/tmp";
    char name[64];

    if (o->run_dir != NULL) {
        CVX_RETURN_IF(cvx_mkdirs(o->run_dir));
    } else { /* a folder that several hosts see has their process numbers */
        remove_stale(dir);
    }
    snprintf(name, sizeof name, RUN_PREFIX "%ld-XXXXXX", (long)getpid());
    CVX_RETURN_IF(cvx_path_join(base, dir, name));
    return mkdtemp(base) != NULL ? CVX_OK
                                 : cvx_fail(CVX_EIO, "cannot create %s: %s", base, strerror(errno));
}

static void catch_signals(void)
{
    struct sigaction stop = {.sa_handler = on_stop}, die = {.sa_handler = on_kill};

    sigaction(SIGTERM, &stop, NULL);
    sigaction(SIGUSR1, &stop, NULL);
    sigaction(SIGINT, &die, NULL);
    sigaction(SIGHUP, &die, NULL);
    prctl(PR_SET_CHILD_SUBREAPER, 1); /* ranks whose launcher died are ours to reap */
}

/* What the supervisor does after a start ended; *code is then its exit code. */
static bool goes_on(const start *s, ending how, int64_t restarts, int *code, const char *why,
                    cvx_status *st)
{
    if (how == KILLED_BY_US) {
        *code = 128 + (kill_signal != 0 ? kill_signal : SIGTERM);
        *st = cvx_fail(CVX_ECANCELLED, "the ranks were killed by a signal to their supervisor");
        return false;
    }
    if (how == ENDED && is_final(*code)) {
        return false;
    }
    if (s->forwarded > 0) { /* asked to stop, and did not survive it */
        *st = cvx_fail(CVX_EREQUEUE, "%s after a signal: the same command goes on", why);
    } else if (s->n_signs == 0) {
        bool plain = strcmp(s->opt->launcher, "mpirun") == 0;
        *st = cvx_fail(CVX_EPEER, "%s before the first rank came up (launcher: %s%s)", why,
                       s->opt->launcher,
                       plain ? "; it starts no more ranks than there are cores unless --launcher "
                               "\"mpirun --oversubscribe\" says so"
                             : "");
    } else if (restarts == s->opt->max_restarts) {
        *st = cvx_fail(CVX_EPEER, "%s; given up after %lld restarts", why, (long long)restarts);
    } else {
        return true;
    }
    *code = cvx_status_exit(*st);
    return false;
}

static int run_starts(start *s, const char *base, const char *program, char **args, cvx_status *st)
{
    const cvx_supervise *o = s->opt;
    char why[512] = "";
    int code = 0;

    s->ranks = o->ranks;
    for (int64_t restarts = 0;; restarts++) {
        char name[32];
        int64_t least = o->min_ranks > 0 && o->min_ranks < s->ranks ? o->min_ranks : s->ranks;
        if (restarts > 0 && restarts % 2 == 0) {
            s->ranks = s->ranks / 2 > least ? s->ranks / 2 : least;
        }
        if (restarts > 0) {
            unsetenv("CVX_FAULT"); /* base/fault.h */
            say("%s: start %lld of at most %lld, %lld ranks", why, (long long)restarts + 1,
                (long long)o->max_restarts + 1, (long long)s->ranks);
        }
        snprintf(name, sizeof name, "%lld", (long long)restarts + 1);
        *st = cvx_path_join(s->dir, base, name);
        s->n_signs = s->forwarded = 0;
        s->idle = 0;
        if (*st == CVX_OK) {
            *st = launch(s, program, args);
        }
        if (*st != CVX_OK) {
            return cvx_status_exit(*st);
        }
        ending how = watch(s, &code, why, sizeof why);
        remove_tree(s->dir);
        if (!goes_on(s, how, restarts, &code, why, st)) {
            return code;
        }
    }
}

int cvx_supervise_run(const cvx_supervise *o, const char *program, char **args, cvx_status *st)
{
    char base[CVX_PATH_MAX];
    start *s = calloc(1, sizeof *s);

    *st = s != NULL ? make_base(o, base) : cvx_fail(CVX_ENOMEM, "no memory for a supervisor");
    if (*st != CVX_OK) {
        free(s);
        return cvx_status_exit(*st);
    }
    s->opt = o;
    catch_signals();
    int code = run_starts(s, base, program, args, st);
    remove_tree(base);
    free(s);
    return code;
}
