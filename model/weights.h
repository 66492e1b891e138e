/* Checkpoints on disk: one safetensors file, or shards with an index, mapped read-only and never
 * copied whole. Layout as in diffusers: DIR/{transformer,vae,text_encoder}/...safetensors. */
#ifndef CVX_MODEL_WEIGHTS_H
#define CVX_MODEL_WEIGHTS_H

#include "kernels/tensor.h"

typedef struct cvx_weights cvx_weights;

/* Opens "FILE.safetensors", or a folder holding diffusion_pytorch_model.safetensors /
 * model.safetensors, or one of these names with ".index.json" and its shards (also with a variant
 * infix like ".fp16" when it is the only one there). Every header is checked in full before the call
 * returns: sizes against the file, offsets in order and without overlap or gap, dims against bytes,
 * duplicate names, shards named by the index that are missing or lack a tensor.
 * Errors: CVX_EIO, CVX_EFORMAT naming file, tensor, value and what would be right. */
cvx_status cvx_weights_open(cvx_weights **out, const char *path) CVX_CHECK;
/* Accepts NULL. Invalidates every tensor it gave. */
void cvx_weights_close(cvx_weights *w);

/* Number of tensors, and tensor i in name order (a borrowed view of the map; name of any length). */
int64_t cvx_weights_count(const cvx_weights *w);
const char *cvx_weights_name(const cvx_weights *w, int64_t i);
cvx_tensor cvx_weights_at(const cvx_weights *w, int64_t i);
/* Its dtype by name: "bf16", also "i8", "bool", "f8_e4m3" and others that cvx_dtype lacks. Those can only be
 * listed: cvx_weights_at gives their first bytes as U8, get refuses them. */
const char *cvx_weights_dtype(const cvx_weights *w, int64_t i);
/* The file that holds tensor i (borrowed). */
const char *cvx_weights_file(const cvx_weights *w, int64_t i);
/* Index of a name, -1 if absent. */
int64_t cvx_weights_find(const cvx_weights *w, const char *name);
bool cvx_weights_has(const cvx_weights *w, const char *name);

/* The tensor `name` with exactly these dims and a float dtype (F32, F16, BF16); a dim of -1 accepts
 * any. Absent: CVX_EFORMAT naming file and tensor; other dims or dtype: CVX_EFORMAT naming both
 * shapes. The view is dense, borrowed from the map (an unaligned tensor: a copy). */
cvx_status cvx_weights_get(cvx_weights *w, cvx_tensor *out, const char *name, int ndim,
                           const int64_t *dim) CVX_CHECK;
#define CVX_WEIGHT(w, out, name, ...)                                                              \
    cvx_weights_get((w), (out), (name), CVX_NDIM(__VA_ARGS__), CVX_DIMS(__VA_ARGS__))

/* As get, any float dtype, widened into a new dense f32 tensor of `arena`: biases, norms, tables. */
cvx_status cvx_weights_get_f32(cvx_weights *w, cvx_arena *arena, cvx_tensor *out, const char *name,
                               int ndim, const int64_t *dim) CVX_CHECK;
#define CVX_WEIGHT_F32(w, arena, out, name, ...)                                                   \
    cvx_weights_get_f32((w), (arena), (out), (name), CVX_NDIM(__VA_ARGS__), CVX_DIMS(__VA_ARGS__))

/* to, dense f32 in `arena` <- the values of `from`, dense, any float dtype. CVX_ENOMEM. */
cvx_status cvx_weights_widen(cvx_arena *arena, const cvx_tensor *to,
                             const cvx_tensor *from) CVX_CHECK;

/* A part of a matrix [rows, columns]: what one rank of a tensor-parallel group holds of it. */
typedef struct cvx_weights_part {
    int64_t row0, rows, col0, cols;
} cvx_weights_part;

/* A change W + scale·up·down of a matrix W [n, k]: how LoRA is merged. up [n, r], down [r, k], float, borrowed. */
typedef struct cvx_weights_change {
    cvx_tensor up, down;
    double scale;
} cvx_weights_change;

/* Adds a change to the 2-D tensor `name` (CVX_EFORMAT where there is none). From now on get refuses it
 * (CVX_EINTERNAL): its values exist only where a part of it is computed. */
cvx_status cvx_weights_add_change(cvx_weights *w, const char *name,
                                  const cvx_weights_change *c) CVX_CHECK;
/* How many changes `name` has. */
int cvx_weights_changes(const cvx_weights *w, const char *name);
/* `other`, whose tensors w's changes borrow, is closed with w. */
cvx_status cvx_weights_keep(cvx_weights *w, cvx_weights *other) CVX_CHECK;

/* A view of the part (rows have a stride) of "name" [n, k], without its changes. Errors as get. */
cvx_status cvx_weights_get_part(cvx_weights *w, cvx_tensor *out, const char *name, int64_t n,
                                int64_t k, const cvx_weights_part *p) CVX_CHECK;
/* out, dense f32 [p->rows, p->cols] <- the part of `name` with all its changes, each summed in double and
 * rounded once, in the order in which they were added: no element depends on how the matrix is cut. */
cvx_status cvx_weights_changed_part(cvx_weights *w, const cvx_tensor *out, const char *name,
                                    int64_t n, int64_t k, const cvx_weights_part *p) CVX_CHECK;

/* Bytes that models read in place: whoever keeps a view of the map rather than a copy adds its size. */
void cvx_weights_count_in_place(cvx_weights *w, const cvx_tensor *t);
int64_t cvx_weights_in_place(const cvx_weights *w);

/* Tells the system that the pages of this tensor are not needed for now (its packed copy is in use): they
 * leave the resident size and are read again when touched. Ignores tensors that are not in the map. */
void cvx_weights_release(const cvx_weights *w, const cvx_tensor *t);

/* A string of the file's __metadata__, NULL if absent (single file; borrowed). */
const char *cvx_weights_meta(const cvx_weights *w, const char *key);

/* SHA-256 over the names, sizes and headers of the files and 1 MiB blocks of their data (first, last
 * and every 64th): tells two checkpoints apart in well under a second; hex[65] is filled. */
cvx_status cvx_weights_hash(const cvx_weights *w, char hex[65]) CVX_CHECK;

/* Total bytes of tensor data. */
int64_t cvx_weights_bytes(const cvx_weights *w);

/* Writes tensors (names from tensor.name or names[i] when names is given) and metadata pairs
 * (key, value, key, value, ...; n_meta pairs) to `path` through a temporary. Strided views are
 * written dense. */
cvx_status cvx_safetensors_write(const char *path, const cvx_tensor *t, const char *const *names,
                                 int n, const char *const *meta, int n_meta) CVX_CHECK;

#endif
