/* cvx chart: figures as bars on a picture. */
#include <stdlib.h>

#include "base/json.h"
#include "cli/cli.h"
#include "media/chart.h"

#define BARS_MAX 64

static cvx_status numbers(double out[BARS_MAX], const json_t *j, const char *path, const char *key,
                          size_t n)
{
    const json_t *a = json_object_get(j, key);

    if (json_array_size(a) != n || n == 0 || n > BARS_MAX) {
        return cvx_fail(CVX_EFORMAT,
                        "%s: \"%s\" must be a list of as many numbers (1 to %d) as \"x\"", path,
                        key, BARS_MAX);
    }
    for (size_t i = 0; i < n; i++) {
        const json_t *v = json_array_get(a, i);
        if (!json_is_number(v)) {
            return cvx_fail(CVX_EFORMAT, "%s: \"%s\": item %zu is no number", path, key, i + 1);
        }
        out[i] = json_number_value(v);
    }
    return CVX_OK;
}

static cvx_status draw(const json_t *j, const char *path, const char *out)
{
    double bars[BARS_MAX], line[BARS_MAX];
    const char *x[BARS_MAX];
    const json_t *names = json_object_get(j, "x");
    size_t n = json_array_size(names);
    bool has_line = json_object_get(j, "line") != NULL;

    CVX_RETURN_IF(numbers(bars, j, path, "bars", n));
    if (has_line) {
        CVX_RETURN_IF(numbers(line, j, path, "line", n));
    }
    for (size_t i = 0; i < n; i++) {
        x[i] = json_string_value(json_array_get(names, i));
        if (x[i] == NULL) {
            return cvx_fail(CVX_EFORMAT, "%s: \"x\": item %zu is no string", path, i + 1);
        }
    }
    return cvx_chart_write(
        out, &(cvx_chart){.title = json_string_value(json_object_get(j, "title")),
                          .x_label = json_string_value(json_object_get(j, "x_label")),
                          .y_label = json_string_value(json_object_get(j, "y_label")),
                          .n = (int64_t)n,
                          .x = x,
                          .bars = bars,
                          .line = has_line ? line : NULL,
                          .bars_label = json_string_value(json_object_get(j, "bars_label")),
                          .line_label = json_string_value(json_object_get(j, "line_label"))});
}

static int run(int argc, char **argv)
{
    const char *pos[2];
    char none;
    int n, code;
    json_t *j = NULL;

    if (!cvx_cli_begin(&cvx_cmd_chart, &none, argc, argv, pos, 2, 2, &n, &code)) {
        return code;
    }
    cvx_status st = cvx_json_load(&j, pos[0]);
    if (st == CVX_OK) {
        st = draw(j, pos[0], pos[1]);
    }
    json_decref(j);
    return cvx_cli_finish(st);
}

static const cvx_opt opts[] = {{NULL, 0, 0, NULL, NULL, 0, 0, NULL}};

const cvx_command cvx_cmd_chart = {
    .name = "cvx chart",
    .args = "FIGURES.json OUT.png",
    .summary = "Draws figures as bars, with a line over them.",
    .details =
        "FIGURES.json is an object: \"x\" (a list of texts below the bars), \"bars\" and optionally \"line\" "
        "(lists of as many numbers), and the texts \"title\", \"x_label\", \"y_label\", \"bars_label\", "
        "\"line_label\". slurm/bench.sh draws its plot with it.",
    .opts = opts,
    .run = run,
};
