/* The op table: what a backend must be able to do, and the contract of each op.
 *
 * Model code calls cvx_op_<name>(ctx, &(cvx_<name>_args){...}). The wrapper checks the shapes once
 * (a mismatch is CVX_EINTERNAL: model code is wrong), returns without computing when ctx->measure is
 * set, counts floating-point operations and time, and dispatches to the context's backend.
 *
 * Rules for every op and backend:
 * - activations are f32; the normed rows, projections, attention outputs and hidden layers of a transformer may
 *   also be of the dtype that cvx_activations() names (y of layer_norm, x and y of linear, x of qk_norm_rope,
 *   q, k, v, o of attention alike, operands of attention_merge, gated_act and strided_copy alike); weights (linear, conv) may be F32, F16 or BF16, plain or packed;
 *   biases, norm parameters and modulation vectors are f32 and dense.
 * - the innermost dimension of every operand is contiguous (stride 1) unless said otherwise.
 * - one result element never depends on how many rows, heads, channels or threads there are in the
 *   call: the order of additions is fixed by the contraction length alone. This is what makes N
 *   ranks and one rank give the same bits.
 * - ctx->compute == CVX_BF16 permits linear, conv3d and attention to round their operands to bf16
 *   (accumulation stays f32); CVX_F32 demands results of f32 quality.
 * - an output overlaps an input only where the contract says so.
 */
#ifndef CVX_KERNELS_OPS_H
#define CVX_KERNELS_OPS_H

#include "kernels/tensor.h"

typedef struct cvx_ctx cvx_ctx;

typedef enum cvx_act {
    CVX_ACT_NONE = 0,
    CVX_ACT_GELU_TANH, /* torch gelu(approximate="tanh") = gelu_new */
    CVX_ACT_GELU,      /* erf form */
    CVX_ACT_QUICK_GELU,
    CVX_ACT_SILU,
} cvx_act;

/* Rewrites a weight into the backend's own layout. `dst` has src's dims, layout PACKED_LINEAR
 * (src [n, k]), PACKED_CONV or PACKED_CONV_UP2 (src [cout, cin, kt, kh, kw]), and `data` of at least
 * cvx_packed_bytes(). src: plain, F32/F16/BF16, dense but for a row stride of [n, k]. */
typedef struct cvx_pack_args {
    const cvx_tensor *dst, *src;
} cvx_pack_args;

/* y = act(x·wᵀ + b), then, if residual is given, y = residual + gate ⊙ y.
 * x [m, k] and y, residual [m, n] may have a row stride; w [n, k]; b [n] or NULL.
 * gate (optional) [2, n]: rows r with (r % period) < text_rows use gate[0], the others gate[1].
 * residual may be y itself. */
typedef struct cvx_linear_args {
    const cvx_tensor *y, *x, *w, *b;
    cvx_act act;
    const cvx_tensor *residual, *gate;
    int64_t text_rows, period;
} cvx_linear_args;

/* y = layer_norm(x over the last dim)·gamma + beta, then, if given, ·(1 + scale) + shift.
 * x, y [m, c] (y may be x). gamma, beta [c] or NULL. scale, shift [2, c] chosen as in linear. */
typedef struct cvx_layer_norm_args {
    const cvx_tensor *y, *x, *gamma, *beta, *scale, *shift;
    int64_t text_rows, period;
    double eps;
} cvx_layer_norm_args;

/* y = x · rsqrt(mean(x²) + eps) · gamma (T5). x, y [m, c]; y may be x. */
typedef struct cvx_rms_norm_args {
    const cvx_tensor *y, *x, *gamma;
    double eps;
} cvx_rms_norm_args;

/* In place on x [b, s, h, d] (any strides for b, s, h): layer norm over d with gamma, beta [d], then
 * rotary embedding on rows r >= text_rows of each item with row (r - text_rows + rope_row0) of cos, sin
 * [rows, d] (NULL: no rotation): out = x·cos + rot(x)·sin, rot(x)[2i] = -x[2i+1], rot(x)[2i+1] = x[2i]
 * (diffusers apply_rotary_emb, use_real_unbind_dim = -1). */
typedef struct cvx_qk_norm_rope_args {
    const cvx_tensor *x, *gamma, *beta, *cos, *sin;
    int64_t text_rows, rope_row0;
    double eps;
} cvx_qk_norm_rope_args;

/* o = softmax(q·kᵀ·scale + bias)·v per batch item and head; no S x S matrix is ever stored.
 * q, o [b, sq, h, d]; k, v [b, sk, h, d]; any strides but the last, d <= 128. bias [h, sq, sk] or NULL.
 * causal: key j is seen by query i only if j <= i (sq == sk). lse (optional) [b, h, sq]: log of the
 * sum of exp(scores), natural logarithm. The order of summation depends on sk alone.
 * sage: in 8 bits (Zhang et al., SageAttention2, arXiv 2411.10958), which only Hopper's "cuda" has: bf16, d = 64, no bias, not
 * causal; there CVX_EUNSUPPORTED for anything else. ref and cpu compute as without. */
typedef struct cvx_attention_args {
    const cvx_tensor *o, *lse, *q, *k, *v, *bias;
    double scale;
    bool causal, sage;
} cvx_attention_args;

/* Puts together attention over two sets of keys, in place: (o, lse) and (part, part_lse) are outputs of op
 * attention for the same queries; o and lse become those of all keys: with a = exp(lse), b = exp(part_lse)
 * o = (a·o + b·part) / (a + b), lse = log(a + b) (Milakov and Gimelshein, arXiv 1805.02867). o, part
 * [b, s, h, d], lse, part_lse [b, h, s], any strides but the last. Both sides have seen a key: their lse is
 * finite. */
typedef struct cvx_attention_merge_args {
    const cvx_tensor *o, *lse, *part, *part_lse;
} cvx_attention_merge_args;

/* y = act(a) ⊙ b, dense [m, n]; y may be a or b. */
typedef struct cvx_gated_act_args {
    const cvx_tensor *y, *a, *b;
    cvx_act act;
} cvx_gated_act_args;

/* y = a + b. b has a's shape, or is a trailing part of it (broadcast over leading dims). Dense f32;
 * y may be a. */
typedef struct cvx_add_args {
    const cvx_tensor *y, *a, *b;
} cvx_add_args;

/* y[i, :] = table[ids[i], :]. ids: host array of n int32, checked against table.dim[0] (CVX_EINVAL).
 * table [v, c] plain F32/F16/BF16; y [n, c] f32. */
typedef struct cvx_embed_args {
    const cvx_tensor *y, *table;
    const int32_t *ids;
} cvx_embed_args;

/* Latents to patch rows. x [b, f, c, h, w] f32 dense; y [b, rows, k]: row r of the token sequence
 * (frame-major, then row, then column of patches), rows row0 .. row0 + rows.
 * pt == 0 (CogVideoX 1.0, the Conv2d's order): k = c·p·p, column (c, i, j), one frame a token.
 * pt >= 1 (1.5, the Linear's order): k = c·pt·p·p, column (c, t, i, j). f % max(pt,1) == 0, h, w % p == 0. */
typedef struct cvx_patchify_args {
    const cvx_tensor *y, *x;
    int64_t p, pt, row0;
} cvx_patchify_args;

/* The inverse for the output head: x [b, rows, k] -> y [b, f, c, h, w], rows row0 .. row0 + rows.
 * pt == 0: column (c, i, j) of proj_out; pt >= 1: column (c, t, i, j). (CogVideoXTransformer3DModel.forward, step 5.) */
typedef struct cvx_patchify_args cvx_unpatchify_args;

/* Guidance and one scheduler update, elementwise over n dense f32 values:
 *   v = uncond == NULL ? cond : uncond + guidance·(cond - uncond)
 *   x0 = c[0]·sample + c[1]·v                        (written to x0_out if given)
 *   prev = c[2]·sample + c[3]·x0 + c[4]·v + c[5]·old_x0 + c[6]·noise   (absent operands: skipped)
 * in single precision, each product and sum rounded (no fused multiply-add). prev may be sample;
 * x0_out may be old_x0. guidance is a double, rounded to f32. */
typedef struct cvx_sched_step_args {
    const cvx_tensor *prev, *x0_out, *sample, *uncond, *cond, *old_x0, *noise;
    double guidance;
    float c[7];
} cvx_sched_step_args;

/* y = c[0]·x[0] + c[1]·x[1] + ..., n of 1 to 4 terms over dense f32 tensors of one count, each product and sum rounded
 * (no fused multiply-add), in this order. y may be one of x. */
typedef struct cvx_combine_args {
    const cvx_tensor *y, *x[4];
    float c[4];
    int n;
} cvx_combine_args;

/* Valid 3-D convolution over an input that its producer wrote with its borders in place.
 * x [t_in, h_in, w_in, cin] (any strides but the last), w [cout, cin, kt, kh, kw] (plain or packed),
 * b [cout] or NULL, y [t, h, w, cout] (any strides but the last: the inside of a bordered buffer is
 * fine). y[t,h,w] = b + sum x[t+dt, h·stride+dh, w·stride+dw]·w[.., dt, dh, dw]; stride 1 or 2 in
 * space, 1 in time. The frames of x are a ring of t_in >= t + kt - 1: input frame i stands at
 * (x0 + i) % t_in. x may also have the dtype that cvx_conv_input() names for w. up2: x is read as if each pixel stood 2 x 2 times (nearest), the border of one
 * source pixel standing for a border of one output pixel: x [t_in, h/2 + 2, w/2 + 2, cin], kh = kw = 3,
 * kt = 1. residual (optional) like y is added; it may be y itself. Taps are added in a fixed order. */
typedef struct cvx_conv3d_args {
    const cvx_tensor *y, *x, *w, *b, *residual;
    int64_t x0;
    int stride;
    bool up2;
} cvx_conv3d_args;

/* Sums for group norm: x [t, h, w, c] -> sums [t, h, groups, 2] f64 dense: sum and sum of squares of
 * each row of pixels and group of channels. */
typedef struct cvx_group_norm_stats_args {
    const cvx_tensor *sums, *x;
} cvx_group_norm_stats_args;

/* sums [t, h, groups, 2] of every row of the picture, added in the order of (t, h) -> stats [groups, 2] f64:
 * mean and 1 / sqrt(variance + eps) over `count` values a group. */
typedef struct cvx_group_norm_finish_args {
    const cvx_tensor *stats, *sums;
    int64_t count;
    double eps;
} cvx_group_norm_finish_args;

/* y = (x - mean[g])·rstd[g]·gamma + beta; then, if given, y = y·zy[map] + zb[map] (spatial norm);
 * then silu if set. stats [groups, 2] f64: mean, rstd. x, y [t, h, w, c] (y may be x or the inside of a
 * bordered buffer, also of a dtype that cvx_conv_input() named). zy, zb [tz, hz, wz, c]: pixel (t, h, w) reads (tmap[t], (h + h0)·hz/h_full, w·wz/w)
 * (integer division: nearest); tmap: host array of t int64. h0, h_full: first row and height of the whole
 * picture when x is a band of rows. */
typedef struct cvx_group_norm_apply_args {
    const cvx_tensor *y, *x, *stats, *gamma, *beta, *zy, *zb;
    const int64_t *tmap;
    int64_t h0, h_full;
    bool silu;
} cvx_group_norm_apply_args;

/* Mean over pairs of frames: x [t, h, w, c] -> y; odd t: the first frame is copied, then pairs; even
 * t: pairs (CogVideoXDownsample3D's compress_time). */
typedef struct cvx_avg_pool_time_args {
    const cvx_tensor *y, *x;
} cvx_avg_pool_time_args;

/* y = x: both [i, j, k, l] f32 with any strides (also 0 in x): transposes, borders, repeated frames. One of
 * them may be BF16X3 (innermost stride 1 in both then): splits, or puts together again, exactly. */
typedef struct cvx_strided_copy_args {
    const cvx_tensor *y, *x;
} cvx_strided_copy_args;

/* y = x·(1 - i/n) + y·(i/n), i the index and n the length along `axis` (2 or 3): the seam of two tiles
 * (AutoencoderKLCogVideoX.blend_v, blend_h). x, y [i, j, k, l] f32, any strides. */
typedef struct cvx_blend_args {
    const cvx_tensor *y, *x;
    int axis;
} cvx_blend_args;

/* As conv3d with kt = 1 (x holds its borders; t pictures), and what follows a convolution in networks on pictures:
 *   v = conv + b; v = act(v); v = v·scale (0: 1) + residual; y = outer + outer_scale·v, absent operands left out,
 * act(v) = v where v > 0, elsewhere v·slope[channel] (PReLU; leaky ReLU by equal slopes; NULL: none). act_last: act
 * comes after the residual instead. y may also have the dtype that cvx_conv_input() names for a next convolution
 * (then cout is a multiple of 32 and w packed); residual and outer are f32, and either may be y itself.
 * w as PACKED_PICTURE (stride 1, no up2) may be summed by tiles of 4 x 4 pixels: the bits of a pixel then depend on its
 * tile's 6 x 6 pixels of x, so that rows computed by themselves have the bits of the whole only as whole tiles of both. */
typedef struct cvx_conv2d_args {
    const cvx_tensor *y, *x, *w, *b, *slope, *residual, *outer;
    double scale, outer_scale;
    int stride;
    bool up2, act_last;
} cvx_conv2d_args;

/* y = gain·x at other coordinates (+ y if `add`): output pixel i reads source position (i + 0.5)·step - 0.5 on both
 * axes, as torch's interpolate without align_corners and antialias. Bilinear: the position is at least 0 and
 * neighbours end at the border; cubic: a = -0.75, the four indices end at the border. x [h, w, c] and
 * y [.., .., c] f32, any strides but the last. */
typedef struct cvx_resize_args {
    const cvx_tensor *y, *x;
    double step, gain;
    bool cubic, add;
} cvx_resize_args;

/* y[r, c] = x at (c + flow[r, c, 0], r + flow[r, c, 1]), bilinear, positions held within the picture
 * (grid_sample with padding_mode="border", align_corners=True). x, y [h, w, c], flow [h, w, 2] f32, any strides but
 * the last; y is not x. */
typedef struct cvx_warp_args {
    const cvx_tensor *y, *x, *flow;
} cvx_warp_args;

/* y = a·m + b·(1 - m), m = 1 / (1 + exp(-mask)). y, a, b [h, w, c], mask [h, w, 1] f32, any strides but the last; y
 * may be a or b. */
typedef struct cvx_sigmoid_mix_args {
    const cvx_tensor *y, *a, *b, *mask;
} cvx_sigmoid_mix_args;

/* y[r·n + i, c·n + j, k] = x[r, c, (k·n + i)·n + j], plus base[r, c, k] if given (the picture enlarged by
 * repetition). x [h, w, k·n·n], y [h·n, w·n, k], base [h, w, k] f32, any strides but the last. */
typedef struct cvx_pixel_shuffle_args {
    const cvx_tensor *y, *x, *base;
    int64_t n;
} cvx_pixel_shuffle_args;

/* *out (host) = the greatest |x| of x [h, w, c] f32, any strides but the last; in measure mode *out stays. */
typedef struct cvx_abs_max_args {
    const cvx_tensor *x;
    float *out;
} cvx_abs_max_args;

/* y[r] = the sums over j of |a[r, j] - b[r, j]| and of |b[r, j]|. a, b [m, n], y [m, 2], f32, dense. A row's sums do not
 * depend on m. */
typedef struct cvx_row_change_args {
    const cvx_tensor *y, *a, *b;
} cvx_row_change_args;

typedef struct cvx_ops {
    const char *name;                    /* "ref", "cpu-avx512", "cuda" */
    const struct cvx_memory_ops *memory; /* NULL: operands lie in host memory (kernels/memory.h) */
#define CVX_OP(op) cvx_status (*op)(cvx_ctx * ctx, const cvx_##op##_args *a);
#include "kernels/ops.def"
#undef CVX_OP
    /* Bytes `pack` needs for this weight; never fails. */
    size_t (*packed_bytes)(const cvx_ctx *ctx, const cvx_tensor *src, cvx_layout layout);
    /* The dtype of x that conv3d reads fastest with this (packed) weight: F32, BF16X3 or, with
     * ctx->compute == CVX_BF16, BF16. NULL: F32. */
    cvx_dtype (*conv_input)(const cvx_ctx *ctx, const cvx_tensor *w);
    /* The dtype of activations between ops that saves memory and time without costing more than the products'
     * operands are rounded anyway: F32 or, with ctx->compute == CVX_BF16, BF16. NULL: F32. */
    cvx_dtype (*activations)(const cvx_ctx *ctx);
} cvx_ops;

#define CVX_OP(op) cvx_status cvx_op_##op(cvx_ctx *ctx, const cvx_##op##_args *a) CVX_CHECK;
#include "kernels/ops.def"
#undef CVX_OP

enum {
#define CVX_OP(op) CVX_OP_ID_##op,
#include "kernels/ops.def"
#undef CVX_OP
    CVX_OP_COUNT
};
extern const char *const cvx_op_names[CVX_OP_COUNT];

size_t cvx_packed_bytes(const cvx_ctx *ctx, const cvx_tensor *src, cvx_layout layout);
cvx_dtype cvx_conv_input(const cvx_ctx *ctx, const cvx_tensor *w);
cvx_dtype cvx_activations(const cvx_ctx *ctx);

typedef struct cvx_op_stat {
    int64_t calls;
    double seconds, flops, bytes; /* bytes: see kernels/moved.h */
} cvx_op_stat;

/* One compute context per process or rank: backend, threads, precision, counters. */
struct cvx_ctx {
    const cvx_ops *ops;
    int threads;             /* OpenMP threads that kernels use */
    int cores;               /* that the process may run on */
    cvx_dtype compute;       /* CVX_F32 or CVX_BF16, see above */
    bool measure;            /* ops return at once: only arenas and counters move */
    bool timed;              /* every op waits for its device, so that stat[].seconds are its own */
    void *backend;           /* the backend's own state (scratch, handles) */
    struct cvx_trace *trace; /* ops write themselves down here (kernels/trace.h), or NULL */
    cvx_op_stat stat[CVX_OP_COUNT];
};

/* backend: NULL or "auto", "ref", "cpu", "cuda". isa: NULL, "auto" or one of CVX_CPU_LEVELS (at most
 * what the machine has, else CVX_EUNSUPPORTED). threads 0: all cores allowed. */
typedef struct cvx_ctx_options {
    const char *backend, *isa;
    int threads;
    cvx_dtype compute;
} cvx_ctx_options;
cvx_status cvx_ctx_open(cvx_ctx **out, const cvx_ctx_options *opt) CVX_CHECK;
void cvx_ctx_close(cvx_ctx *ctx);

/* Whether this build has the backend "cuda" and this machine a device that it can use: "auto" is then "cuda", else
 * "cpu". what[160]: the devices in one line, or what is missing. */
bool cvx_cuda_built(void);
bool cvx_cuda_usable(char what[160]);
/* Whether NVIDIA's cuDNN can be asked for (docs/gpu.md). what[160]: its version, or what is missing. */
bool cvx_cudnn_usable(char what[160]);

/* The tables. ref is complete; cpu's NULL entries are filled from ref at cvx_ctx_open so that a
 * table in use has no hole. */
extern const cvx_ops cvx_ref_ops;
/* The CPU's instruction set levels, lowest first (a machine with one has those before it), in the words of a flag's
 * choices and as a list that ends with NULL. avx512_bf16 differs from avx512 with CVX_BF16 only. */
#define CVX_CPU_LEVELS "portable|avx2|avx512|avx512_bf16|amx"
extern const char *const cvx_cpu_levels[];
/* The CPU table of a level, NULL if this machine cannot. */
const cvx_ops *cvx_cpu_ops(const char *isa);
/* The best level of this machine. */
const char *cvx_cpu_isa(void);

#endif
