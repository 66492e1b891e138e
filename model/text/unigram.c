#include "model/text/unigram.h"

#include <stdlib.h>
#include <string.h>

/* What an unknown character costs below the least probable piece. */
#define UNKNOWN_PENALTY 10.0

typedef struct node {
    double score;
    int64_t from; /* where the best piece that ends here begins; -1: none ends here */
    int32_t id;
} node;

static int compare(const void *va, const void *vb)
{
    const cvx_unigram_piece *a = va, *b = vb;
    size_t n = a->len < b->len ? a->len : b->len;
    int c = memcmp(a->text, b->text, n);

    if (c != 0) {
        return c;
    }
    if (a->len != b->len) {
        return a->len < b->len ? -1 : 1;
    }
    return a->id < b->id ? -1 : a->id > b->id;
}

cvx_status cvx_unigram_open(cvx_unigram *out, const cvx_unigram_piece *piece, int64_t n,
                            int32_t unknown_id)
{
    cvx_unigram u = {.unknown_id = unknown_id};
    double least = n > 0 ? piece[0].score : 0.0;

    u.piece = malloc((size_t)n * sizeof *u.piece);
    if (u.piece == NULL) {
        return cvx_fail(CVX_ENOMEM, "no memory for %lld pieces", (long long)n);
    }
    memcpy(u.piece, piece, (size_t)n * sizeof *piece);
    qsort(u.piece, (size_t)n, sizeof *u.piece, compare);
    for (int64_t i = 0; i < n; i++) {
        least = piece[i].score < least ? piece[i].score : least;
        if (u.n > 0 && u.piece[u.n - 1].len == u.piece[i].len &&
            memcmp(u.piece[u.n - 1].text, u.piece[i].text, u.piece[i].len) == 0) {
            u.n--;
        }
        u.piece[u.n++] = u.piece[i];
    }
    u.unknown_score = least - UNKNOWN_PENALTY;
    *out = u;
    return CVX_OK;
}

void cvx_unigram_close(cvx_unigram *u)
{
    free(u->piece);
    *u = (cvx_unigram){0};
}

/* The pieces [*lo, *hi) all begin with the same `depth` bytes: keeps those
 * whose next byte is b. */
static void narrow(const cvx_unigram *u, size_t depth, unsigned char b, int64_t *lo, int64_t *hi)
{
    for (int side = 0; side < 2; side++) {
        int64_t a = *lo, z = *hi;
        while (a < z) {
            int64_t mid = a + (z - a) / 2;
            const cvx_unigram_piece *p = &u->piece[mid];
            int c = p->len == depth ? -1 : (int)(unsigned char)p->text[depth] - (int)b;
            if (c < side) { /* side 0: first with byte >= b; side 1: first with byte >
                         b */
                a = mid + 1;
            } else {
                z = mid;
            }
        }
        *(side == 0 ? lo : hi) = a;
    }
}

const cvx_unigram_piece *cvx_unigram_find(const cvx_unigram *u, const char *text, size_t len)
{
    int64_t lo = 0, hi = u->n;

    for (size_t d = 0; d < len && lo < hi; d++) {
        narrow(u, d, (unsigned char)text[d], &lo, &hi);
    }
    return lo < hi && u->piece[lo].len == len ? &u->piece[lo] : NULL;
}

static void offer(node *at, double score, int64_t from, int32_t id)
{
    if (at->from < 0 || score > at->score) {
        *at = (node){score, from, id};
    }
}

/* Every piece that begins at `start`, and the unknown one where no single
 * character is a piece. */
static void extend(const cvx_unigram *u, const char *word, size_t len, size_t start, size_t next,
                   node *best)
{
    int64_t lo = 0, hi = u->n;
    bool single = false;

    for (size_t d = 0; start + d < len && lo < hi; d++) {
        narrow(u, d, (unsigned char)word[start + d], &lo, &hi);
        if (lo < hi && u->piece[lo].len == d + 1) {
            offer(&best[start + d + 1], u->piece[lo].score + best[start].score, (int64_t)start,
                  u->piece[lo].id);
            single = single || start + d + 1 == next;
        }
    }
    if (!single) {
        offer(&best[next], u->unknown_score + best[start].score, (int64_t)start, u->unknown_id);
    }
}

cvx_status cvx_unigram_encode(const cvx_unigram *u, const char *word, size_t len, cvx_ids *out)
{
    node *best = malloc((len + 1) * sizeof *best);
    int64_t pieces = 0, first = out->len;
    cvx_status st = CVX_OK;

    if (best == NULL) {
        return cvx_fail(CVX_ENOMEM, "no memory to tokenize a word of %zu bytes", len);
    }
    for (size_t i = 0; i <= len; i++) {
        best[i] = (node){.from = -1};
    }
    for (size_t at = 0; at < len;) {
        size_t next = at;
        (void)cvx_next_char(word, len, &next);
        extend(u, word, len, at, next, best);
        at = next;
    }
    /* backwards, a run of unknown pieces counting once; then turned round */
    for (int64_t at = (int64_t)len, last = -1; at > 0; at = best[at].from) {
        int32_t id = best[at].id;
        if (id != u->unknown_id || last != id) {
            CVX_TRY(st, cvx_ids_push(out, id), done);
            pieces++;
        }
        last = id;
    }
    for (int64_t i = 0; i < pieces / 2; i++) {
        int32_t t = out->data[first + i];
        out->data[first + i] = out->data[first + pieces - 1 - i];
        out->data[first + pieces - 1 - i] = t;
    }
done:
    free(best);
    return st;
}
