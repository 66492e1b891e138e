/* cvx status, watch, cancel, list, get: what is asked of a coordinator. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cli/cli.h"
#include "cli/remote.h"

typedef struct options {
    cvx_client_options client;
    const char *output, *variant, *after, *order, *status;
    int64_t limit;
    bool json, quiet;
} options;

#define COMMON                                                                                     \
    CVX_CLIENT_OPTS(options),                                                                      \
    {                                                                                              \
        NULL, 0, 0, NULL, NULL, 0, 0, NULL                                                         \
    }
#define JSON_OPT(what)                                                                             \
    {                                                                                              \
        "json", CVX_OPT_FLAG, offsetof(options, json), NULL, what, 0, 0, NULL                      \
    }
#define MAX_IDS 100

static const cvx_opt status_opts[] = {JSON_OPT("the object as the server gives it"), COMMON};
static const cvx_opt cancel_opts[] = {COMMON};
static const cvx_opt watch_opts[] = {JSON_OPT("one event a line on stdout"),
                                     {"quiet", CVX_OPT_FLAG, offsetof(options, quiet), NULL,
                                      "no bars", 0, 0, NULL},
                                     COMMON};
static const cvx_opt get_opts[] = {{"output", CVX_OPT_STR, offsetof(options, output), "FILE",
                                    "where it goes (default: ID.mp4 or ID-VARIANT.png)", 0, 0,
                                    NULL},
                                   {"variant", CVX_OPT_CHOICE, offsetof(options, variant), NULL,
                                    "default: video", 0, 0, "video|thumbnail|spritesheet|preview"},
                                   COMMON};
static const cvx_opt list_opts[] = {
    {"limit", CVX_OPT_INT, offsetof(options, limit), "N", "default: 20", 1, 100, NULL},
    {"after", CVX_OPT_STR, offsetof(options, after), "ID", "go on behind this one", 0, 0, NULL},
    {"order", CVX_OPT_CHOICE, offsetof(options, order), NULL, "newest first, or oldest", 0, 0,
     "desc|asc"},
    {"status", CVX_OPT_CHOICE, offsetof(options, status), NULL, "only those", 0, 0,
     "queued|in_progress|completed|failed|cancelled"},
    JSON_OPT("the page as the server gives it"),
    COMMON};

static const char *string(const json_t *j, const char *name)
{
    const char *text = json_string_value(json_object_get(j, name));
    return text != NULL ? text : "";
}

static void print_score(const json_t *scores)
{
    if (json_is_object(scores)) {
        printf("score    %.2f, %zu of %zu frames drift\n",
               json_number_value(json_object_get(scores, "mean")),
               json_array_size(json_object_get(scores, "drift")),
               json_array_size(json_object_get(scores, "frames")));
    }
}

static void print_video(const json_t *v)
{
    const json_t *c = json_object_get(v, "cvx"), *error = json_object_get(v, "error");

    printf("id       %s\nstatus   %s", string(v, "id"), string(v, "status"));
    if (strcmp(string(v, "status"), "in_progress") == 0) {
        printf(", %lld %%: %s %lld of %lld on %s",
               (long long)json_integer_value(json_object_get(v, "progress")), string(c, "stage"),
               (long long)json_integer_value(json_object_get(c, "step")),
               (long long)json_integer_value(json_object_get(c, "steps")), string(c, "pool"));
    }
    cvx_remote_print_wait(stdout, v);
    printf(
        "\nprompt   %s\nvideo    %s, %lld frames at %g fps, seed %lld, %lld steps, guidance %g\n",
        string(v, "prompt"), string(v, "size"),
        (long long)json_integer_value(json_object_get(c, "num_frames")),
        json_number_value(json_object_get(c, "fps")),
        (long long)json_integer_value(json_object_get(c, "seed")),
        (long long)json_integer_value(json_object_get(c, "num_inference_steps")),
        json_number_value(json_object_get(c, "guidance_scale")));
    if (json_is_number(json_object_get(c, "run_seconds"))) {
        printf("ran      %.1f s on %s\n", json_number_value(json_object_get(c, "run_seconds")),
               string(c, "mesh"));
    }
    print_score(json_object_get(c, "scores"));
    if (json_is_object(error)) {
        printf("cause    %s\n", string(error, "message"));
    }
}

static cvx_status with_client(const options *o, const char *const *id, int n,
                              cvx_status (*fn)(cvx_client *, const options *, const char *))
{
    cvx_client *c = NULL;
    cvx_status st = cvx_client_open(&c, &o->client);

    for (int i = 0; st == CVX_OK && i < n; i++) {
        st = fn(c, o, id[i]);
    }
    cvx_client_close(c);
    return st;
}

static cvx_status status(cvx_client *c, const options *o, const char *id)
{
    char path[160];
    json_t *v = NULL;

    CVX_RETURN_IF(cvx_remote_path(path, "/v1/videos/", id, ""));
    CVX_RETURN_IF(cvx_client_call(c, "GET", path, NULL, NULL, NULL, &v));
    if (o->json) {
        cvx_remote_print(v, false);
    } else {
        print_video(v);
    }
    json_decref(v);
    return CVX_OK;
}

static cvx_status watch(cvx_client *c, const options *o, const char *id)
{
    return cvx_remote_watch(c, id, o->json, o->quiet);
}

static cvx_status cancel(cvx_client *c, const options *o, const char *id)
{
    char path[160];
    json_t *v = NULL;
    (void)o;

    CVX_RETURN_IF(cvx_remote_path(path, "/v1/jobs/", id, "/cancel"));
    CVX_RETURN_IF(cvx_client_call(c, "POST", path, NULL, NULL, "cancel", &v));
    const char *state = string(v, "status");
    printf("%s: %s\n", id,
           strcmp(state, "in_progress") == 0 ? "ends after its present step" : state);
    json_decref(v);
    return CVX_OK;
}

static cvx_status get(cvx_client *c, const options *o, const char *id)
{
    char name[80];
    bool video = strcmp(o->variant, "video") == 0;

    snprintf(name, sizeof name, "%.50s%s%.20s%s", id, video ? "" : "-", video ? "" : o->variant,
             video ? ".mp4" : ".png");
    const char *out = o->output != NULL ? o->output : name;
    CVX_RETURN_IF(cvx_remote_fetch(c, id, o->variant, out));
    printf("%s\n", out);
    return CVX_OK;
}

static void print_list(const json_t *page)
{
    const json_t *v;
    size_t i;

    printf("%-38s  %-11s  %4s  %-16s  %-10s  %s\n", "ID", "STATUS", "%", "CREATED", "SIZE",
           "PROMPT");
    json_array_foreach(json_object_get(page, "data"), i, v)
    {
        time_t at = (time_t)json_integer_value(json_object_get(v, "created_at"));
        struct tm tm;
        char when[24];
        strftime(when, sizeof when, "%Y-%m-%d %H:%M", localtime_r(&at, &tm));
        printf("%-38s  %-11s  %4lld  %-16s  %-10s  %.60s\n", string(v, "id"), string(v, "status"),
               (long long)json_integer_value(json_object_get(v, "progress")), when,
               string(v, "size"), string(v, "prompt"));
    }
    if (json_is_true(json_object_get(page, "has_more"))) {
        printf("more: cvx list --after %s\n", string(page, "last_id"));
    }
}

static cvx_status list(cvx_client *c, const options *o, const char *none)
{
    char path[300], more[120] = "";
    json_t *page = NULL;
    (void)none;

    if (o->after != NULL) {
        CVX_RETURN_IF(cvx_remote_path(path, "", o->after, ""));
        snprintf(more, sizeof more, "&after=%.70s", path);
    }
    snprintf(path, sizeof path, "/v1/videos?limit=%lld%s%s%s%s%s", (long long)o->limit, more,
             o->order != NULL ? "&order=" : "", o->order != NULL ? o->order : "",
             o->status != NULL ? "&status=" : "", o->status != NULL ? o->status : "");
    CVX_RETURN_IF(cvx_client_call(c, "GET", path, NULL, NULL, NULL, &page));
    if (o->json) {
        cvx_remote_print(page, false);
    } else {
        print_list(page);
    }
    json_decref(page);
    return CVX_OK;
}

static int run(const cvx_command *cmd, int argc, char **argv, int least, int most,
               cvx_status (*fn)(cvx_client *, const options *, const char *))
{
    options o = {.variant = "video", .limit = 20};
    const char *ids[MAX_IDS + 1] = {""};
    int n, code;

    if (!cvx_cli_begin(cmd, &o, argc, argv, ids, least, most, &n, &code)) {
        return code;
    }
    return cvx_cli_finish(with_client(&o, ids, most == 0 ? 1 : n, fn));
}

#define COMMAND(name_, args_, least, most, summary_)                                               \
    static int run_##name_(int argc, char **argv)                                                  \
    {                                                                                              \
        return run(&cvx_cmd_##name_, argc, argv, least, most, name_);                              \
    }                                                                                              \
    const cvx_command cvx_cmd_##name_ = {.name = "cvx " #name_,                                    \
                                         .args = args_,                                            \
                                         .summary = summary_,                                      \
                                         .opts = name_##_opts,                                     \
                                         .run = run_##name_}

COMMAND(status, "ID...", 1, MAX_IDS, "Shows jobs of a coordinator.");
COMMAND(watch, "ID...", 1, MAX_IDS,
        "Follows jobs to their end; the exit code says whether they were completed.");
COMMAND(cancel, "ID...", 1, MAX_IDS, "Cancels jobs: running ones end after their present step.");
COMMAND(list, "", 0, 0, "Lists the jobs of a coordinator, of one's API key.");
COMMAND(get, "ID", 1, 1, "Downloads a completed job's video or its pictures.");
