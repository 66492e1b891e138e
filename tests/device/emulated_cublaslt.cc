/* A stand-in for cuBLASLt: products of rows by plain loops in f32, on the stream. Like the library it proposes algorithms that
 * split k first, and its sums depend on the algorithm; it checks what the library would of layouts, types and
 * addresses. */
#include <cublasLt.h>

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <vector>

#include "tests/device/include/cuda_bf16.h"
#include "tests/device/include/cuda_fp16.h"
#include "tests/device/include/cuda_fp8.h"
#include "tests/device/streams.h"

struct desc {
    cublasOperation_t a, b;
    cublasLtEpilogue_t epilogue;
    const void *bias;
    const float *scale[2];
    cublasLtMatmulMatrixScale_t mode[2];
};
struct layout {
    cudaDataType_t t;
    uint64_t rows, cols;
    int64_t ld;
};

static desc *of(cublasLtMatmulDesc_t d)
{
    return (desc *)d;
}
static const layout *of(cublasLtMatrixLayout_t l)
{
    return (const layout *)l;
}

static float value(const void *p, cudaDataType_t t, int64_t i)
{
    switch (t) {
    case CUDA_R_16BF: return __bfloat162float(((const __nv_bfloat16 *)p)[i]);
    case CUDA_R_16F: return __half2float(((const __half *)p)[i]);
    case CUDA_R_8F_E4M3: return device_e4m3(((const uint8_t *)p)[i]);
    default: return ((const float *)p)[i];
    }
}
static void put(void *p, cudaDataType_t t, int64_t i, float v)
{
    if (t == CUDA_R_16BF) {
        ((__nv_bfloat16 *)p)[i] = __float2bfloat16_rn(v);
    } else if (t == CUDA_R_16F) {
        ((__half *)p)[i] = __float2half_rn(v);
    } else {
        ((float *)p)[i] = v;
    }
}
static int64_t size_of(cudaDataType_t t)
{
    return t == CUDA_R_32F ? 4 : t == CUDA_R_8F_E4M3 ? 1 : 2;
}

static cublasStatus_t must(bool ok, const char *what)
{
    if (!ok) {
        fprintf(stderr, "the stand-in for cuBLASLt refuses: %s\n", what);
    }
    return ok ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE;
}

/* y [n, m] = wᵀ [n, k] · x [k, m], columns first. */
static bool possible(const desc *d, const layout *w, const layout *x, const layout *c,
                     const layout *y)
{
    bool eight = w->t == CUDA_R_8F_E4M3;
    const char *sm = getenv("CVX_EMULATED_SM");

    return d->a == CUBLAS_OP_T && d->b == CUBLAS_OP_N && w->rows == x->rows && w->cols == y->rows &&
           x->cols == y->cols && c->rows == y->rows && c->cols == y->cols && w->t == x->t &&
           w->ld >= (int64_t)w->rows && x->ld >= (int64_t)x->rows && y->ld >= (int64_t)y->rows &&
           (!eight ||
            (sm != nullptr && atoi(sm) == 90 && y->t == CUDA_R_16BF && w->rows % 16 == 0 &&
             d->mode[0] == CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F)) &&
           (y->t == w->t || y->t == CUDA_R_32F || eight);
}

extern "C" {

cublasStatus_t cublasLtCreate(cublasLtHandle_t *out)
{
    *out = (cublasLtHandle_t)calloc(1, 1);
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t h)
{
    free(h);
    return CUBLAS_STATUS_SUCCESS;
}
const char *cublasLtGetStatusString(cublasStatus_t)
{
    return "told by the stand-in";
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *out, cublasComputeType_t compute,
                                        cudaDataType_t scale)
{
    desc *d = (desc *)calloc(1, sizeof *d);
    d->epilogue = CUBLASLT_EPILOGUE_DEFAULT;
    *out = (cublasLtMatmulDesc_t)d;
    return must(compute == CUBLAS_COMPUTE_32F && scale == CUDA_R_32F, "a compute type");
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t d)
{
    free(d);
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t to,
                                              cublasLtMatmulDescAttributes_t what, const void *v,
                                              size_t size)
{
    desc *d = of(to);
    const struct {
        cublasLtMatmulDescAttributes_t what;
        void *to;
        size_t size;
    } all[] = {{CUBLASLT_MATMUL_DESC_TRANSA, &d->a, sizeof d->a},
               {CUBLASLT_MATMUL_DESC_TRANSB, &d->b, sizeof d->b},
               {CUBLASLT_MATMUL_DESC_EPILOGUE, &d->epilogue, sizeof d->epilogue},
               {CUBLASLT_MATMUL_DESC_BIAS_POINTER, &d->bias, sizeof d->bias},
               {CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, &d->scale[0], sizeof d->scale[0]},
               {CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, &d->scale[1], sizeof d->scale[1]},
               {CUBLASLT_MATMUL_DESC_A_SCALE_MODE, &d->mode[0], sizeof d->mode[0]},
               {CUBLASLT_MATMUL_DESC_B_SCALE_MODE, &d->mode[1], sizeof d->mode[1]}};

    for (auto &a : all) {
        if (a.what == what && a.size == size) {
            memcpy(a.to, v, size);
            return CUBLAS_STATUS_SUCCESS;
        }
    }
    return must(false, "an attribute, or its size");
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *out, cudaDataType type,
                                          uint64_t rows, uint64_t cols, int64_t ld)
{
    layout *l = (layout *)calloc(1, sizeof *l);
    *l = {type, rows, cols, ld};
    *out = (cublasLtMatrixLayout_t)l;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t l)
{
    free(l);
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *out)
{
    *out = (cublasLtMatmulPreference_t)calloc(1, 1);
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t p)
{
    free(p);
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t,
                                                    cublasLtMatmulPreferenceAttributes_t,
                                                    const void *, size_t)
{
    return CUBLAS_STATUS_SUCCESS;
}

/* An algorithm is its split of k, and how many products it adds at a time, which grows with m. */
cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t d,
                                              cublasLtMatrixLayout_t w, cublasLtMatrixLayout_t x,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t y,
                                              cublasLtMatmulPreference_t, int most,
                                              cublasLtMatmulHeuristicResult_t out[], int *n)
{
    *n = 0;
    if (!possible(of(d), of(w), of(x), of(c), of(y))) {
        return CUBLAS_STATUS_NOT_SUPPORTED;
    }
    for (int i = 0; i < 2 && i < most; i++) {
        memset(&out[i], 0, sizeof out[i]);
        out[i].algo.data[0] = i == 0 ? 4 : 1;
        out[i].algo.data[1] = of(y)->cols > 1000 ? 32 : 16;
        (*n)++;
    }
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulAlgoConfigGetAttribute(const cublasLtMatmulAlgo_t *a,
                                                    cublasLtMatmulAlgoConfigAttributes_t what,
                                                    void *v, size_t size, size_t *wrote)
{
    uint32_t value =
        what == CUBLASLT_ALGO_CONFIG_SPLITK_NUM ? (uint32_t)a->data[0] : (uint32_t)(a->data[0] > 1);
    memcpy(v, &value, sizeof value);
    *wrote = sizeof value;
    return must(size == sizeof value, "the size of an algorithm's attribute");
}
cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t, cublasLtMatmulDesc_t d,
                                       cublasLtMatrixLayout_t w, cublasLtMatrixLayout_t x,
                                       cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t y,
                                       const cublasLtMatmulAlgo_t *,
                                       cublasLtMatmulHeuristicResult_t *out)
{
    out->workspaceSize = 0;
    return possible(of(d), of(w), of(x), of(c), of(y)) ? CUBLAS_STATUS_SUCCESS
                                                       : CUBLAS_STATUS_NOT_SUPPORTED;
}

} /* extern "C" */

struct product {
    desc d;
    layout w, x, c, y;
    const void *wp, *xp, *cp;
    void *yp;
    float beta;
    int64_t at_once;
};

static void multiply(const product &p)
{
    int64_t k = (int64_t)p.w.rows, n = (int64_t)p.y.rows;
    std::vector<float> w((size_t)(k * n)), x((size_t)k);

    for (int64_t j = 0; j < n; j++) {
        for (int64_t e = 0; e < k; e++) {
            w[(size_t)(j * k + e)] = value(p.wp, p.w.t, j * p.w.ld + e);
        }
    }
    for (int64_t i = 0; i < (int64_t)p.y.cols; i++) {
        for (int64_t e = 0; e < k; e++) {
            x[(size_t)e] = value(p.xp, p.x.t, i * p.x.ld + e);
        }
        for (int64_t j = 0; j < n; j++) {
            float sum = 0;
            for (int64_t e0 = 0; e0 < k; e0 += p.at_once) {
                float part = 0;
                for (int64_t e = e0; e < e0 + p.at_once && e < k; e++) {
                    part += x[(size_t)e] * w[(size_t)(j * k + e)];
                }
                sum += part;
            }
            sum = p.d.scale[0] != nullptr ? sum * p.d.scale[0][j] * p.d.scale[1][i] : sum;
            sum += p.beta != 0 ? p.beta * value(p.cp, p.c.t, i * p.c.ld + j) : 0;
            sum += p.d.bias != nullptr ? value(p.d.bias, p.y.t, j) : 0;
            if (p.d.epilogue == CUBLASLT_EPILOGUE_GELU ||
                p.d.epilogue == CUBLASLT_EPILOGUE_GELU_BIAS) {
                sum = 0.5f * sum *
                      (1 + tanhf(0.79788456080286535588f * (sum + 0.044715f * sum * sum * sum)));
            }
            put(p.yp, p.y.t, i * p.y.ld + j, sum);
        }
    }
}

extern "C" cublasStatus_t
cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t d, const void *alpha, const void *w,
               cublasLtMatrixLayout_t wl, const void *x, cublasLtMatrixLayout_t xl,
               const void *beta, const void *c, cublasLtMatrixLayout_t cl, void *y,
               cublasLtMatrixLayout_t yl, const cublasLtMatmulAlgo_t *algo, void *, size_t,
               cudaStream_t stream)
{
    product p = {*of(d),
                 *of(wl),
                 *of(xl),
                 *of(cl),
                 *of(yl),
                 w,
                 x,
                 c,
                 y,
                 *(const float *)beta,
                 (int64_t)algo->data[1]};
    const struct {
        const void *p;
        const layout *l;
    } all[] = {{w, &p.w}, {x, &p.x}, {c, &p.c}, {y, &p.y}};

    if (!possible(&p.d, &p.w, &p.x, &p.c, &p.y) || *(const float *)alpha != 1) {
        return must(false, "a product of these layouts");
    }
    for (auto &a : all) {
        int64_t bytes = ((int64_t)(a.l->cols - 1) * a.l->ld + (int64_t)a.l->rows) * size_of(a.l->t);
        device_must_own(a.p, (size_t)bytes, false, "a product's operand");
        if ((uintptr_t)a.p % 16 != 0 || a.l->ld * size_of(a.l->t) % 16 != 0) {
            return must(false, "operands that are not aligned to 16 bytes");
        }
    }
    bool bias =
        p.d.epilogue == CUBLASLT_EPILOGUE_BIAS || p.d.epilogue == CUBLASLT_EPILOGUE_GELU_BIAS;
    if (!bias) {
        p.d.bias = nullptr;
    } else {
        device_must_own(p.d.bias, p.y.rows * (size_t)size_of(p.y.t), false, "a product's bias");
    }
    if (p.w.t == CUDA_R_8F_E4M3) {
        device_must_own(p.d.scale[0], p.w.cols * 4, false, "the scales of w");
        device_must_own(p.d.scale[1], p.x.cols * 4, false, "the scales of x");
    }
    device_enqueue(stream, [=] { multiply(p); });
    return CUBLAS_STATUS_SUCCESS;
}
