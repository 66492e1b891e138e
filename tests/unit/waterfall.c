/* A run's ops become rows: repeats are found, and every second is in one of them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/ops.h"
#include "model/pipeline/waterfall.h"

/* A letter an op, of 2 s each (capitals: of other FLOP), 1 s before each and 3 s after the last; the run begins at 100. */
static void fall(cvx_waterfall *w, const char *ops)
{
    cvx_trace t = {0};
    double now = 100;

    for (const char *c = ops; *c != 0; c++) {
        bool small = *c >= 'a';
        cvx_trace_op op = {small ? *c - 'a' : *c - 'A', now + 1, 2, small ? 10 : 20};
        assert_int_equal(cvx_trace_note(&t, &op), CVX_OK);
        now += 3;
    }
    assert_int_equal(cvx_waterfall_make(w, &t, 100, now + 3), CVX_OK);
    cvx_trace_free(&t);
    double sum = w->after;
    int64_t times = 0;
    for (int64_t i = 0; i < w->n; i++) {
        sum += w->row[i].between + w->row[i].seconds;
        times += w->row[i].times;
    }
    assert_float_equal(sum, w->seconds, 1e-9);
    assert_float_equal(w->seconds, 3.0 * (double)strlen(ops) + 3, 1e-9);
    assert_int_equal(times, strlen(ops));
}

/* rows: a letter a row, a digit before the rows of a group: its times. */
static void expect(const char *ops, const char *rows)
{
    cvx_waterfall w;
    char got[64] = "";
    size_t n = 0;

    fall(&w, ops);
    for (int64_t i = 0; i < w.n; i++) {
        const cvx_waterfall_row *r = &w.row[i];
        if (i == 0 || r->group != r[-1].group) {
            got[n++] = (char)('0' + r->times);
        }
        got[n++] = (char)((r->flops > 15 * (double)r->times ? 'A' : 'a') + r->op);
        assert_float_equal(r->seconds, 2 * (double)r->times, 1e-9);
        assert_float_equal(r->between, 1 * (double)r->times, 1e-9);
    }
    got[n] = 0;
    assert_string_equal(got, rows);
    cvx_waterfall_free(&w);
}

static void groups(void **state)
{
    (void)state;
    expect("", "");
    expect("a", "1a");
    expect("abc", "1a1b1c");
    expect("aaa", "3a");
    expect("abababc", "3ab1c");
    /* the whole block, not the three alike in it */
    expect("fabbbcabbbcabbbcg", "1f3abbbc1g");
    /* two shapes of one op are two ops */
    expect("abaB", "1a1b1a1B");
    expect("aAaAa", "2aA1a");
    /* a stretch that is broken off is no repeat */
    expect("abcab", "1a1b1c1a1b");
}

static void places(void **state)
{
    cvx_waterfall w;
    (void)state;

    fall(&w, "cababab");
    assert_int_equal(w.n, 3);
    assert_float_equal(w.row[0].at, 1, 1e-9);
    assert_float_equal(w.row[1].at, 4, 1e-9);
    assert_float_equal(w.row[2].at, 7, 1e-9);
    assert_float_equal(w.after, 3, 1e-9);
    cvx_waterfall_free(&w);
}

/* Bars begin where those before end, and the last ends with the ops. */
static void bars(void **state)
{
    cvx_waterfall w;
    char *text = NULL;
    size_t size = 0, before = 0;
    (void)state;

    fall(&w, "abababc");
    FILE *f = open_memstream(&text, &size);
    assert_non_null(f);
    cvx_waterfall_print(&w, f);
    fclose(f);
    int lines = 0;
    for (char *line = strtok(text, "\n"); line != NULL; line = strtok(NULL, "\n")) {
        char *bar = strrchr(line, '|'), *first = strchr(line, '#');
        if (first == NULL) {
            continue;
        }
        size_t end = (size_t)(strrchr(line, '#') - line) + 1;
        assert_true((size_t)(first - line) >= before);
        assert_true(end <= (size_t)(bar - line));
        before = end;
        lines++;
    }
    assert_int_equal(lines, 3);
    free(text);
    cvx_waterfall_free(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(groups), cmocka_unit_test(places),
                                       cmocka_unit_test(bars)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
