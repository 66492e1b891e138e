/* cvx submit: `cvx generate` on somebody else's machines. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/file.h"
#include "cli/cli.h"
#include "cli/remote.h"

#define BATCH_MAX ((size_t)64 << 20)

typedef struct options {
    cvx_client_options client;
    const char *model, *prompt, *negative_prompt, *scheduler, *image, *priority, *output, *once,
        *batch;
    int64_t num_frames, height, width, seed, num_inference_steps, interpolate;
    int64_t max_sequence_length, window_frames, window_stride, window_dilation, best_of;
    double fps, guidance_scale, first_block_cache, upscale, deadline, early_stop;
    cvx_opt_list lora;
    bool use_dynamic_cfg, free_noise, enable_tiling, watch, json, quiet;
} options;

#define AT(f) offsetof(options, f)

static const cvx_opt opts[] = {
    {"", 0, 0, NULL, "What to make (as of cvx generate)", 0, 0, NULL},
    {"prompt", CVX_OPT_STR, AT(prompt), "TEXT", "what the video shows (needed)", 0, 0, NULL},
    {"negative-prompt", CVX_OPT_STR, AT(negative_prompt), "TEXT", "what it should not show", 0, 0,
     NULL},
    {"model", CVX_OPT_STR, AT(model), "NAME", "the service's model (default: the one it has)", 0, 0,
     NULL},
    {"num-frames", CVX_OPT_INT, AT(num_frames), "N", "frames, 4k + 1", 1, 1e6, NULL},
    {"height", CVX_OPT_INT, AT(height), "PIXELS", "multiple of 16", 16, 16384, NULL},
    {"width", CVX_OPT_INT, AT(width), "PIXELS", "multiple of 16", 16, 16384, NULL},
    {"fps", CVX_OPT_DOUBLE, AT(fps), "N", "frames a second", 0.01, 1000, NULL},
    {"seed", CVX_OPT_INT, AT(seed), "N", "seed of the noise (default: 42)", 0, 9e15, NULL},
    {"image", CVX_OPT_STR, AT(image), "FILE", "first frame, for image-to-video checkpoints", 0, 0,
     NULL},
    {"lora", CVX_OPT_LIST, AT(lora), "NAME[:SCALE]", "a LoRA of the service, several for several",
     0, 0, NULL},
    {"num-inference-steps", CVX_OPT_INT, AT(num_inference_steps), "N", "steps (default: 50)", 1,
     1000, NULL},
    {"guidance-scale", CVX_OPT_DOUBLE, AT(guidance_scale), "X", "1 to 20 (default: 6)", 1, 20,
     NULL},
    {"use-dynamic-cfg", CVX_OPT_FLAG, AT(use_dynamic_cfg), NULL, "guidance that grows", 0, 0, NULL},
    {"scheduler", CVX_OPT_CHOICE, AT(scheduler), NULL, "solver (default: the checkpoint's)", 0, 0,
     "ddim|dpm|dpmsolver++|unipc"},
    {"max-sequence-length", CVX_OPT_INT, AT(max_sequence_length), "N", "text tokens", 1, 65536,
     NULL},
    {"first-block-cache", CVX_OPT_DOUBLE, AT(first_block_cache), "X",
     "a step whose first block changed by less than X runs no other (0.05 to 0.2 are usual)", 0, 1,
     NULL},
    {"window-frames", CVX_OPT_INT, AT(window_frames), "N", "long videos: frames of a window", 1,
     1e6, NULL},
    {"window-stride", CVX_OPT_INT, AT(window_stride), "N", "from one window to the next", 4, 1e6,
     NULL},
    {"window-dilation", CVX_OPT_INT, AT(window_dilation), "N",
     "in the first steps windows take every Nth frame (default: 4)", 1, 1024, NULL},
    {"free-noise", CVX_OPT_FLAG, AT(free_noise), NULL, "windows start from the same noise", 0, 0,
     NULL},
    {"best-of", CVX_OPT_INT, AT(best_of), "N", "of N seeds the one with the best score", 1, 100,
     NULL},
    {"early-stop", CVX_OPT_DOUBLE, AT(early_stop), "X", "with --best-of: drop what looks worse", 0,
     100, NULL},
    {"enable-tiling", CVX_OPT_FLAG, AT(enable_tiling), NULL, "decode in tiles", 0, 0, NULL},
    {"interpolate", CVX_OPT_INT, AT(interpolate), "N", "2, 4 or 8 frames for each one", 2, 8, NULL},
    {"upscale", CVX_OPT_DOUBLE, AT(upscale), "X", "frames X times larger, up to 4", 1, 4, NULL},
    {"", 0, 0, NULL, "The job", 0, 0, NULL},
    {"priority", CVX_OPT_CHOICE, AT(priority), NULL, "default: normal", 0, 0, "high|normal|low"},
    {"deadline", CVX_OPT_DOUBLE, AT(deadline), "SECONDS", "ends the job if it is not done by then",
     1, 1e8, NULL},
    {"idempotency-key", CVX_OPT_STR, AT(once), "TEXT",
     "the same key makes the same job (default: a new one)", 0, 0, NULL},
    {"batch", CVX_OPT_STR, AT(batch), "FILE",
     "one job a line, a JSON object of the API's fields; the options given here are their defaults",
     0, 0, NULL},
    {"output", CVX_OPT_STR, AT(output), "FILE", "wait for the video and write it here", 0, 0, NULL},
    {"watch", CVX_OPT_FLAG, AT(watch), NULL, "wait for its end", 0, 0, NULL},
    {"json", CVX_OPT_FLAG, AT(json), NULL, "the job, then one event a line on stdout", 0, 0, NULL},
    {"quiet", CVX_OPT_FLAG, AT(quiet), NULL, "no bars", 0, 0, NULL},
    CVX_CLIENT_OPTS(options),
    {NULL, 0, 0, NULL, NULL, 0, 0, NULL},
};

/* Options that are no fields of a job. */
static bool is_local(const char *name)
{
    static const char *const local[] = {"idempotency-key", "batch",        "output",
                                        "watch",           "json",         "quiet",
                                        "image",           "api-key-file", "server",
                                        "cacert"};
    for (size_t i = 0; i < sizeof local / sizeof *local; i++) {
        if (strcmp(local[i], name) == 0) {
            return true;
        }
    }
    return false;
}

static json_t *value_of(const cvx_opt *o, const void *at)
{
    json_t *list = NULL;

    switch (o->type) {
    case CVX_OPT_FLAG: return *(const bool *)at ? json_true() : NULL;
    case CVX_OPT_INT: return *(const int64_t *)at >= 0 ? json_integer(*(const int64_t *)at) : NULL;
    case CVX_OPT_DOUBLE: return *(const double *)at > 0 ? json_real(*(const double *)at) : NULL;
    case CVX_OPT_STR:
    case CVX_OPT_CHOICE:
        return *(const char *const *)at != NULL ? json_string(*(const char *const *)at) : NULL;
    case CVX_OPT_LIST:
        for (int i = 0; i < ((const cvx_opt_list *)at)->n; i++) {
            list = list == NULL ? json_array() : list;
            json_array_append_new(list, json_string(((const cvx_opt_list *)at)->item[i]));
        }
        return list;
    }
    return NULL;
}

/* The body of a request: options by their names, with underscores. */
static json_t *fields(const options *o)
{
    json_t *body = json_object();
    char name[64];

    for (const cvx_opt *p = opts; p->name != NULL; p++) {
        json_t *v =
            p->name[0] != 0 && !is_local(p->name) ? value_of(p, (const char *)o + p->offset) : NULL;
        if (v != NULL) {
            snprintf(name, sizeof name, "%s", p->name);
            for (char *dash; (dash = strchr(name, '-')) != NULL;) {
                *dash = '_';
            }
            json_object_set_new(body, name, v);
        }
    }
    if (o->interpolate > 1) { /* the peers' names for it */
        json_object_del(body, "interpolate");
        json_object_set_new(body, "enable_frame_interpolation", json_true());
        json_object_set_new(body, "frame_interpolation_exp",
                            json_integer(o->interpolate == 8 ? 3 : o->interpolate / 2));
    }
    return body;
}

/* One job; its id into id[64]. */
static cvx_status create(cvx_client *c, const options *o, const json_t *body, char id[64])
{
    unsigned char b[16];
    char once[40];
    json_t *v = NULL;

    for (size_t i = 0; i < sizeof b; i++) {
        b[i] = 0;
    }
    if (getrandom(b, sizeof b, 0) != (ssize_t)sizeof b) {
        return cvx_fail(CVX_EINTERNAL, "no random bits");
    }
    for (size_t i = 0; i < sizeof b; i++) {
        snprintf(once + 2 * i, 3, "%02x", b[i]);
    }
    CVX_RETURN_IF(cvx_client_call(c, "POST", "/v1/videos", body, o->image,
                                  o->once != NULL ? o->once : once, &v));
    const char *text = json_string_value(json_object_get(v, "id"));
    snprintf(id, 64, "%s", text != NULL ? text : "");
    if (o->json) {
        cvx_remote_print(v, true);
    } else if (o->output == NULL) {
        printf("%s\n", id);
        fflush(stdout);
    } else {
        fprintf(stderr, "cvx: %s", id);
        cvx_remote_print_wait(stderr, v);
        fprintf(stderr, "\n");
    }
    json_decref(v);
    return CVX_OK;
}

static cvx_status submit_one(cvx_client *c, const options *o)
{
    json_t *body = fields(o);
    char id[64];
    cvx_status st = create(c, o, body, id);

    json_decref(body);
    CVX_RETURN_IF(st);
    if (o->watch || o->output != NULL) {
        CVX_RETURN_IF(cvx_remote_watch(c, id, o->json, o->quiet));
    }
    if (o->output != NULL) {
        CVX_RETURN_IF(cvx_remote_fetch(c, id, "video", o->output));
        if (!o->json && !o->quiet) {
            printf("%s\n", o->output);
        }
    }
    return CVX_OK;
}

static cvx_status submit_line(cvx_client *c, const options *o, const char *text, size_t len,
                              int64_t line)
{
    char what[300], id[64];
    json_t *job = NULL, *body = fields(o);

    snprintf(what, sizeof what, "%.200s:%lld", o->batch, (long long)line);
    cvx_status st = cvx_json_parse(&job, text, len, what);
    if (st == CVX_OK && !json_is_object(job)) {
        st = cvx_fail(CVX_EFORMAT, "%s: a JSON object is meant", what);
    }
    if (st == CVX_OK) {
        json_object_update(body, job);
        st = create(c, o, body, id);
        st = st == CVX_OK ? st : cvx_fail_prefix(st, "%s", what);
    }
    json_decref(job);
    json_decref(body);
    return st;
}

/* A line that is refused ends the batch: those before it are made, and named. */
static cvx_status submit_batch(cvx_client *c, const options *o)
{
    char *text = NULL;
    size_t len = 0;
    int64_t line = 0;

    CVX_RETURN_IF(cvx_file_read(&text, &len, o->batch, BATCH_MAX));
    cvx_status st = CVX_OK;
    for (const char *p = text; st == CVX_OK && p < text + len;) {
        size_t n = strcspn(p, "\n");
        line++;
        if (strspn(p, " \t\r") < n) {
            st = submit_line(c, o, p, n, line);
        }
        p += n + 1;
    }
    free(text);
    return st;
}

static cvx_status submit(const options *o)
{
    cvx_client *c = NULL;

    if ((o->prompt == NULL) == (o->batch == NULL)) {
        return cvx_fail(CVX_EINVAL, "give either --prompt TEXT or --batch FILE");
    }
    if (o->batch != NULL && (o->watch || o->output != NULL || o->once != NULL)) {
        return cvx_fail(CVX_EINVAL,
                        "--batch prints the jobs' ids; cvx watch and cvx get do the rest");
    }
    if (o->interpolate > 0 && o->interpolate != 2 && o->interpolate != 4 && o->interpolate != 8) {
        return cvx_fail(CVX_EINVAL, "interpolate %lld: 2, 4 or 8 frames for one are possible",
                        (long long)o->interpolate);
    }
    if (o->image != NULL && !cvx_is_file(o->image)) {
        return cvx_fail(CVX_EIO, "--image %s: no such file", o->image);
    }
    CVX_RETURN_IF(cvx_client_open(&c, &o->client));
    cvx_status st = o->batch != NULL ? submit_batch(c, o) : submit_one(c, o);
    cvx_client_close(c);
    return st;
}

static int run(int argc, char **argv)
{
    options o = {.seed = -1, .num_frames = -1};
    int n, code;

    o.height = o.width = o.num_inference_steps = o.interpolate = -1;
    o.max_sequence_length = o.window_frames = o.window_stride = o.window_dilation = o.best_of = -1;
    if (!cvx_cli_begin(&cvx_cmd_submit, &o, argc, argv, NULL, 0, 0, &n, &code)) {
        return code;
    }
    return cvx_cli_finish(submit(&o));
}

const cvx_command cvx_cmd_submit = {
    .name = "cvx submit",
    .args = "",
    .summary = "Gives a job to a coordinator, and with --output waits for its video.",
    .details =
        "Prints the job's id. What is not given is the checkpoint's own. A broken connection or a server that is away "
        "for a while is no failure, and never makes two jobs; Ctrl-C ends the waiting, not the job.\n\n"
        "Exit codes as of cvx generate: 3 also where nobody answers or the job failed, 8 where it was cancelled.",
    .opts = opts,
    .run = run,
};
