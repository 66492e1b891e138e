#include "bench/best_gemm.h"

#include <cublasLt.h>
#include <cuda_runtime_api.h>
#include <stdlib.h>

#define CANDIDATES 16
#define RUNS 5
#define WORKSPACE ((size_t)64 << 20)

typedef struct product {
    cublasLtHandle_t lt;
    cublasLtMatmulDesc_t op;
    cublasLtMatrixLayout_t w, x, y;
    cublasLtMatmulPreference_t want;
    void *room;
    cudaEvent_t begin, end;
    cudaStream_t stream;
} product;

static bool describe(product *p, cudaDataType_t t, bool gelu, int64_t m, int64_t n, int64_t k,
                     const void *b)
{
    const size_t room = WORKSPACE;
    const cublasOperation_t turn = CUBLAS_OP_T;
    const cublasLtEpilogue_t epilogue = gelu        ? CUBLASLT_EPILOGUE_GELU_BIAS
                                        : b != NULL ? CUBLASLT_EPILOGUE_BIAS
                                                    : CUBLASLT_EPILOGUE_DEFAULT;
    const cublasLtMatmulDescAttributes_t what[] = {CUBLASLT_MATMUL_DESC_TRANSA,
                                                   CUBLASLT_MATMUL_DESC_EPILOGUE,
                                                   CUBLASLT_MATMUL_DESC_BIAS_POINTER};
    const void *values[] = {&turn, &epilogue, &b};
    const size_t sizes[] = {sizeof turn, sizeof epilogue, sizeof b};
    bool ok =
        cublasLtCreate(&p->lt) == CUBLAS_STATUS_SUCCESS &&
        cublasLtMatmulDescCreate(&p->op, CUBLAS_COMPUTE_32F, CUDA_R_32F) == CUBLAS_STATUS_SUCCESS;

    for (int i = 0; i < (b != NULL ? 3 : 2); i++) {
        ok = ok && cublasLtMatmulDescSetAttribute(p->op, what[i], values[i], sizes[i]) ==
                       CUBLAS_STATUS_SUCCESS;
    }
    return ok &&
           cublasLtMatrixLayoutCreate(&p->w, t, (uint64_t)k, (uint64_t)n, k) ==
               CUBLAS_STATUS_SUCCESS &&
           cublasLtMatrixLayoutCreate(&p->x, t, (uint64_t)k, (uint64_t)m, k) ==
               CUBLAS_STATUS_SUCCESS &&
           cublasLtMatrixLayoutCreate(&p->y, t, (uint64_t)n, (uint64_t)m, n) ==
               CUBLAS_STATUS_SUCCESS &&
           cublasLtMatmulPreferenceCreate(&p->want) == CUBLAS_STATUS_SUCCESS &&
           cublasLtMatmulPreferenceSetAttribute(p->want, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                                &room, sizeof room) == CUBLAS_STATUS_SUCCESS &&
           cudaMalloc(&p->room, WORKSPACE) == cudaSuccess &&
           cudaEventCreate(&p->begin) == cudaSuccess && cudaEventCreate(&p->end) == cudaSuccess;
}

static int by_value(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* Seconds, or 0 if it fails; after one run to warm up. */
static double time_one(product *p, const cublasLtMatmulAlgo_t *algo, void *y, const void *x,
                       const void *w)
{
    const float one = 1, none = 0;
    float ms[RUNS];

    for (int i = -1; i < RUNS; i++) {
        cudaEventRecord(p->begin, p->stream);
        if (cublasLtMatmul(p->lt, p->op, &one, w, p->w, x, p->x, &none, y, p->y, y, p->y, algo,
                           p->room, WORKSPACE, p->stream) != CUBLAS_STATUS_SUCCESS) {
            return 0;
        }
        cudaEventRecord(p->end, p->stream);
        if (cudaEventSynchronize(p->end) != cudaSuccess ||
            cudaEventElapsedTime(&ms[i < 0 ? 0 : i], p->begin, p->end) != cudaSuccess) {
            return 0;
        }
    }
    qsort(ms, RUNS, sizeof *ms, by_value);
    return 1e-3 * (double)ms[RUNS / 2];
}

static void forget(product *p)
{
    cublasLtMatrixLayout_t layouts[] = {p->w, p->x, p->y};

    for (int i = 0; i < 3; i++) {
        if (layouts[i] != NULL) {
            cublasLtMatrixLayoutDestroy(layouts[i]);
        }
    }
    if (p->want != NULL) {
        cublasLtMatmulPreferenceDestroy(p->want);
    }
    if (p->op != NULL) {
        cublasLtMatmulDescDestroy(p->op);
    }
    if (p->lt != NULL) {
        cublasLtDestroy(p->lt);
    }
    cudaFree(p->room);
    if (p->begin != NULL) {
        cudaEventDestroy(p->begin);
    }
    if (p->end != NULL) {
        cudaEventDestroy(p->end);
    }
}

double best_gemm(cvx_cuda *s, cvx_dtype type, bool gelu, int64_t m, int64_t n, int64_t k, void *y,
                 const void *x, const void *w, const void *b)
{
    cublasLtMatmulHeuristicResult_t found[CANDIDATES];
    product p = {.stream = s->stream};
    double best = 0;
    int count = 0;

    if (describe(&p, type == CVX_BF16 ? CUDA_R_16BF : CUDA_R_32F, gelu, m, n, k, b) &&
        cublasLtMatmulAlgoGetHeuristic(p.lt, p.op, p.w, p.x, p.y, p.y, p.want, CANDIDATES, found,
                                       &count) == CUBLAS_STATUS_SUCCESS) {
        for (int i = 0; i < count; i++) {
            double t =
                found[i].state == CUBLAS_STATUS_SUCCESS ? time_one(&p, &found[i].algo, y, x, w) : 0;
            best = t > 0 && (best == 0 || t < best) ? t : best;
        }
    }
    forget(&p);
    cudaGetLastError();
    return best;
}
