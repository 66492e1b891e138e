/* What the goldens of RIFE and Real-ESRGAN share: a network opened from a folder, pictures in and out. */
#ifndef CVX_TESTS_STAGES_GOLDEN_H
#define CVX_TESTS_STAGES_GOLDEN_H

#include <string.h>

#include "golden.h"
#include "model/pictures.h"

/* A context and memory for one network. */
typedef struct bench_top {
    cvx_ctx *ctx;
    cvx_weights *weights;
    cvx_arena arena, step;
    cvx_load load;
} bench_top;

static inline void bench_open(bench_top *b, const char *backend, const char *isa, const char *dir)
{
    *b = (bench_top){0};
    OK(cvx_ctx_open(&b->ctx, &(cvx_ctx_options){.backend = backend, .isa = isa, .threads = 2}));
    OK(cvx_weights_open(&b->weights, dir));
    OK(cvx_arena_open(&b->arena, "weights", (size_t)1 << 30));
    OK(cvx_arena_open(&b->step, "step", (size_t)8 << 30));
    b->load = (cvx_load){.ctx = b->ctx, .arena = &b->arena, .weights = b->weights, .pack = true};
}

static inline void bench_close(bench_top *b)
{
    assert_int_equal(b->step.used, 0);
    cvx_weights_close(b->weights);
    cvx_arena_close(&b->arena);
    cvx_arena_close(&b->step);
    cvx_ctx_close(b->ctx);
}

/* Picture n of the golden [N, 3, h, w] (bytes: divided by 255) as host array [ph, pw, c], zeros right and below; caller
 * frees. */
static inline float *picture_of(const cvx_tensor *g, cvx_dtype stored, int64_t n, int64_t ph,
                                int64_t pw, int64_t c)
{
    int64_t h = g->dim[2], w = g->dim[3];
    const float *from = (const float *)g->data + n * 3 * h * w;
    float *out = calloc((size_t)(ph * pw * c), sizeof *out);

    for (int64_t k = 0; k < 3; k++) {
        for (int64_t i = 0; i < h * w; i++) {
            float v = from[k * h * w + i];
            out[(i / w * pw + i % w) * c + k] = stored == CVX_U8 ? v / 255.0f : v;
        }
    }
    return out;
}

/* Greatest difference of every `every`-th row and column of a picture [.., pw, c] from number n of the golden [N, 3, h, w]. */
static inline double picture_error(const float *y, int64_t pw, int64_t c, const cvx_tensor *g,
                                   int64_t n, int64_t every)
{
    int64_t h = g->dim[2], w = g->dim[3];
    const float *want = (const float *)g->data + n * 3 * h * w;
    double most = 0;

    for (int64_t k = 0; k < 3; k++) {
        for (int64_t i = 0; i < h * w; i++) {
            float v = y[(i / w * every * pw + i % w * every) * c + k];
            double d = fabs((double)v - (double)want[k * h * w + i]);
            most = d == d ? fmax(most, d) : INFINITY;
        }
    }
    return most;
}

static inline cvx_dtype stored_as(cvx_weights *w, const char *name)
{
    return cvx_weights_at(w, cvx_weights_find(w, name)).dtype;
}

#endif
