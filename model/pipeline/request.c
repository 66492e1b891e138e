#include "model/pipeline/request.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/ops.h"
#include "model/prompts.h"

#define AT(f) offsetof(cvx_request, f)

const cvx_opt cvx_request_opts[] = {
    {"", 0, 0, NULL, "What to make", 0, 0, NULL},
    {"model", CVX_OPT_STR, AT(model), "DIR", "checkpoint in diffusers' folder layout", 0, 0, NULL},
    {"prompt", CVX_OPT_LIST, AT(prompt), "TEXT",
     "what the video shows; several, each as \"FRAME: text\", take turns (needs --window-frames)",
     0, 0, NULL},
    {"negative-prompt", CVX_OPT_STR, AT(negative_prompt), "TEXT",
     "what it should not show (default: empty)", 0, 0, NULL},
    {"output", CVX_OPT_STR, AT(output), "FILE",
     "FILE.mp4, .gif, .webm, .safetensors (frames and latents), or a folder for PNG frames", 0, 0,
     NULL},
    {"num-frames", CVX_OPT_INT, AT(num_frames), "N",
     "frames, 4k + 1 (default: the checkpoint's; trained for 8k + 1, 1.5: 16k + 1)", 1, 1e6, NULL},
    {"window-frames", CVX_OPT_INT, AT(window_frames), "N",
     "long videos: denoise overlapping windows of N frames (4k + 1; best what the model was trained for) and blend "
     "them in every step",
     1, 1e6, NULL},
    {"window-stride", CVX_OPT_INT, AT(window_stride), "N",
     "frames from one window to the next, a multiple of 4 (default: half a window)", 4, 1e6, NULL},
    {"window-dilation", CVX_OPT_INT, AT(window_dilation), "N",
     "in the first steps windows take every Nth frame, then every N/2th..., so that they see more of the video: "
     "1, 2, 4... (default: 4; 1: never)",
     1, 1024, NULL},
    {"free-noise", CVX_OPT_FLAG, AT(free_noise), NULL,
     "with --window-frames: windows start from the same noise, shuffled (FreeNoise)", 0, 0, NULL},
    {"height", CVX_OPT_INT, AT(height), "PIXELS", "multiple of 16 (default: the checkpoint's)", 16,
     16384, NULL},
    {"width", CVX_OPT_INT, AT(width), "PIXELS", "multiple of 16 (default: the checkpoint's)", 16,
     16384, NULL},
    {"fps", CVX_OPT_DOUBLE, AT(fps), "N", "frames a second of the output (default: 8; 1.5: 16)",
     0.01, 1000, NULL},
    {"seed", CVX_OPT_INT, AT(seed), "N", "seed of the noise (default: 42)", -9.3e18, 9.3e18, NULL},
    {"num-videos-per-prompt", CVX_OPT_INT, AT(num_videos_per_prompt), "N",
     "videos; number k has seed + k and \"-k\" before the extension (default: 1)", 1, 10000, NULL},
    {"best-of", CVX_OPT_INT, AT(best_of), "N",
     "make N videos, of seeds seed to seed + N - 1, and keep the one with the best mean CLIP score (needs "
     "--clip-model)",
     1, 10000, NULL},
    {"early-stop", CVX_OPT_DOUBLE, AT(early_stop), "X",
     "with --best-of: after half of the steps go on only with the candidates whose preview scores at most X points "
     "below the best one's",
     1e-9, 100, NULL},
    {"image", CVX_OPT_STR, AT(image), "FILE", "first frame, for image-to-video checkpoints", 0, 0,
     NULL},
    {"video", CVX_OPT_STR, AT(video), "FILE", "video file or folder of images to start from", 0, 0,
     NULL},
    {"extend", CVX_OPT_STR, AT(extend), "VIDEO",
     "continue this clip: its last frames are the first of those that the model makes (docs/long-videos.md)",
     0, 0, NULL},
    {"extend-overlap", CVX_OPT_INT, AT(extend_overlap), "N",
     "how many, 4k + 1 (default: half of what the model sees at a time; for image-to-video checkpoints 1)",
     1, 1e6, NULL},
    {"extend-only", CVX_OPT_FLAG, AT(extend_only), NULL,
     "write the new frames alone (default: the clip, then the new frames)", 0, 0, NULL},
    {"strength", CVX_OPT_DOUBLE, AT(strength), "X",
     "with --video: share of the steps that is run (default: 0.8)", 1e-9, 1, NULL},
    {"lora", CVX_OPT_LIST, AT(lora), "FILE[:SCALE]",
     "LoRA to merge, several times for several (default scale: 1)", 0, 0, NULL},
    {"", 0, 0, NULL, "How to denoise", 0, 0, NULL},
    {"num-inference-steps", CVX_OPT_INT, AT(num_inference_steps), "N", "steps (default: 50)", 1,
     1e6, NULL},
    {"guidance-scale", CVX_OPT_DOUBLE, AT(guidance_scale), "X",
     "classifier-free guidance, 1 to 20 (default: 6; 1: off)", 1, 20, NULL},
    {"use-dynamic-cfg", CVX_OPT_FLAG, AT(use_dynamic_cfg), NULL,
     "guidance that grows over the steps, as diffusers computes it", 0, 0, NULL},
    {"scheduler", CVX_OPT_CHOICE, AT(scheduler), NULL, "solver (default: the checkpoint's)", 0, 0,
     "ddim|dpm|dpmsolver++|unipc"},
    {"max-sequence-length", CVX_OPT_INT, AT(max_sequence_length), "N",
     "text tokens (default: the transformer's max_text_seq_length)", 1, 65536, NULL},
    {"latents", CVX_OPT_STR, AT(latents), "FILE",
     "start from the tensor \"latents\" [1,F,C,H,W] of a safetensors file instead of noise", 0, 0,
     NULL},
    {"save-latents", CVX_OPT_STR, AT(save_latents), "FILE",
     "write the latents after the last step to a safetensors file", 0, 0, NULL},
    {"", 0, 0, NULL, "Memory and speed", 0, 0, NULL},
    {"dtype", CVX_OPT_CHOICE, AT(dtype), NULL,
     "f32 matches the reference; bf16 is faster where the machine is (default: f32)", 0, 0,
     "f32|bf16"},
    {"enable-tiling", CVX_OPT_FLAG, AT(enable_tiling), NULL,
     "decode and encode in overlapping tiles, as diffusers' enable_tiling", 0, 0, NULL},
    {"tile-sample-min-height", CVX_OPT_INT, AT(tile_sample_min_height), "PIXELS", "tile height", 16,
     16384, NULL},
    {"tile-sample-min-width", CVX_OPT_INT, AT(tile_sample_min_width), "PIXELS", "tile width", 16,
     16384, NULL},
    {"tile-overlap-factor-height", CVX_OPT_DOUBLE, AT(tile_overlap_factor_height), "X",
     "part of a tile that overlaps the next (default: 1/6)", 1e-9, 0.9, NULL},
    {"tile-overlap-factor-width", CVX_OPT_DOUBLE, AT(tile_overlap_factor_width), "X",
     "the same across (default: 1/5)", 1e-9, 0.9, NULL},
    {"enable-slicing", CVX_OPT_FLAG, AT(enable_slicing), NULL,
     "decode one video of a batch at a time (always so here; accepted for diffusers' sake)", 0, 0,
     NULL},
    {"offload", CVX_OPT_CHOICE, AT(offload), "model",
     "model: each part is opened when needed and freed after; sequential: also no packed weights",
     0, 0, "none|model|sequential"},
    {"quantize", CVX_OPT_CHOICE, AT(quantize), NULL,
     "fp8: the transformer's linear layers in 8-bit floats, a scale a row (Hopper GPUs; default: none)",
     0, 0, "none|fp8"},
    {"attention", CVX_OPT_CHOICE, AT(attention), NULL,
     "sage: the transformer's in 8 bits (SageAttention 2; GPUs of Hopper, with --dtype bf16; default: auto)",
     0, 0, "auto|sage"},
    {"first-block-cache", CVX_OPT_DOUBLE, AT(first_block_cache), "X",
     "a step whose first block adds to the video what it added in the last full step, but for X of its size, runs no other "
     "block (FirstBlockCache; 0.05 to 0.2 are usual; default: 0, every block runs)",
     0, 1, NULL},
    {"threads", CVX_OPT_INT, AT(threads), "N", "CPU threads (default: all cores)", 1, 1024, NULL},
    {"backend", CVX_OPT_CHOICE, AT(backend), NULL, "where to compute (default: auto)", 0, 0,
     "auto|ref|cpu|cuda"},
    {"isa", CVX_OPT_CHOICE, AT(isa), NULL,
     "CPU instruction set (default: the best of this machine)", 0, 0, "auto|" CVX_CPU_LEVELS},
    {"", 0, 0, NULL, "How ranks share the work (cvx-rank; what is not given is chosen)", 0, 0,
     NULL},
    {"data-parallel-degree", CVX_OPT_INT, AT(degree[CVX_MESH_DATA]), "N",
     "groups of ranks that make different videos", 1, CVX_MAX_RANKS, NULL},
    {"window-parallel-degree", CVX_OPT_INT, AT(degree[CVX_MESH_WINDOW]), "N",
     "groups of ranks that denoise different windows of one long video", 1, CVX_MAX_RANKS, NULL},
    {"enable-cfg-parallel", CVX_OPT_FLAG, AT(enable_cfg_parallel), NULL,
     "the two branches of guidance on different ranks", 0, 0, NULL},
    {"ring-degree", CVX_OPT_INT, AT(degree[CVX_MESH_RING]), "N",
     "ranks that share the sequence and pass keys and values on", 1, CVX_MAX_RANKS, NULL},
    {"ulysses-degree", CVX_OPT_INT, AT(degree[CVX_MESH_ULYSSES]), "N",
     "ranks that share the sequence and trade rows for heads", 1, CVX_MAX_RANKS, NULL},
    {"tensor-parallel-degree", CVX_OPT_INT, AT(degree[CVX_MESH_TENSOR]), "N",
     "ranks that share the weights", 1, CVX_MAX_RANKS, NULL},
    {"ranks", CVX_OPT_INT, AT(ranks), "N",
     "cvx plan: show the meshes of N ranks; elsewhere: refuse to run on another number", 1,
     CVX_MAX_RANKS, NULL},
    {"cluster", CVX_OPT_STR, AT(cluster), "FILE",
     "JSON description of the machines for the choice of the mesh (docs/parallelism.md)", 0, 0,
     NULL},
    {"", 0, 0, NULL, "After the frames (docs/stages.md)", 0, 0, NULL},
    {"interpolate", CVX_OPT_INT, AT(interpolate), "N",
     "2, 4 or 8 frames for each one (RIFE), at N times the rate", 2, 8, NULL},
    {"interpolate-model", CVX_OPT_STR, AT(interpolate_model), "DIR",
     "RIFE model folder (default: the rife-v3.9 of cvx)", 0, 0, NULL},
    {"upscale", CVX_OPT_DOUBLE, AT(upscale), "X", "frames X times larger, up to 4 (Real-ESRGAN)", 1,
     8, NULL},
    {"upscale-model", CVX_OPT_STR, AT(upscale_model), "DIR",
     "Real-ESRGAN model folder (default: the realesr-animevideov3 of cvx)", 0, 0, NULL},
    {"", 0, 0, NULL, "Long work and many jobs", 0, 0, NULL},
    {"checkpoint-dir", CVX_OPT_STR, AT(checkpoint_dir), "DIR",
     "keep the state of the denoising loop here; the same command goes on from it", 0, 0, NULL},
    {"checkpoint-every", CVX_OPT_INT, AT(checkpoint_every), "K",
     "steps between two checkpoints (default: 5); the last step and a signal make one too", 1, 1e6,
     NULL},
    {"batch", CVX_OPT_STR, AT(batch), "FILE",
     "one job a line, a JSON object of these options; the others given here are their defaults", 0,
     0, NULL},
    {"", 0, 0, NULL, "What to report", 0, 0, NULL},
    {"clip-model", CVX_OPT_STR, AT(clip_model), "DIR",
     "CLIP checkpoint: score every frame against the prompt", 0, 0, NULL},
    {"previews", CVX_OPT_INT, AT(previews), "N",
     "pictures of the video as the denoising takes it to be, while it runs (default: none, with --preview-dir 8)",
     0, 1000, NULL},
    {"preview-dir", CVX_OPT_STR, AT(preview_dir), "DIR",
     "where they go, as step-0012.png; those of video k after the first as video-k-step-0012.png",
     0, 0, NULL},
    {"quiet", CVX_OPT_FLAG, AT(quiet), NULL, "no progress bars", 0, 0, NULL},
    {"json", CVX_OPT_FLAG, AT(json), NULL, "one JSON event a line on stdout instead", 0, 0, NULL},
    {"stats", CVX_OPT_FLAG, AT(stats), NULL,
     "print calls, bytes and seconds of the exchanges between ranks", 0, 0, NULL},
    {"manifest", CVX_OPT_STR, AT(manifest), "FILE",
     "where the manifest goes (default: OUTPUT.json; \"none\" for none)", 0, 0, NULL},
    {"replay", CVX_OPT_STR, AT(replay), "MANIFEST",
     "take every parameter from a manifest: the same bytes again", 0, 0, NULL},
    {NULL, 0, 0, NULL, NULL, 0, 0, NULL},
};

static cvx_status require(const char *value, const char *flag)
{
    if (value == NULL || value[0] == 0) {
        return cvx_fail(CVX_EINVAL, "--%s is needed (--help tells more)", flag);
    }
    return CVX_OK;
}

static cvx_status exclude(const char *a, const char *b, const char *what)
{
    return a != NULL && b != NULL ? cvx_fail(CVX_EINVAL, "%s cannot be given together", what)
                                  : CVX_OK;
}

static cvx_status check_windows(const cvx_request *r, const cvx_prompts *prompts)
{
    if (r->window_frames > 0 && (r->window_frames - 1) % 4 != 0) {
        int64_t below = (r->window_frames - 1) / 4 * 4 + 1;
        return cvx_fail(CVX_EINVAL,
                        "--window-frames %lld: must be 4k + 1; the nearest are %lld and %lld",
                        (long long)r->window_frames, (long long)below, (long long)below + 4);
    }
    if (r->window_stride % 4 != 0) {
        int64_t below = r->window_stride / 4 * 4;
        return cvx_fail(
            CVX_EINVAL,
            "--window-stride %lld: must be a multiple of 4; the nearest are %lld and %lld",
            (long long)r->window_stride, (long long)below, (long long)below + 4);
    }
    if ((r->window_dilation & (r->window_dilation - 1)) != 0) {
        int64_t below = 1;
        while (2 * below < r->window_dilation) {
            below *= 2;
        }
        return cvx_fail(
            CVX_EINVAL,
            "--window-dilation %lld: must be a power of two; the nearest are %lld and %lld",
            (long long)r->window_dilation, (long long)below, (long long)below * 2);
    }
    if (r->window_frames > 0) {
        return CVX_OK;
    }
    const char *flag = r->window_stride > 0     ? "--window-stride"
                       : r->window_dilation > 0 ? "--window-dilation"
                       : r->free_noise          ? "--free-noise"
                       : prompts->n > 1         ? "several --prompt"
                                                : NULL;
    return flag == NULL ? CVX_OK : cvx_fail(CVX_EINVAL, "%s: needs --window-frames", flag);
}

static cvx_status check_extend(const cvx_request *r)
{
    CVX_RETURN_IF(exclude(r->extend, r->image, "--extend and --image"));
    CVX_RETURN_IF(exclude(r->extend, r->video, "--extend and --video"));
    if (r->extend == NULL && (r->extend_overlap > 0 || r->extend_only)) {
        return cvx_fail(CVX_EINVAL, "--extend-%s: needs --extend",
                        r->extend_only ? "only" : "overlap");
    }
    if (r->extend_overlap > 0 && (r->extend_overlap - 1) % 4 != 0) {
        int64_t below = (r->extend_overlap - 1) / 4 * 4 + 1;
        return cvx_fail(CVX_EINVAL,
                        "--extend-overlap %lld: must be 4k + 1; the nearest are %lld and %lld",
                        (long long)r->extend_overlap, (long long)below, (long long)below + 4);
    }
    return CVX_OK;
}

cvx_status cvx_request_check(const cvx_request *r)
{
    cvx_prompts prompts;

    CVX_RETURN_IF(require(r->model, "model"));
    CVX_RETURN_IF(cvx_prompts_parse(&prompts, &r->prompt));
    CVX_RETURN_IF(require(r->output, "output"));
    CVX_RETURN_IF(cvx_check_utf8(r->negative_prompt, "--negative-prompt"));
    CVX_RETURN_IF(exclude(r->image, r->video, "--image and --video"));
    CVX_RETURN_IF(exclude(r->video, r->latents, "--video and --latents"));
    CVX_RETURN_IF(check_extend(r));
    if (strcmp(r->quantize, "fp8") == 0 && strcmp(r->offload, "sequential") == 0) {
        return cvx_fail(
            CVX_EINVAL,
            "--quantize fp8 packs the weights, --offload sequential leaves them as they are: "
            "give one of them");
    }
    if (strcmp(r->attention, "sage") == 0 && strcmp(r->dtype, "bf16") != 0) {
        return cvx_fail(CVX_EINVAL, "--attention sage is for --dtype bf16, not %s", r->dtype);
    }
    if (r->num_frames > 0 && (r->num_frames - 1) % 4 != 0 && r->video == NULL) {
        int64_t below = (r->num_frames - 1) / 4 * 4 + 1;
        return cvx_fail(CVX_EINVAL,
                        "num_frames %lld: must be 4k + 1; the nearest are %lld and %lld",
                        (long long)r->num_frames, (long long)below, (long long)below + 4);
    }
    CVX_RETURN_IF(check_windows(r, &prompts));
    if (r->best_of > 1 && (r->clip_model == NULL || r->num_videos_per_prompt > 1)) {
        return cvx_fail(CVX_EINVAL, "--best-of %lld: %s", (long long)r->best_of,
                        r->clip_model == NULL
                            ? "needs --clip-model, which scores the candidates"
                            : "one video is kept; not with --num-videos-per-prompt");
    }
    if (r->early_stop > 0 && (r->best_of < 2 || strcmp(r->offload, "none") != 0)) {
        return cvx_fail(CVX_EINVAL, "--early-stop: %s",
                        r->best_of < 2 ? "needs --best-of 2 or more"
                                       : "keeps transformer and decoder open; not with --offload");
    }
    if (r->previews > 0 && r->preview_dir == NULL) {
        return cvx_fail(CVX_EINVAL, "--previews: needs --preview-dir");
    }
    if (r->preview_dir != NULL && strcmp(r->offload, "none") != 0) {
        return cvx_fail(CVX_EINVAL,
                        "--preview-dir: keeps transformer and decoder open; not with --offload");
    }
    if (r->interpolate != 0 && r->interpolate != 2 && r->interpolate != 4 && r->interpolate != 8) {
        return cvx_fail(CVX_EINVAL, "interpolate %lld: 2, 4 or 8 frames for one are possible",
                        (long long)r->interpolate);
    }
    const int64_t size[2] = {r->height, r->width};
    for (int i = 0; i < 2; i++) {
        if (size[i] % 16 != 0) {
            return cvx_fail(CVX_EINVAL,
                            "%s %lld: must be a multiple of 16; the nearest are %lld and "
                            "%lld",
                            i ? "width" : "height", (long long)size[i],
                            (long long)(size[i] / 16 * 16), (long long)(size[i] / 16 * 16 + 16));
        }
    }
    return CVX_OK;
}

int64_t cvx_request_previews(const cvx_request *r)
{
    return r->preview_dir == NULL ? 0 : r->previews > 0 ? r->previews : 8;
}

int64_t cvx_request_videos(const cvx_request *r)
{
    return r->best_of > 1 ? r->best_of : r->num_videos_per_prompt;
}

json_t *cvx_request_json(const cvx_request *r)
{
    json_t *obj = cvx_opts_json(cvx_request_opts, r);

    if (r->prompt.n == 1) {
        json_object_set_new(obj, "prompt", json_string(r->prompt.item[0]));
    }
    return obj;
}

static cvx_status set_text(cvx_request *r, const char *key, const char *text, const char *what)
{
    cvx_status st = cvx_opts_set(cvx_request_opts, r, key, text);
    return st == CVX_OK ? st : cvx_fail_prefix(CVX_EFORMAT, "%.200s", what);
}

/* One JSON value through the option's own text parser, so that its checks hold here too. */
static cvx_status set_json(cvx_request *r, const char *key, const json_t *v, const char *what)
{
    char text[64];

    if (json_is_string(v)) {
        return set_text(r, key, json_string_value(v), what);
    }
    const cvx_opt *o = cvx_opts_find(cvx_request_opts, key);
    if (o != NULL && (o->type == CVX_OPT_STR || o->type == CVX_OPT_CHOICE ||
                      o->type == CVX_OPT_LIST)) { /* kept by address: text below would be gone */
        return cvx_fail(CVX_EFORMAT, "%s: \"%s\" must be a string", what, key);
    }
    if (json_is_integer(v)) {
        snprintf(text, sizeof text, "%lld", (long long)json_integer_value(v));
    } else if (json_is_real(v)) {
        snprintf(text, sizeof text, "%.17g", json_real_value(v));
    } else if (json_is_boolean(v)) {
        snprintf(text, sizeof text, "%s", json_is_true(v) ? "true" : "false");
    } else {
        return cvx_fail(CVX_EFORMAT, "%s: \"%s\" must be a string, a number or true/false", what,
                        key);
    }
    return set_text(r, key, text, what);
}

cvx_status cvx_request_from_json(cvx_request *r, const json_t *obj, const char *what)
{
    const char *key;
    json_t *v;

    json_object_foreach((json_t *)obj, key, v)
    {
        if (json_is_null(v)) {
            continue;
        }
        const cvx_opt *o = cvx_opts_find(cvx_request_opts, key);
        if (!json_is_array(v) || o == NULL || o->type != CVX_OPT_LIST) {
            CVX_RETURN_IF(set_json(r, key, v, what));
            continue;
        }
        size_t i;
        json_t *item;
        json_array_foreach(v, i, item)
        {
            CVX_RETURN_IF(set_json(r, key, item, what));
        }
    }
    return CVX_OK;
}
