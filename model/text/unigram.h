/* The unigram language model: the most probable way to cut a word into pieces
 * (Viterbi), with the scores in double and ties resolved as the tokenizers
 * library does. */
#ifndef CVX_MODEL_TEXT_UNIGRAM_H
#define CVX_MODEL_TEXT_UNIGRAM_H

#include "model/text/text.h"

typedef struct cvx_unigram_piece {
    const char *text; /* borrowed */
    size_t len;
    double score;
    int32_t id;
} cvx_unigram_piece;

typedef struct cvx_unigram {
    cvx_unigram_piece *piece; /* sorted by bytes; owned */
    int64_t n;
    double unknown_score;
    int32_t unknown_id;
} cvx_unigram;

/* Sorts a copy of the pieces. Of pieces with the same text the last id counts.
 * CVX_ENOMEM. */
cvx_status cvx_unigram_open(cvx_unigram *out, const cvx_unigram_piece *piece, int64_t n,
                            int32_t unknown_id) CVX_CHECK;
/* A zeroed or closed one is accepted. */
void cvx_unigram_close(cvx_unigram *u);

/* The piece with exactly this text, NULL if there is none. */
const cvx_unigram_piece *cvx_unigram_find(const cvx_unigram *u, const char *text, size_t len);

/* Appends the ids of one word (valid UTF-8); a run of unknown characters gives
 * one unknown id. */
cvx_status cvx_unigram_encode(const cvx_unigram *u, const char *word, size_t len,
                              cvx_ids *out) CVX_CHECK;

#endif
