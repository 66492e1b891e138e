/* A video on its way out: frames gathered from the decoder, then written as the output's extension says. */
#ifndef CVX_MODEL_PIPELINE_OUTPUT_H
#define CVX_MODEL_PIPELINE_OUTPUT_H

#include "base/progress.h"
#include "kernels/tensor.h"

typedef struct cvx_output {
    int64_t n, h, w;
    uint8_t *rgb;  /* [n, h, w, 3] as diffusers rounds: rint(255·clamp(x/2 + 1/2, 0, 1)) */
    float *planes; /* [n, 3, h, w] in 0..1, only when asked for (safetensors output) */
} cvx_output;

/* Buffers for n frames; keep_float also keeps f32 planes. */
cvx_status cvx_output_open(cvx_output *o, int64_t n, int64_t h, int64_t w,
                           bool keep_float) CVX_CHECK;
void cvx_output_close(cvx_output *o);

/* The pipeline's frames hook (payload: cvx_output). */
cvx_status cvx_output_frames(void *payload, const float *rgb, int64_t first, int64_t n, int64_t h,
                             int64_t w) CVX_CHECK;

/* Whether the path's extension asks for f32 frames (.safetensors). */
bool cvx_output_is_tensor(const char *path);

/* Before the work: CVX_EIO unless the folder that `path` lies in (or that it is) is there and takes a file of that name. */
cvx_status cvx_output_check_place(const char *path) CVX_CHECK;

/* Refuses names, sizes and rates that write would refuse, and places that cannot be written, before the work. */
cvx_status cvx_output_check(const char *path, int64_t w, int64_t h, double fps) CVX_CHECK;

/* Writes the frames; latents [F, C, h, w] f32 go into a .safetensors output as [1, F, C, h, w]. */
cvx_status cvx_output_write(const cvx_output *o, const char *path, double fps, const char *title,
                            const cvx_tensor *latents, cvx_progress *progress) CVX_CHECK;

/* "PATH" with "-k" before its extension (or before a final '/'), into out[CVX_PATH_MAX]. */
cvx_status cvx_output_numbered(char *out, const char *path, int64_t k) CVX_CHECK;

#endif
