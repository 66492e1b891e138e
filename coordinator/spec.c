/* What a request asks for, checked: field by field here, and as a whole by `cvx plan`, which knows the checkpoint. */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "base/progress.h"
#include "coordinator/server.h"

#define LORAS 8
#define EXIT_NOMEM 5 /* cvx_status_exit(CVX_ENOMEM) */

/* A number, or a text that is one (as forms send them). */
static cvx_status number(const json_t *f, const char *name, double min, double max, bool whole,
                         double *out, const char **param)
{
    const json_t *v = json_object_get(f, name);
    double x = NAN;
    char *end = NULL;

    if (v == NULL || json_is_null(v)) {
        return CVX_OK;
    }
    *param = name;
    if (json_is_number(v)) {
        x = json_number_value(v);
    } else if (json_is_string(v) && json_string_length(v) > 0) {
        x = strtod(json_string_value(v), &end);
        x = *end == 0 ? x : NAN;
    }
    if (!(x >= min && x <= max) || (whole && x != floor(x))) {
        return cvx_fail(CVX_EINVAL, "%s: a %snumber from %g to %g is meant", name,
                        whole ? "whole " : "", min, max);
    }
    *out = x;
    return CVX_OK;
}

static cvx_status whole(const json_t *f, const char *name, double min, double max, int64_t *out,
                        const char **param)
{
    double x = (double)*out;

    CVX_RETURN_IF(number(f, name, min, max, true, &x, param));
    *out = (int64_t)x;
    return CVX_OK;
}

static cvx_status string(const json_t *f, const char *name, size_t max, char **out,
                         const char **param)
{
    const json_t *v = json_object_get(f, name);

    if (v == NULL || json_is_null(v)) {
        return CVX_OK;
    }
    *param = name;
    if (!json_is_string(v) || json_string_length(v) > max) {
        return cvx_fail(CVX_EINVAL, "%s: a text of at most %zu bytes is meant", name, max);
    }
    *out = (char *)json_string_value(v);
    return CVX_OK;
}

/* "96x64": width x height. */
static cvx_status size(const json_t *f, Cvx__JobSpec *s, const char **param)
{
    char *text = NULL, tail;
    long long w, h;

    CVX_RETURN_IF(string(f, "size", 20, &text, param));
    if (text == NULL) {
        return CVX_OK;
    }
    if (sscanf(text, "%5lldx%5lld%c", &w, &h, &tail) != 2 || w < 1 || h < 1) {
        *param = "size";
        return cvx_fail(CVX_EINVAL, "size: '%s'; WIDTHxHEIGHT is meant, as 720x480", text);
    }
    s->width = w;
    s->height = h;
    return CVX_OK;
}

static cvx_status priority(const json_t *f, Cvx__JobSpec *s, const char **param)
{
    static const char *const names[] = {"high", "normal", "low"};
    char *text = NULL;

    s->priority = 1;
    CVX_RETURN_IF(string(f, "priority", 20, &text, param));
    for (int i = 0; text != NULL && i < 3; i++) {
        if (strcmp(text, names[i]) == 0) {
            s->priority = i;
            return CVX_OK;
        }
    }
    return text == NULL
               ? CVX_OK
               : cvx_fail(CVX_EINVAL, "priority: '%s'; high, normal or low is meant", text);
}

/* RIFE's factor, from the peers' names for it. */
static cvx_status interpolation(const json_t *f, Cvx__JobSpec *s, const char **param)
{
    const json_t *on = json_object_get(f, "enable_frame_interpolation");
    int64_t exp = 1;

    CVX_RETURN_IF(whole(f, "frame_interpolation_exp", 1, 3, &exp, param));
    bool text = json_is_string(on) && strcmp(json_string_value(on), "true") == 0;
    if (json_is_true(on) || text) {
        s->interpolate = (int64_t)1 << exp;
    }
    return CVX_OK;
}

static cvx_status fill_texts(Cvx__JobSpec *s, const json_t *f, const char **param)
{
    CVX_RETURN_IF(string(f, "prompt", 32000, &s->prompt, param));
    if (s->prompt[0] == 0) {
        *param = "prompt";
        return cvx_fail(CVX_EINVAL, "prompt: what the video shows is needed");
    }
    CVX_RETURN_IF(string(f, "negative_prompt", 32000, &s->negative_prompt, param));
    CVX_RETURN_IF(string(f, "model", 100, &s->model, param));
    return string(f, "scheduler", 40, &s->scheduler, param);
}

/* "NAME" or "NAME:SCALE": a file of the folder that the operator chose. */
static cvx_status check_lora(const cvx_server *server, const char *text)
{
    static const char *const letters =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
    char path[CVX_PATH_MAX], *end;
    size_t n = strcspn(text, ":");
    double scale = text[n] == ':' ? strtod(text + n + 1, &end) : 1;

    if (n == 0 || n > 200 || strspn(text, letters) < n || text[0] == '.' ||
        (text[n] == ':' && (text[n + 1] == 0 || *end != 0 || !(fabs(scale) <= 100)))) {
        return cvx_fail(CVX_EINVAL, "lora: '%.80s'; NAME or NAME:SCALE is meant", text);
    }
    if (server->lora_dir == NULL) {
        return cvx_fail(CVX_EINVAL, "lora: none is here");
    }
    snprintf(path, sizeof path, "%.3800s/%.*s", server->lora_dir, (int)n, text);
    return cvx_is_file(path) ? CVX_OK : cvx_fail(CVX_EINVAL, "lora: '%.80s' is not here", text);
}

/* One text, or a list of them. */
static cvx_status loras(const cvx_server *server, const json_t *f, Cvx__JobSpec *s,
                        const char **param)
{
    const json_t *v = json_object_get(f, "lora");
    bool list = json_is_array(v);
    size_t n = list ? json_array_size(v) : v != NULL && !json_is_null(v) ? 1 : 0;

    if (n == 0) {
        return CVX_OK;
    }
    *param = "lora";
    s->lora = n <= LORAS ? calloc(n, sizeof *s->lora) : NULL;
    if (s->lora == NULL) {
        return cvx_fail(CVX_EINVAL, "lora: %zu of them; at most %d can be", n, LORAS);
    }
    for (size_t i = 0; i < n; i++) {
        const char *text = json_string_value(list ? json_array_get(v, i) : v);
        if (text == NULL) {
            return cvx_fail(CVX_EINVAL, "lora: a text or a list of texts is meant");
        }
        CVX_RETURN_IF(check_lora(server, text));
        s->lora[s->n_lora++] = (char *)text;
    }
    return CVX_OK;
}

/* Options of cvx generate that go to the pool as they are; `cvx plan` checks their values. */
static const struct {
    const char *field, *option;
    bool flag, planned; /* planned: `cvx plan` may be asked, too (a CLIP is the pool's) */
} more_options[] = {{"use_dynamic_cfg", "use-dynamic-cfg", true, true},
                    {"max_sequence_length", "max-sequence-length", false, true},
                    {"window_frames", "window-frames", false, true},
                    {"window_stride", "window-stride", false, true},
                    {"free_noise", "free-noise", true, true},
                    {"enable_tiling", "enable-tiling", true, true},
                    {"tile_sample_min_height", "tile-sample-min-height", false, true},
                    {"tile_sample_min_width", "tile-sample-min-width", false, true},
                    {"best_of", "best-of", false, false},
                    {"early_stop", "early-stop", false, false}};
#define MORE_OPTIONS (sizeof more_options / sizeof *more_options)

static cvx_status options(const json_t *f, Cvx__JobSpec *s, const char **param)
{
    json_t *set = json_object();
    cvx_status st = CVX_OK;

    for (size_t i = 0; st == CVX_OK && i < MORE_OPTIONS; i++) {
        const json_t *v = json_object_get(f, more_options[i].field);
        double x = 0;
        if (v == NULL || json_is_null(v)) {
            continue;
        }
        if (more_options[i].flag) {
            const char *text = json_string_value(v);
            bool on = json_is_true(v) || (text != NULL && strcmp(text, "true") == 0);
            if (!on && !json_is_false(v) && (text == NULL || strcmp(text, "false") != 0)) {
                *param = more_options[i].field;
                st = cvx_fail(CVX_EINVAL, "%s: true or false is meant", *param);
            } else if (on) {
                json_object_set_new(set, more_options[i].option, json_true());
            }
            continue;
        }
        st = number(f, more_options[i].field, 0, 100000, false, &x, param);
        if (st == CVX_OK && x > 0) {
            json_object_set_new(set, more_options[i].option,
                                x == floor(x) ? json_integer((json_int_t)x) : json_real(x));
        }
    }
    if (st == CVX_OK && json_object_size(set) > 0) {
        s->options = json_dumps(set, JSON_COMPACT);
        st = s->options != NULL ? CVX_OK : cvx_fail(CVX_ENOMEM, "no memory for a job");
    }
    json_decref(set);
    return st;
}

void cvx_spec_free(Cvx__JobSpec *s)
{
    free(s->lora);
    if (s->options != protobuf_c_empty_string) {
        free(s->options);
    }
    s->options = (char *)protobuf_c_empty_string;
    s->lora = NULL;
    s->n_lora = 0;
}

cvx_status cvx_spec_fill(const cvx_server *server, Cvx__JobSpec *s, const json_t *f,
                         const char **param)
{
    double deadline = 0, seconds = 0;

    *param = NULL;
    s->num_inference_steps = 50;
    s->guidance_scale = 6;
    s->seed = 42;
    CVX_RETURN_IF(fill_texts(s, f, param));
    CVX_RETURN_IF(size(f, s, param));
    CVX_RETURN_IF(whole(f, "width", 16, 8192, &s->width, param));
    CVX_RETURN_IF(whole(f, "height", 16, 8192, &s->height, param));
    CVX_RETURN_IF(whole(f, "num_frames", 1, 100000, &s->num_frames, param));
    CVX_RETURN_IF(whole(f, "num_inference_steps", 1, 1000, &s->num_inference_steps, param));
    CVX_RETURN_IF(whole(f, "seed", 0, 9007199254740991.0, &s->seed, param));
    CVX_RETURN_IF(number(f, "guidance_scale", 1, 20, false, &s->guidance_scale, param));
    CVX_RETURN_IF(number(f, "fps", 0.1, 240, false, &s->fps, param));
    CVX_RETURN_IF(number(f, "upscale", 1, 4, false, &s->upscale, param));
    CVX_RETURN_IF(number(f, "deadline", 1, 1e8, false, &deadline, param));
    CVX_RETURN_IF(number(f, "seconds", 0.1, 3600, false, &seconds, param));
    CVX_RETURN_IF(priority(f, s, param));
    CVX_RETURN_IF(interpolation(f, s, param));
    CVX_RETURN_IF(loras(server, f, s, param));
    CVX_RETURN_IF(options(f, s, param));
    *param = NULL;
    s->deadline_ms = deadline > 0 ? cvx_now_ms() + (int64_t)(deadline * 1000) : 0;
    if (seconds > 0 && s->num_frames == 0) { /* the decoder makes 4 k + 1 frames */
        double frames = seconds * (s->fps > 0 ? s->fps : 8);
        s->num_frames = 4 * (int64_t)fmax(1, round((frames - 1) / 4)) + 1;
    }
    return CVX_OK;
}

/* Reads what the program says until it ends, or 20 s have gone. lenient: a job that does not fit into this machine is none
 * that cannot be. */
static cvx_status listen_to(pid_t pid, int fd, bool lenient, char *out, size_t room)
{
    double begin = cvx_now();
    size_t n = 0;
    int status;

    for (;;) {
        struct pollfd p = {fd, POLLIN, 0};
        if (cvx_now() - begin > 20) {
            kill(pid, SIGKILL);
        }
        if (poll(&p, 1, 500) <= 0) {
            continue;
        }
        ssize_t got = read(fd, out + n, room - 1 - n);
        if (got <= 0) {
            break;
        }
        n += (size_t)got;
    }
    out[n] = 0;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    int code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    if (code == 0 || (code == EXIT_NOMEM && lenient && strchr(out, '{') != NULL)) {
        return CVX_OK;
    }
    char *line = strstr(out, "\ncvx: "); /* behind a plan that does not fit */
    memmove(out, line != NULL ? line + 1 : out, strlen(line != NULL ? line + 1 : out) + 1);
    out[strcspn(out, "\n")] = 0;
    const char *what = strncmp(out, "cvx: ", 5) == 0 ? out + 5 : out;
    bool asker = code >= 2 && code <= 6;
    return cvx_fail(asker ? CVX_EINVAL : CVX_EINTERNAL, "%s",
                    what[0] != 0 ? what : "cvx plan ended without a word");
}

/* Starts a program, its output and its errors into one pipe. */
static cvx_status start(char **argv, pid_t *pid, int *fd)
{
    posix_spawn_file_actions_t act;
    int ends[2];

    if (pipe2(ends, O_CLOEXEC) != 0) {
        return cvx_fail(CVX_EINTERNAL, "no pipe for %s: %s", argv[0], strerror(errno));
    }
    posix_spawn_file_actions_init(&act);
    posix_spawn_file_actions_addopen(&act, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&act, ends[1], 1);
    posix_spawn_file_actions_adddup2(&act, ends[1], 2);
    int err = posix_spawn(pid, argv[0], &act, NULL, argv, environ);
    posix_spawn_file_actions_destroy(&act);
    close(ends[1]);
    if (err != 0) {
        close(ends[0]);
        return cvx_fail(CVX_EINTERNAL, "cannot start %s: %s", argv[0], strerror(err));
    }
    *fd = ends[0];
    return CVX_OK;
}

/* What `cvx plan` said, and the spec's sizes from it. */
static cvx_status take_plan(Cvx__JobSpec *spec, const char *out, json_t **answer)
{
    const char *json = strchr(out, '{'); /* behind notes */
    json_t *j = NULL;

    const char *end = strstr(out, "\n}\n"); /* before what else it said */
    size_t len = json == NULL ? 0 : end != NULL ? (size_t)(end + 2 - json) : strlen(json);
    CVX_RETURN_IF(cvx_json_parse(&j, json != NULL ? json : "", len, "cvx plan"));
    spec->num_frames = json_integer_value(json_object_get(j, "num_frames"));
    spec->width = json_integer_value(json_object_get(j, "width"));
    spec->height = json_integer_value(json_object_get(j, "height"));
    spec->fps = json_number_value(json_object_get(j, "fps"));
    if (spec->plan != NULL) {
        const json_t *stage;
        size_t i;
        spec->plan->version = 1;
        spec->plan->seconds = json_number_value(json_object_get(j, "seconds"));
        spec->plan->bytes = json_integer_value(json_object_get(j, "needed_bytes"));
        json_array_foreach(json_object_get(j, "stages"), i, stage)
        {
            spec->plan->tflop += json_number_value(json_object_get(stage, "tflop"));
        }
    }
    if (answer != NULL) {
        *answer = json_incref(j);
    }
    json_decref(j);
    return CVX_OK;
}

cvx_status cvx_spec_plan(const cvx_server *s, Cvx__JobSpec *spec, json_t **answer)
{
    char n[8][32], out[16384], prompt[32100];
    char *argv[60] = {(char *)s->cvx, "plan", "--json", "--model", (char *)s->model, prompt, NULL};
    int argc = 6, k = 0, fd = -1;
    pid_t pid;
    const struct {
        const char *flag;
        double value;
    } numbers[] = {{"--num-frames", (double)spec->num_frames},
                   {"--width", (double)spec->width},
                   {"--height", (double)spec->height},
                   {"--num-inference-steps", (double)spec->num_inference_steps},
                   {"--guidance-scale", spec->guidance_scale},
                   {"--fps", spec->fps},
                   {"--upscale", spec->upscale > 1 ? spec->upscale : 0},
                   {"--interpolate", (double)spec->interpolate}};
    const char *texts[][2] = {{"--scheduler", spec->scheduler}, {"--image", spec->image}};

    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        if (numbers[i].value > 0) {
            snprintf(n[k], sizeof n[k], "%.10g", numbers[i].value);
            argv[argc++] = (char *)numbers[i].flag;
            argv[argc++] = n[k++];
        }
    }
    for (int i = 0; i < 2; i++) {
        if (texts[i][1][0] != 0) {
            argv[argc++] = (char *)texts[i][0];
            argv[argc++] = (char *)texts[i][1];
        }
    }
    json_t *set = json_loads(spec->options, 0, NULL); /* none: no object */
    char more[MORE_OPTIONS][80];
    for (size_t i = 0; i < MORE_OPTIONS; i++) {
        const json_t *v = json_object_get(set, more_options[i].option);
        if (v != NULL && more_options[i].planned) {
            snprintf(more[i], sizeof more[i], more_options[i].flag ? "--%s" : "--%s=%.10g",
                     more_options[i].option, json_number_value(v));
            argv[argc++] = more[i];
        }
    }
    json_decref(set);
    snprintf(prompt, sizeof prompt, "--prompt=%s", spec->prompt);
    CVX_RETURN_IF(start(argv, &pid, &fd));
    cvx_status st = listen_to(pid, fd, !s->local, out, sizeof out);
    close(fd);
    return st == CVX_OK ? take_plan(spec, out, answer) : st;
}
