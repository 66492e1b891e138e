/* cvx inspect: what is in a checkpoint or a safetensors file. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "cli/cli.h"
#include "model/pipeline/checkpoint.h"

typedef struct options {
    bool json, tensors;
} options;

static const cvx_opt opts[] = {
    {"tensors", CVX_OPT_FLAG, offsetof(options, tensors), NULL, "list every tensor", 0, 0, NULL},
    {"json", CVX_OPT_FLAG, offsetof(options, json), NULL, "as JSON", 0, 0, NULL},
    {NULL, 0, 0, NULL, NULL, 0, 0, NULL},
};

static json_t *shape_json(const cvx_tensor *t)
{
    json_t *a = json_array();
    for (int i = 0; i < t->ndim; i++) {
        json_array_append_new(a, json_integer(t->dim[i]));
    }
    return a;
}

/* {"tensors", "parameters", "bytes", "dtypes": {name: count}, "files": [..], "list": [..]}. */
static json_t *weights_json(const cvx_weights *w, bool list)
{
    json_t *dtypes = json_object(), *files = json_array(), *all = json_array(), *out;
    int64_t parameters = 0;

    for (int64_t i = 0; i < cvx_weights_count(w); i++) {
        cvx_tensor t = cvx_weights_at(w, i);
        const char *d = cvx_weights_dtype(w, i), *file = cvx_weights_file(w, i);
        bool seen = false;
        size_t k;
        json_t *v;
        parameters += cvx_numel(&t);
        json_object_set_new(dtypes, d,
                            json_integer(json_integer_value(json_object_get(dtypes, d)) + 1));
        json_array_foreach(files, k, v)
        {
            seen = seen || strcmp(json_string_value(v), file) == 0;
        }
        if (!seen) {
            json_array_append_new(files, json_string(file));
        }
        if (list) {
            json_array_append_new(all, json_pack("{s:s, s:s, s:o}", "name", cvx_weights_name(w, i),
                                                 "dtype", d, "shape", shape_json(&t)));
        }
    }
    out = json_pack("{s:I, s:I, s:I, s:o, s:o}", "tensors", (json_int_t)cvx_weights_count(w),
                    "parameters", (json_int_t)parameters, "bytes", (json_int_t)cvx_weights_bytes(w),
                    "dtypes", dtypes, "files", files);
    if (list) {
        json_object_set(out, "list", all);
    }
    json_decref(all);
    return out;
}

static cvx_status add_part(json_t *parts, const char *name, const char *path, bool list)
{
    cvx_weights *w = NULL;

    CVX_RETURN_IF(cvx_weights_open(&w, path));
    json_object_set_new(parts, name, weights_json(w, list));
    cvx_weights_close(w);
    return CVX_OK;
}

static json_t *facts(const cvx_checkpoint *c)
{
    char what[160];

    return json_pack("{s:s, s:b, s:I, s:I, s:I, s:I, s:I, s:I, s:s, s:I, s:I, s:f, s:s}", "model",
                     cvx_checkpoint_describe(c, what, sizeof what), "image_to_video",
                     c->image_to_video, "num_layers", (json_int_t)c->dit.num_layers,
                     "num_attention_heads", (json_int_t)c->dit.num_attention_heads, "sample_frames",
                     (json_int_t)c->dit.sample_frames, "sample_height",
                     (json_int_t)(c->dit.sample_height * c->spatial), "sample_width",
                     (json_int_t)(c->dit.sample_width * c->spatial), "max_text_seq_length",
                     (json_int_t)c->dit.max_text_seq_length, "scheduler",
                     cvx_sched_class(c->sched.kind), "text_encoder_layers",
                     (json_int_t)c->t5.num_layers, "text_encoder_width", (json_int_t)c->t5.d_model,
                     "vae_scaling_factor", c->vae.scaling_factor, "dir", c->dir);
}

static void print_part(const char *name, const json_t *p)
{
    const json_t *dtypes = json_object_get(p, "dtypes"), *list = json_object_get(p, "list");
    const char *key;
    char text[128] = "";
    json_t *v;
    size_t i;

    json_object_foreach((json_t *)dtypes, key, v)
    {
        snprintf(text + strlen(text), sizeof text - strlen(text), "%s%s", text[0] ? " " : "", key);
    }
    printf("%-13s %8lld %14lld %12.1f  %-10s %zu\n", name,
           (long long)json_integer_value(json_object_get(p, "tensors")),
           (long long)json_integer_value(json_object_get(p, "parameters")),
           (double)json_integer_value(json_object_get(p, "bytes")) / (1 << 20), text,
           json_array_size(json_object_get(p, "files")));
    json_array_foreach(list, i, v)
    {
        char *shape = json_dumps(json_object_get(v, "shape"), 0);
        printf("  %-72s %-7s %s\n", json_string_value(json_object_get(v, "name")),
               json_string_value(json_object_get(v, "dtype")), shape);
        free(shape);
    }
}

static void print_all(const json_t *doc)
{
    const json_t *parts = json_object_get(doc, "parts");
    const char *key;
    json_t *v;

    json_object_foreach((json_t *)doc, key, v)
    {
        if (!json_is_object(v)) {
            char *text = json_dumps(v, JSON_ENCODE_ANY | JSON_REAL_PRECISION(8));
            printf("%-22s %s\n", key, json_is_string(v) ? json_string_value(v) : text);
            free(text);
        }
    }
    printf("\n%-13s %8s %14s %12s  %-10s %s\n", "part", "tensors", "parameters", "MiB", "dtype",
           "files");
    json_object_foreach((json_t *)parts, key, v)
    {
        print_part(key, v);
    }
}

static cvx_status inspect(json_t **out, const char *path, bool list)
{
    static const char *const names[] = {"transformer", "text_encoder", "vae"};
    char dir[CVX_PATH_MAX], index[CVX_PATH_MAX];
    cvx_checkpoint c;
    json_t *parts = json_object();
    cvx_status st = CVX_OK;

    CVX_TRY(st, cvx_path_join(index, path, "model_index.json"), done);
    if (!cvx_is_dir(path) || !cvx_is_file(index)) { /* a single file, or one part's folder */
        CVX_TRY(st, add_part(parts, "file", path, list), done);
        *out = json_pack("{s:s, s:O}", "path", path, "parts", parts);
        goto done;
    }
    CVX_TRY(st, cvx_checkpoint_open(&c, path), done);
    for (int i = 0; i < 3; i++) {
        CVX_TRY(st, cvx_checkpoint_part(&c, dir, names[i]), done);
        CVX_TRY(st, add_part(parts, names[i], dir, list), done);
    }
    *out = facts(&c);
    json_object_set(*out, "parts", parts);
done:
    json_decref(parts);
    return st;
}

static int run(int argc, char **argv)
{
    options o = {0};
    const char *pos[1];
    int n, code;
    json_t *doc = NULL;

    if (!cvx_cli_begin(&cvx_cmd_inspect, &o, argc, argv, pos, 1, 1, &n, &code)) {
        return code;
    }
    cvx_status st = inspect(&doc, pos[0], o.tensors);
    if (st == CVX_OK && o.json) {
        json_dumpf(doc, stdout, JSON_INDENT(2));
        printf("\n");
    } else if (st == CVX_OK) {
        print_all(doc);
    }
    json_decref(doc);
    return cvx_cli_finish(st);
}

const cvx_command cvx_cmd_inspect = {
    .name = "cvx inspect",
    .args = "DIR|FILE",
    .summary = "Tells what is in a checkpoint or a safetensors file.",
    .opts = opts,
    .run = run,
};
