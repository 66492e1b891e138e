/* A generation request: every parameter of `cvx generate`, and the option table that reads it from a
 * command line, a job line or a manifest. */
#ifndef CVX_MODEL_PIPELINE_REQUEST_H
#define CVX_MODEL_PIPELINE_REQUEST_H

#include "base/json.h"
#include "base/opts.h"
#include "parallel/mesh.h"

#define CVX_WINDOW_DILATION 4

typedef struct cvx_request {
    const char *model, *negative_prompt, *output;
    cvx_opt_list prompt;                  /* see model/prompts.h */
    int64_t num_frames, height, width;    /* 0: the checkpoint's own */
    int64_t window_frames, window_stride; /* 0: no windows; half a window */
    int64_t window_dilation;              /* 0: CVX_WINDOW_DILATION */
    bool free_noise;
    int64_t best_of;         /* 0 or 1: the one that is made */
    double early_stop;       /* points; 0: every candidate is made */
    int64_t previews;        /* while it is denoised; 0: 8, with preview_dir */
    const char *preview_dir; /* NULL: none */
    double fps;              /* 0: 8, or 16 for 1.5 */
    int64_t num_inference_steps, seed, num_videos_per_prompt, max_sequence_length;
    double guidance_scale, strength;
    bool use_dynamic_cfg;
    double first_block_cache; /* threshold; 0: off */
    const char *scheduler;    /* NULL: the checkpoint's own; a name of cvx_sched_name */
    const char *dtype;        /* "f32", "bf16" */
    const char *image, *video, *latents, *save_latents;
    const char *extend;     /* a clip to continue */
    int64_t extend_overlap; /* frames of its end that the model sees; 0: chosen */
    bool extend_only;       /* the output is the continuation alone */
    cvx_opt_list lora;
    bool enable_tiling, enable_slicing;
    int64_t tile_sample_min_height, tile_sample_min_width;        /* 0: from the config */
    double tile_overlap_factor_height, tile_overlap_factor_width; /* 0: diffusers' own */
    const char *offload;                           /* "none", "model", "sequential" */
    int64_t interpolate;                           /* frames for one, 0: 1 */
    double upscale;                                /* 0: 1 */
    const char *interpolate_model, *upscale_model; /* NULL: those that come with cvx */
    const char *quantize;                          /* "none", "fp8" */
    const char *attention;                         /* "auto", "sage" */
    const char *clip_model, *backend, *isa, *replay, *manifest;
    const char *checkpoint_dir; /* NULL: no checkpoints */
    int64_t checkpoint_every;   /* 0: CVX_CHECKPOINT_EVERY */
    const char *batch;          /* a file of jobs, one a line; NULL: the request is the job */
    int64_t threads;
    int64_t degree[CVX_MESH_DIMS]; /* 0: chosen; cfg's comes from enable_cfg_parallel */
    bool enable_cfg_parallel;
    int64_t ranks;       /* cvx plan: how many; elsewhere 0 or the number there is */
    const char *cluster; /* file that describes the machines */
    bool quiet, json, stats;
} cvx_request;

#define CVX_REQUEST_INIT                                                                           \
    {                                                                                              \
        .negative_prompt = "", .num_inference_steps = 50, .seed = 42, .num_videos_per_prompt = 1,  \
        .guidance_scale = 6.0, .strength = 0.8, .dtype = "f32", .offload = "none",                 \
        .backend = "auto", .isa = "auto", .quantize = "none", .attention = "auto"                  \
    }

/* The option table of cvx generate, cvx plan and cvx-rank. */
extern const cvx_opt cvx_request_opts[];

/* What can be said without opening the checkpoint: required fields, ranges, UTF-8 prompts, things that
 * exclude each other, the output's extension. CVX_EINVAL. */
cvx_status cvx_request_check(const cvx_request *r) CVX_CHECK;

/* How many pictures of its denoising are wanted. */
int64_t cvx_request_previews(const cvx_request *r);

/* How many videos are made, candidates counted. */
int64_t cvx_request_videos(const cvx_request *r);

/* The request as a JSON object keyed by option name (unset optional values left out); new reference. */
json_t *cvx_request_json(const cvx_request *r);

/* Sets fields from such an object. Strings are borrowed from `obj`, which must outlive the request. */
cvx_status cvx_request_from_json(cvx_request *r, const json_t *obj, const char *what) CVX_CHECK;

#endif
