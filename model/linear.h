/* A linear layer's parameters as the models hold them. */
#ifndef CVX_MODEL_LINEAR_H
#define CVX_MODEL_LINEAR_H

#include "kernels/ops.h"
#include "model/weights.h"
#include "parallel/gather.h"
#include "parallel/mesh.h"

typedef struct cvx_linear {
    cvx_tensor w, b; /* w [n, k]; b [n], data NULL when there is none */
} cvx_linear;

/* What a model is opened with. */
typedef struct cvx_load {
    cvx_ctx *ctx;
    cvx_arena *arena; /* weights lifetime: packed weights, widened biases and norms */
    cvx_weights *weights;
    bool pack; /* keep linear weights packed (faster, more memory) rather than in the map */
    bool fp8;  /* pack them as 8-bit floats with a scale a row, where the backend can */
    const cvx_mesh *mesh;  /* the ranks that share the model's work; borrowed */
    cvx_exchange exchange; /* of attention over the sequence */
    bool sage;             /* that attention in 8 bits */
} cvx_load;

/* "NAME.weight" [n, k] and, if `bias`, "NAME.bias" [n]. */
cvx_status cvx_linear_load(const cvx_load *l, cvx_linear *out, const char *name, int64_t n,
                           int64_t k, bool bias) CVX_CHECK;
/* A part of the same, whose weight is [n, k]: rows and columns of the weight, those rows of the bias. Nothing
 * else of the weight is kept: rows stay in the map (or are packed), columns are copied or packed, and
 * a part with changes (LoRA) is computed. A part may be empty; its weight then has no data. */
cvx_status cvx_linear_load_part(const cvx_load *l, cvx_linear *out, const char *name, int64_t n,
                                int64_t k, bool bias, const cvx_weights_part *part) CVX_CHECK;
/* Packs a plain, dense weight of the map if l->pack, else leaves the view as it is. */
cvx_status cvx_linear_pack(const cvx_load *l, cvx_tensor *w) CVX_CHECK;

/* "NAME.SUFFIX" [n] widened to f32. */
cvx_status cvx_vector_load(const cvx_load *l, cvx_tensor *out, const char *name, const char *suffix,
                           int64_t n) CVX_CHECK;

/* y = act(x·wᵀ + b); x, y [.., k] and [.., n] seen as 2-D. */
cvx_status cvx_linear_run(cvx_ctx *ctx, const cvx_linear *l, const cvx_tensor *y,
                          const cvx_tensor *x, cvx_act act) CVX_CHECK;

#endif
