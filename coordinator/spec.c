/* What a request asks for, checked: field by field here, and as a whole by `cvx plan`, which knows the checkpoint. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/progress.h"
#include "coordinator/plan.h"
#include "coordinator/server.h"

#define LORAS 8
#define TIMELINE 32 /* prompts */

/* A body, and where the name of what is wrong with it goes. */
typedef struct fields {
    const json_t *json;
    bool form;
    const char **param;
} fields;

/* A field's value; NULL: not there, or nothing in it, which is the same in a form. */
static const json_t *value_of(const fields *f, const char *name)
{
    const json_t *v = json_object_get(f->json, name);

    if (v == NULL || json_is_null(v) ||
        (f->form && json_is_string(v) && json_string_length(v) == 0)) {
        return NULL;
    }
    *f->param = name;
    return v;
}

/* The number that a form's text is, as JSON writes it; NAN: none. */
static double number_of_text(const char *text)
{
    json_t *v = json_loads(text, JSON_DECODE_ANY, NULL);
    double x = json_is_number(v) ? json_number_value(v) : NAN;

    json_decref(v);
    return x;
}

static cvx_status number(const fields *f, const char *name, double min, double max, bool whole,
                         double *out)
{
    const json_t *v = value_of(f, name);

    if (v == NULL) {
        return CVX_OK;
    }
    double x = json_is_number(v)              ? json_number_value(v)
               : f->form && json_is_string(v) ? number_of_text(json_string_value(v))
                                              : NAN;
    if (!(x >= min && x <= max) || (whole && x != floor(x))) {
        return cvx_fail(CVX_EINVAL, "%s: a %snumber from %.10g to %.16g is meant", name,
                        whole ? "whole " : "", min, max);
    }
    *out = x;
    return CVX_OK;
}

static cvx_status whole(const fields *f, const char *name, double min, double max, int64_t *out)
{
    double x = (double)*out;

    CVX_RETURN_IF(number(f, name, min, max, true, &x));
    *out = (int64_t)x;
    return CVX_OK;
}

static cvx_status truth(const fields *f, const char *name, bool *out)
{
    const json_t *v = value_of(f, name);
    const char *text = f->form && v != NULL ? json_string_value(v) : NULL;

    if (v == NULL) {
        return CVX_OK;
    }
    if (json_is_true(v) || (text != NULL && strcmp(text, "true") == 0)) {
        *out = true;
    } else if (json_is_false(v) || (text != NULL && strcmp(text, "false") == 0)) {
        *out = false;
    } else {
        return cvx_fail(CVX_EINVAL, "%s: true or false is meant", name);
    }
    return CVX_OK;
}

static cvx_status string(const fields *f, const char *name, size_t max, char **out)
{
    const json_t *v = value_of(f, name);

    if (v == NULL) {
        return CVX_OK;
    }
    if (!json_is_string(v) || json_string_length(v) > max) {
        return cvx_fail(CVX_EINVAL, "%s: a text of at most %zu bytes is meant", name, max);
    }
    *out = (char *)json_string_value(v);
    return CVX_OK;
}

/* "96x64": width x height. */
static cvx_status size(const fields *f, Cvx__JobSpec *s)
{
    char *text = NULL, tail;
    long long w = 0, h = 0;

    CVX_RETURN_IF(string(f, "size", 20, &text));
    if (text == NULL) {
        return CVX_OK;
    }
    if (strspn(text, "0123456789x") != strlen(text) ||
        sscanf(text, "%5lldx%5lld%c", &w, &h, &tail) != 2 || w < 16 || h < 16 || w > 8192 ||
        h > 8192) {
        return cvx_fail(CVX_EINVAL,
                        "size: '%s'; WIDTHxHEIGHT is meant, as 720x480, of 16 to 8192 each", text);
    }
    s->width = w;
    s->height = h;
    return CVX_OK;
}

/* One of the names; *at is its place among them, and stays where the field is not there. */
static cvx_status choice(const fields *f, const char *name, const char *const *names, int n,
                         int *at)
{
    const json_t *v = value_of(f, name);
    const char *text = v != NULL ? json_string_value(v) : NULL;
    char list[100] = "";

    for (int i = 0; v != NULL && i < n; i++) {
        if (text != NULL && strcmp(text, names[i]) == 0) {
            *at = i;
            return CVX_OK;
        }
        size_t len = strlen(list);
        snprintf(list + len, sizeof list - len, "%s%s",
                 i == 0      ? ""
                 : i < n - 1 ? ", "
                             : " or ",
                 names[i]);
    }
    return v == NULL      ? CVX_OK
           : text == NULL ? cvx_fail(CVX_EINVAL, "%s: %s is meant", name, list)
                          : cvx_fail(CVX_EINVAL, "%s: '%.60s'; %s is meant", name, text, list);
}

static cvx_status choices(const fields *f, Cvx__JobSpec *s)
{
    static const char *const priorities[] = {"high", "normal", "low"};
    static const char *const solvers[] = {"ddim", "dpm", "dpmsolver++", "unipc"};
    int solver = -1;

    CVX_RETURN_IF(choice(f, "priority", priorities, 3, &s->priority));
    CVX_RETURN_IF(choice(f, "scheduler", solvers, 4, &solver));
    s->scheduler = solver >= 0 ? (char *)solvers[solver] : s->scheduler;
    return CVX_OK;
}

/* RIFE's factor, from the peers' names for it. */
static cvx_status interpolation(const fields *f, Cvx__JobSpec *s)
{
    bool on = s->interpolate > 1;
    int64_t exp = s->interpolate == 8 ? 3 : s->interpolate == 4 ? 2 : 1;

    CVX_RETURN_IF(whole(f, "frame_interpolation_exp", 1, 3, &exp));
    CVX_RETURN_IF(truth(f, "enable_frame_interpolation", &on));
    s->interpolate = on ? (int64_t)1 << exp : 0;
    return CVX_OK;
}

/* "4": OpenAI's clients write the seconds as a text. */
static cvx_status duration(const fields *f, double *out)
{
    fields texts = *f;

    texts.form = true;
    return number(&texts, "seconds", 0.1, 3600, false, out);
}

static cvx_status fill_texts(Cvx__JobSpec *s, const fields *f)
{
    CVX_RETURN_IF(string(f, "prompt", 32000, &s->prompt));
    if (s->prompt[0] == 0) {
        *f->param = "prompt";
        return cvx_fail(CVX_EINVAL, "prompt: what the video shows is needed");
    }
    CVX_RETURN_IF(string(f, "negative_prompt", 32000, &s->negative_prompt));
    return string(f, "model", 255, &s->model);
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
static cvx_status loras(const cvx_server *server, const fields *f, Cvx__JobSpec *s)
{
    const json_t *v = value_of(f, "lora");
    bool list = json_is_array(v);
    size_t n = list ? json_array_size(v) : v != NULL ? 1 : 0;

    if (v == NULL) {
        return CVX_OK;
    }
    s->lora = n <= LORAS ? calloc(n + 1, sizeof *s->lora) : NULL;
    s->n_lora = 0;
    if (s->lora == NULL) {
        return cvx_fail(CVX_EINVAL, "lora: %zu of them; at most %d can be", n, LORAS);
    }
    for (size_t i = 0; i < n; i++) {
        const char *text = json_string_value(list ? json_array_get(v, i) : v);
        if (text == NULL) {
            return cvx_fail(CVX_EINVAL, "lora: a text or a list of texts is meant");
        }
        if (f->form && text[0] == 0) {
            continue;
        }
        CVX_RETURN_IF(check_lora(server, text));
        s->lora[s->n_lora++] = (char *)text;
    }
    return CVX_OK;
}

/* Options of cvx generate that go to the pool as they are. */
static const struct {
    const char *field, *option;
    double min, max; /* both 0: true or false */
    bool whole;
    bool planned; /* `cvx plan` may be asked, too (a CLIP is the pool's) */
} more_options[] = {{"use_dynamic_cfg", "use-dynamic-cfg", 0, 0, false, true},
                    {"max_sequence_length", "max-sequence-length", 1, 65536, true, true},
                    {"first_block_cache", "first-block-cache", 0, 1, false, true},
                    {"window_frames", "window-frames", 1, 100000, true, true},
                    {"window_stride", "window-stride", 4, 100000, true, true},
                    {"window_dilation", "window-dilation", 1, 1024, true, true},
                    {"free_noise", "free-noise", 0, 0, false, true},
                    {"enable_tiling", "enable-tiling", 0, 0, false, true},
                    {"tile_sample_min_height", "tile-sample-min-height", 16, 8192, true, true},
                    {"tile_sample_min_width", "tile-sample-min-width", 16, 8192, true, true},
                    {"extend_overlap", "extend-overlap", 1, 100000, true, true},
                    {"extend_only", "extend-only", 0, 0, false, true},
                    {"best_of", "best-of", 1, 100, true, false},
                    {"early_stop", "early-stop", 0, 100, false, false}};
#define MORE_OPTIONS (sizeof more_options / sizeof *more_options)

/* One of them into what is set. */
static cvx_status option(const fields *f, size_t i, json_t *set)
{
    const char *name = more_options[i].field, *key = more_options[i].option;
    bool flag = more_options[i].max == 0, on = json_is_true(json_object_get(set, key));
    double x = json_number_value(json_object_get(set, key));

    CVX_RETURN_IF(flag ? truth(f, name, &on)
                       : number(f, name, more_options[i].min, more_options[i].max,
                                more_options[i].whole, &x));
    if (flag ? on : x > 0) {
        json_object_set_new(set, key,
                            flag                    ? json_true()
                            : more_options[i].whole ? json_integer((json_int_t)x)
                                                    : json_real(x));
    } else {
        (void)json_object_del(set, key);
    }
    return CVX_OK;
}

/* Prompts that take turns, each "FRAME: text", into what is set; `prompt` then names the video alone. */
static cvx_status timeline(const fields *f, json_t *set)
{
    const json_t *v = value_of(f, "timeline"), *one;
    size_t i, n = json_array_size(v), bytes = 0;

    (void)json_object_del(set, "prompt"); /* that of a job that is remixed goes with its prompt */
    if (v == NULL) {
        return CVX_OK;
    }
    json_array_foreach(v, i, one)
    {
        bytes += json_is_string(one) ? json_string_length(one) : 32001;
    }
    if (!json_is_array(v) || n < 2 || n > TIMELINE || bytes > 32000) {
        return cvx_fail(
            CVX_EINVAL,
            "timeline: a list of 2 to %d texts \"FRAME: what the video shows from there "
            "on\" is meant, of 32,000 bytes in all",
            TIMELINE);
    }
    json_object_set(set, "prompt", (json_t *)v);
    return CVX_OK;
}

static cvx_status options(const fields *f, Cvx__JobSpec *s)
{
    json_t *set = json_loads(s->options, 0, NULL); /* of the job that is remixed */
    cvx_status st = CVX_OK;

    set = set != NULL ? set : json_object();
    for (size_t i = 0; st == CVX_OK && i < MORE_OPTIONS; i++) {
        st = option(f, i, set);
    }
    st = st == CVX_OK ? timeline(f, set) : st;
    if (st == CVX_OK && json_object_get(set, "early-stop") != NULL &&
        json_integer_value(json_object_get(set, "best-of")) < 2) {
        *f->param = "early_stop";
        st = cvx_fail(CVX_EINVAL, "early_stop: best_of of 2 or more is needed for it");
    }
    s->options = (char *)protobuf_c_empty_string;
    if (st == CVX_OK && json_object_size(set) > 0) {
        char *text = json_dumps(set, JSON_COMPACT);
        s->options = text != NULL ? text : s->options;
        st = text != NULL ? CVX_OK : cvx_fail(CVX_ENOMEM, "no memory for a job");
    }
    json_decref(set);
    return st;
}

/* The id of the job that made the file, whose folder it lies in: DATA/jobs/ID/TRY/video.mp4. NULL: of none. */
static json_t *maker(const char *file)
{
    for (const char *at = strchr(file, '/'); at != NULL; at = strchr(at + 1, '/')) {
        char id[CVX_ID_MAX];
        snprintf(id, sizeof id, "%.*s", (int)strcspn(at + 1, "/"), at + 1);
        if (cvx_job_id_valid(id)) {
            return json_string(id);
        }
    }
    return NULL;
}

json_t *cvx_spec_options(const Cvx__JobSpec *s)
{
    json_t *set = json_loads(s->options, 0, NULL), *out = json_object();

    for (size_t i = 0; i < MORE_OPTIONS; i++) {
        json_t *v = json_object_get(set, more_options[i].option);
        if (v != NULL) {
            json_object_set(out, more_options[i].field, v);
        }
    }
    json_t *turns = json_object_get(set, "prompt"), *from = maker(s->extend);
    if (turns != NULL) {
        json_object_set(out, "timeline", turns);
    }
    if (from != NULL) {
        json_object_set_new(out, "extend", from);
    }
    json_decref(set);
    return out;
}

void cvx_spec_free(Cvx__JobSpec *s, const Cvx__JobSpec *old)
{
    if (old == NULL || s->lora != old->lora) {
        free(s->lora);
    }
    if (s->options != protobuf_c_empty_string && (old == NULL || s->options != old->options)) {
        free(s->options);
    }
    s->options = (char *)protobuf_c_empty_string;
    s->lora = NULL;
    s->n_lora = 0;
}

/* A field that nobody knows is a mistake whoever made it wants to hear of. */
static cvx_status check_names(const fields *f)
{
    static const char *const names[] = {"prompt",
                                        "negative_prompt",
                                        "model",
                                        "scheduler",
                                        "size",
                                        "width",
                                        "height",
                                        "num_frames",
                                        "num_inference_steps",
                                        "seed",
                                        "guidance_scale",
                                        "fps",
                                        "upscale",
                                        "deadline",
                                        "seconds",
                                        "priority",
                                        "enable_frame_interpolation",
                                        "frame_interpolation_exp",
                                        "lora",
                                        "timeline",
                                        "extend"};
    const char *key;
    json_t *v;

    json_object_foreach((json_t *)f->json, key, v)
    {
        bool known = false;
        for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
            known |= strcmp(key, names[i]) == 0;
        }
        for (size_t i = 0; i < MORE_OPTIONS; i++) {
            known |= strcmp(key, more_options[i].field) == 0;
        }
        if (!known) {
            *f->param = key;
            return cvx_fail(CVX_EINVAL, "'%.60s' is no field of a job", key);
        }
    }
    return CVX_OK;
}

void cvx_spec_defaults(Cvx__JobSpec *s)
{
    s->num_inference_steps = 50;
    s->guidance_scale = 6;
    s->seed = 42;
    s->priority = 1;
}

/* Frames for the seconds that were asked for, where no number of frames was: the decoder makes 4 k + 1. */
static void fill_frames(Cvx__JobSpec *s, const json_t *json, double seconds)
{
    if (seconds > 0 && !json_is_number(json_object_get(json, "num_frames")) &&
        !json_is_string(json_object_get(json, "num_frames"))) {
        double frames = seconds * (s->fps > 0 ? s->fps : 8);
        s->num_frames = 4 * (int64_t)fmax(1, round((frames - 1) / 4)) + 1;
    }
}

cvx_status cvx_spec_fill(const cvx_server *server, Cvx__JobSpec *s, const json_t *json, bool form,
                         const char **param)
{
    const fields of = {json, form, param}, *f = &of;
    double deadline = 0, seconds = 0;

    *param = NULL;
    CVX_RETURN_IF(check_names(f));
    CVX_RETURN_IF(fill_texts(s, f));
    CVX_RETURN_IF(size(f, s));
    CVX_RETURN_IF(whole(f, "width", 16, 8192, &s->width));
    CVX_RETURN_IF(whole(f, "height", 16, 8192, &s->height));
    CVX_RETURN_IF(whole(f, "num_frames", 1, 100000, &s->num_frames));
    CVX_RETURN_IF(whole(f, "num_inference_steps", 1, 1000, &s->num_inference_steps));
    CVX_RETURN_IF(whole(f, "seed", 0, 9007199254740991.0, &s->seed));
    CVX_RETURN_IF(number(f, "guidance_scale", 1, 20, false, &s->guidance_scale));
    CVX_RETURN_IF(number(f, "fps", 0.1, 240, false, &s->fps));
    CVX_RETURN_IF(number(f, "upscale", 1, 4, false, &s->upscale));
    CVX_RETURN_IF(number(f, "deadline", 1, 1e8, false, &deadline));
    CVX_RETURN_IF(duration(f, &seconds));
    CVX_RETURN_IF(choices(f, s));
    CVX_RETURN_IF(interpolation(f, s));
    CVX_RETURN_IF(loras(server, f, s));
    CVX_RETURN_IF(options(f, s));
    *param = NULL;
    s->deadline_ms = deadline > 0 ? cvx_now_ms() + (int64_t)(deadline * 1000) : 0;
    fill_frames(s, json, seconds);
    return CVX_OK;
}

/* What `cvx plan` said, and the spec's sizes from it. */
static cvx_status take_plan(Cvx__JobSpec *spec, const char *out, json_t **answer)
{
    json_t *j = NULL;

    CVX_RETURN_IF(cvx_json_parse(&j, out, strlen(out), "cvx plan"));
    if (answer == NULL && spec->image[0] == 0 &&
        json_is_true(json_object_get(j, "image_to_video"))) {
        json_decref(j);
        return cvx_fail(CVX_EINVAL, "input_reference: this model begins with a picture");
    }
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

/* Puts one text in another's place, wherever it stands and there is room. */
static void rename_in(char *text, size_t size, const char *from, const char *to)
{
    size_t n = strlen(from), m = strlen(to);

    for (char *at = text; n > 0 && (at = strstr(at, from)) != NULL; at += m) {
        if (strlen(text) - n + m >= size) {
            return;
        }
        memmove(at + m, at + n, strlen(at + n) + 1);
        memcpy(at, to, m);
    }
}

/* A field of a request, the option that it becomes, and another word by which a refusal may speak of it. What begins as another one
 * stands before that. */
static const char *const spoken_of[][3] = {
    {"num_frames", "--num-frames", "num_frames"},
    {"tile_sample_min_height", "--tile-sample-min-height", "tiles of height"},
    {"tile_sample_min_width", "--tile-sample-min-width", "tiles of width"},
    {"enable_tiling", "--enable-tiling", "enable_tiling"},
    {"width", "--width", "width "},
    {"height", "--height", "height "},
    {"input_reference", "--image", "input_reference"},
    {"scheduler", "--scheduler", "scheduler"},
    {"window_frames", "--window-frames", "window_frames"},
    {"window_stride", "--window-stride", "window_stride"},
    {"window_dilation", "--window-dilation", "window_dilation"},
    {"free_noise", "--free-noise", "free_noise"},
    {"use_dynamic_cfg", "--use-dynamic-cfg", "use_dynamic_cfg"},
    {"first_block_cache", "--first-block-cache", "first_block_cache"},
    {"max_sequence_length", "--max-sequence-length", "max_sequence_length"},
    {"timeline", "several --prompt", "several prompts"},
    {"timeline", "--prompt", "--prompt"},
    {"extend_overlap", "--extend-overlap", "overlap"},
    {"extend_only", "--extend-only", "extend_only"},
    {"extend", "--extend", "extend"},
    {"enable_frame_interpolation", "--interpolate", "interpolat"},
    {"upscale", "--upscale", "upscale"},
    {"num_inference_steps", "--num-inference-steps", "num_inference_steps"},
    {"guidance_scale", "--guidance-scale", "guidance_scale"},
    {"fps", "--fps", "fps"}};
#define SPOKEN_OF (sizeof spoken_of / sizeof *spoken_of)

/* The field of a request that a refusal speaks of: the first of their names in it, as options are written or as fields. */
static const char *blame(const char *message)
{
    const char *best = NULL, *first = NULL;

    for (size_t i = 0; i < SPOKEN_OF; i++) {
        for (int k = 1; k < 3; k++) {
            const char *at = strstr(message, spoken_of[i][k]);
            if (at != NULL && (first == NULL || at < first)) {
                first = at;
                best = spoken_of[i][0];
            }
        }
    }
    return best;
}

cvx_status cvx_spec_plan(const cvx_server *s, Cvx__JobSpec *spec, json_t **answer,
                         const char **param)
{
    char n[8][32], prompt[32100];
    char *argv[60 + 2 * TIMELINE] = {(char *)s->cvx,   "plan", "--json", "--model",
                                     (char *)s->model, prompt, NULL};
    int argc = 6, k = 0;
    char said[CVX_PLAN_MAX];
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
    const char *texts[][2] = {{"--scheduler", spec->scheduler},
                              {"--image", spec->image},
                              {"--extend", spec->extend}};

    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        if (numbers[i].value > 0) {
            snprintf(n[k], sizeof n[k], "%.10g", numbers[i].value);
            argv[argc++] = (char *)numbers[i].flag;
            argv[argc++] = n[k++];
        }
    }
    for (int i = 0; i < 3; i++) {
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
            snprintf(more[i], sizeof more[i], json_is_true(v) ? "--%s" : "--%s=%.10g",
                     more_options[i].option, json_number_value(v));
            argv[argc++] = more[i];
        }
    }
    snprintf(prompt, sizeof prompt, "--prompt=-"); /* what it says changes nothing */
    const json_t *turns = json_object_get(set, "prompt"), *one;
    size_t turn;
    json_array_foreach(turns, turn, one)
    { /* argv[5] is the first */
        char *text = (char *)json_string_value(one);
        if (turn == 0) {
            snprintf(prompt, sizeof prompt, "--prompt=%s", text);
        } else {
            argv[argc++] = "--prompt";
            argv[argc++] = text;
        }
    }
    if (s->cvx == NULL) {
        json_decref(set);
        return CVX_OK;
    }
    /* a file may be another one under the same name */
    bool keep = spec->image[0] == 0 && spec->extend[0] == 0;
    cvx_status st = cvx_plan_ask(argv, !s->local, keep, said);
    json_decref(set);
    if (st == CVX_OK) {
        st = take_plan(spec, said, answer);
        *param = st != CVX_OK ? "input_reference" : NULL;
        return st;
    }
    snprintf(prompt, sizeof prompt, "%.1000s", cvx_error()); /* folders are nobody's concern */
    rename_in(prompt, sizeof prompt, spec->image, "input_reference");
    rename_in(prompt, sizeof prompt, spec->extend, "extend");
    rename_in(prompt, sizeof prompt, s->model, s->model_name);
    *param = blame(prompt);
    for (size_t i = 0; i < SPOKEN_OF; i++) { /* the asker knows fields, not options */
        rename_in(prompt, sizeof prompt, spoken_of[i][1], spoken_of[i][0]);
    }
    return cvx_fail(st, "%s", prompt);
}
