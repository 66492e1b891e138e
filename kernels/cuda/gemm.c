/* Matrix products through cuBLASLt.
 *
 * The library's heuristic picks another algorithm for another number of rows, and with it another order of additions.
 * So the algorithm is chosen once for each (n, k, types, epilogue) at a large number of rows, among those that
 * do not split k, and used for every number of rows: a row's bits do not depend on how many there are. All
 * operands are aligned to 16 bytes with k padded, so that alignment does not choose either.
 *
 * What is chosen and the descriptors stand in a list by shape. */
#include <cublasLt.h>
#include <cuda_runtime_api.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/parts.h"

/* Rows at which an algorithm is chosen. */
#define CHOICE_ROWS 8192
#define WORKSPACE ((size_t)64 << 20)
/* Algorithms that are looked at, and shapes that are remembered. */
#define CANDIDATES 16
#define SHAPES 512

/* What decides the additions of a row. */
typedef struct algo_key {
    int64_t n, k;
    int t, yt, act, bias, sum;
} algo_key;

/* And what else the descriptors hold. */
typedef struct shape_key {
    algo_key a;
    int64_t m, ldx, ldw, ldy, ldc;
} shape_key;

typedef struct cvx_cuda_algo {
    shape_key key;
    cublasLtMatmulDesc_t op;
    cublasLtMatrixLayout_t w, x, c, y;
    cublasLtMatmulAlgo_t algo;
    bool usable;
} entry;

static cvx_status lt_status(cublasStatus_t st, const char *what)
{
    return st == CUBLAS_STATUS_SUCCESS
               ? CVX_OK
               : cvx_fail(st == CUBLAS_STATUS_ALLOC_FAILED ? CVX_ENOMEM : CVX_EINTERNAL,
                          "cuBLASLt: %s: %s", what, cublasLtGetStatusString(st));
}

static cudaDataType_t type_of(int t)
{
    return t == CVX_BF16  ? CUDA_R_16BF
           : t == CVX_F16 ? CUDA_R_16F
           : t == CVX_U8  ? CUDA_R_8F_E4M3
                          : CUDA_R_32F;
}

static cvx_status open_library(cvx_cuda_parts *p)
{
    if (p->lt == NULL) {
        CVX_RETURN_IF(lt_status(cublasLtCreate(&p->lt), "opening the library"));
    }
    if (p->workspace == NULL) {
        CVX_RETURN_IF(
            cvx_cuda_status((int)cudaMalloc(&p->workspace, WORKSPACE), "cuBLASLt's workspace"));
        p->in_use += WORKSPACE;
        p->most = p->in_use > p->most ? p->in_use : p->most;
    }
    if (p->algos == NULL && (p->algos = calloc(SHAPES, sizeof *p->algos)) == NULL) {
        return cvx_fail(CVX_ENOMEM, "no memory for a list of products");
    }
    return CVX_OK;
}

static void forget(entry *e)
{
    cublasLtMatrixLayout_t l[] = {e->w, e->x, e->c, e->y};

    for (int i = 0; i < 4; i++) {
        if (l[i] != NULL) {
            cublasLtMatrixLayoutDestroy(l[i]);
        }
    }
    if (e->op != NULL) {
        cublasLtMatmulDescDestroy(e->op);
    }
    memset(e, 0, sizeof *e);
}

void cvx_cuda_gemm_close(cvx_cuda *s)
{
    cvx_cuda_parts *p = cvx_cuda_parts_of(s);

    for (int i = 0; p->algos != NULL && i < SHAPES; i++) {
        forget(&p->algos[i]);
    }
    free(p->algos);
    p->algos = NULL;
    cudaFree(p->workspace);
    p->workspace = NULL;
    if (p->lt != NULL) {
        cublasLtDestroy(p->lt);
        p->lt = NULL;
    }
}

static cvx_status set(cublasLtMatmulDesc_t op, cublasLtMatmulDescAttributes_t what, const void *v,
                      size_t size)
{
    return lt_status(cublasLtMatmulDescSetAttribute(op, what, v, size), "a product's attribute");
}

/* The library counts columns first: yᵀ [n, m] = w [n, k] · xᵀ [k, m], where w's rows are columns of k, to be
 * transposed. */
static cvx_status describe(entry *e)
{
    const shape_key *q = &e->key;
    const algo_key *a = &q->a;
    cudaDataType_t t = type_of(a->t), yt = type_of(a->yt);
    cublasOperation_t turn = CUBLAS_OP_T;
    cublasLtEpilogue_t epilogue =
        a->act == CVX_ACT_GELU_TANH
            ? (a->bias ? CUBLASLT_EPILOGUE_GELU_BIAS : CUBLASLT_EPILOGUE_GELU)
            : (a->bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT);
    const struct {
        cublasLtMatrixLayout_t *out;
        cudaDataType_t t;
        int64_t rows, cols, ld;
    } layouts[] = {{&e->w, t, a->k, a->n, q->ldw},
                   {&e->x, t, a->k, q->m, q->ldx},
                   {&e->c, yt, a->n, q->m, q->ldc},
                   {&e->y, yt, a->n, q->m, q->ldy}};

    CVX_RETURN_IF(
        lt_status(cublasLtMatmulDescCreate(&e->op, CUBLAS_COMPUTE_32F, CUDA_R_32F), "a product"));
    CVX_RETURN_IF(set(e->op, CUBLASLT_MATMUL_DESC_TRANSA, &turn, sizeof turn));
    CVX_RETURN_IF(set(e->op, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue));
    if (a->t == CVX_U8) { /* a scale for each row of x and of w */
        cublasLtMatmulMatrixScale_t mode = CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F;
        CVX_RETURN_IF(set(e->op, CUBLASLT_MATMUL_DESC_A_SCALE_MODE, &mode, sizeof mode));
        CVX_RETURN_IF(set(e->op, CUBLASLT_MATMUL_DESC_B_SCALE_MODE, &mode, sizeof mode));
    }
    for (int i = 0; i < 4; i++) {
        CVX_RETURN_IF(lt_status(
            cublasLtMatrixLayoutCreate(layouts[i].out, layouts[i].t, (uint64_t)layouts[i].rows,
                                       (uint64_t)layouts[i].cols, layouts[i].ld),
            "a matrix"));
    }
    return CVX_OK;
}

/* The pointers that an algorithm may depend on by their presence or alignment. */
static cvx_status point(entry *e, const cvx_cuda_gemm *g)
{
    if (g->b != NULL) {
        CVX_RETURN_IF(set(e->op, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &g->b, sizeof g->b));
    }
    if (g->t == CVX_U8) {
        CVX_RETURN_IF(set(e->op, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, &g->ws, sizeof g->ws));
        CVX_RETURN_IF(set(e->op, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, &g->xs, sizeof g->xs));
    }
    return CVX_OK;
}

/* Whether an algorithm adds up k in one go. */
static bool in_one_go(const cublasLtMatmulAlgo_t *algo)
{
    int32_t split = 1;
    uint32_t scheme = CUBLASLT_REDUCTION_SCHEME_NONE;
    size_t n;

    return cublasLtMatmulAlgoConfigGetAttribute(algo, CUBLASLT_ALGO_CONFIG_SPLITK_NUM, &split,
                                                sizeof split, &n) == CUBLAS_STATUS_SUCCESS &&
           cublasLtMatmulAlgoConfigGetAttribute(algo, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME,
                                                &scheme, sizeof scheme,
                                                &n) == CUBLAS_STATUS_SUCCESS &&
           split <= 1 && scheme == CUBLASLT_REDUCTION_SCHEME_NONE;
}

/* The candidates at CHOICE_ROWS rows, best first; *n 0 where the library has none. */
static cvx_status candidates(cvx_cuda_parts *p, const cvx_cuda_gemm *g, const algo_key *key,
                             cublasLtMatmulHeuristicResult_t out[CANDIDATES], int *n)
{
    cublasLtMatmulPreference_t want = NULL;
    uint64_t room = WORKSPACE;
    uint32_t whole = CUBLASLT_REDUCTION_SCHEME_NONE, align = 16;
    entry e = {.key = {.a = *key,
                       .m = CHOICE_ROWS,
                       .ldx = key->k,
                       .ldw = key->k,
                       .ldy = (key->n + 7) / 8 * 8,
                       .ldc = (key->n + 7) / 8 * 8}};
    const struct {
        cublasLtMatmulPreferenceAttributes_t what;
        const void *v;
        size_t size;
    } wishes[] = {{CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &room, sizeof room},
                  {CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &whole, sizeof whole},
                  {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &align, sizeof align},
                  {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &align, sizeof align},
                  {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &align, sizeof align},
                  {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &align, sizeof align}};
    cvx_status st = CVX_OK;

    *n = 0;
    CVX_TRY(st, describe(&e), done);
    CVX_TRY(st, point(&e, g), done);
    CVX_TRY(st, lt_status(cublasLtMatmulPreferenceCreate(&want), "a preference"), done);
    for (size_t i = 0; i < sizeof wishes / sizeof *wishes; i++) {
        CVX_TRY(st,
                lt_status(cublasLtMatmulPreferenceSetAttribute(want, wishes[i].what, wishes[i].v,
                                                               wishes[i].size),
                          "a preference"),
                done);
    }
    if (cublasLtMatmulAlgoGetHeuristic(p->lt, e.op, e.w, e.x, e.c, e.y, want, CANDIDATES, out, n) !=
        CUBLAS_STATUS_SUCCESS) {
        *n = 0;
    }
done:
    if (want != NULL) {
        cublasLtMatmulPreferenceDestroy(want);
    }
    forget(&e);
    return st;
}

/* The first candidate that goes for this number of rows and these strides. */
static cvx_status choose(cvx_cuda_parts *p, const cvx_cuda_gemm *g, entry *e)
{
    cublasLtMatmulHeuristicResult_t found[CANDIDATES], checked;
    int n = 0;

    CVX_RETURN_IF(describe(e));
    CVX_RETURN_IF(point(e, g));
    CVX_RETURN_IF(candidates(p, g, &e->key.a, found, &n));
    for (int i = 0; i < n && !e->usable; i++) {
        if (found[i].state == CUBLAS_STATUS_SUCCESS && in_one_go(&found[i].algo) &&
            cublasLtMatmulAlgoCheck(p->lt, e->op, e->w, e->x, e->c, e->y, &found[i].algo,
                                    &checked) == CUBLAS_STATUS_SUCCESS &&
            checked.workspaceSize <= WORKSPACE) {
            e->algo = found[i].algo;
            e->usable = true;
        }
    }
    return CVX_OK;
}

/* The list is a hash table with linear probing that starts anew when it is full. */
static cvx_status find(cvx_cuda_parts *p, const cvx_cuda_gemm *g, entry **out)
{
    shape_key key;
    uint64_t h = 1469598103934665603u;

    memset(&key, 0, sizeof key); /* compared as bytes */
    key.a.n = g->n, key.a.k = g->k;
    key.a.t = (int)g->t, key.a.yt = (int)g->yt, key.a.act = (int)g->act;
    key.a.bias = g->b != NULL, key.a.sum = g->c != NULL;
    key.m = g->m, key.ldx = g->ldx, key.ldw = g->ldw, key.ldy = g->ldy, key.ldc = g->ldc;
    for (size_t i = 0; i < sizeof key; i++) {
        h = (h ^ ((const unsigned char *)&key)[i]) * 1099511628211u;
    }
    if (p->n_algos > SHAPES / 2) {
        for (int i = 0; i < SHAPES; i++) {
            forget(&p->algos[i]);
        }
        p->n_algos = 0;
    }
    entry *e = &p->algos[h % SHAPES];
    while (e->op != NULL && memcmp(&e->key, &key, sizeof key) != 0) {
        e = e + 1 < p->algos + SHAPES ? e + 1 : p->algos;
    }
    if (e->op == NULL) {
        e->key = key;
        cvx_status st = choose(p, g, e);
        if (st != CVX_OK) {
            forget(e);
            return st;
        }
        p->n_algos++;
    }
    *out = e;
    return CVX_OK;
}

cvx_status cvx_cuda_gemm_run(cvx_cuda *s, const cvx_cuda_gemm *g, bool *done)
{
    cvx_cuda_parts *p = cvx_cuda_parts_of(s);
    const float one = 1, beta = g->c != NULL ? 1 : 0;
    entry *e = NULL;

    *done = false;
    CVX_RETURN_IF(open_library(p));
    CVX_RETURN_IF(find(p, g, &e));
    if (!e->usable) {
        return CVX_OK;
    }
    CVX_RETURN_IF(point(e, g));
    CVX_RETURN_IF(lt_status(cublasLtMatmul(p->lt, e->op, &one, g->w, e->w, g->x, e->x, &beta,
                                           g->c != NULL ? g->c : g->y, e->c, g->y, e->y, &e->algo,
                                           p->workspace, WORKSPACE, s->stream),
                            "a product"));
    *done = true;
    return CVX_OK;
}
