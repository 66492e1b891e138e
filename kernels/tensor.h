/* A tensor is a plain view: it never owns its memory and is never a node of a graph.
 * Dimensions stand in PyTorch order (dim[ndim-1] is the innermost); strides count elements.
 * Everything is int64_t: 49 x 480 x 720 x 128 elements overflow a 32-bit int. */
#ifndef CVX_KERNELS_TENSOR_H
#define CVX_KERNELS_TENSOR_H

#include "base/arena.h"
#include "base/status.h"

#define CVX_MAX_DIMS 6

typedef enum cvx_dtype {
    CVX_F32 = 0,
    CVX_F16,
    CVX_BF16,
    CVX_F64,
    CVX_U8,
    CVX_I32,
    CVX_I64,
    CVX_BF16X3, /* f32 as the exact sum of three bf16, greatest first: an innermost row of c, a multiple of
                 * 32, is stored [c / 32][3][32]. What convolutions may read (cvx_conv_input) */
} cvx_dtype;

typedef enum cvx_device { CVX_HOST = 0, CVX_CUDA } cvx_device;

/* PLAIN: strides hold. PACKED: `data` is in a backend's private weight layout made by op `pack`;
 * dim[] still says the logical shape. PACKED_CONV_UP2: for conv3d with up2 set. PACKED_PICTURE: for conv2d with 3 x 3
 * taps and stride 1, see there. PACKED_LINEAR_F8: as PACKED_LINEAR, in 8-bit floats (ops.h, op pack). */
typedef enum cvx_layout {
    CVX_PLAIN = 0,
    CVX_PACKED_LINEAR,
    CVX_PACKED_CONV,
    CVX_PACKED_CONV_UP2,
    CVX_PACKED_LINEAR_F8,
    CVX_PACKED_PICTURE,
} cvx_layout;

typedef struct cvx_tensor {
    void *data; /* borrowed: an arena or the weight map owns it */
    cvx_dtype dtype;
    cvx_device device;
    cvx_layout layout;
    int ndim;
    int64_t dim[CVX_MAX_DIMS];
    int64_t stride[CVX_MAX_DIMS]; /* in elements */
    char name[48];                /* for messages: "blocks.7.attn1.to_q" */
} cvx_tensor;

/* Bytes of one element. */
size_t cvx_dtype_size(cvx_dtype t);
/* "f32", "bf16", ... */
const char *cvx_dtype_name(cvx_dtype t);

/* Number of elements (product of dims; 1 for ndim 0). */
int64_t cvx_numel(const cvx_tensor *t);
/* True if the strides are those of a dense row-major tensor. */
bool cvx_is_dense(const cvx_tensor *t);

/* A dense view of `data`; dims by value, ndim <= CVX_MAX_DIMS. */
cvx_tensor cvx_view(void *data, cvx_dtype dtype, int ndim, const int64_t *dim);
#define CVX_DIMS(...) ((const int64_t[]){__VA_ARGS__})
#define CVX_NDIM(...) ((int)(sizeof((const int64_t[]){__VA_ARGS__}) / sizeof(int64_t)))
/* cvx_tensor t = CVX_VIEW(ptr, CVX_F32, rows, cols); */
#define CVX_VIEW(data, dtype, ...)                                                                 \
    cvx_view((data), (dtype), CVX_NDIM(__VA_ARGS__), CVX_DIMS(__VA_ARGS__))

/* Allocates a dense tensor from an arena. */
cvx_status cvx_tensor_alloc(cvx_arena *a, cvx_tensor *out, cvx_dtype dtype, int ndim,
                            const int64_t *dim) CVX_CHECK;
#define CVX_ALLOC(arena, out, dtype, ...)                                                          \
    cvx_tensor_alloc((arena), (out), (dtype), CVX_NDIM(__VA_ARGS__), CVX_DIMS(__VA_ARGS__))

/* The sub-tensor start <= index < start+len along dimension d (same ndim, same strides). */
cvx_tensor cvx_slice(const cvx_tensor *t, int d, int64_t start, int64_t len);
/* A dense tensor seen with other dims of the same count. */
cvx_tensor cvx_reshape(const cvx_tensor *t, int ndim, const int64_t *dim);
#define CVX_RESHAPE(t, ...) cvx_reshape((t), CVX_NDIM(__VA_ARGS__), CVX_DIMS(__VA_ARGS__))

/* "[2, 226, 1920] bf16" into a caller's buffer (at least 96 bytes); returns buf. */
char *cvx_tensor_describe(const cvx_tensor *t, char *buf, size_t size);

/* IEEE conversions, round to nearest even; NaN stays NaN. */
float cvx_bf16_to_f32(uint16_t v);
uint16_t cvx_f32_to_bf16(float v);
float cvx_f16_to_f32(uint16_t v);
uint16_t cvx_f32_to_f16(float v);

/* Element i (linear index of a dense tensor) as float / converts n dense elements to f32. Host. */
float cvx_get_f32(const cvx_tensor *t, int64_t i);
void cvx_to_f32(float *dst, const void *src, cvx_dtype t, int64_t n);
/* Rounds n floats to `t` (F32, F16 or BF16; BF16X3: splits them exactly). Both take BF16X3 as one row of n. */
void cvx_from_f32(void *dst, cvx_dtype t, const float *src, int64_t n);

#endif
