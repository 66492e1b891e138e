#include "base/opts.h"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Compares names with '_' and '-' alike; n < 0: whole string. */
static bool same_name(const char *a, const char *b, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        char x = a[i] == '_' ? '-' : a[i];
        if (x != b[i]) {
            return false;
        }
    }
    return b[n] == 0;
}

static const cvx_opt *find_n(const cvx_opt *opts, const char *name, size_t n)
{
    for (const cvx_opt *o = opts; o->name != NULL; o++) {
        if (o->name[0] != 0 && same_name(name, o->name, n)) {
            return o;
        }
    }
    return NULL;
}

const cvx_opt *cvx_opts_find(const cvx_opt *opts, const char *name)
{
    return find_n(opts, name, strlen(name));
}

int cvx_opts_distance(const char *a, size_t na, const char *b)
{
    size_t nb = strlen(b);
    int row[64];

    if (na >= 63 || nb >= 63) {
        return 99;
    }
    for (size_t j = 0; j <= nb; j++) {
        row[j] = (int)j;
    }
    for (size_t i = 1; i <= na; i++) {
        int diag = row[0];
        row[0] = (int)i;
        for (size_t j = 1; j <= nb; j++) {
            int up = row[j];
            int best = diag + ((a[i - 1] == '_' ? '-' : a[i - 1]) != b[j - 1]);
            best = up + 1 < best ? up + 1 : best;
            row[j] = row[j - 1] + 1 < best ? row[j - 1] + 1 : best;
            diag = up;
        }
    }
    return row[nb];
}

/* Whether one name begins or ends with the other, by whole words: "frames" and "num-frames", "output-path" and "output", as
 * other programs have it. */
static bool akin(const char *a, size_t na, const char *b)
{
    char name[64];
    size_t nb = strlen(b);

    if (na >= sizeof name || na == nb) {
        return false;
    }
    for (size_t i = 0; i <= na; i++) {
        name[i] = i == na ? 0 : a[i] == '_' ? '-' : a[i];
    }
    const char *s = na < nb ? name : b, *l = na < nb ? b : name;
    size_t ns = na < nb ? na : nb, nl = na < nb ? nb : na;
    return ns > 2 && ((memcmp(l, s, ns) == 0 && l[ns] == '-') ||
                      (memcmp(l + nl - ns, s, ns) == 0 && l[nl - ns - 1] == '-'));
}

static cvx_status unknown(const cvx_opt *opts, const char *name, size_t n)
{
    const cvx_opt *best = NULL;
    double least = 4; /* letters that differ; words that are missing count as one and a half */

    for (const cvx_opt *o = opts; o->name != NULL; o++) {
        if (o->name[0] == 0) {
            continue;
        }
        double d = cvx_opts_distance(name, n, o->name);
        d = d > 1.5 && akin(name, n, o->name) ? 1.5 : d;
        if (d < least) {
            least = d;
            best = o;
        }
    }
    if (best != NULL) {
        return cvx_fail(CVX_EINVAL, "unknown option --%.*s: did you mean --%s?", (int)n, name,
                        best->name);
    }
    return cvx_fail(CVX_EINVAL, "unknown option --%.*s (--help lists them)", (int)n, name);
}

static cvx_status check_range(const cvx_opt *o, const char *value, double v)
{
    if ((o->min != 0 || o->max != 0) && !(v >= o->min && v <= o->max)) {
        return cvx_fail(CVX_EINVAL, "--%s %s: must be from %.15g to %.15g", o->name, value, o->min,
                        o->max);
    }
    return CVX_OK;
}

static cvx_status set_number(const cvx_opt *o, void *field, const char *value)
{
    char *end;

    errno = 0;
    if (o->type == CVX_OPT_INT) {
        long long v = strtoll(value, &end, 10);
        if (*value == 0 || *end != 0) {
            return cvx_fail(CVX_EINVAL, "--%s %s: must be a whole number", o->name, value);
        }
        if (errno == ERANGE) {
            /* v is the nearest there is: only for the check of a narrower range */
            CVX_RETURN_IF(check_range(o, value, (double)v));
            return cvx_fail(CVX_EINVAL, "--%s %s: must be from %lld to %lld", o->name, value,
                            LLONG_MIN, LLONG_MAX);
        }
        CVX_RETURN_IF(check_range(o, value, (double)v));
        *(int64_t *)field = v;
        return CVX_OK;
    }
    double v = strtod(value, &end);
    if (*value == 0 || *end != 0 || !isfinite(v)) {
        return cvx_fail(CVX_EINVAL, "--%s %s: must be a number", o->name, value);
    }
    CVX_RETURN_IF(check_range(o, value, v));
    *(double *)field = v;
    return CVX_OK;
}

static bool is_choice(const cvx_opt *o, const char *value)
{
    size_t n = strlen(value);

    for (const char *p = o->choices; *p != 0;) {
        size_t len = strcspn(p, "|");
        if (len == n && memcmp(p, value, n) == 0) {
            return true;
        }
        p += len + (p[len] == '|');
    }
    return false;
}

static cvx_status set_choice(const cvx_opt *o, const char **field, const char *value)
{
    if (is_choice(o, value)) {
        *field = value;
        return CVX_OK;
    }
    return cvx_fail(CVX_EINVAL, "--%s %s: must be one of %s", o->name, value, o->choices);
}

static cvx_status set_value(const cvx_opt *o, void *obj, const char *value)
{
    void *field = (char *)obj + o->offset;

    switch (o->type) {
    case CVX_OPT_FLAG:
        if (strcmp(value, "true") != 0 && strcmp(value, "false") != 0) {
            return cvx_fail(CVX_EINVAL, "--%s %s: must be true or false", o->name, value);
        }
        *(bool *)field = value[0] == 't';
        return CVX_OK;
    case CVX_OPT_INT:
    case CVX_OPT_DOUBLE: return set_number(o, field, value);
    case CVX_OPT_STR: *(const char **)field = value; return CVX_OK;
    case CVX_OPT_CHOICE: return set_choice(o, field, value);
    case CVX_OPT_LIST: {
        cvx_opt_list *l = field;
        if (l->n == CVX_OPT_LIST_MAX) {
            return cvx_fail(CVX_EINVAL, "--%s: given more than %d times", o->name,
                            CVX_OPT_LIST_MAX);
        }
        l->item[l->n++] = value;
        return CVX_OK;
    }
    }
    return CVX_OK;
}

cvx_status cvx_opts_set(const cvx_opt *opts, void *obj, const char *name, const char *value)
{
    const cvx_opt *o = cvx_opts_find(opts, name);
    return o == NULL ? unknown(opts, name, strlen(name)) : set_value(o, obj, value);
}

static json_t *list_json(const cvx_opt_list *l)
{
    json_t *v = json_array();

    for (int i = 0; i < l->n; i++) {
        json_array_append_new(v, json_string(l->item[i]));
    }
    return v;
}

/* NULL: not set. */
static json_t *value_json(const cvx_opt *o, const void *field)
{
    switch (o->type) {
    case CVX_OPT_FLAG: return *(const bool *)field ? json_true() : NULL;
    case CVX_OPT_INT: {
        int64_t n = *(const int64_t *)field;
        return n == 0 && o->min > 0 ? NULL : json_integer(n);
    }
    case CVX_OPT_DOUBLE: {
        double x = *(const double *)field;
        return x == 0 ? NULL : json_real(x);
    }
    case CVX_OPT_STR:
    case CVX_OPT_CHOICE: {
        const char *text = *(const char *const *)field;
        return text != NULL ? json_string(text) : NULL;
    }
    case CVX_OPT_LIST: {
        const cvx_opt_list *l = field;
        return l->n > 0 ? list_json(l) : NULL;
    }
    }
    return NULL;
}

json_t *cvx_opts_json(const cvx_opt *opts, const void *obj)
{
    json_t *all = json_object();

    for (const cvx_opt *o = opts; o->name != NULL; o++) {
        json_t *v = o->name[0] != 0 ? value_json(o, (const char *)obj + o->offset) : NULL;
        if (v != NULL) {
            json_object_set_new(all, o->name, v);
        }
    }
    return all;
}

json_t *cvx_opts_shared(const cvx_opt *opts, const void *obj)
{
    /* "FILE:SCALE" is one, too */
    static const char *const paths[] = {"FILE", "DIR", "VIDEO", "MANIFEST"};
    static const char *const own[] = {"threads", "quiet", "json"};
    json_t *all = cvx_opts_json(opts, obj);

    for (size_t i = 0; i < sizeof own / sizeof *own; i++) {
        json_object_del(all, own[i]);
    }

    for (const cvx_opt *o = opts; o->name != NULL; o++) {
        for (size_t i = 0; i < sizeof paths / sizeof *paths && o->meta != NULL; i++) {
            if (strncmp(o->meta, paths[i], strlen(paths[i])) == 0 &&
                json_object_get(all, o->name) != NULL) {
                json_object_set_new(all, o->name, json_true());
            }
        }
    }
    return all;
}

/* Whether the next argument is the value of a choice that may stand without one: a word where the command takes none is meant
 * as a value, so that a wrong one is called that. */
static bool is_value(const cvx_opt *o, const char *next, bool words)
{
    return next != NULL && (is_choice(o, next) || (!words && next[0] != '-'));
}

/* One "--..." argument; *i moves on when the value is the next one. words: the command takes such arguments too. */
static cvx_status parse_option(const cvx_command *cmd, void *obj, bool words, int argc, char **argv,
                               int *i)
{
    const char *arg = argv[*i] + 2;
    size_t n = strcspn(arg, "=");
    const cvx_opt *o = find_n(cmd->opts, arg, n);

    if (o == NULL && n > 3 && strncmp(arg, "no-", 3) == 0 && arg[n] == 0) {
        o = find_n(cmd->opts, arg + 3, n - 3);
        if (o != NULL && o->type == CVX_OPT_FLAG) {
            return set_value(o, obj, "false");
        }
        o = NULL;
    }
    if (o == NULL) {
        return unknown(cmd->opts, arg, n);
    }
    if (arg[n] == '=') {
        return set_value(o, obj, arg + n + 1);
    }
    if (o->type == CVX_OPT_FLAG) {
        return set_value(o, obj, "true");
    }
    if (o->type == CVX_OPT_CHOICE && o->meta != NULL &&
        !is_value(o, *i + 1 < argc ? argv[*i + 1] : NULL, words)) {
        return set_value(o, obj, o->meta);
    }
    if (*i + 1 >= argc) {
        return cvx_fail(CVX_EINVAL, "--%s needs a value (%s)", o->name,
                        o->type == CVX_OPT_CHOICE ? o->choices : o->meta);
    }
    return set_value(o, obj, argv[++*i]);
}

cvx_status cvx_opts_parse(const cvx_command *cmd, void *obj, int argc, char **argv,
                          const char **pos, int max_pos, int *n_pos, bool *help)
{
    bool options = true;

    *n_pos = 0;
    *help = false;
    for (int i = 1; i < argc; i++) {
        const char *a = argv[i];
        if (options && strcmp(a, "--") == 0) {
            options = false;
        } else if (options && (strcmp(a, "--help") == 0 || strcmp(a, "-h") == 0)) {
            cvx_opts_help(cmd, stdout);
            *help = true;
            return CVX_OK;
        } else if (options && a[0] == '-' && a[1] == '-') {
            CVX_RETURN_IF(parse_option(cmd, obj, max_pos > 0, argc, argv, &i));
        } else if (options && a[0] == '-' && a[1] != 0) {
            return cvx_fail(CVX_EINVAL, "unknown option %s (options start with two dashes)", a);
        } else if (*n_pos == max_pos) {
            return cvx_fail(CVX_EINVAL, "unexpected argument '%s'", a);
        } else {
            pos[(*n_pos)++] = a;
        }
    }
    return CVX_OK;
}

/* Prints text folded to `width` columns, later lines indented. */
static void fold(FILE *f, const char *text, int indent, int width)
{
    int col = indent;

    while (*text != 0) {
        int len = (int)strcspn(text, " \n");
        if (col + len > width && col > indent) {
            fprintf(f, "\n%*s", indent, "");
            col = indent;
        }
        fprintf(f, "%.*s", len, text);
        col += len;
        text += len;
        if (*text == '\n') {
            fprintf(f, "\n%*s", indent, "");
            col = indent;
            text++;
        } else if (*text == ' ') {
            if (col + 1 < width) {
                fputc(' ', f);
            }
            col++;
            text++;
        }
    }
    fputc('\n', f);
}

static void usage_line(const cvx_command *cmd, FILE *f)
{
    fprintf(f, "usage: %s%s%s%s%s\n", cmd->name, cmd->opts[0].name ? " [options]" : "",
            cmd->args[0] ? " " : "", cmd->args, "");
}

void cvx_opts_help(const cvx_command *cmd, FILE *f)
{
    usage_line(cmd, f);
    fprintf(f, "\n");
    fold(f, cmd->summary, 0, 100);
    for (const cvx_opt *o = cmd->opts; o->name != NULL; o++) {
        if (o->name[0] == 0) {
            fprintf(f, "\n%s:\n", o->help);
            continue;
        }
        const char *meta = o->type == CVX_OPT_FLAG     ? ""
                           : o->type == CVX_OPT_CHOICE ? o->choices
                                                       : o->meta;
        int n = fprintf(f, "  --%s%s%s", o->name, meta[0] ? " " : "", meta);
        fprintf(f, n > 34 ? "\n%*s" : "%*s", n > 34 ? 36 : 36 - n, "");
        fold(f, o->help, 36, 100);
    }
    if (cmd->details != NULL) {
        fprintf(f, "\n");
        fold(f, cmd->details, 0, 100);
    }
}

/* troff: a backslash, and a dot or quote at a line's start, would be commands. */
static void troff(FILE *f, const char *s)
{
    bool start = true;
    for (; *s != 0; s++) {
        if (start && (*s == '.' || *s == '\'')) {
            fputs("\\&", f);
        }
        if (*s == '\\') {
            fputs("\\e", f);
        } else if (*s == '-') {
            fputs("\\-", f);
        } else {
            fputc(*s, f);
        }
        start = *s == '\n';
    }
    fputc('\n', f);
}

void cvx_opts_man(const cvx_command *cmd, FILE *f)
{
    fprintf(f, ".TH \"");
    for (const char *p = cmd->name; *p != 0; p++) {
        fputc(*p == ' ' ? '-' : *p, f);
    }
    fprintf(f, "\" 1 \"\" \"cvx %s\" \"cvx manual\"\n.SH NAME\n", CVX_VERSION);
    fprintf(f, "%s \\- ", cmd->name);
    troff(f, cmd->summary);
    fprintf(f, ".SH SYNOPSIS\n.B %s\n[\\fIoptions\\fR] \\fI%s\\fR\n", cmd->name, cmd->args);
    if (cmd->details != NULL) {
        fprintf(f, ".SH DESCRIPTION\n");
        troff(f, cmd->details);
    }
    fprintf(f, ".SH OPTIONS\n");
    for (const cvx_opt *o = cmd->opts; o->name != NULL; o++) {
        if (o->name[0] == 0) {
            fprintf(f, ".SS ");
            troff(f, o->help);
            continue;
        }
        fprintf(f, ".TP\n\\fB\\-\\-");
        for (const char *p = o->name; *p != 0; p++) {
            fputs(*p == '-' ? "\\-" : (char[]){*p, 0}, f);
        }
        const char *meta = o->type == CVX_OPT_CHOICE ? o->choices : o->meta;
        fprintf(f, o->type == CVX_OPT_FLAG ? "\\fR\n" : "\\fR \\fI%s\\fR\n", meta);
        troff(f, o->help);
    }
}
