#include "rankworker/stats.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

#define CELLS (CVX_MESH_COMMS * CVX_COMM_KINDS)

const char *const cvx_stats_kinds[CVX_COMM_KINDS] = {"all-gather", "all-to-all", "reduce-scatter",
                                                     "all-reduce", "send/recv",  "broadcast",
                                                     "agree"};

static void print_row(FILE *f, json_t *rows, int cell, const cvx_comm_stat *of, int ranks)
{
    const char *comm = cvx_mesh_names[cell / CVX_COMM_KINDS],
               *kind = cvx_stats_kinds[cell % CVX_COMM_KINDS];
    int64_t all = 0;
    double most = 0;

    for (int r = 0; r < ranks; r++) {
        const cvx_comm_stat *s = &of[(int64_t)r * CELLS + cell];
        all += s->bytes_sent;
        most = s->seconds > most ? s->seconds : most;
    }
    if (rows != NULL) {
        json_t *sent = json_array();
        for (int r = 0; r < ranks; r++) {
            json_array_append_new(sent, json_integer(of[(int64_t)r * CELLS + cell].bytes_sent));
        }
        json_array_append_new(rows, json_pack("{s:s, s:s, s:I, s:o, s:f}", "communicator", comm,
                                              "kind", kind, "calls", (json_int_t)of[cell].calls,
                                              "bytes_by_rank", sent, "seconds", most));
    } else {
        fprintf(f, "%-10s %-14s %8lld %16lld %18lld %10.3f\n", comm, kind,
                (long long)of[cell].calls, (long long)of[cell].bytes_sent, (long long)all, most);
    }
}

static void print_all(FILE *f, bool json, const cvx_comm_stat *of, int ranks)
{
    json_t *rows = json ? json_array() : NULL;

    if (!json) {
        fprintf(f, "%-10s %-14s %8s %16s %18s %10s\n", "between", "exchange", "calls",
                "bytes of rank 0", "bytes of all", "seconds");
    }
    for (int cell = 0; cell < CELLS; cell++) {
        bool used = false;
        for (int r = 0; r < ranks; r++) {
            used = used || of[(int64_t)r * CELLS + cell].bytes_sent > 0;
        }
        if (used) {
            print_row(f, rows, cell, of, ranks);
        }
    }
    if (json) {
        json_t *event =
            json_pack("{s:s, s:i, s:o}", "event", "stats", "ranks", ranks, "exchanges", rows);
        json_dumpf(event, f, JSON_COMPACT);
        fprintf(f, "\n");
        json_decref(event);
    }
}

cvx_status cvx_stats_print(const cvx_mesh *m, FILE *f, bool json)
{
    int ranks = m->world->size;
    cvx_comm_stat own[CVX_MESH_COMMS][CVX_COMM_KINDS];
    cvx_comm_stat *of = calloc((size_t)ranks, sizeof own);
    cvx_status st = CVX_OK;

    for (int i = 0; i < CVX_MESH_COMMS; i++) {
        memcpy(own[i], cvx_mesh_comm(m, i)->stat, sizeof own[i]);
    }
    if (of == NULL) {
        st = cvx_fail(CVX_ENOMEM, "no memory for the counters of %d ranks", ranks);
    }
    CVX_TRY(st, cvx_comm_agree(m->world, st), done);
    CVX_TRY(st, cvx_comm_gather_each(m->world, own, sizeof own, of), done);
    if (m->world->rank == 0) {
        print_all(f, json, of, ranks);
    }
done:
    free(of);
    return st;
}

cvx_status cvx_stats_add_up(cvx_stats_sum *out, const cvx_mesh *m, cvx_comm *all)
{
    cvx_stats_sum own = {.peak = (int64_t)cvx_memory_peak()}, *of = NULL;
    cvx_status st = CVX_OK;

    for (int i = 0; i < CVX_MESH_COMMS; i++) {
        for (int k = 0; k < CVX_COMM_KINDS; k++) {
            own.sent[k] += cvx_mesh_comm(m, i)->stat[k].bytes_sent;
        }
    }
    *out = (cvx_stats_sum){0};
    of = calloc((size_t)all->size, sizeof *of);
    if (of == NULL) {
        st = cvx_fail(CVX_ENOMEM, "no memory for the counters of %d ranks", all->size);
    }
    CVX_TRY(st, cvx_comm_agree(all, st), done);
    CVX_TRY(st, cvx_comm_gather_each(all, &own, sizeof own, of), done);
    for (int r = 0; r < all->size; r++) {
        out->peak = of[r].peak > out->peak ? of[r].peak : out->peak;
        for (int k = 0; k < CVX_COMM_KINDS; k++) {
            out->sent[k] += of[r].sent[k];
        }
    }
done:
    free(of);
    return st;
}
