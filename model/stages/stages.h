/* The stages after the frames exist: interpolation, then enlargement, frame by frame. A unit of work is an input
 * frame and what comes before the next one: units need nothing of each other, so they are dealt to ranks, and a
 * unit's bytes do not depend on who made it. */
#ifndef CVX_MODEL_STAGES_STAGES_H
#define CVX_MODEL_STAGES_STAGES_H

#include "base/file.h"
#include "media/video.h"
#include "model/esrgan/esrgan.h"
#include "model/rife/rife.h"

typedef struct cvx_stages_options {
    const char *rife, *esrgan; /* model folders; NULL: without this stage */
    int64_t factor;            /* 2, 4 or 8 frames for one; 0: as many as `fps` needs */
    double fps;                /* with factor 0: frames a second of the output */
    double scale;              /* 0: as the model's config has it */
    int64_t tile,
        overlap; /* of the enlargement in source pixels; 0: without seams, as large as is good */
} cvx_stages_options;

/* What goes in. */
typedef struct cvx_stages_input {
    int64_t w, h;
    cvx_fps fps; /* num 0: unknown, 8 is taken */
} cvx_stages_input;

/* What comes out, and what it takes. */
typedef struct cvx_stages_plan {
    int64_t w, h;
    double fps;
    size_t weights, step;       /* bytes at the highest */
    double flops[CVX_OP_COUNT]; /* of one input frame */
} cvx_stages_plan;

/* The folder of a model that comes with cvx ("rife-v3.9", "realesr-animevideov3"): in $CVX_MODELS, beside the
 * program (../models, ../share/cvx/models) or in ./models. CVX_EIO naming these places. */
cvx_status cvx_stages_find_model(char out[CVX_PATH_MAX], const char *name) CVX_CHECK;

/* A measured walk; the models' files are opened. CVX_EINVAL (factor, rate, scale, size of the result), CVX_ENOMEM if it
 * cannot fit this machine, and what opening the models gives. */
cvx_status cvx_stages_measure(cvx_stages_plan *out, const cvx_ctx *ctx, const cvx_stages_options *o,
                              const cvx_stages_input *in) CVX_CHECK;

typedef struct cvx_stages cvx_stages;

/* ctx is borrowed; it computes in f32. Errors as measure. */
cvx_status cvx_stages_open(cvx_stages **out, cvx_ctx *ctx, const cvx_stages_options *o,
                           const cvx_stages_input *in) CVX_CHECK;
void cvx_stages_close(cvx_stages *s); /* accepts NULL */

const cvx_stages_plan *cvx_stages_plan_of(const cvx_stages *s);
const cvx_stages_input *cvx_stages_input_of(const cvx_stages *s);

/* Output frames of unit i, and the most that any unit has. */
int64_t cvx_stages_unit_frames(const cvx_stages *s, int64_t i);
int64_t cvx_stages_most_frames(const cvx_stages *s);

/* Unit i: out [unit_frames(i), plan.h, plan.w, 3] <- frame a and the one after it, [h, w, 3]; the last frame of a
 * clip has b == a. */
cvx_status cvx_stages_unit(cvx_stages *s, int64_t i, uint8_t *out, const uint8_t *a,
                           const uint8_t *b) CVX_CHECK;

#endif
