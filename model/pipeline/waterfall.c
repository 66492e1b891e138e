#include "model/pipeline/waterfall.h"

#include <stdlib.h>

#include "kernels/ops.h"

/* The longest stretch of ops that is looked at as one that repeats. */
#define STRETCH 256
/* Columns of a bar. */
#define BAR 40

static bool same_op(const cvx_trace_op *a, const cvx_trace_op *b)
{
    return a->op == b->op && a->flops >= b->flops && a->flops <= b->flops;
}

/* How often the `length` ops from i on follow each other. */
static int64_t repeats(const cvx_trace *t, int64_t i, int64_t length)
{
    int64_t n = length;

    while (i + n < t->n && same_op(&t->at[i + n], &t->at[i + n - length])) {
        n++;
    }
    return n / length;
}

/* The stretch from i on whose repeats reach furthest, the shortest of those; one op where none repeats. */
static int64_t stretch_at(const cvx_trace *t, int64_t i, int64_t *times)
{
    int64_t best = 1;

    *times = repeats(t, i, 1);
    for (int64_t length = 2; length <= STRETCH && i + 2 * length <= t->n; length++) {
        int64_t n = repeats(t, i, length);
        if (n > 1 && n * length > *times * best) {
            best = length;
            *times = n;
        }
    }
    return best;
}

cvx_status cvx_waterfall_make(cvx_waterfall *w, const cvx_trace *t, double begin, double end)
{
    double last = begin; /* end of the op before */
    int64_t group = 0;

    *w = (cvx_waterfall){.seconds = end - begin, .after = end - begin};
    if (t->n == 0) {
        return CVX_OK;
    }
    w->row = calloc((size_t)t->n, sizeof *w->row); /* at most a row an op */
    if (w->row == NULL) {
        return cvx_fail(CVX_ENOMEM, "no memory for %lld rows of a waterfall", (long long)t->n);
    }
    for (int64_t i = 0; i < t->n; group++) {
        int64_t times = 0, length = stretch_at(t, i, &times);
        for (int64_t k = 0; k < times * length; k++) {
            const cvx_trace_op *op = &t->at[i + k];
            cvx_waterfall_row *r = &w->row[w->n + k % length];
            if (k < length) {
                *r = (cvx_waterfall_row){
                    .op = op->op, .group = group, .times = times, .at = op->begin - begin};
            }
            r->between += op->begin - last;
            r->seconds += op->seconds;
            r->flops += op->flops;
            last = op->begin + op->seconds;
        }
        i += times * length;
        w->n += length;
    }
    w->after = end - last;
    return CVX_OK;
}

void cvx_waterfall_free(cvx_waterfall *w)
{
    free(w->row);
    *w = (cvx_waterfall){0};
}

/* `share`, 0 to 1, of a bar's columns. */
static int columns(double share)
{
    return share <= 0 ? 0 : share >= 1 ? BAR : (int)(share * BAR + 0.5);
}

/* A bar from one share of the run to another, seen even where it is short. */
static void print_bar(double from, double to, FILE *out)
{
    int a = columns(from), b = columns(to);

    a = a < BAR ? a : BAR - 1;
    b = b > a ? b : a + 1;
    fprintf(out, "|%*s", a, "");
    for (int i = a; i < b; i++) {
        fputc('#', out);
    }
    fprintf(out, "%*s|\n", BAR - b, "");
}

void cvx_waterfall_print(const cvx_waterfall *w, FILE *out)
{
    double all = w->seconds > 0 ? w->seconds : 1, sum = 0;
    int64_t group = -1;

    fprintf(
        out,
        "one run in its order, %.3f ms; + and the | below it: ops that repeat together; ms between: "
        "before the op, for the host, copies, exchanges\n%9s %6s %9s %10s %-18s %9s\n",
        1e3 * w->seconds, "at ms", "times", "ms each", "ms between", "op", "TFLOP/s");
    for (int64_t i = 0; i < w->n; i++) {
        const cvx_waterfall_row *r = &w->row[i];
        double n = (double)r->times;
        const char *mark = r->times == 1 ? " " : r->group != group ? "+" : "|"; /* a group begins */
        group = r->group;
        sum += r->between;
        fprintf(out, "%9.3f %5lldx %9.3f %10.3f %s%-17s %9.3f ", 1e3 * r->at, (long long)r->times,
                1e3 * r->seconds / n, 1e3 * r->between / n, mark, cvx_op_names[r->op],
                r->flops / (r->seconds + 1e-12) / 1e12);
        print_bar(sum / all, (sum + r->seconds) / all, out);
        sum += r->seconds;
    }
    fprintf(out, "%9.3f %6s %9s %10.3f  the end\n", 1e3 * w->seconds, "", "", 1e3 * w->after);
}

void cvx_waterfall_print_json(const cvx_waterfall *w, FILE *out)
{
    fprintf(out, "[");
    for (int64_t i = 0; i < w->n; i++) {
        const cvx_waterfall_row *r = &w->row[i];
        fprintf(out,
                "%s{\"op\": \"%s\", \"group\": %lld, \"times\": %lld, \"at\": %.6f, "
                "\"between\": %.6f, \"seconds\": %.6f, \"flops\": %.6g}",
                i > 0 ? ", " : "", cvx_op_names[r->op], (long long)r->group, (long long)r->times,
                r->at, r->between, r->seconds, r->flops);
    }
    fprintf(out, "]");
}
