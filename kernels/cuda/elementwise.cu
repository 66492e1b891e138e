/* Activations, additions, table rows, patches, copies and the scheduler's update. */
#include <stdlib.h>

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/parts.h"

/* This thread's item. */
static __device__ __forceinline__ int64_t item(void)
{
    return (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
}

template <typename T>
__global__ void __launch_bounds__(CVX_THREADS)
    gate_values(T *y, const T *a, const T *b, int64_t n, int act)
{
    int64_t i = item();
    if (i < n) {
        y[i] = from_float<T>(activate(act, to_float(a[i])) * to_float(b[i]));
    }
}

extern "C" cvx_status cvx_cuda_op_gated_act(cvx_ctx *ctx, const cvx_gated_act_args *a)
{
    cvx_cuda *s = cvx_cuda_of(ctx);
    int64_t n = cvx_numel(a->y);

    if (n > 0) {
        WITH_ACTIVATION(a->y->dtype, T,
                        gate_values<T><<<blocks_for(n), CVX_THREADS, 0, s->stream>>>(
                            (T *)a->y->data, (const T *)a->a->data, (const T *)a->b->data, n,
                            a->act));
    }
    return cvx_cuda_launched(s, "gated_act");
}

static __global__ void __launch_bounds__(CVX_THREADS)
    add_values(float *y, const float *a, const float *b, int64_t n, int64_t nb)
{
    int64_t i = item();
    if (i < n) {
        y[i] = a[i] + b[i % nb];
    }
}

extern "C" cvx_status cvx_cuda_op_add(cvx_ctx *ctx, const cvx_add_args *a)
{
    cvx_cuda *s = cvx_cuda_of(ctx);
    int64_t n = cvx_numel(a->y);

    if (n > 0) {
        add_values<<<blocks_for(n), CVX_THREADS, 0, s->stream>>>((float *)a->y->data,
                                                                 (const float *)a->a->data,
                                                                 (const float *)a->b->data, n,
                                                                 cvx_numel(a->b));
    }
    return cvx_cuda_launched(s, "add");
}

/* --- rows of a table --- */

template <typename T>
__global__ void __launch_bounds__(CVX_THREADS)
    table_rows(float *y, const T *table, const int32_t *ids, int64_t n, int64_t c, int64_t ldy,
               int64_t ldt)
{
    int64_t i = item();
    if (i < n * c) {
        y[i / c * ldy + i % c] = to_float(table[ids[i / c] * ldt + i % c]);
    }
}

/* The rows of a table that stayed in host memory (the checkpoint's map) are widened there. */
static cvx_status embed_from_host(cvx_cuda *s, const cvx_embed_args *a)
{
    int64_t n = a->y->dim[0], c = a->y->dim[1];
    size_t row = (size_t)c * sizeof(float);
    float *f = (float *)malloc((size_t)n * row + 1);
    cvx_status st = CVX_OK;

    if (f == NULL) {
        return cvx_fail(CVX_ENOMEM, "embed: no memory for %lld rows", (long long)n);
    }
    for (int64_t i = 0; i < n; i++) {
        const char *from =
            (const char *)a->table->data +
            a->ids[i] * a->table->stride[0] * (int64_t)cvx_dtype_size(a->table->dtype);
        cvx_to_f32(f + i * c, from, a->table->dtype, c);
    }
    if (a->y->stride[0] == c) {
        st = cvx_cuda_to_device(s, s->stream, a->y->data, f, (size_t)n * row);
    } else {
        for (int64_t i = 0; i < n && st == CVX_OK; i++) {
            st = cvx_cuda_to_device(s, s->stream, (float *)a->y->data + i * a->y->stride[0],
                                    f + i * c, row);
        }
    }
    free(f);
    return st != CVX_OK ? st : cvx_cuda_launched(s, "embed");
}

extern "C" cvx_status cvx_cuda_op_embed(cvx_ctx *ctx, const cvx_embed_args *a)
{
    cvx_cuda *s = cvx_cuda_of(ctx);
    int64_t n = a->y->dim[0], c = a->y->dim[1];
    void *ids = NULL;

    if (n == 0 || c == 0) {
        return CVX_OK;
    }
    if (!cvx_cuda_owns(a->table->data)) {
        return embed_from_host(s, a);
    }
    CVX_RETURN_IF(cvx_cuda_scratch(s, 0, &ids, (size_t)n * sizeof(int32_t)));
    CVX_RETURN_IF(cvx_cuda_to_device(s, s->stream, ids, a->ids, (size_t)n * sizeof(int32_t)));
    WITH_TYPE(a->table->dtype, T,
              table_rows<T><<<blocks_for(n * c), CVX_THREADS, 0, s->stream>>>(
                  (float *)a->y->data, (const T *)a->table->data, (const int32_t *)ids, n, c,
                  a->y->stride[0], a->table->stride[0]));
    return cvx_cuda_launched(s, "embed");
}

/* --- patches --- */

typedef struct patch_args {
    void *rows;
    float *latents;
    int64_t total, n, k, ldb, ldr, item, row0, c, h, w, p, pt;
} patch_args;

/* One value: column q = (ch, t, i, j) of row r of item b, and its place in the latents [f, c, h, w]. */
template <typename T, bool GATHER>
__global__ void __launch_bounds__(CVX_THREADS) move_patches(patch_args a)
{
    int64_t at = item();
    if (at >= a.total) {
        return;
    }
    int64_t q = at % a.k, row = at / a.k % a.n, b = at / a.k / a.n, r = a.row0 + row;
    int64_t j = q % a.p, i = q / a.p % a.p, t = q / (a.p * a.p) % a.pt, ch = q / (a.p * a.p * a.pt);
    int64_t gw = a.w / a.p, gh = a.h / a.p;
    int64_t x = r % gw * a.p + j, y = r / gw % gh * a.p + i, f = r / (gw * gh) * a.pt + t;
    T *in_row = (T *)a.rows + b * a.ldb + row * a.ldr + q;
    float *in_latents = a.latents + b * a.item + ((f * a.c + ch) * a.h + y) * a.w + x;

    if (GATHER) {
        *in_row = from_float<T>(*in_latents);
    } else {
        *in_latents = to_float(*in_row);
    }
}

static cvx_status run_patches(cvx_ctx *ctx, const cvx_patchify_args *a, const cvx_tensor *rows,
                              const cvx_tensor *x, bool gather)
{
    cvx_cuda *s = cvx_cuda_of(ctx);
    patch_args p = {};

    p.rows = rows->data;
    p.latents = (float *)x->data;
    p.total = cvx_numel(rows);
    p.n = rows->dim[1];
    p.k = rows->dim[2];
    p.ldb = rows->stride[0];
    p.ldr = rows->stride[1];
    p.item = x->dim[1] * x->dim[2] * x->dim[3] * x->dim[4];
    p.row0 = a->row0;
    p.c = x->dim[2];
    p.h = x->dim[3];
    p.w = x->dim[4];
    p.p = a->p;
    p.pt = a->pt > 0 ? a->pt : 1;
    if (p.total == 0) {
        return CVX_OK;
    }
    unsigned blocks = blocks_for(p.total);
    if (gather) {
        WITH_ACTIVATION(rows->dtype, T,
                        move_patches<T, true><<<blocks, CVX_THREADS, 0, s->stream>>>(p));
    } else {
        WITH_ACTIVATION(rows->dtype, T,
                        move_patches<T, false><<<blocks, CVX_THREADS, 0, s->stream>>>(p));
    }
    return cvx_cuda_launched(s, gather ? "patchify" : "unpatchify");
}

extern "C" cvx_status cvx_cuda_op_patchify(cvx_ctx *ctx, const cvx_patchify_args *a)
{
    return run_patches(ctx, a, a->y, a->x, true);
}

extern "C" cvx_status cvx_cuda_op_unpatchify(cvx_ctx *ctx, const cvx_unpatchify_args *a)
{
    return run_patches(ctx, a, a->x, a->y, false);
}

/* --- the scheduler's update: every product and sum rounded, as ref has it --- */

typedef struct sched_args {
    float *prev, *x0_out;
    const float *sample, *uncond, *cond, *old_x0, *noise;
    float guidance, c[7];
    int64_t n;
} sched_args;

static __device__ __forceinline__ float plus_product(float sum, float a, float b)
{
    return __fadd_rn(sum, __fmul_rn(a, b));
}

static __global__ void __launch_bounds__(CVX_THREADS) sched_values(sched_args a)
{
    int64_t i = item();
    if (i >= a.n) {
        return;
    }
    float s = a.sample[i], v = a.cond[i];
    if (a.uncond != NULL) {
        v = plus_product(a.uncond[i], a.guidance, __fadd_rn(v, -a.uncond[i]));
    }
    float x0 = plus_product(__fmul_rn(a.c[0], s), a.c[1], v);
    float p = plus_product(plus_product(__fmul_rn(a.c[2], s), a.c[3], x0), a.c[4], v);
    p = a.old_x0 != NULL ? plus_product(p, a.c[5], a.old_x0[i]) : p;
    p = a.noise != NULL ? plus_product(p, a.c[6], a.noise[i]) : p;
    if (a.x0_out != NULL) {
        a.x0_out[i] = x0;
    }
    a.prev[i] = p;
}

static float *values(const cvx_tensor *t)
{
    return t != NULL ? (float *)t->data : NULL;
}

extern "C" cvx_status cvx_cuda_op_sched_step(cvx_ctx *ctx, const cvx_sched_step_args *a)
{
    cvx_cuda *s = cvx_cuda_of(ctx);
    sched_args k = {};

    k.prev = values(a->prev);
    k.x0_out = values(a->x0_out);
    k.sample = values(a->sample);
    k.uncond = values(a->uncond);
    k.cond = values(a->cond);
    k.old_x0 = values(a->old_x0);
    k.noise = values(a->noise);
    k.guidance = (float)a->guidance;
    for (int i = 0; i < 7; i++) {
        k.c[i] = a->c[i];
    }
    k.n = cvx_numel(a->prev);
    if (k.n > 0) {
        sched_values<<<blocks_for(k.n), CVX_THREADS, 0, s->stream>>>(k);
    }
    return cvx_cuda_launched(s, "sched_step");
}

/* --- copies and blends of four dimensions with any strides --- */

typedef struct copy_args {
    char *y;
    const char *x;
    int64_t n, dim[4], xs[4], ys[4];
} copy_args;

/* E: what is moved at once, I: an index that holds n. */
template <typename E, typename I>
__global__ void __launch_bounds__(CVX_THREADS) copy_elements(copy_args a)
{
    int64_t at = item();
    if (at >= a.n) {
        return;
    }
    I rest = (I)at, d3 = (I)a.dim[3], d2 = (I)a.dim[2], d1 = (I)a.dim[1];
    I l = rest % d3, k = rest / d3 % d2, j = rest / d3 / d2 % d1, i = rest / d3 / d2 / d1;
    ((E *)a.y)[i * a.ys[0] + j * a.ys[1] + k * a.ys[2] + l * a.ys[3]] =
        ((const E *)a.x)[i * a.xs[0] + j * a.xs[1] + k * a.xs[2] + l * a.xs[3]];
}

static void swap(int64_t *a, int64_t *b)
{
    int64_t t = *a;
    *a = *b;
    *b = t;
}

/* Puts the dimensions in the order of y's strides, dimensions of one first, so that neighbouring threads write
 * neighbours. */
static void sort_dims(copy_args *a)
{
    for (int i = 0; i < 3; i++) {
        for (int j = 3; j > i; j--) {
            int64_t before = a->dim[j - 1] == 1 ? INT64_MAX : a->ys[j - 1];
            int64_t after = a->dim[j] == 1 ? INT64_MAX : a->ys[j];
            if (before < after) {
                swap(&a->dim[j], &a->dim[j - 1]);
                swap(&a->xs[j], &a->xs[j - 1]);
                swap(&a->ys[j], &a->ys[j - 1]);
            }
        }
    }
}

/* Whether V neighbours can be moved as one element of V · size bytes; then the dims and strides are those. */
static bool widen(copy_args *a, int64_t v, size_t size)
{
    bool ok = a->xs[3] == 1 && a->ys[3] == 1 && a->dim[3] % v == 0 &&
              aligned_to(a->x, (size_t)v * size) && aligned_to(a->y, (size_t)v * size);

    for (int i = 0; i < 3; i++) {
        ok = ok && (a->dim[i] == 1 || (a->xs[i] % v == 0 && a->ys[i] % v == 0));
    }
    if (ok) {
        a->dim[3] /= v;
        a->n /= v;
        for (int i = 0; i < 3; i++) {
            a->xs[i] /= v;
            a->ys[i] /= v;
        }
    }
    return ok;
}

template <typename E> static void launch_copy(cvx_cuda *s, const copy_args *a)
{
    if (a->n < (int64_t)1 << 31) {
        copy_elements<E, uint32_t><<<blocks_for(a->n), CVX_THREADS, 0, s->stream>>>(*a);
    } else {
        copy_elements<E, int64_t><<<blocks_for(a->n), CVX_THREADS, 0, s->stream>>>(*a);
    }
}

extern "C" cvx_status cvx_cuda_op_strided_copy(cvx_ctx *ctx, const cvx_strided_copy_args *a)
{
    cvx_cuda *s = cvx_cuda_of(ctx);
    size_t size = cvx_dtype_size(a->y->dtype);
    copy_args c = {};

    if (a->x->dtype != a->y->dtype || a->y->dtype == CVX_BF16X3) {
        return cvx_fail(CVX_EUNSUPPORTED, "strided_copy from %s to %s: not on a GPU",
                        cvx_dtype_name(a->x->dtype), cvx_dtype_name(a->y->dtype));
    }
    c.y = (char *)a->y->data;
    c.x = (const char *)a->x->data;
    c.n = cvx_numel(a->y);
    for (int i = 0; i < 4; i++) {
        c.dim[i] = a->y->dim[i];
        c.xs[i] = a->x->stride[i];
        c.ys[i] = a->y->stride[i];
    }
    if (c.n == 0) {
        return CVX_OK;
    }
    sort_dims(&c);
    if (widen(&c, (int64_t)(16 / size), size)) {
        launch_copy<uint4>(s, &c);
    } else if (size == 4) {
        launch_copy<uint32_t>(s, &c);
    } else {
        launch_copy<uint16_t>(s, &c);
    }
    return cvx_cuda_launched(s, "strided_copy");
}

/* Rows of dim[3] E; the other strides are in bytes. */
template <typename E> __global__ void __launch_bounds__(CVX_THREADS) zero_rows(copy_args a)
{
    int64_t at = item();
    if (at < a.n) {
        int64_t l = at % a.dim[3], k = at / a.dim[3] % a.dim[2];
        int64_t j = at / a.dim[3] / a.dim[2] % a.dim[1], i = at / a.dim[3] / a.dim[2] / a.dim[1];
        *(E *)(a.y + i * a.ys[0] + j * a.ys[1] + k * a.ys[2] + l * (int64_t)sizeof(E)) = 0;
    }
}

extern "C" cvx_status cvx_cuda_zero_strided(cvx_cuda *s, const cvx_tensor *t)
{
    int64_t size = (int64_t)cvx_dtype_size(t->dtype), row = t->dim[t->ndim - 1] * size;
    bool words = row % 4 == 0 && aligned_to(t->data, 4);
    copy_args c = {};

    if (t->ndim > 4) {
        return cvx_fail(CVX_EUNSUPPORTED,
                        "zeros in a tensor of %d dims with gaps: at most 4 on a GPU", t->ndim);
    }
    for (int i = 0; i < 4; i++) {
        int d = i - (4 - t->ndim);
        c.dim[i] = d >= 0 ? t->dim[d] : 1;
        c.ys[i] = d >= 0 ? t->stride[d] * size : 0;
        words = words && (i == 3 || c.ys[i] % 4 == 0);
    }
    c.y = (char *)t->data;
    c.dim[3] = words ? row / 4 : row;
    c.n = c.dim[0] * c.dim[1] * c.dim[2] * c.dim[3];
    if (c.n > 0 && words) {
        zero_rows<uint32_t><<<blocks_for(c.n), CVX_THREADS, 0, s->stream>>>(c);
    } else if (c.n > 0) {
        zero_rows<uint8_t><<<blocks_for(c.n), CVX_THREADS, 0, s->stream>>>(c);
    }
    return cvx_cuda_launched(s, "zeros");
}

static __global__ void __launch_bounds__(CVX_THREADS) blend_values(copy_args a, int axis)
{
    int64_t at = item();
    if (at >= a.n) {
        return;
    }
    int64_t l = at % a.dim[3], k = at / a.dim[3] % a.dim[2];
    int64_t j = at / a.dim[3] / a.dim[2] % a.dim[1], i = at / a.dim[3] / a.dim[2] / a.dim[1];
    double f = (double)(axis == 2 ? k : l) / (double)a.dim[axis];
    float x = ((const float *)a.x)[i * a.xs[0] + j * a.xs[1] + k * a.xs[2] + l * a.xs[3]];
    float *y = (float *)a.y + i * a.ys[0] + j * a.ys[1] + k * a.ys[2] + l * a.ys[3];

    *y = __fadd_rn(__fmul_rn(x, (float)(1 - f)), __fmul_rn(*y, (float)f));
}

extern "C" cvx_status cvx_cuda_op_blend(cvx_ctx *ctx, const cvx_blend_args *a)
{
    cvx_cuda *s = cvx_cuda_of(ctx);
    copy_args c = {};

    c.y = (char *)a->y->data;
    c.x = (const char *)a->x->data;
    c.n = cvx_numel(a->y);
    for (int i = 0; i < 4; i++) {
        c.dim[i] = a->y->dim[i];
        c.xs[i] = a->x->stride[i];
        c.ys[i] = a->y->stride[i];
    }
    if (c.n > 0) {
        blend_values<<<blocks_for(c.n), CVX_THREADS, 0, s->stream>>>(c, a->axis);
    }
    return cvx_cuda_launched(s, "blend");
}

/* y [t, h, w, c] of a.dim; frames 2t - odd and the next of x, the first frame of an odd number alone. */
static __global__ void __launch_bounds__(CVX_THREADS) pool_frames(copy_args a, int64_t odd)
{
    int64_t at = item();
    if (at >= a.n) {
        return;
    }
    int64_t c = at % a.dim[3], w = at / a.dim[3] % a.dim[2];
    int64_t h = at / a.dim[3] / a.dim[2] % a.dim[1], t = at / a.dim[3] / a.dim[2] / a.dim[1];
    int64_t from = 2 * t - odd, place = h * a.xs[1] + w * a.xs[2] + c;
    const float *x = (const float *)a.x;
    float u = x[(from < 0 ? 0 : from) * a.xs[0] + place];
    float v = x[(from < 0 ? 0 : from + 1) * a.xs[0] + place];

    ((float *)a.y)[t * a.ys[0] + h * a.ys[1] + w * a.ys[2] + c] =
        (float)(0.5 * ((double)u + (double)v));
}

extern "C" cvx_status cvx_cuda_op_avg_pool_time(cvx_ctx *ctx, const cvx_avg_pool_time_args *a)
{
    cvx_cuda *s = cvx_cuda_of(ctx);
    copy_args c = {};

    c.y = (char *)a->y->data;
    c.x = (const char *)a->x->data;
    c.n = cvx_numel(a->y);
    for (int i = 0; i < 4; i++) {
        c.dim[i] = a->y->dim[i];
        c.xs[i] = a->x->stride[i];
        c.ys[i] = a->y->stride[i];
    }
    if (c.n > 0) {
        pool_frames<<<blocks_for(c.n), CVX_THREADS, 0, s->stream>>>(c, a->x->dim[0] % 2);
    }
    return cvx_cuda_launched(s, "avg_pool_time");
}
