/* Command-line options as data: one table per command gives parsing, --help, shell completions, man
 * pages, and (by name and value) JSON job lines.
 *
 * Names are written with dashes; underscores are accepted for them everywhere. "--name value" and
 * "--name=value" both work; a flag (CVX_OPT_FLAG) takes no value, and "--no-name" clears it. */
#ifndef CVX_BASE_OPTS_H
#define CVX_BASE_OPTS_H

#include <stdio.h>

#include "base/json.h"

typedef enum cvx_opt_type {
    CVX_OPT_FLAG,   /* bool */
    CVX_OPT_INT,    /* int64_t, whole number within [min, max] */
    CVX_OPT_DOUBLE, /* double within [min, max], finite */
    CVX_OPT_STR,    /* const char *, borrowed from argv */
    CVX_OPT_CHOICE, /* const char *, one of `choices` ("a|b|c"); with `meta` set the bare option means
                     * that value ("--offload" = "--offload model") */
    CVX_OPT_LIST,   /* cvx_opt_list: may be given several times */
} cvx_opt_type;

#define CVX_OPT_LIST_MAX 64
typedef struct cvx_opt_list {
    const char *item[CVX_OPT_LIST_MAX];
    int n;
} cvx_opt_list;

typedef struct cvx_opt {
    const char *name; /* NULL ends a table; "" starts a group whose title is `help` */
    cvx_opt_type type;
    size_t offset;    /* of the field in the command's struct */
    const char *meta; /* "N", "FILE", "DIR", "TEXT"; FILE and DIR also drive completion */
    const char *help;
    double min, max;     /* INT, DOUBLE; both 0: unbounded */
    const char *choices; /* CHOICE */
} cvx_opt;

typedef struct cvx_command {
    const char *name;    /* "generate" */
    const char *args;    /* positional arguments: "VIDEO", "IN OUT", "" */
    const char *summary; /* one line */
    const char *details; /* paragraphs for --help and the man page; may be NULL */
    const cvx_opt *opts;
    int (*run)(int argc, char **argv); /* argv[0] is the command's name; returns the exit code */
} cvx_command;

/* Parses argv[1..] into `obj` (its defaults set by the caller). Positional arguments are stored in
 * pos[0..max_pos) and counted in *n_pos; more of them, unknown names (the nearest is named), missing
 * or wrong values are CVX_EINVAL. "--" ends options. --help/-h prints the help to stdout and sets
 * *help. */
cvx_status cvx_opts_parse(const cvx_command *cmd, void *obj, int argc, char **argv,
                          const char **pos, int max_pos, int *n_pos, bool *help) CVX_CHECK;

/* Sets one option by name (no dashes in front) from text: what a job line or a manifest does.
 * `value` must live as long as obj for strings. A flag takes "true" or "false". */
cvx_status cvx_opts_set(const cvx_opt *opts, void *obj, const char *name,
                        const char *value) CVX_CHECK;

/* The option of that name, underscores accepted; NULL if there is none. */
const cvx_opt *cvx_opts_find(const cvx_opt *opts, const char *name);

/* The options that are set, by name: numbers and true as such, a list as an array of strings. A number is not set when it is 0 and
 * its option's least is above that; a flag when it is false. New reference. */
json_t *cvx_opts_json(const cvx_opt *opts, const void *obj);
/* What of them all ranks of a job need alike: without how each one computes and what it prints (threads, quiet, json), and with true
 * in place of a path, which may differ from machine to machine. New reference. */
json_t *cvx_opts_shared(const cvx_opt *opts, const void *obj);

/* Edit distance of a[0, na), where '_' is '-', and b, for "did you mean"; names are short: 99 beyond 62 bytes. */
int cvx_opts_distance(const char *a, size_t na, const char *b);

void cvx_opts_help(const cvx_command *cmd, FILE *f);
/* A troff man page of the command. */
void cvx_opts_man(const cvx_command *cmd, FILE *f);

#endif
