/* Matrix product: c [rows, cols] = a [rows, k] · b, b in panels of NR columns. Part of a level file;
 * see vec.h. linear.inc.h and attention.inc.h are written against what this file (or
 * gemm_amx.inc.h) defines.
 *
 * Operands are words (words.inc.h); pairs are of successive values along k.
 *
 * An output element is summed as follows, whatever the shape of the call: words in blocks of KC;
 * within a block in ascending order in one accumulator that starts at 0; block sums are added in
 * ascending order. Rows and columns are padded to whole tiles with zeros, so there is one
 * micro-kernel only.
 */

#include "kernels/cpu/widen.inc.h"

#define KC 256
#define GEMM_ROWS MR      /* row granularity of a block */
#define GEMM_MC 240       /* most rows of a block: a's part of KC words stays in the L2 cache */
#define GEMM_NC (32 * NR) /* most columns of a block */

/* acc[MR][2] += a[MR][k] · b[k][NR], k in words. Row i of a begins at a + i·lda; lda is a constant
 * where this is inlined, which turns the row addresses into displacements. */
INLINE void micro_kernel(vf acc[MR][2], const float *a, int64_t lda, const float *b, int64_t k,
                         bool pairs)
{
    for (int64_t p = 0; p < k; p++) {
        vf b0 = vload(b + p * NR), b1 = vload(b + p * NR + VW);
#pragma GCC unroll 16
        for (int i = 0; i < MR; i++) {
            acc[i][0] = word_fma(a + i * lda + p, b0, acc[i][0], pairs);
            acc[i][1] = word_fma(a + i * lda + p, b1, acc[i][1], pairs);
        }
    }
}

/* c tile (row stride ldc) = or += a · b panel. */
INLINE void tile_product(float *c, int64_t ldc, const float *a, int64_t lda, const float *b,
                         int64_t k, bool add, bool pairs)
{
    vf acc[MR][2];

#pragma GCC unroll 16
    for (int i = 0; i < MR; i++) {
        acc[i][0] = acc[i][1] = vset1(0);
    }
    micro_kernel(acc, a, lda, b, k, pairs);
#pragma GCC unroll 16
    for (int i = 0; i < MR; i++) {
        float *p = c + i * ldc;
        vstore(p, add ? vload(p) + acc[i][0] : acc[i][0]);
        vstore(p + VW, add ? vload(p + VW) + acc[i][1] : acc[i][1]);
    }
}

/* One panel of a weight [n, k]: [words of k][NR]. */
static size_t gemm_panel_bytes(const cvx_ctx *ctx, cvx_dtype dtype, int64_t k)
{
    (void)dtype;
    return (size_t)(words_of(k, in_pairs(ctx)) * NR) * sizeof(float);
}

/* Rows j0 .. j0 + NR of w (zeros past its end) as the columns of a panel. */
static void gemm_pack_panel(const cvx_ctx *ctx, void *dst, const cvx_tensor *w, int64_t j0)
{
    int64_t k = w->dim[1], n = cvx_min_i64(NR, w->dim[0] - j0);
    int64_t size = (int64_t)cvx_dtype_size(w->dtype);
    const char *src = (const char *)w->data + j0 * w->stride[0] * size;
    float row[16], words[NR][16] = {0}, *out = dst;
    bool pairs = in_pairs(ctx);

    for (int64_t p = 0; p < k; p += 16) {
        int64_t len = cvx_min_i64(16, k - p);
        for (int64_t j = 0; j < n; j++) {
            widen(row, src + (j * w->stride[0] + p) * size, w->dtype, len);
            to_words(words[j], row, len, pairs);
        }
        for (int64_t q = 0; q < words_of(len, pairs); q++, out += NR) {
            for (int64_t j = 0; j < NR; j++) {
                memcpy(out + j, &words[j][q], sizeof *out);
            }
        }
    }
}

/* Scratch of one thread: rows x KC words of x. */
static size_t gemm_scratch_bytes(const cvx_ctx *ctx, int64_t rows)
{
    (void)ctx;
    return (size_t)(rows * KC) * sizeof(float);
}

/* Rows of x, padded with zero rows to `padded`, as words [padded][KC]: contiguous, so that no two
 * rows of a tile fight for one cache set whatever x's stride. */
static void copy_rows(float *dst, const float *x, int64_t ldx, int64_t rows, int64_t padded,
                      int64_t k, bool pairs)
{
    for (int64_t i = 0; i < rows; i++) {
        to_words(dst + i * KC, x + i * ldx, k, pairs);
    }
    for (int64_t i = rows; i < padded; i++) {
        memset(dst + i * KC, 0, (size_t)words_of(k, pairs) * sizeof *dst);
    }
}

INLINE void block_product(float *c, int64_t ldc, const float *x, int64_t ldx, int64_t rows,
                          int64_t k, const float *panels, int64_t n_panels, float *a, bool pairs)
{
    int64_t padded = cvx_round_up(rows, MR), words = words_of(k, pairs), per = pairs ? 2 : 1;

    for (int64_t k0 = 0; k0 < words; k0 += KC) {
        int64_t kc = cvx_min_i64(KC, words - k0);
        copy_rows(a, x + k0 * per, ldx, rows, padded, cvx_min_i64(kc * per, k - k0 * per), pairs);
        for (int64_t j = 0; j < n_panels; j++) {
            const float *b = panels + (j * words + k0) * NR;
            for (int64_t i = 0; i < padded; i += MR) {
                tile_product(c + i * ldc + j * NR, ldc, a + i * KC, KC, b, kc, k0 > 0, pairs);
            }
        }
    }
}

/* c [rows padded to GEMM_ROWS][ldc] = x [rows, k] · the panels. */
static void gemm_block(const cvx_ctx *ctx, float *c, int64_t ldc, const float *x, int64_t ldx,
                       int64_t rows, int64_t k, const char *panels, int64_t n_panels,
                       cvx_dtype dtype, void *scratch)
{
    const float *b = (const float *)(const void *)panels;

    (void)dtype;
    if (in_pairs(ctx)) {
        block_product(c, ldc, x, ldx, rows, k, b, n_panels, scratch, true);
    } else {
        block_product(c, ldc, x, ldx, rows, k, b, n_panels, scratch, false);
    }
}

/* Around the work of one thread; AMX has something to do here. */
INLINE void gemm_begin(void)
{
}

INLINE void gemm_end(void)
{
}
